// The PDU fuzzer over seeds, and its canaries: with a check taken out of the target it must fail.
// ISCSI_FUZZ_SEED=N runs one seed again, ISCSI_FUZZ_ROUNDS=N as many.

import assert from "node:assert/strict";
import { test } from "node:test";
import { FuzzRound } from "./_test-fuzz.ts";
import { DataOut } from "./data-out.ts";
import { Pieces } from "./pieces.ts";

const ROUNDS = Number(process.env["ISCSI_FUZZ_ROUNDS"] ?? 60);
const ONE_SEED = process.env["ISCSI_FUZZ_SEED"];

function round(seed: number): void {
  try {
    new FuzzRound(seed).run();
  } catch (error) {
    const reason = error instanceof Error ? (error.stack ?? error.message) : String(error);
    throw new Error(`ISCSI_FUZZ_SEED=${seed} runs it again: ${reason}`, { cause: error });
  }
}

test("damaged PDUs of hostile sessions harm nobody else and leave nothing behind", () => {
  if (ONE_SEED !== undefined) {
    round(Number(ONE_SEED));
    return;
  }
  for (let seed = 1; seed <= ROUNDS; seed++) round(seed);
});

/** Plants a bug for so many seeds; true when the fuzzer finds it. */
function isFound(plant: () => () => void, seeds: number): boolean {
  const mend = plant();
  try {
    for (let seed = 1; seed <= seeds; seed++) new FuzzRound(seed).run();
    return false;
  } catch {
    return true;
  } finally {
    mend();
  }
}

test("canary: a target that trusts offsets of Data-Out is found out", () => {
  const prototype = DataOut.prototype as unknown as Record<string, unknown>;
  const real = prototype["solicitedHeader"];
  const plant = (): (() => void) => {
    prototype["solicitedHeader"] = function (this: DataOut, _tag: number, ttt: number): boolean {
      const parts = this as unknown as {
        slot: number;
        burst: number;
        tasks: { isReceiving: Uint8Array; state: Uint8Array };
      };
      const slot = (ttt >>> 12) & 255;
      // The state is checked, tag, offset and order are not.
      if (parts.tasks.state[slot] !== 4) return false;
      parts.slot = slot;
      parts.burst = 0;
      parts.tasks.isReceiving[slot] = 1;
      return true;
    };
    return () => {
      prototype["solicitedHeader"] = real;
    };
  };
  assert.ok(isFound(plant, 30), "the fuzzer is blind");
});

test("canary: memory that two tasks share is found out", () => {
  const prototype = Pieces.prototype as unknown as Record<string, unknown>;
  const real = prototype["take"] as (this: Pieces, pool: number) => number;
  const plant = (): (() => void) => {
    let last = -1;
    prototype["take"] = function (this: Pieces, pool: number): number {
      const piece = real.call(this, pool);
      // Every other one is the one before.
      const given = last >= 0 && piece >= 0 ? last : piece;
      last = last >= 0 ? -1 : piece;
      return given;
    };
    return () => {
      prototype["take"] = real;
    };
  };
  assert.ok(isFound(plant, 30), "the fuzzer is blind");
});

// Crash states of small traces, exactly: which media a crash may leave, and no other.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Rig, type RigOptions } from "./_sim-rig.ts";
import { type CrashStatesOptions, crashStates } from "./crash-states.ts";
import type { SimMedia } from "./sim-media.ts";
import type { SimTrace } from "./sim-trace.ts";
import { crashPoints, replayPrefix } from "./trace-replay.ts";

const FIFO: RigOptions = { order: "fifo", splitChance: 0, volatileCache: true };
const BLOCKS: CrashStatesOptions = { tornVariants: 0 };

/** The first byte of each block as a digit. */
function blocks(media: SimMedia, count: number): string {
  return Array.from({ length: count }, (_, index) => media.read(index * 4096, 1)[0]).join("");
}

function sectors(media: SimMedia): string {
  return Array.from({ length: 8 }, (_, index) => media.read(index * 512, 1)[0]).join("");
}

function statesOf(
  trace: SimTrace,
  show: (media: SimMedia) => string,
  options: CrashStatesOptions,
  prefix: number = trace.events.length,
): string[] {
  const states = Array.from(crashStates(trace, prefix, options), ({ media }) => show(media));
  assert.equal(new Set(states).size, states.length, "a state came twice");
  return states.toSorted();
}

describe("crash states", () => {
  it("two blocks in the cache: each old or new", () => {
    const rig = new Rig(FIFO);
    const trace = rig.media.startTrace();
    rig.write(1, 0, 4096, 1);
    rig.write(2, 4096, 4096, 2);
    rig.run();
    const states = statesOf(trace, (media) => blocks(media, 2), BLOCKS);
    assert.deepEqual(states, ["00", "02", "10", "12"]);
  });

  it("two writes of one block: either wins, or neither", () => {
    const dataOrders = new Set<number>();
    for (let seed = 1; seed <= 10; seed++) {
      const rig = new Rig({ ...FIFO, seed });
      const trace = rig.media.startTrace();
      rig.write(1, 0, 4096, 1);
      rig.write(2, 0, 8192, 2);
      rig.run();
      dataOrders.add(rig.bytesAt(0, 512)[0]);
      // "12": the second landed first, the first on top of it.
      const states = statesOf(trace, (media) => blocks(media, 2), BLOCKS);
      assert.deepEqual(states, ["00", "10", "12", "22"]);
    }
    assert.equal(dataOrders.size, 2);
  });

  it("a write of three blocks torn at blocks: all subsets", () => {
    const rig = new Rig(FIFO);
    const trace = rig.media.startTrace();
    rig.write(1, 0, 12288, 1);
    rig.run();
    const options: CrashStatesOptions = { tornVariants: 100, tornAt: "block" };
    const states = statesOf(trace, (media) => blocks(media, 3), options);
    assert.deepEqual(states, ["000", "001", "010", "011", "100", "101", "110", "111"]);
  });

  it("a block torn at sectors: old and new, never anything else; garbage only if asked for", () => {
    const rig = new Rig(FIFO);
    rig.media.write(0, new Uint8Array(4096).fill(3));
    const trace = rig.media.startTrace();
    rig.write(1, 0, 4096, 1);
    rig.run();
    const states = statesOf(trace, sectors, { tornVariants: 6, tornAt: "sector" });
    assert.ok(states.includes("13333333") && states.includes("11111113"));
    assert.ok(states.includes("33333333") && states.includes("11111111"));
    assert.equal(states.length, 8);
    assert.ok(states.every((state) => /^[13]{8}$/.test(state)));
    const wild = statesOf(trace, sectors, { tornVariants: 6, tornAt: "sector", garbage: true });
    assert.ok(wild.some((state) => !/^[13]{8}$/.test(state)));
  });

  it("what a sync covers, or was durable, has one state; what came after the sync does not", () => {
    const rig = new Rig(FIFO);
    const trace = rig.media.startTrace();
    rig.write(1, 0, 4096, 1);
    rig.run();
    rig.disk.sync(2);
    rig.write(3, 4096, 4096, 3);
    rig.run();
    rig.write(4, 8192, 4096, 4, true);
    rig.run();
    assert.deepEqual(
      statesOf(trace, (media) => blocks(media, 3), BLOCKS),
      ["104", "134"],
    );
  });

  it("what is durable and newer is not undone by what completed before it", () => {
    const rig = new Rig(FIFO);
    const trace = rig.media.startTrace();
    rig.write(1, 0, 8192, 1);
    rig.run();
    rig.write(2, 0, 4096, 2, true);
    rig.run();
    assert.deepEqual(
      statesOf(trace, (media) => blocks(media, 2), BLOCKS),
      ["20", "21"],
    );
  });

  it("without a volatile cache only what is in flight is uncertain, durable or not", () => {
    const rig = new Rig({ order: "fifo", splitChance: 0 });
    const trace = rig.media.startTrace();
    rig.write(1, 0, 4096, 1);
    rig.run();
    rig.write(2, 4096, 4096, 2, true);
    rig.run();
    const show = (media: SimMedia): string => blocks(media, 2);
    const at = (prefix: number): string[] => statesOf(trace, show, BLOCKS, prefix);
    const all = [["00"], ["00"], ["00", "10"], ["10"], ["10"], ["10", "12"], ["12"]];
    assert.deepEqual(trace.events.map((_, index) => at(index)).concat([at(6)]), all);
    assert.deepEqual(crashPoints(trace), [2, 5, 6]);
  });

  it("equal content is one state", () => {
    const rig = new Rig(FIFO);
    const trace = rig.media.startTrace();
    rig.write(1, 0, 4096, 0);
    rig.write(2, 4096, 4096, 5);
    rig.write(3, 4096, 4096, 5);
    rig.run();
    assert.deepEqual(
      statesOf(trace, (media) => blocks(media, 2), BLOCKS),
      ["00", "05"],
    );
  });

  it("replaying a state's choice gives that state; replaying everything, the disk itself", () => {
    const rig = new Rig({ volatileCache: true, splitChance: 0.5, seed: 5 });
    const trace = rig.media.startTrace();
    for (let tag = 0; tag < 8; tag++)
      rig.write(tag, (tag % 5) * 4096, 8192, tag + 1, tag % 3 === 0);
    rig.run();
    rig.disk.sync(8);
    rig.write(9, 4096, 16384, 9);
    rig.run();
    let count = 0;
    for (let prefix = 0; prefix <= trace.events.length; prefix++) {
      for (const { media, choice } of crashStates(trace, prefix, {
        subsetsMax: 40,
        garbage: true,
      })) {
        const again = replayPrefix(trace, prefix, choice);
        assert.equal(again.view.firstDifference(media.view), -1);
        count += 1;
      }
    }
    assert.ok(count > 300, `${count} states`);
    const end = replayPrefix(trace, trace.events.length, "whole");
    assert.equal(end.view.firstDifference(rig.media.view), -1);
    // The states share blocks with the trace: none of it changed.
    const { view } = replayPrefix(trace, 0, "none");
    assert.deepEqual(view.writtenBlocks(), []);
  });

  it("too many combinations are sampled: bounded, the same each time, with none and all", () => {
    const rig = new Rig(FIFO);
    const trace = rig.media.startTrace();
    for (let tag = 0; tag < 8; tag++) rig.write(tag, tag * 4096, 4096, tag + 1);
    rig.run();
    for (let tag = 0; tag < 8; tag++) rig.write(tag, tag * 4096 + 32768, 4096, 9);
    rig.run();
    const list = (seed: number): string[] =>
      Array.from(
        crashStates(trace, trace.events.length, { subsetsMax: 100, tornVariants: 2, seed }),
        ({ media }) => blocks(media, 16),
      );
    const states = list(1);
    assert.ok(states.length > 80 && states.length <= 100, `${states.length}`);
    assert.deepEqual(list(1), states);
    assert.notDeepEqual(list(2), states);
    assert.ok(states.includes("0".repeat(16)) && states.includes("1234567899999999"));
  });

  it("the points that matter miss no state that fewer acknowledgements excuse", () => {
    for (let seed = 1; seed <= 20; seed++) {
      const rig = new Rig({ volatileCache: seed % 2 === 0, seed });
      const trace = rig.media.startTrace();
      for (let tag = 0; tag < 6; tag++) rig.write(tag, (tag % 3) * 4096, 8192, tag + 1, tag === 3);
      rig.disk.sync(6);
      rig.run();
      const points = crashPoints(trace);
      assert.ok(points.length > 1 && points.length < trace.events.length);
      const options: CrashStatesOptions = { tornVariants: 0, subsetsMax: 1e6 };
      const show = (media: SimMedia): string =>
        Array.from({ length: 32 }, (_, index) => media.read(index * 512, 1)[0]).join("");
      for (let prefix = 0; prefix <= trace.events.length; prefix++) {
        const next = points.find((point) => point >= prefix) as number;
        const there = new Set(statesOf(trace, show, options, next));
        for (const state of statesOf(trace, show, options, prefix)) {
          assert.ok(there.has(state), `seed ${seed}: ${state} at ${prefix}, not at ${next}`);
        }
      }
    }
  });
});

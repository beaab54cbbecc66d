// The checker itself, on puzzles whose answers are known.

import assert from "node:assert/strict";
import { test } from "node:test";
import { type CheckedModel, Checker, type Visit } from "./checker.ts";

/** Two jugs of 3 and 5 litres; `wanted` litres in the larger one are forbidden. */
class Jugs implements CheckedModel {
  readonly stateByteCount = 4;
  private readonly wanted: number;

  constructor(wanted: number) {
    this.wanted = wanted;
  }

  initial(): Uint8Array {
    return new Uint8Array(4);
  }

  successors(state: Uint8Array, visit: Visit): void {
    const [small, large] = state;
    const toLarge = Math.min(small, 5 - large);
    const toSmall = Math.min(large, 3 - small);
    const ways = [
      [3, large],
      [small, 5],
      [0, large],
      [small, 0],
      [small - toLarge, large + toLarge],
      [small + toSmall, large - toSmall],
    ];
    for (const [action, way] of ways.entries()) visit(Uint8Array.of(...way, 0, 0), action);
  }

  canonicalise(): void {}

  violation(state: Uint8Array): string | null {
    return state[1] === this.wanted ? "measured" : null;
  }

  kindOf(action: number): string {
    return action < 2 ? "fill" : action < 4 ? "empty" : "pour";
  }

  sentence(before: Uint8Array, _action: number, after: Uint8Array): string {
    return `${before[0]},${before[1]} -> ${after[0]},${after[1]}`;
  }
}

test("the shortest way to a broken state is printed", () => {
  const result = new Checker(new Jugs(4)).run();
  assert.equal(result.violation, "measured");
  assert.deepEqual(result.trace, [
    "0,0 -> 0,5",
    "0,5 -> 3,2",
    "3,2 -> 0,2",
    "0,2 -> 2,0",
    "2,0 -> 2,5",
    "2,5 -> 3,4",
  ]);
});

test("without a broken state every state is visited once", () => {
  const result = new Checker(new Jugs(6)).run();
  assert.equal(result.violation, null);
  assert.ok(result.isComplete);
  assert.equal(result.stateCount, 16);
  assert.equal(result.stepCount, 16 * 6);
  assert.equal(result.stepsByKind.get("fill"), 32);
});

test("a limit on states is not taken for the end", () => {
  assert.equal(new Checker(new Jugs(6)).run(5).isComplete, false);
});

/** Bits set one by one; the canonical state has the set bits in front. */
class Bits implements CheckedModel {
  readonly stateByteCount = 12;

  initial(): Uint8Array {
    return new Uint8Array(12);
  }

  successors(state: Uint8Array, visit: Visit): void {
    for (let bit = 0; bit < 12; bit++) {
      if (state[bit] === 1) continue;
      const next = state.slice();
      next[bit] = 1;
      visit(next, bit);
    }
  }

  canonicalise(state: Uint8Array): void {
    state.sort();
  }

  violation(state: Uint8Array): string | null {
    return state.filter((bit) => bit === 1).length === 3 ? "three" : null;
  }

  kindOf(): string {
    return "set";
  }

  sentence(before: Uint8Array, action: number): string {
    assert.equal(before[action], 0, "names stay the same from the first sentence to the last");
    return `set ${action}`;
  }
}

test("states that differ only in names are one", () => {
  const result = new Checker(new Bits()).run();
  assert.equal(result.stateCount, 4);
  assert.deepEqual(result.trace, ["set 0", "set 1", "set 2"]);
});

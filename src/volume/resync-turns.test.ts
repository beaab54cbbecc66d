// Whose resync may copy, and the set of slabs that it keeps.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Prng } from "../base/index.ts";
import { ResyncTurns, TURNS, type TurnTaker } from "./resync-turns.ts";
import { SlabSet } from "./slab-set.ts";

class Taker implements TurnTaker {
  inSyncCount: number;
  givenCount = 0;

  constructor(inSyncCount: number) {
    this.inSyncCount = inSyncCount;
  }

  turnGiven(): void {
    this.givenCount += 1;
  }
}

const takers = (...counts: number[]): Taker[] => counts.map((count) => new Taker(count));

test("a few have a turn, the others in the order of asking", () => {
  const turns = new ResyncTurns();
  const all = takers(2, 2, 2, 2, 2, 2);
  for (const one of all) turns.ask(one);
  const having = (): number[] => all.flatMap((one, at) => (turns.has(one) ? [at] : []));
  assert.deepEqual(having(), [0, 1, 2, 3]);
  turns.leave(all[1]);
  assert.deepEqual(having(), [0, 2, 3, 4]);
  assert.equal(all[4].givenCount, 1);
  turns.leave(all[5]);
  turns.leave(all[0]);
  assert.deepEqual(having(), [2, 3, 4]);
});

test("a volume with one copy takes the turn of one with two, and only of such", () => {
  const turns = new ResyncTurns();
  const safe = takers(2, 2, 2, 2);
  for (const one of safe) turns.ask(one);
  const bare = takers(1, 1, 1, 1, 1);
  for (const one of bare) turns.ask(one);
  assert.deepEqual(
    bare.map((one) => turns.has(one)),
    [true, true, true, true, false],
  );
  assert.ok(safe.every((one) => !turns.has(one)));
  for (const one of bare) turns.leave(one);
  assert.ok(safe.every((one) => turns.has(one) && one.givenCount === 2));
});

test("a volume that loses a copy while it waits is next", () => {
  const turns = new ResyncTurns();
  const all = takers(2, 2, 2, 2, 3, 3);
  for (const one of all) turns.ask(one);
  all[5].inSyncCount = 1;
  turns.look();
  assert.ok(turns.has(all[5]));
  assert.ok(!turns.has(all[4]));
});

test("at any time those with a turn are the most endangered ones", () => {
  for (let seed = 1; seed <= 20; seed++) {
    const prng = new Prng(seed);
    const turns = new ResyncTurns();
    const asking = new Set<Taker>();
    for (let step = 0; step < 200; step++) {
      if (asking.size === 0 || prng.chance(0.6)) {
        const [taker] = takers(1 + prng.below(3));
        asking.add(taker);
        turns.ask(taker);
      } else {
        const taker = prng.pick(Array.from(asking));
        asking.delete(taker);
        turns.leave(taker);
      }
      const having = Array.from(asking).filter((one) => turns.has(one));
      const others = Array.from(asking).filter((one) => !turns.has(one));
      assert.equal(having.length, Math.min(TURNS, asking.size), `seed ${seed}`);
      const worst = Math.max(...having.map((one) => one.inSyncCount));
      assert.ok(
        others.every((one) => one.inSyncCount >= worst),
        `seed ${seed}`,
      );
    }
  }
});

test("a set of slabs is a set", () => {
  const prng = new Prng(3);
  const set = new SlabSet();
  const model = new Set<number>();
  for (let step = 0; step < 5000; step++) {
    const slab = prng.below(40) * 1000 + prng.below(40);
    if (prng.chance(0.6)) {
      set.add(slab);
      model.add(slab);
    } else {
      set.delete(slab);
      model.delete(slab);
    }
    assert.equal(set.has(slab), model.has(slab));
    assert.equal(set.size, model.size);
  }
  for (let slab = set.first(); slab !== null; slab = set.first()) {
    assert.ok(model.delete(slab), `slab ${slab} was not in it`);
    set.delete(slab);
  }
  assert.equal(model.size, 0);
});

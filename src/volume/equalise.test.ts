// Equalising a few slabs at a time, over members that answer when the test says so.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { Replica, ReplicaFailure, SlabImage, SlabStamp } from "../ports/index.ts";
import { SimMemory } from "../testing/sim/index.ts";
import { OwnerBackground } from "./background.ts";
import { type Answered, type EqualiseFailure, Equaliser } from "./equalise.ts";
import { Member } from "./member.ts";
import type { TakeoverParts } from "./takeover.ts";

const LOST: ReplicaFailure = { code: "lost", message: "gone" };

interface Call {
  readonly member: string;
  readonly kind: "read" | "write";
  readonly slab: number;
  readonly image: SlabImage | null;
  readonly answer: (failure: ReplicaFailure | null) => void;
}

class Rig {
  readonly memory = new SimMemory(4 * 1048576);
  readonly calls: Call[] = [];
  readonly background: OwnerBackground;
  readonly ended: (EqualiseFailure | null)[] = [];
  readonly equaliser: Equaliser;
  isOver = false;
  private sequence = 0;

  /** Of each member: its slabs' sequences. */
  constructor(stamps: Readonly<Record<string, readonly number[]>>) {
    const { memory } = this;
    const reactor = { memory, clock: { nowUs: () => 0 } };
    this.background = new OwnerBackground(reactor as never);
    const { background } = this;
    const parts = { io: { epoch: 9 }, options: {}, background, modules: { reactor } };
    const answered = Object.entries(stamps).map(([disk, sequences], index): Answered => {
      const member = new Member(index, disk);
      member.replica = this.replica(disk);
      const known = sequences.map((sequence, slab): [number, SlabStamp] => [
        slab,
        { extentIndex: 0, slab, epoch: 8, sequence },
      ]);
      const answer = { epoch: 8, sequence: 0, committedEpoch: 8, committedSequence: 0 };
      const told = { answer: { ...answer, above: [], uncertain: [] }, grantsEndUs: 0 };
      return { member, ...told, stamps: new Map(known), uncertain: new Set() };
    });
    this.equaliser = new Equaliser(parts as unknown as TakeoverParts, answered, {
      isOver: () => this.isOver,
      nextSequence: () => {
        this.sequence += 1;
        return this.sequence;
      },
      done: (failure) => this.ended.push(failure),
    });
  }

  private replica(member: string): Replica {
    const at = { member, image: null };
    const replica: Partial<Replica> = {
      readSlab: ({ slab }, _address, done) => {
        const answer = (failure: ReplicaFailure | null): void =>
          done(failure ?? { epoch: 8, sequence: 1, states: 5 });
        this.calls.push({ ...at, kind: "read", slab, answer });
      },
      writeSlab: ({ slab }, image, _address, answer) => {
        this.calls.push({ member, kind: "write", slab, image, answer });
      },
    };
    return replica as Replica;
  }

  /** Answers all calls that are there now. */
  answerAll(failing: (call: Call) => boolean = () => false): Call[] {
    const calls = this.calls.splice(0);
    for (const call of calls) call.answer(failing(call) ? LOST : null);
    return calls;
  }
}

const slabs = (count: number): number[] => Array.from({ length: count }, (_, slab) => slab);

test("eight slabs at a time, each from its best member to all, each with a sequence of its own", () => {
  const newer = slabs(20).map((slab) => slab % 2);
  const rig = new Rig({ a: newer, b: newer.map((one) => 1 - one) });
  const before = rig.memory.arenaCount;
  const spare = rig.background.spareLanes;
  rig.equaliser.run(slabs(20));
  const sequences: number[] = [];
  let most = 0;
  while (rig.ended.length === 0) {
    const calls = rig.answerAll();
    most = Math.max(most, new Set(calls.map(({ slab }) => slab)).size);
    for (const { kind, member, slab, image } of calls) {
      if (kind === "read") assert.equal(member, slab % 2 === 1 ? "a" : "b", `slab ${slab}`);
      else if (member === "a") sequences.push((image as SlabImage).sequence);
      if (kind === "write") assert.deepEqual([image?.epoch, image?.states], [9, 5]);
    }
  }
  assert.equal(most, 8);
  assert.deepEqual(rig.ended, [null]);
  assert.deepEqual(
    sequences.sort((one, other) => one - other),
    slabs(20).map((at) => at + 1),
  );
  assert.equal(rig.equaliser.rewrittenCount, 20);
  assert.equal(rig.background.spareLanes, spare);
  assert.equal(rig.memory.arenaCount, before, "memory comes back");
});

test("without lanes to spare one goes on alone", () => {
  const rig = new Rig({ a: [1, 1, 1], b: [1, 1, 1] });
  rig.background.spareLanes = 0;
  rig.equaliser.run(slabs(3));
  while (rig.ended.length === 0) {
    assert.equal(new Set(rig.answerAll().map(({ slab }) => slab)).size, 1);
  }
  assert.equal(rig.equaliser.rewrittenCount, 3);
  assert.equal(rig.background.spareLanes, 0);
});

test("a failure is told when all lanes have ended, with everybody who failed; nothing is begun after it", () => {
  const rig = new Rig({ a: slabs(20), b: slabs(20), c: slabs(20) });
  rig.equaliser.run(slabs(20));
  rig.answerAll();
  const writes = rig.calls.splice(0);
  assert.equal(writes.length, 24);
  for (const [at, { member, answer }] of writes.entries()) {
    assert.deepEqual(rig.ended, [], `before answer ${at}`);
    const fails = (member === "b" && at < 3) || (member === "c" && at > 20);
    answer(fails ? LOST : null);
  }
  assert.equal(rig.calls.length, 0, "no slab was begun after the first failure");
  assert.equal(rig.ended.length, 1);
  assert.deepEqual(
    rig.ended[0]?.members?.map(({ disk }) => disk),
    ["b", "c"],
  );
});

test("a slab that nobody can be read from puts all members in doubt", () => {
  const rig = new Rig({ a: [1, 1], b: [1, 1] });
  rig.equaliser.run(slabs(2));
  while (rig.ended.length === 0) {
    rig.answerAll(({ kind, slab }) => kind === "read" && slab === 1);
  }
  assert.deepEqual(rig.ended, [{ members: null, reason: "gone" }]);
});

test("one that nobody waits for any more ends without another slab", () => {
  const rig = new Rig({ a: slabs(20), b: slabs(20) });
  rig.equaliser.run(slabs(20));
  rig.answerAll();
  rig.isOver = true;
  rig.answerAll();
  assert.equal(rig.calls.length, 0);
  assert.equal(rig.ended.length, 1);
});

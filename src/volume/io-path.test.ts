// Reads and writes of an owner over two replicas that complete when the test says so.

import assert from "node:assert/strict";
import { test } from "node:test";
import {
  EIO,
  ENOTCONN,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
  RequestTable,
  SegmentCopier,
  segmentArenaBytes,
} from "../base/index.ts";
import type { Replica } from "../ports/index.ts";
import { SimMemory } from "../testing/sim/index.ts";
import { IoPath } from "./io-path.ts";
import { Member, MemberSession, ROLE_COUNTED } from "./member.ts";
import { NO_OWNER_BUGS } from "./owner-bugs.ts";
import { OwnerWorkspace } from "./owner-workspace.ts";

const BLOCK = 4096;

class Rig {
  readonly memory = new SimMemory(8 * 1048576);
  readonly requests = new RequestTable(64, this.memory.allocate(segmentArenaBytes(64)));
  readonly io: IoPath;
  /** Writes not completed, per member: [piece, first block, blocks, sequence]. */
  readonly calls: [number, number, number, number][][] = [[], []];
  readonly reads: number[] = [];
  readonly lost: string[] = [];
  /** Slot -> result. */
  readonly results = new Map<number, number>();
  grantedUs = Infinity;
  private readonly buffer = this.memory.allocate(64 * BLOCK);
  private readonly owner: number;

  constructor(pieceCount = 8) {
    const { memory, requests } = this;
    const copier = new SegmentCopier(requests, memory);
    const workspace = new OwnerWorkspace({ pieceCount }, { requests, memory, copier });
    this.io = new IoPath(workspace, {
      capacityBytes: () => 1024 * BLOCK,
      readOnly: false,
      grants: { grantedUntilUs: () => this.grantedUs },
      bugs: NO_OWNER_BUGS,
      clock: { nowUs: () => 1 },
    });
    this.io.care = {
      wantTick: () => {},
      sessionLost: (member) => void this.lost.push(member.disk),
      foundDamage: () => {},
      lockGranted: () => {},
      surrendered: () => {},
    };
    this.io.members = [0, 1].map((index) => this.member(index));
    this.io.countedMask = 3;
    this.io.viewMask = 3;
    this.io.startEpoch(1, 0);
    this.io.order.isOpen = true;
    this.owner = requests.addOwner({
      requestCompleted: (slot, result) => void this.results.set(slot, result),
    });
  }

  private member(index: number): Member {
    const member = new Member(index, `disk${index}`);
    member.role = ROLE_COUNTED;
    member.isReady = true;
    member.session = new MemberSession(member, this.io);
    member.replica = {
      name: member.disk,
      isLocal: index === 0,
      write: (tag: number, _op: number, first: number, count: number, _at: number, seq: number) =>
        void this.calls[index].push([tag, first, count, seq]),
      submitRead: (slot: number) => void this.reads.push(slot),
      setCommitted: () => {},
    } as unknown as Replica;
    return member;
  }

  submit(op: number, first: number, count: number): number {
    const { requests } = this;
    const slot = requests.acquire(this.owner);
    requests.op[slot] = op;
    requests.offsetBytes[slot] = first * BLOCK;
    if (op !== OP_WRITE_ZEROES) requests.addSegment(slot, this.buffer.address, count * BLOCK);
    requests.lengthBytes[slot] = count * BLOCK;
    this.io.submit(slot);
    this.drain();
    return slot;
  }

  drain(): void {
    while (this.requests.hasCompletions) this.requests.drain(64);
  }

  /** Completes the oldest write of the member. */
  complete(index: number, result = 0): void {
    const [tag] = this.calls[index].shift() as [number, number, number, number];
    (this.io.members[index].session as MemberSession).replicaCompleted(tag, result);
    this.drain();
  }
}

test("a write is answered when every member has it, and goes out in slabs", () => {
  const rig = new Rig();
  const slot = rig.submit(OP_WRITE, 14, 20);
  assert.deepEqual(rig.calls[0], rig.calls[1]);
  assert.deepEqual(
    rig.calls[0].map(([, first, count, sequence]) => [first, count, sequence]),
    [
      [14, 2, 1],
      [16, 16, 2],
      [32, 2, 3],
    ],
  );
  for (let count = 0; count < 3; count++) rig.complete(0);
  rig.complete(1);
  rig.complete(1);
  assert.equal(rig.io.watermark, 2);
  assert.equal(rig.results.has(slot), false);
  rig.complete(1);
  assert.equal(rig.results.get(slot), 0);
  assert.equal(rig.io.watermark, 3);
  assert.equal(rig.io.inflightCount, 0);
});

test("one change of a block is under way at a time; others do not wait", () => {
  const rig = new Rig();
  rig.submit(OP_WRITE, 0, 2);
  rig.submit(OP_WRITE_ZEROES, 1, 2);
  rig.submit(OP_WRITE, 5, 1);
  assert.deepEqual(
    rig.calls[0].map(([, first]) => first),
    [0, 5],
  );
  rig.complete(0);
  rig.complete(1);
  assert.deepEqual(
    rig.calls[0].map(([, first]) => first),
    [5, 1],
  );
});

test("without memory a write waits, and goes on when some comes back", () => {
  const rig = new Rig(2);
  const slots = [rig.submit(OP_WRITE, 0, 40), rig.submit(OP_WRITE, 100, 1)];
  assert.equal(rig.calls[0].length, 2);
  for (let step = 0; step < 4; step++) {
    rig.complete(0);
    rig.complete(1);
  }
  assert.deepEqual(
    slots.map((slot) => rig.results.get(slot)),
    [0, 0],
  );
});

test("a read waits for a write before it, and for one that began meanwhile", () => {
  const rig = new Rig();
  rig.submit(OP_WRITE, 3, 1);
  const slot = rig.submit(OP_READ, 0, 4);
  assert.deepEqual(rig.reads, []);
  rig.complete(0);
  rig.complete(1);
  assert.deepEqual(rig.reads, [slot]);
  rig.submit(OP_WRITE, 2, 1);
  rig.requests.complete(slot, 0);
  rig.drain();
  assert.equal(rig.results.has(slot), false, "the write may be what was read");
  rig.complete(0);
  rig.complete(1);
  assert.equal(rig.results.get(slot), 0);
});

test("a read without grants is held until they are there", () => {
  const rig = new Rig();
  rig.grantedUs = 0;
  const slot = rig.submit(OP_READ, 0, 1);
  rig.requests.complete(slot, 0);
  rig.drain();
  assert.equal(rig.results.has(slot), false);
  rig.grantedUs = Infinity;
  rig.io.reads.retryParked();
  rig.drain();
  assert.equal(rig.results.get(slot), 0);
});

test("what a lost member has not confirmed is sent again; a member put out is not waited for", () => {
  const rig = new Rig();
  const [, second] = rig.io.members;
  const slot = rig.submit(OP_WRITE, 0, 1);
  rig.complete(0);
  rig.complete(1, -ENOTCONN);
  assert.deepEqual(rig.lost, ["disk1"]);
  assert.equal(rig.results.has(slot), false);
  rig.io.resend(second);
  assert.equal(rig.calls[1].length, 1);
  rig.io.forgetMember(second);
  rig.io.settleAll();
  rig.drain();
  assert.equal(rig.results.get(slot), 0);
});

test("who has surrendered answers errors, and gives memory back when calls complete", () => {
  const rig = new Rig(2);
  const slots = [
    rig.submit(OP_WRITE, 0, 40),
    rig.submit(OP_WRITE, 0, 1),
    rig.submit(OP_READ, 0, 1),
    rig.submit(OP_READ, 100, 1),
  ];
  rig.io.deposed();
  rig.requests.complete(slots[3], 0);
  rig.drain();
  for (const slot of slots) assert.equal(rig.results.get(slot), -EIO);
  assert.equal(rig.results.get(rig.submit(OP_READ, 0, 1)), -EIO);
  for (const index of [0, 1]) while (rig.calls[index].length > 0) rig.complete(index);
  assert.equal(rig.io.firstPiece, -1);
  assert.equal(rig.io.inflightCount, 0);
  assert.equal(rig.io.order.count, 0);
});

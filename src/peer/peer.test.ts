// The pair in the simulator: a link and a server, whole operations, cuts at every byte, sessions
// that come back, owners that take over, and a disk that stands still.

import assert from "node:assert/strict";
import { test } from "node:test";
import { OP_READ } from "../base/index.ts";
import type { FenceAnswer, ReplicaFailure, SlabImage, SlabPage } from "../ports/index.ts";
import type { SimConnection } from "../testing/sim/index.ts";
import { DISK, MiniOwner, NODE_A, NODE_C, PeerRig, VOLUME } from "./_test-rig.ts";
import { LARGE_CREDITS, SMALL_CREDITS } from "./limits.ts";
import { NO_PEER_BUGS } from "./planted.ts";

function drain(owner: MiniOwner): void {
  owner.rig.runUntil(() => owner.pendingCount === 0, "every write's end");
}

/** Reads blocks through the replica into memory of the owner; the result, then the words. */
function read(owner: MiniOwner, firstBlock: number, blockCount: number): number[] {
  const { requests, memory } = owner.rig.owner;
  const arena = memory.allocate(blockCount * 4096);
  let result: number | null = null;
  const ownerIndex = requests.addOwner({
    requestCompleted: (slot, outcome) => {
      result = outcome;
      requests.release(slot);
    },
  });
  const slot = requests.acquire(ownerIndex);
  requests.op[slot] = OP_READ;
  requests.offsetBytes[slot] = firstBlock * 4096;
  // Two segments, cut inside a block: what is scattered must find its places.
  requests.addSegment(slot, arena.address + 512, 512);
  requests.addSegment(slot, arena.address, 512);
  if (blockCount * 4096 > 1024) {
    requests.addSegment(slot, arena.address + 1024, blockCount * 4096 - 1024);
  }
  owner.replica.submitRead(slot);
  owner.rig.runUntil(() => result !== null, "a read");
  const words = [arena.u32[128] as number];
  for (let block = 1; block < blockCount; block++) words.push(arena.u32[block * 1024] as number);
  requests.removeOwner(ownerIndex);
  memory.free(arena);
  return [result as unknown as number, ...words];
}

test("writes, zeroes and reads go over the wire and back, in pieces where they are long", () => {
  const rig = new PeerRig({ seed: 1 });
  const owner = new MiniOwner(rig);
  owner.fenceSurely(3);
  for (let block = 0; block < 40; block++) assert.ok(owner.write(block));
  drain(owner);
  for (let block = 0; block < 40; block++) {
    assert.equal(rig.disk.blocks.get(block), owner.acked.get(block));
  }
  assert.deepEqual(read(owner, 3, 2), [0, owner.acked.get(3), owner.acked.get(4)]);
  // 300 blocks: five messages each way.
  const arena = rig.memory.allocate(300 * 4096);
  for (let block = 0; block < 300; block++) arena.u32[block * 1024] = 5000 + block;
  const results: number[] = [];
  const big = rig.link.openReplica({
    name: "big",
    volumeUuid: owner.replica["options"].volumeUuid,
    diskUuid: owner.replica["options"].diskUuid,
    handler: { replicaCompleted: (_tag, result) => results.push(result) },
    events: { replicaResumed: () => {}, replicaLost: () => {} },
  });
  let answer: unknown = null;
  big.fence(4, (known) => {
    answer = known;
  });
  rig.runUntil(() => answer !== null, "the fence");
  big.write(7, 0, 100, 300, arena.address, 90);
  rig.runUntil(() => results.length === 1, "the long write");
  assert.deepEqual(results, [0]);
  assert.equal(rig.disk.blocks.get(100), 5000);
  assert.equal(rig.disk.blocks.get(399), 5299);
  big.write(8, 1, 399, 1, 0, 91);
  rig.runUntil(() => results.length === 2, "the zero");
  assert.equal(rig.disk.blocks.get(399), 0);
  const other = Object.assign(Object.create(owner) as MiniOwner, { replica: big });
  const words = read(other, 100, 300);
  assert.deepEqual(words, [0, ...Array.from({ length: 299 }, (_, at) => 5000 + at), 0]);
  rig.disk.blocks.set(120, 0xbad);
  assert.equal(read(other, 100, 64)[0], -74, "a damaged block is -EBADMSG");
});

test("slabs are listed, read and written; failures come back with code, text and epoch", () => {
  const rig = new PeerRig({ seed: 2 });
  const owner = new MiniOwner(rig);
  rig.disk.fenceAnswer = {
    epoch: 2,
    sequence: 2 ** 43,
    committedEpoch: 1,
    committedSequence: 17,
    above: [{ extentIndex: 9, slab: 4095, epoch: 2, sequence: 2 ** 43 }],
    uncertain: [{ extentIndex: 0, slab: 1, epoch: 0, sequence: 0 }],
  };
  rig.runFor(2500);
  const fenced = owner.fence(5) as FenceAnswer;
  assert.deepEqual({ ...fenced }, { ...rig.disk.fenceAnswer, grantWaitUs: 0 });
  let page: SlabPage | ReplicaFailure | null = null;
  owner.replica.listSlabs({ epoch: 1, sequence: 2 }, 0, (known) => {
    page = known;
  });
  rig.runUntil(() => page !== null, "a page");
  assert.deepEqual(page, rig.disk.slabs);
  const arena = rig.memory.allocate(65536);
  let image: SlabImage | ReplicaFailure | null = null;
  owner.replica.readSlab({ extentIndex: 1, slab: 42 }, arena.address, (known) => {
    image = known;
  });
  rig.runUntil(() => image !== null, "a slab");
  const { epoch, sequence, states } = image as unknown as SlabImage;
  assert.deepEqual([epoch, sequence, states], [4, 5, 0x55555555]);
  assert.ok(arena.u8.every((byte) => byte === 42));
  arena.u32[0] = 1234;
  const outcomes: (ReplicaFailure | null)[] = [];
  const done = (failure: ReplicaFailure | null): void => {
    outcomes.push(failure);
  };
  const stamp = { epoch: 6, sequence: 7, states: 0x55555555 };
  owner.replica.writeSlab({ extentIndex: 1, slab: 43 }, stamp, arena.address, done);
  rig.runUntil(() => outcomes.length === 1, "a slab's write");
  owner.replica.writeSlab({ extentIndex: 1, slab: 44 }, { ...stamp, states: 0 }, 65536, done);
  owner.replica.writeSlab(
    { extentIndex: 1, slab: 44 },
    { ...stamp, states: 0 },
    arena.address,
    done,
  );
  rig.runUntil(() => outcomes.length === 3, "a refused write");
  assert.deepEqual(outcomes[0], null);
  assert.deepEqual(outcomes[2], { code: "disk", message: "no such states" });
  assert.deepEqual(rig.disk.landed[0], { block: 43, epoch: 6, sequence: 7, value: 1234 });
  const stale = owner.fence(4) as ReplicaFailure;
  assert.equal(stale.code, "stale-epoch");
  assert.equal(stale.epoch, 5);
});

test("a connection cut at any byte of a fence, a write and a resume loses and doubles nothing", () => {
  // First a run without a cut, to learn how many bytes go each way.
  const run = (cutAt: number, direction: "toAccepted" | "toDialled", seed: number): PeerRig => {
    let count = 0;
    const connected = (connection: SimConnection): void => {
      count += 1;
      if (count === 1) connection[direction].cutAtBytes = cutAt;
    };
    const rig = new PeerRig({ seed, connected });
    const owner = new MiniOwner(rig);
    owner.fenceSurely(1);
    for (let block = 0; block < 4; block++) owner.write(block);
    drain(owner);
    for (let block = 0; block < 4; block++) owner.write(block);
    drain(owner);
    for (const [block, value] of owner.acked) assert.equal(rig.disk.blocks.get(block), value);
    const seen = new Set<number>();
    for (const landed of rig.disk.landed) {
      assert.ok(!seen.has(landed.value), `value ${landed.value} landed twice, cut at ${cutAt}`);
      seen.add(landed.value);
    }
    return rig;
  };
  for (const direction of ["toAccepted", "toDialled"] as const) {
    const whole = run(Infinity, direction, 3).network.connections[0] as SimConnection;
    const total = whole[direction].takenBytes;
    assert.ok(total > 500, `${total} bytes ${direction}`);
    // All of them with RINGSTORE_EVERY_BYTE=1; the handshake and the fence are the first 900.
    const isWhole = process.env["RINGSTORE_EVERY_BYTE"] === "1";
    for (let at = 1; at < total; at += isWhole ? 1 : at < 900 ? 23 : 1511) {
      run(at, direction, 1000 + at);
    }
  }
});

const SEEDS = Number(process.env["RINGSTORE_SEEDS"] ?? 12);
const STORM_US = 900_000;

/** Many cuts, late old connections, resends: what was acknowledged last must be what is there. */
function stormy(seed: number, planted = NO_PEER_BUGS): { doubled: number; wrong: number } {
  const connected = (connection: SimConnection): void => {
    const { prng } = connection.network;
    if (rig.scheduler.clock.nowUs() > STORM_US) return;
    connection.toAccepted.cutAtBytes = prng.between(1000, 600_000);
    if (prng.chance(0.7)) {
      // The owner hears of the cut, and is back long before the last bytes arrive.
      connection.toAccepted.cut = (one) => {
        one.cutDialledEnd();
      };
      if (prng.chance(0.7)) {
        rig.scheduler.after(prng.unit() * 3000, () => {
          connection.toAccepted.hold();
          rig.scheduler.after(20_000 + prng.unit() * 90_000, () => connection.toAccepted.release());
        });
      }
    }
  };
  const rig = new PeerRig({ seed, planted, connected });
  rig.disk.delayMaxUs = 30_000;
  const owner = new MiniOwner(rig);
  let wrong = 0;
  rig.disk.watch = ({ block, value }) => {
    // Values of a block grow: below the last acknowledged one nothing may land any more.
    if (value < (owner.acked.get(block) ?? 0)) wrong += 1;
  };
  owner.fenceSurely(1);
  const more = (): void => {
    if (rig.scheduler.clock.nowUs() > STORM_US) return;
    const promisedUs = rig.serverGrants.givenUntilUs(NODE_A);
    assert.ok(owner.replica.grantedUntilUs <= promisedUs, `seed ${seed}: counts too much`);
    for (let index = 0; index < 8; index++) owner.write(rig.prng.below(12));
    rig.scheduler.after(2000 * rig.prng.unit(), more);
  };
  more();
  rig.scheduler.runFor(STORM_US + 100_000);
  for (let wait = 0; wait < 200 && owner.pendingCount > 0; wait++) {
    if (owner.replica.stateName === "dead") owner.fenceSurely(1);
    rig.runFor(50);
  }
  assert.equal(owner.pendingCount, 0, `seed ${seed}: ${owner.pendingCount} writes never ended`);
  assert.ok(owner.resumeCount > 0, `seed ${seed}: no connection came back`);
  rig.runFor(500);
  if (wrong === 0) {
    for (const [block, value] of owner.acked) assert.equal(rig.disk.blocks.get(block), value);
  }
  const values = rig.disk.landed.map((landed) => landed.value);
  return { doubled: values.length - new Set(values).size, wrong };
}

test("what an old connection still holds never lands over what followed", () => {
  for (let seed = 1; seed <= SEEDS; seed++) {
    const { wrong, doubled } = stormy(seed);
    assert.equal(wrong, 0, `seed ${seed}: ${wrong} blocks hold an older write`);
    assert.equal(doubled, 0, `seed ${seed}: ${doubled} writes landed twice`);
  }
});

test("planted: a resume without drain, an old connection that lives and a forgotten write are found", () => {
  const find = (planted: typeof NO_PEER_BUGS, what: "wrong" | "doubled"): number => {
    for (let seed = 1; seed <= 20; seed++) if (stormy(seed, planted)[what] > 0) return seed;
    return -1;
  };
  assert.ok(find({ ...NO_PEER_BUGS, resumeWithoutDrain: true }, "wrong") > 0, "no drain");
  assert.ok(find({ ...NO_PEER_BUGS, oldConnectionLives: true }, "wrong") > 0, "old connection");
  assert.ok(find({ ...NO_PEER_BUGS, forgetDone: true }, "doubled") > 0, "forgotten writes");
});

test("an owner that is fenced hears it before any later grant, and grants are waited out", () => {
  const rig = new PeerRig({ seed: 5 });
  const first = new MiniOwner(rig);
  first.fenceSurely(1);
  first.write(1);
  drain(first);
  rig.runFor(1000);
  const nowUs = rig.scheduler.clock.nowUs();
  const granted = first.replica.grantedUntilUs;
  assert.ok(granted > nowUs + 1_400_000 && granted <= nowUs + 1_800_000, `${granted - nowUs}`);
  const link = rig.newLink(NODE_C, 77);
  const second = new MiniOwner(rig, link, "c/d");
  rig.runFor(100);
  const answer = second.fence(2) as FenceAnswer;
  const waitUs = answer.grantWaitUs ?? 0;
  const answeredUs = rig.scheduler.clock.nowUs();
  assert.ok(answeredUs + waitUs >= granted, "a grant outlives the wait");
  assert.ok(waitUs > 0 && waitUs <= 2_000_000);
  rig.runFor(1);
  assert.equal(first.fencedBy, 2);
  assert.equal(first.lost?.code, "stale-epoch");
  assert.equal(first.replica.grantedUntilUs, 0);
  rig.runFor(1000);
  assert.equal(first.replica.grantedUntilUs, 0, "the pair's grants are not the volume's any more");
  first.write(2);
  rig.runFor(10);
  assert.equal(first.results.at(-1), -116);
  second.write(2);
  drain(second);
  assert.equal(rig.disk.open.length, 1, "the old owner's replica is closed");
});

test("an owner of the member's own process fences: owners elsewhere hear it, and are waited for", () => {
  const rig = new PeerRig({ seed: 12 });
  const owner = new MiniOwner(rig);
  owner.fenceSurely(3);
  rig.runFor(3000);
  const granted = owner.replica.grantedUntilUs;
  const untilUs = rig.replicaServer.fenceLocally(VOLUME, DISK, 4);
  assert.ok(untilUs >= granted && granted > rig.scheduler.clock.nowUs());
  rig.runFor(10);
  assert.equal(owner.fencedBy, 4);
  assert.equal(owner.replica.grantedUntilUs, 0);
  assert.equal(rig.disk.open.length, 0, "its replica is closed");
  // The store itself may be who says it.
  const second = new MiniOwner(rig, rig.newLink(NODE_C, 5), "c/d");
  second.fenceSurely(5);
  second.write(1);
  rig.disk.open[0]?.fencedBy(9);
  rig.runFor(20);
  assert.equal(second.fencedBy, 9);
  assert.equal(rig.replicaServer.sessionCount, 0);
  assert.equal(rig.replicaServer.sessionCounters.fencedCount, 2);
});

test("two owners that fence each other, with cuts: no older write lands, no older grant is left", () => {
  for (let seed = 1; seed <= SEEDS; seed++) {
    const connected = (connection: SimConnection): void => {
      const { prng } = connection.network;
      connection.toAccepted.cutAtBytes = prng.between(2000, 400_000);
      if (prng.chance(0.5)) connection.toAccepted.cut = (one) => one.cutDialledEnd();
    };
    const rig = new PeerRig({ seed, connected });
    rig.disk.delayMaxUs = 5000;
    const owners = [new MiniOwner(rig), new MiniOwner(rig, rig.newLink(NODE_C, 7), "c/d")];
    let epoch = 0;
    let answered = 0;
    let answeredCount = 0;
    rig.disk.watch = (landed) => {
      assert.ok(landed.epoch >= answered, `seed ${seed}: ${landed.epoch} landed after ${answered}`);
    };
    const takeOver = (owner: MiniOwner, loser: MiniOwner): void => {
      epoch += 1;
      const own = epoch;
      owner.replica.fence(own, (answer) => {
        if ("code" in answer) return;
        answered = Math.max(answered, own);
        answeredCount += 1;
        const freeUs = rig.scheduler.clock.nowUs() + (answer.grantWaitUs ?? 0);
        const heldUs = loser.replica.epoch < own ? loser.replica.grantedUntilUs : 0;
        assert.ok(
          heldUs <= freeUs,
          `seed ${seed}: a grant outlives epoch ${own} by ${heldUs - freeUs}`,
        );
      });
    };
    for (let round = 0; round < 30; round++) {
      const [owner, loser] = rig.prng.chance(0.5) ? owners : owners.toReversed();
      takeOver(owner as MiniOwner, loser as MiniOwner);
      for (let turn = 0; turn < 10; turn++) {
        for (const one of owners) one.write(rig.prng.below(16));
        rig.runFor(rig.prng.unit() * (turn === 0 ? 30 : 4));
      }
      if (rig.prng.chance(0.2)) rig.runFor(700);
    }
    assert.ok(answeredCount > 5, `seed ${seed}: ${answeredCount} fences`);
    assert.ok(rig.disk.landed.length > 20, `seed ${seed}: ${rig.disk.landed.length} writes`);
    assert.equal(rig.disk.overtakenCount, 0, `seed ${seed}: a fence did not wait`);
  }
});

test("a third owner waits for the first one's grants too, whatever became of the second", () => {
  for (const ending of ["stays", "closes", "fails", "is fenced locally"] as const) {
    const rig = new PeerRig({ seed: 16 });
    const first = new MiniOwner(rig);
    first.fenceSurely(1);
    rig.runFor(3000);
    // Nothing reaches the first owner from now on: it goes on with the grant it has.
    (rig.network.connections[0] as SimConnection).toDialled.hold();
    const granted = first.replica.grantedUntilUs;
    const second = new MiniOwner(rig, rig.newLink(NODE_C, 5), "c/d");
    rig.runFor(50);
    if (ending === "fails") rig.disk.epoch = 9;
    second.fence(2);
    if (ending === "fails") rig.disk.epoch = 1;
    if (ending === "closes") second.replica.close();
    if (ending === "is fenced locally") rig.replicaServer.fenceLocally(VOLUME, DISK, 3);
    rig.runFor(20);
    const third = new MiniOwner(rig, second.link, "c/d");
    const answer = third.fence(10) as FenceAnswer;
    const freeUs = rig.scheduler.clock.nowUs() + (answer.grantWaitUs ?? 0);
    assert.equal(first.replica.grantedUntilUs, granted);
    assert.ok(granted > rig.scheduler.clock.nowUs(), "the first still reads");
    assert.ok(freeUs >= granted, `the second ${ending}: ${granted - freeUs} us too early`);
  }
});

test("each reactor of a node has its connection; a newer one of the same reactor ends the older", () => {
  const rig = new PeerRig({ seed: 15 });
  const other = rig.newLink(NODE_A, 1000, 1);
  rig.runFor(200);
  assert.deepEqual([rig.link.state, other.state, rig.replicaServer.linkCount], ["up", "up", 2]);
  // The same node after a restart: its old process cannot have said goodbye.
  const again = rig.newLink(NODE_A, 1001, 1);
  rig.runUntil(() => other.state !== "up", "the older one's end");
  other.close();
  rig.runFor(200);
  assert.deepEqual([rig.link.state, again.state, rig.replicaServer.linkCount], ["up", "up", 2]);
});

test("a member that has just started waits for what it may have promised before", () => {
  const rig = new PeerRig({ seed: 13 });
  const owner = new MiniOwner(rig);
  rig.runFor(100);
  const early = owner.fence(1) as FenceAnswer;
  const nowUs = rig.scheduler.clock.nowUs();
  assert.ok(Math.abs(nowUs + (early.grantWaitUs ?? 0) - 2_000_000) < 5000);
});

test("a session whose owner does not come back is closed, and cannot be resumed", () => {
  const rig = new PeerRig({ seed: 14 });
  const owner = new MiniOwner(rig);
  owner.fenceSurely(1);
  rig.network.isReachable = false;
  (rig.network.connections[0] as SimConnection).cut();
  rig.runFor(25_000);
  assert.equal(rig.replicaServer.sessionCount, 1);
  rig.runFor(10_000);
  assert.equal(rig.replicaServer.sessionCount, 0);
  assert.equal(rig.disk.open.length, 0);
  rig.network.isReachable = true;
  rig.runUntil(() => owner.lost !== null, "the news");
  assert.match(owner.lost?.message ?? "", /fence the replica again/);
  owner.fenceSurely(1);
  owner.write(1);
  drain(owner);
});

test("grants freeze when the connection is lost, and run again only after a resume", () => {
  const rig = new PeerRig({ seed: 6 });
  const owner = new MiniOwner(rig);
  owner.fenceSurely(1);
  rig.runFor(1000);
  rig.network.isReachable = false;
  (rig.network.connections[0] as SimConnection).cut();
  rig.runFor(300);
  assert.equal(owner.replica.stateName, "lost");
  const frozen = owner.replica.grantedUntilUs;
  assert.ok(frozen > 0 && frozen <= rig.serverGrants.givenUntilUs(NODE_A));
  rig.runFor(300);
  assert.equal(owner.replica.grantedUntilUs, frozen);
  rig.network.isReachable = true;
  rig.runUntil(() => owner.replica.isReady, "the resume");
  rig.runFor(600);
  assert.ok(owner.replica.grantedUntilUs > frozen);
});

test("planted: a fence that tells nobody leaves the old owner's grants running", () => {
  const rig = new PeerRig({ seed: 7, planted: { ...NO_PEER_BUGS, silentFence: true } });
  const first = new MiniOwner(rig);
  first.fenceSurely(1);
  const second = new MiniOwner(rig, rig.newLink(NODE_C, 77), "c/d");
  rig.runFor(100);
  second.fenceSurely(2);
  rig.runFor(3000);
  assert.ok(first.replica.grantedUntilUs > rig.scheduler.clock.nowUs(), "it still reads");
});

test("a peer that says nothing is dead after 1.5 s, on both sides; its writes end", () => {
  const rig = new PeerRig({ seed: 8 });
  const owner = new MiniOwner(rig);
  owner.fenceSurely(1);
  const connection = rig.network.connections[0] as SimConnection;
  connection.toAccepted.hold();
  connection.toDialled.hold();
  owner.write(3);
  rig.runFor(1300);
  assert.equal(owner.results.length, 0);
  rig.network.isReachable = false;
  rig.runFor(1000);
  assert.deepEqual(owner.results, [-107]);
  assert.equal(rig.replicaServer.linkCount, 0);
  rig.network.isReachable = true;
  drain(owner);
  assert.equal(rig.disk.blocks.get(3), owner.acked.get(3));
});

test("a disk that stands still holds no more than the credits; heartbeats go on", () => {
  const rig = new PeerRig({ seed: 9 });
  const owner = new MiniOwner(rig);
  owner.fenceSurely(1);
  rig.disk.isStuck = true;
  const arena = rig.memory.allocate(64 * 4096);
  const results: number[] = [];
  const handler = owner.replicaCompleted.bind(owner);
  owner.replicaCompleted = (tag, result) =>
    tag < 1000 ? handler(tag, result) : results.push(result);
  for (let tag = 0; tag < 1000; tag++) {
    owner.replica.write(1000 + tag, 0, tag, 1, arena.address, tag + 1);
    if (tag < 100) owner.replica.write(3000 + tag, 0, tag * 64, 64, arena.address, 2000 + tag);
  }
  rig.runFor(3000);
  const held = (rig.disk.open[0]?.inflight ?? 0) - rig.disk.stuck.length;
  assert.equal(held, 0, "everything the disk has is stuck");
  assert.ok(rig.disk.stuck.length <= SMALL_CREDITS + LARGE_CREDITS, `${rig.disk.stuck.length}`);
  assert.ok(rig.disk.stuck.length >= LARGE_CREDITS);
  assert.equal(rig.link.state, "up");
  assert.ok(owner.replica.grantedUntilUs > rig.scheduler.clock.nowUs());
  rig.disk.unstick();
  rig.runUntil(() => results.length === 1100, "all of them");
  assert.ok(results.every((result) => result === 0));
});

test("the watermark travels with writes, and alone when there are none", () => {
  const rig = new PeerRig({ seed: 10 });
  const owner = new MiniOwner(rig);
  owner.fenceSurely(1);
  owner.write(1);
  drain(owner);
  owner.replica.setCommitted(owner.sequence);
  rig.runFor(500);
  assert.equal(rig.disk.committed, 1);
  owner.replica.setCommitted(9);
  owner.write(2);
  drain(owner);
  assert.equal(rig.disk.committed, 9);
});

test("closing a replica ends its session; closing the link and the server gives all memory back", () => {
  const rig = new PeerRig({ seed: 11 });
  const arenas = rig.memory.arenaCount;
  const owner = new MiniOwner(rig);
  owner.fenceSurely(1);
  owner.write(1);
  owner.replica.write(40, 0, 9, 1, 65536, 50);
  owner.replicaCompleted = () => {};
  rig.runFor(50);
  owner.replica.close();
  rig.runFor(50);
  assert.equal(rig.replicaServer.sessionCount, 0);
  assert.equal(rig.disk.open.length, 0);
  rig.link.close();
  rig.runFor(100);
  assert.equal(rig.link.state, "closed");
  rig.replicaServer.close();
  rig.runFor(3000);
  assert.equal(rig.memory.arenaCount - arenas, 1, "only the owner's data is left");
});

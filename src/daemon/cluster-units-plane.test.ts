// Volumes of the cluster as units of controllers, on real reactors and real stores: beside a volume
// of the node, on the reactor where the cluster is; grown; taken over by another node, after which
// the old unit answers nothing but errors; never handed over under a guest.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type ScsiAnswer, type ScsiCommandOptions, ScsiDriver } from "../load/index.ts";
import type { ReservationRecord } from "../ports/reservation-record.ts";
import { be, read10, write10 } from "../testing/fakes/cdb.ts";
import * as l from "../vhost-user/layouts-scsi.ts";
import { TestCluster, type TestNode, VOLUME_BYTES } from "./_test-cluster.ts";
import { placeOf, unitSpec, until, volume } from "./_test-plane.ts";

const BLOCK = 512;
const BLOCKS = 8;
const PATIENCE_MS = 30_000;
const TEST_UNIT_READY = [0, 0, 0, 0, 0, 0];
const READ_CAPACITY = [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const READ_KEYS = [0x5e, 0, 0, 0, 0, 0, 0, 1, 0, 0];
const NOT_READY = 0x020401;
const UNIT_ATTENTION = 0x06;
const WRITE_ERROR = 0x030c00;
const READ_ERROR = 0x031100;

type Three = readonly [TestNode, TestNode, TestNode];

function pattern(seed: number): Uint8Array {
  return Uint8Array.from({ length: BLOCKS * BLOCK }, (_, at) => seed * 37 + at * 11 + (at >>> 8));
}

/** A guest at the controller `k`. Links and records are this thread's: it never waits in a call. */
class Guest {
  readonly driver: ScsiDriver = new ScsiDriver();

  constructor(t: TestContext, socketPath: string) {
    t.after(() => this.driver.close());
    this.driver.connect(socketPath);
  }

  async once(cdb: readonly number[], options: ScsiCommandOptions = {}): Promise<ScsiAnswer> {
    const pending = this.driver.start(cdb, options);
    const deadlineMs = Date.now() + PATIENCE_MS;
    while (!this.driver.isAnswered(pending)) {
      assert.ok(Date.now() < deadlineMs, `no answer to command ${cdb[0]}`);
      await sleep(1);
    }
    return this.driver.wait(pending);
  }

  async run(cdb: readonly number[], options: ScsiCommandOptions = {}): Promise<ScsiAnswer> {
    for (;;) {
      const answer = await this.once(cdb, options);
      if (answer.sense >>> 16 !== UNIT_ATTENTION) return answer;
    }
  }

  async write(lun: number, seed: number, lba = 16): Promise<void> {
    const { status, sense } = await this.run(write10(lba, BLOCKS), { lun, out: pattern(seed) });
    assert.equal(status, 0, `sense ${sense.toString(16)}`);
  }

  async reads(lun: number, seed: number, lba = 16): Promise<void> {
    const answer = await this.run(read10(lba, BLOCKS), { lun, room: BLOCKS * BLOCK });
    assert.equal(answer.status, 0, `sense ${answer.sense.toString(16)}`);
    assert.deepEqual(answer.data, pattern(seed));
  }
}

function socketOf({ diskPath }: TestNode): string {
  return diskPath.replace(/disk$/, "k.sock");
}

test("beside a volume of the node, on the cluster's reactor; it grows, and its guest keeps it", async (t) => {
  const saved: ReservationRecord[] = [];
  const cluster = await TestCluster.start(t, 3, {
    reactorCount: 2,
    saveReservations: async (_, record) => void saved.push(record),
  });
  const [a, b] = cluster.nodes as Three;
  const { plane } = a;
  const at = socketOf(a);
  // It can be anywhere, and on the other reactor there is less: in a cluster its controller begins
  // where volumes of that can join it.
  await plane.openVolume(volume("filler", { kind: "memory" }), { create: true });
  const own = volume("own", { kind: "memory" });
  await plane.openVolume(own, { create: true, controller: "k" });
  await plane.attachScsi(unitSpec(at, own, 0));
  const spec = await cluster.make("unit", [a, b]);
  plane.requireNearCluster("k");
  await cluster.own(spec, a, [a, b]);
  await plane.attachScsi(unitSpec(at, spec, 1));
  const guest = new Guest(t, at);
  for (const lun of [0, 1]) await guest.write(lun, lun + 1);
  for (const lun of [0, 1]) await guest.reads(lun, lun + 1);
  const out = new Uint8Array(24);
  out.set(be(7, 8), 8);
  const register = [0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0];
  assert.equal((await guest.run(register, { lun: 1, out })).status, 0);
  assert.equal(saved[0]?.registrations[0]?.key, "0000000000000007");
  assert.equal((await guest.run(READ_KEYS, { lun: 1, room: 256 })).data[7], 8);

  // Rings run: the volume is given to nobody.
  const isTold = (): boolean =>
    a.fronts.some((front) => front.volumeId === spec.id && front.isRunning);
  await until(isTold, "the host hears that a guest runs");
  await assert.rejects(plane.handOverVolume(spec.id, "other/1"), { code: "VOLUME_BUSY" });

  guest.driver.offerEvent();
  await b.plane.makeReplica(b.diskId, { volumeId: spec.id, sizeBytes: 2 * VOLUME_BYTES });
  await plane.makeReplica(a.diskId, { volumeId: spec.id, sizeBytes: 2 * VOLUME_BYTES });
  await plane.resizeVolume(spec.id, 2 * VOLUME_BYTES);
  const { event, lun, reason } = guest.driver.waitEvent();
  assert.deepEqual([event, lun, reason], [l.SCSI_T_PARAM_CHANGE, 1, 0x092a]);
  assert.equal((await guest.once(TEST_UNIT_READY, { lun: 1 })).sense, 0x062a09);
  const { data } = await guest.run(READ_CAPACITY, { lun: 1, room: 8 });
  const lastBlock = (2 * VOLUME_BYTES) / BLOCK - 1;
  assert.equal(Buffer.from(data).readUInt32BE(0), lastBlock);
  await guest.write(1, 9, lastBlock + 1 - BLOCKS);
  await guest.reads(1, 2);

  // A copy that is lost is a pause.
  for (const path of cluster.pathsOf(b)) path.break();
  await guest.write(1, 5);
  assert.equal(cluster.record(spec).out[0]?.disk, b.diskId);
  await guest.reads(1, 5);
  for (const path of cluster.pathsOf(b)) path.state = "open";
  await until(() => cluster.record(spec).out.length === 0, "b is in sync again");

  await plane.detach(spec.id);
  await guest.reads(0, 1);
  await plane.surrenderVolume(spec.id);
  await plane.closeVolume(spec.id);
  await plane.detach(own.id);
  await cluster.own({ ...spec, sizeBytes: 2 * VOLUME_BYTES }, b, [a, b]);
  await b.plane.attachScsi(unitSpec(socketOf(b), spec, 0));
  const elsewhere = new Guest(t, socketOf(b));
  await elsewhere.reads(0, 5);
  await elsewhere.reads(0, 9, lastBlock + 1 - BLOCKS);
});

test("a controller that began before the cluster, elsewhere, has no volume of it", async (t) => {
  const cluster = await TestCluster.start(t, 1, { reactorCount: 2 });
  const [a] = cluster.nodes as unknown as Three;
  // As if it had been placed before.
  const own = volume("own", { kind: "memory" });
  await a.plane.openVolume(volume("first", { kind: "memory" }), { create: true });
  await a.plane.openVolume(own, { create: true });
  await a.plane.attachScsi(unitSpec(socketOf(a), own, 0));
  assert.throws(() => a.plane.requireNearCluster("k"), {
    code: "CONTROLLER_ELSEWHERE",
    message: /controller k is on reactor 1, volumes of the cluster are on reactor 0/,
    advice: /Name another controller/,
  });
  const spec = await cluster.make("unit", [a]);
  await cluster.own(spec, a, [a]);
  const refusal = { code: "CONTROLLER_ELSEWHERE" };
  await assert.rejects(a.plane.attachScsi(unitSpec(socketOf(a), spec, 1)), refusal);
});

test("an owner that is fenced answers errors, and nothing that is old", async (t) => {
  const cluster = await TestCluster.start(t, 3);
  const [a, b, c] = cluster.nodes as Three;
  const spec = await cluster.make("unit", [a, b]);
  const own = volume("own", { kind: "memory" });
  await a.plane.openVolume(own, { create: true, controller: "k" });
  await a.plane.attachScsi(unitSpec(socketOf(a), own, 0));
  await cluster.own(spec, a, [a, b]);
  await a.plane.attachScsi(unitSpec(socketOf(a), spec, 1));
  const old = new Guest(t, socketOf(a));
  await old.write(1, 1);
  await old.write(0, 1);
  // The node that has it knows nothing of its own end: the copies tell it.
  await cluster.own(spec, c, [a, b]);
  await c.plane.attachScsi(unitSpec(socketOf(c), spec, 4));
  const now = new Guest(t, socketOf(c));
  await now.write(4, 2);
  const read = await old.run(read10(16, BLOCKS), { lun: 1, room: BLOCKS * BLOCK });
  assert.equal(read.sense, READ_ERROR);
  assert.deepEqual([...new Set(read.data)], [], "no byte of what was");
  const write = await old.run(write10(16, BLOCKS), { lun: 1, out: pattern(3) });
  assert.equal(write.sense, WRITE_ERROR);
  await now.reads(4, 2);
  // The volume goes; the controller and what else it has stay.
  await until(() => a.stats(spec)?.state === "surrendered", "it was told");
  await a.plane.detach(spec.id);
  await a.plane.closeVolume(spec.id);
  assert.equal((await old.run(TEST_UNIT_READY, { lun: 1 })).sense, 0x052500);
  await old.reads(0, 1);
  await now.reads(4, 2);
});

test("a place is held while the volume is taken back, then the unit serves", async (t) => {
  const cluster = await TestCluster.start(t, 2);
  const [a, b] = cluster.nodes as Three;
  const spec = await cluster.make("unit", [a, b]);
  await a.plane.holdUnit(placeOf(unitSpec(socketOf(a), spec, 1), spec));
  const guest = new Guest(t, socketOf(a));
  assert.equal((await guest.run(TEST_UNIT_READY, { lun: 1 })).sense, NOT_READY);
  a.isConnected = false;
  await cluster.own(spec, a, [a, b]);
  assert.equal((await guest.run(TEST_UNIT_READY, { lun: 1 })).sense, NOT_READY);
  guest.driver.offerEvent();
  await a.plane.attachScsi(unitSpec(socketOf(a), spec, 1));
  assert.equal(guest.driver.waitEvent().event, l.SCSI_T_PARAM_CHANGE);
  // It is there, and waits for its record: what is asked waits, too.
  assert.equal((await guest.run(TEST_UNIT_READY, { lun: 1 })).status, 0);
  const pending = guest.driver.start(write10(16, BLOCKS), { lun: 1, out: pattern(1) });
  await sleep(100);
  assert.ok(!guest.driver.isAnswered(pending));
  a.isConnected = true;
  await until(() => guest.driver.isAnswered(pending), "the write is answered");
  assert.equal(guest.driver.wait(pending).status, 0);
  await guest.reads(1, 1);
});

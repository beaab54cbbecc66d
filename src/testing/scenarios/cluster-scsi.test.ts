// A virtio-scsi controller with a volume of the cluster and one of its node, real processes: the
// daemon of another copy is killed under verified load, then the owner's, then the owner's host is
// lost and another node takes the volume over. Every write that was answered is there, on each copy;
// no unit vanishes while its volume is being taken back; reservations go where the volume goes.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { MIB } from "../../base/index.ts";
import type { ScsiDriver } from "../../load/index.ts";
import { be } from "../fakes/cdb.ts";
import { NodeCluster, type NodeClusterOptions, soon } from "../nodes/node-cluster.ts";
import { ScsiLoad } from "../nodes/scsi-load.ts";
import { cleanupOf } from "../soak/cleanup.ts";

const DISK_BYTES: number = 160 * MIB;
const VOLUME_BYTES: number = 32 * MIB;
const LIMIT = { timeout: 300_000 } as const;
const PAUSE_MS_MAX = 30_000;
const KEY = 0x77;
const TEST_UNIT_READY = [0, 0, 0, 0, 0, 0];
const READ_KEYS = [0x5e, 0, 0, 0, 0, 0, 0, 1, 0, 0];
const REPORT_LUNS = [0xa0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0];
const REGISTER = [0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0];
const NOT_READY = 0x020401;
const POWER_ON = 0x062900;
const NOT_SUPPORTED = 0x052500;
/** Of the volume of the cluster, and of the node's own. */
const LUN = 3;
const OWN_LUN = 0;
const CONTROLLER = "vm1";

const nodeName = (index: number): string => `node${index + 1}`;

async function started(
  t: TestContext,
  more: Partial<NodeClusterOptions> = {},
): Promise<{ readonly cluster: NodeCluster; readonly other: number; readonly spare: number }> {
  const options = { nodeCount: 3, diskBytes: DISK_BYTES, ...more };
  const cluster = await NodeCluster.start(cleanupOf(t), options);
  await cluster.api(0).createVolume({ name: "vm", sizeBytes: VOLUME_BYTES, replicas: 2 });
  const [, other = 0] = await cluster.holders(0, "vm");
  return { cluster, other, spare: other === 1 ? 2 : 1 };
}

/** As LUN 3 of the controller on that node; returns its socket. */
async function attach(cluster: NodeCluster, index: number, takeOver = false): Promise<string> {
  const scsi = { controller: CONTROLLER, lun: LUN };
  const { socket } = await cluster.api(index).attachVolume("vm", { scsi, takeOver });
  return socket ?? "";
}

async function withOwn(cluster: NodeCluster): Promise<void> {
  const own = { name: "own", sizeBytes: VOLUME_BYTES, backing: "file" } as const;
  await cluster.api(0).createVolume(own);
  const scsi = { controller: CONTROLLER, lun: OWN_LUN };
  await cluster.api(0).attachVolume("own", { scsi });
}

function lunsOf(driver: ScsiDriver): readonly number[] {
  const { data } = driver.retried(REPORT_LUNS, { room: 2048, lun: LUN });
  const count = Buffer.from(data).readUInt32BE(0) / 8;
  return Array.from({ length: count }, (_, at) => data[8 + at * 8 + 1] as number);
}

/** REGISTER AND IGNORE EXISTING KEY, without APTPL. */
function register(driver: ScsiDriver): void {
  const out = new Uint8Array(24);
  out.set(be(KEY, 8), 8);
  assert.equal(driver.retried(REGISTER, { lun: LUN, out }).status, 0);
}

function keysOf(driver: ScsiDriver): readonly number[] {
  const bytes = Buffer.from(driver.retried(READ_KEYS, { lun: LUN, room: 256 }).data);
  const count = bytes.readUInt32BE(4) / 8;
  return Array.from({ length: count }, (_, at) => Number(bytes.readBigUInt64BE(8 + at * 8)));
}

/** The first node dies with commands of every lane in its rings, taken or not. */
async function killUnder(load: ScsiLoad, cluster: NodeCluster): Promise<void> {
  cluster.node(0).signal("SIGSTOP");
  await load.fill();
  await cluster.kill(0);
  load.disconnect();
}

test(
  "a copy, the owner, the owner's host are killed under load: nothing is lost",
  LIMIT,
  async (t) => {
    const { cluster, other, spare } = await started(t);
    await withOwn(cluster);
    const socket = await attach(cluster, 0);
    const load = new ScsiLoad([OWN_LUN, LUN]);
    t.after(() => load.close());
    await load.connect(socket);
    register(load.driver);
    await load.goesOn();

    await cluster.kill(other);
    await load.goesOn();
    await cluster.copiesSoon(0, "vm", { [nodeName(other)]: "out" });
    await cluster.restart(other);
    await cluster.copiesSoon(0, "vm", { [nodeName(other)]: "in-sync" });
    await load.goesOn();

    for (let round = 0; round < 2; round += 1) {
      await killUnder(load, cluster);
      await cluster.node(0).launch();
      await load.connect(socket);
      // A driver's first look: both are there, whatever can be said of them yet.
      assert.deepEqual(lunsOf(load.driver), [OWN_LUN, LUN]);
      const { sense } = load.driver.retried(TEST_UNIT_READY, { lun: LUN });
      assert.ok(sense === 0 || sense === NOT_READY || sense === POWER_ON, sense.toString(16));
      await load.goesOn();
    }
    assert.ok(load.notReadyCount > 0, "it was never seen while it was being taken back");
    const both = { [nodeName(0)]: "in-sync", [nodeName(other)]: "in-sync" } as const;
    await cluster.copiesSoon(0, "vm", both);
    assert.deepEqual(keysOf(load.driver), [KEY]);
    const shown = await cluster.volume(0, "vm");
    assert.deepEqual([shown.state, shown.attachment?.scsi?.lun], ["connected", LUN]);

    // The host is lost, with the volume that was on it alone; its VM is started on the third node.
    await killUnder(load, cluster);
    load.forget(OWN_LUN);
    await load.connect(await attach(cluster, spare, true));
    await load.goesOn();
    assert.deepEqual(lunsOf(load.driver), [LUN]);
    assert.deepEqual(keysOf(load.driver), [KEY], "the controller's guest is who it was");
    await cluster.copiesSoon(spare, "vm", { [nodeName(0)]: "out" });

    // It comes back: its controller has its own volume, and no place for the one that moved.
    await cluster.restart(0);
    await cluster.copiesSoon(spare, "vm", both);
    const isGivenUp = async (): Promise<boolean> =>
      (await cluster.volume(0, "vm")).attachment === null;
    await soon("the first node lets go of the place", isGivenUp);
    const first = new ScsiLoad([]);
    t.after(() => first.close());
    await first.connect(socket);
    // The record is heard of first; the place goes with the declaration, a moment later.
    const senseOf = (): number => first.driver.retried(TEST_UNIT_READY, { lun: LUN }).sense;
    await soon("no place is held for it", async () => senseOf() === NOT_SUPPORTED);
    assert.equal(first.driver.retried(TEST_UNIT_READY, { lun: OWN_LUN }).status, 0);

    // The other copy is gone: what is read back is the first one's.
    await cluster.kill(other);
    await load.goesOn();
    await cluster.copiesSoon(spare, "vm", { [nodeName(other)]: "out" });
    const checked = await load.finish();
    t.diagnostic(
      `${load.count} commands, ${checked} blocks read back, ${load.resetCount} sent again, ` +
        `longest pause ${load.longestPauseMs.toFixed(0)} ms`,
    );
    assert.ok(checked > 100);
    assert.ok(load.longestPauseMs < PAUSE_MS_MAX, `a pause of ${load.longestPauseMs} ms`);
    await cluster.restart(other);
    await cluster.copiesSoon(spare, "vm", both);
    assert.ok((await cluster.compareCopies("vm")) > 0);
  },
);

test("an owner that slept while another took over shows nothing old", LIMIT, async (t) => {
  const { cluster, spare } = await started(t);
  const socket = await attach(cluster, 0);
  const old = new ScsiLoad([LUN]);
  t.after(() => old.close());
  await old.connect(socket);
  await old.goesOn();
  cluster.node(0).signal("SIGSTOP");
  const now = new ScsiLoad([LUN]);
  t.after(() => now.close());
  await now.connect(await attach(cluster, spare, true));
  await now.goesOn();
  const { readCount } = old;
  cluster.node(0).signal("SIGCONT");
  await now.goesOn();
  const isGone = async (): Promise<boolean> => (await cluster.volume(0, "vm")).attachment === null;
  await soon("the first node lets go of it", isGone);
  // Writes that all copies had before it was fenced may still be answered; no read is.
  assert.equal(old.readCount, readCount);
  for (const failure of old.failures) assert.match(failure, /sense (30c00|31100|52500)$/);
  assert.ok((await now.finish()) > 0);
  await cluster.copiesSoon(spare, "vm", { [nodeName(0)]: "in-sync" });
  assert.ok((await cluster.compareCopies("vm")) > 0);
});

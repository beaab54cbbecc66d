// A Linux guest with two ways to one volume of a cluster: sessions with the portals of two nodes,
// with CHAP both ways, and multipathd above them, configured as docs/classic.md says. One path is
// active, the other in standby, from the start. The node that serves the target is killed under
// verified load; the one that stands by takes it over while the map keeps the guest's requests, and
// gives it back when the first has returned. The guest sees no error, its files are whole, and both
// copies are the same.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { MIB } from "../../base/index.ts";
import type { Guest } from "../../vm/index.ts";
import { NodeCluster } from "../nodes/node-cluster.ts";
import { Cleanup } from "../soak/cleanup.ts";
import {
  type GuestHost,
  limit,
  STOP_FILE,
  scenario,
  until,
  untilStopped,
  verifiedFio,
} from "./guest-fixture.ts";
import {
  disksSoon,
  documentedCommand,
  initiatorGuest,
  keepSecrets,
  logIn,
  MUTUAL_CHAP,
  targetSoon,
} from "./initiator-fixture.ts";
import { CHAP } from "./iscsi-fixture.ts";

const VOLUME_BYTES: number = 96 * MIB;
const SHORT_MS = 1000;
const MAP = "mpatha";
const DEVICE = `/dev/mapper/${MAP}`;
const DB1 = { user: "db1", secret: "target-horse-stap" };
/** On every node that serves the target: whoever is led there proves himself there, and so does it. */
const CLASSIC = { chap: { ...CHAP, target: DB1 } };

/** Waits until that many paths of the map are active, as the kernel sees them. */
async function pathsSoon(guest: Guest, isRight: (count: number) => boolean): Promise<void> {
  const ask = async (): Promise<string> => (await guest.run(`dmsetup status ${MAP}`)).stdout;
  await until(ask, (status) => isRight(status.match(/ 8:\d+ A /g)?.length ?? 0), "paths");
}

/** Paths may fail, and say so; what is above the map must not. */
async function assertNothingFailed(guest: Guest): Promise<void> {
  const complaints = await guest.must(
    "dmesg | grep -i -E 'error.* dm-[0-9]|EXT4-fs (error|warning)|JBD2.*error' || true",
  );
  assert.equal(complaints, "");
}

/** Both at once; both are waited for: what starts after a failure would outlive the cleanup. */
async function started(host: GuestHost, cleanup: Cleanup): Promise<[NodeCluster, Guest]> {
  const options = { nodeCount: 3, diskBytes: 320 * MIB, hasPortals: true } as const;
  const starting = NodeCluster.start(cleanup, options);
  const booting = initiatorGuest(host, { hasMultipath: true });
  await Promise.allSettled([starting, booting]);
  return [await starting, await booting];
}

/**
 * Paths are ranked by what the target says of its ports, as soon as they have been checked: a group
 * with the one that serves it, and one with the other, which multipathd calls a ghost.
 */
async function ranksSoon(guest: Guest): Promise<void> {
  const ask = (): Promise<string> => guest.must("multipathd show topology");
  const isRanked = (seen: string): boolean => / prio=50 /.test(seen) && / prio=1 /.test(seen);
  const topology = await until(ask, isRanked, "ranked by ALUA");
  assert.match(topology, /hwhandler='1 alua'/);
  assert.equal(topology.match(/policy=/g)?.length, 2, "a group for each state");
  assert.match(topology, / active ghost /);
}

/** Waits until the map is there, with a path to each portal. */
async function mapSoon(guest: Guest, target: string, portals: readonly string[]): Promise<void> {
  // A portal that has not heard of the target yet would refuse the login for good.
  for (const portal of portals) await targetSoon(guest, portal, target);
  await keepSecrets(guest, { [DB1.user]: DB1.secret });
  for (const [index, portal] of portals.entries()) {
    const more = documentedCommand(MUTUAL_CHAP, { target, portal });
    await logIn(guest, { target, portal, portalGroup: index + 1, chap: CHAP, more });
  }
  await disksSoon(guest, portals.length);
  await pathsSoon(guest, (count) => count === portals.length);
  await guest.must(`until [ -b ${DEVICE} ]; do usleep 50000; done`);
}

/** Another path takes over, and writes are safe again; then the node comes back as a second path. */
async function loseNode(
  host: GuestHost,
  guest: Guest,
  cluster: NodeCluster,
  standby: number,
): Promise<void> {
  await sleep(SHORT_MS);
  await cluster.kill(0);
  const killedMs = performance.now();
  await guest.must("dd if=/dev/urandom of=/mnt/after bs=64k count=16 conv=fsync 2>/dev/null");
  const tookMs = Math.round(performance.now() - killedMs);
  host.say(`written through the standby ${tookMs} ms after the kill`);
  await pathsSoon(guest, (count) => count > 0);
  assert.equal((await cluster.volume(standby, "vm")).backing.attachedTo, `node${standby + 1}`);
  await sleep(SHORT_MS);
  await cluster.restart(0);
  const all = { node1: "in-sync", [`node${standby + 1}`]: "in-sync" } as const;
  await cluster.copiesSoon(standby, "vm", all);
  // It stands by again by itself.
  await pathsSoon(guest, (count) => count === 2);
  await ranksSoon(guest);
}

/** A planned move to node 1, which stands by: both sessions stay, and change places. */
async function moveBack(host: GuestHost, guest: Guest, cluster: NodeCluster): Promise<void> {
  const before = await guest.must("ls -d /sys/class/iscsi_session/*");
  await cluster.api(1).handOverVolume("vm", { node: "node1" });
  const movedMs = performance.now();
  await guest.must("dd if=/dev/urandom of=/mnt/moved bs=64k count=16 conv=fsync 2>/dev/null");
  host.say(`written ${Math.round(performance.now() - movedMs)} ms after the move back`);
  assert.equal((await cluster.volume(0, "vm")).backing.attachedTo, "node1");
  await ranksSoon(guest);
  assert.equal(await guest.must("ls -d /sys/class/iscsi_session/*"), before, "no session ended");
  await sleep(SHORT_MS);
}

scenario("two portals, and the node of the target is killed", limit(), async (host) => {
  const cleanup = new Cleanup();
  try {
    const [cluster, guest] = await started(host, cleanup);
    await cluster.api(0).createVolume({ name: "vm", sizeBytes: VOLUME_BYTES, replicas: 2 });
    const [, standby = 0] = await cluster.holders(0, "vm");
    const { classic } = await cluster.api(0).attachVolume("vm", { classic: CLASSIC });
    await cluster.volume(standby, "vm");
    await cluster.api(standby).attachVolume("vm", { classic: CLASSIC, standby: true });
    const portals = [cluster.portal(0), cluster.portal(standby)];
    await mapSoon(guest, classic?.target ?? "", portals);
    await ranksSoon(guest);
    await guest.must(`mkfs.ext4 -q ${DEVICE} && mount ${DEVICE} /mnt`);
    const more = "--bsrange=4k-64k --blockalign=4k --fsync=64 --fallocate=none";
    const fio = verifiedFio({ device: "/mnt/data", size: "12M", seconds: 2, more });
    const load = guest.run(untilStopped(fio), { timeoutMs: limit().timeout });
    load.catch(() => undefined);
    await guest.must("until pidof fio; do usleep 20000; done");
    await loseNode(host, guest, cluster, standby);
    await moveBack(host, guest, cluster);
    await guest.must(`touch ${STOP_FILE}`);
    const { exitCode, stdout, stderr } = await load;
    assert.equal(exitCode, 0, stdout + stderr);
    assert.doesNotMatch(stdout + stderr, /verify:|error=|fio:/);
    await guest.must("cd /mnt && md5sum data after moved >/tmp/sums; cd / && umount /mnt");
    await guest.must(`e2fsck -fn ${DEVICE} && mount -o ro ${DEVICE} /mnt`);
    await guest.must("cd /mnt && md5sum -c /tmp/sums && cd / && umount /mnt");
    await assertNothingFailed(guest);
    await guest.kill();
    assert.ok((await cluster.compareCopies("vm")) > 0);
  } finally {
    await cleanup.run();
  }
});

// Several paths to one volume, real processes: an iSCSI target of a cluster is found through every
// node's portal; when its node dies, or sleeps, the node that stands by serves it, under the sessions
// that wait there, with every write that was answered and the reservations that held, and nothing of
// the old path lands late.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { KIB, MIB } from "../../base/index.ts";
import type { IscsiInitiator } from "../../load/index.ts";
import { requireOnSystem } from "../../vm/index.ts";
import {
  IDENTIFICATION,
  keysOf,
  portGroups,
  READ_KEYS,
  register,
  reserve,
  write10,
} from "../nodes/classic-client.ts";
import { GatewayClient } from "../nodes/gateway-client.ts";
import { NodeCluster, type NodeClusterOptions, soon } from "../nodes/node-cluster.ts";
import { cleanupOf } from "../soak/cleanup.ts";

const run = promisify(execFile);
const DISK_BYTES: number = 160 * MIB;
const VOLUME_BYTES: number = 48 * MIB;
const LIMIT = { timeout: 300_000 } as const;
const KEY = 0x77;
const KEY_TEXT = "0000000000000077";
const CONFLICT = 0x18;
const IN_STANDBY = 0x02040b;
const STATES_CHANGED = 0x062a06;
const OTHER_ISID = "000000000002";
const BLOCK_SECTORS = 8;
const AREA_BLOCKS = 512;

interface Scene {
  readonly cluster: NodeCluster;
  readonly target: string;
  readonly gateway: GatewayClient;
  /** Nodes by index: the one that stands by, and the third. */
  readonly standby: number;
  readonly third: number;
}

/** Three nodes; the target is node 1's, another that has a copy or has none stands by. */
async function started(
  t: TestContext,
  isOnCopy: boolean,
  more: Partial<NodeClusterOptions> = {},
): Promise<Scene> {
  const options = { nodeCount: 3, diskBytes: DISK_BYTES, hasPortals: true, ...more };
  const cluster = await NodeCluster.start(cleanupOf(t), options);
  await cluster.api(0).createVolume({ name: "vm", sizeBytes: VOLUME_BYTES, replicas: 2 });
  const [, other = 0] = await cluster.holders(0, "vm");
  const spare = other === 1 ? 2 : 1;
  const { classic } = await cluster.api(0).attachVolume("vm", { classic: {} });
  const standby = isOnCopy ? other : spare;
  await cluster.volume(standby, "vm");
  await cluster.api(standby).attachVolume("vm", { classic: {}, standby: true });
  const target = classic?.target ?? "";
  const gateway = new GatewayClient(target);
  return { cluster, target, gateway, standby, third: isOnCopy ? spare : other };
}

const name = (index: number): string => `node${index + 1}`;

/** What block `index` holds after its `round`-th write. */
function content(index: number, round: number): Buffer {
  const data = Buffer.alloc(4 * KIB, (index * 7 + round * 13) & 0xff);
  data.writeUInt32LE(index, 0);
  data.writeUInt32LE(round, 4);
  return data;
}

/** Writes blocks over and over until the session ends; `acked` has the rounds that were answered. */
class Writer {
  readonly acked: number[] = Array.from({ length: AREA_BLOCKS }, () => 0);
  /** Rounds that were sent: what is read may be one of them. */
  readonly sent: number[] = Array.from({ length: AREA_BLOCKS }, () => 0);
  count = 0;
  private readonly gateway: GatewayClient;

  constructor(gateway: GatewayClient) {
    this.gateway = gateway;
  }

  /** False: the session has ended. */
  async step(initiator: IscsiInitiator): Promise<boolean> {
    const index = this.count % AREA_BLOCKS;
    const round = (this.sent[index] as number) + 1;
    this.sent[index] = round;
    const cdb = write10(index * BLOCK_SECTORS, BLOCK_SECTORS);
    const { isDone, status } = await this.gateway.run(initiator, {
      cdb,
      data: content(index, round),
    });
    if (!isDone) return false;
    assert.equal(status, 0);
    this.acked[index] = round;
    this.count += 1;
    return true;
  }

  /** Every block holds its last answered write, or one that was on its way. */
  async check(initiator: IscsiInitiator): Promise<void> {
    for (let index = 0; index < Math.min(AREA_BLOCKS, this.count); index++) {
      const found = await this.gateway.read(initiator, index * BLOCK_SECTORS, BLOCK_SECTORS);
      const round = found.readUInt32LE(4);
      const isKnown =
        round >= (this.acked[index] as number) && round <= (this.sent[index] as number);
      assert.ok(isKnown, `block ${index}: round ${round}, answered ${this.acked[index]}`);
      assert.ok(found.equals(content(index, round)), `block ${index} is mixed`);
    }
  }
}

/** Of VPD page 83h: the NAA identifier, which is one on every path. */
const unitOf = (page: Uint8Array): Buffer => Buffer.from(page.subarray(4, 16));

async function keysAt(gateway: GatewayClient, initiator: IscsiInitiator): Promise<string[]> {
  return keysOf(await gateway.run(initiator, READ_KEYS));
}

/** The node that was killed comes back, stands by, and is given the target under the sessions. */
async function givenBack(scene: Scene, active: IscsiInitiator, writer: Writer): Promise<void> {
  const { cluster, gateway, standby, third } = scene;
  await cluster.restart(0);
  await cluster.copiesSoon(standby, "vm", { node1: "in-sync", [name(standby)]: "in-sync" });
  const late = await gateway.session(cluster.portal(0), "000000000003");
  const { backing } = await cluster.volume(standby, "vm");
  assert.deepEqual([backing.attachedTo, backing.standby], [name(standby), name(0)]);
  await soon("both ports", async () => (await portGroups(gateway, late)) === "1:2 2:0");
  assert.equal((await gateway.attentions(late)).at(-1), IN_STANDBY);
  // By name, from a node that has nothing to do with it.
  await portGroups(gateway, active);
  await gateway.client.during(cluster.api(third).handOverVolume("vm", { node: name(0) }));
  const told = await gateway.attentions(late);
  while (told.at(-1) !== 0) told.push(...(await gateway.attentions(late)));
  assert.ok(told.includes(STATES_CHANGED), told.join(" "));
  await writer.check(late);
  assert.equal((await gateway.attentions(active)).at(-1), IN_STANDBY);
  assert.ok(!active.isEnded && !late.isEnded);
  late.close();
}

test("the node of a target is killed: the standby has all of it", LIMIT, async (t) => {
  const scene = await started(t, true);
  const { cluster, gateway, standby, third } = scene;
  const { initiator: first, path } = await gateway.login(cluster.portal(third));
  assert.deepEqual(path, [cluster.portal(third), cluster.portal(0)]);
  const writer = new Writer(gateway);
  for (let count = 0; count < 64; count++) assert.ok(await writer.step(first));
  await writer.check(first);
  const isSeen = async (): Promise<boolean> => (await portGroups(gateway, first)) === "1:0 2:2";
  await soon("the standby is a port group", isSeen);
  const identity = (await gateway.run(first, IDENTIFICATION)).data;
  assert.equal((await gateway.run(first, register(KEY, false))).status, 0);
  assert.equal((await gateway.run(first, reserve(KEY))).status, 0);
  const through = await gateway.login(cluster.portal(third), OTHER_ISID);
  assert.deepEqual(through.path, [cluster.portal(third), cluster.portal(0)]);
  const strange = { cdb: write10(0, 1), data: Buffer.alloc(512, 0xee) };
  assert.equal((await gateway.run(through.initiator, strange)).status, CONFLICT);
  const waiting = await gateway.session(cluster.portal(standby), OTHER_ISID);
  assert.equal(await portGroups(gateway, waiting), "1:0 2:2");
  assert.equal((await gateway.run(waiting, strange)).senseTriple, IN_STANDBY);
  assert.deepEqual(unitOf((await gateway.run(waiting, IDENTIFICATION)).data), unitOf(identity));
  const hasKeys = async (): Promise<boolean> => (await keysAt(gateway, waiting)).length === 1;
  await soon("the standby knows what is reserved", hasKeys);
  assert.deepEqual(await gateway.attentions(waiting), [IN_STANDBY]);

  const killing = sleep(300).then(() => cluster.kill(0));
  while (await writer.step(first));
  await killing;
  const lostMs = performance.now();
  const told: number[] = [];
  while (told.at(-1) !== 0) told.push(...(await gateway.attentions(waiting)));
  assert.ok(told.includes(STATES_CHANGED), told.join(" "));
  await writer.check(waiting);
  t.diagnostic(`served in place after ${Math.round(performance.now() - lostMs)} ms`);
  assert.equal((await gateway.run(waiting, strange)).status, CONFLICT);
  const { initiator: second, path: back } = await gateway.login(cluster.portal(standby));
  const tookMs = Math.round(performance.now() - lostMs);
  assert.deepEqual(back, [cluster.portal(standby)]);
  await writer.check(second);
  t.diagnostic(`${writer.count} writes before the kill; served again after ${tookMs} ms`);
  assert.deepEqual(await keysAt(gateway, second), [KEY_TEXT]);
  assert.equal(await portGroups(gateway, second), "2:0");
  assert.deepEqual(unitOf((await gateway.run(second, IDENTIFICATION)).data), unitOf(identity));
  for (let count = 0; count < 64; count++) assert.ok(await writer.step(second), "it is the holder");
  const again = await gateway.login(cluster.portal(third), OTHER_ISID);
  assert.deepEqual(again.path, [cluster.portal(third), cluster.portal(standby)]);
  assert.equal((await gateway.run(again.initiator, strange)).status, CONFLICT);

  await givenBack(scene, second, writer);
  for (const one of [second, waiting, again.initiator]) one.close();
  assert.ok((await cluster.compareCopies("vm")) > 0);
});

test("an owner that slept lands no late write, and keeps no reservation", LIMIT, async (t) => {
  const { cluster, gateway, standby, third } = await started(t, false);
  const { initiator: old } = await gateway.login(cluster.portal(0));
  const block = (fill: number): Buffer => Buffer.alloc(64 * KIB, fill);
  const write = (lba: number, fill: number) => ({ cdb: write10(lba, 128), data: block(fill) });
  for (let lba = 0; lba < 1024; lba += 128) {
    assert.equal((await gateway.run(old, write(lba, 1))).status, 0);
  }
  assert.equal((await gateway.run(old, register(KEY, true))).status, 0);
  cluster.node(0).signal("SIGSTOP");
  // They lie in the sockets of the one that sleeps.
  const late = [0, 128, 256, 384].map((lba) => old.command(write(lba, 2)));
  const lateKey = old.command(register(0x88, true));
  gateway.client.reactor.turn();
  const { initiator: now, path } = await gateway.login(cluster.portal(third));
  assert.deepEqual(path, [cluster.portal(third), cluster.portal(standby)]);
  assert.deepEqual(await keysAt(gateway, now), [KEY_TEXT]);
  for (let lba = 0; lba < 512; lba += 128) {
    assert.equal((await gateway.run(now, write(lba, 3))).status, 0);
  }
  cluster.node(0).signal("SIGCONT");
  await gateway.client.until(() => old.isEnded, "the end of the old path");
  assert.ok(
    late.every(({ isDone, status }) => !isDone || status !== 0),
    "a late write was answered",
  );
  assert.ok(!lateKey.isDone || lateKey.status !== 0, "a late reservation was answered");
  await cluster.copiesSoon(standby, "vm", { node1: "in-sync", [name(third)]: "in-sync" });
  for (let lba = 0; lba < 1024; lba += 128) {
    const wanted = lba < 512 ? 3 : 1;
    assert.ok((await gateway.read(now, lba, 128)).equals(block(wanted)), `block ${lba}`);
  }
  assert.deepEqual(await keysAt(gateway, now), [KEY_TEXT]);
  // It stands by, without having been asked to.
  const aside = await gateway.session(cluster.portal(0), OTHER_ISID);
  assert.equal((await gateway.run(aside, write(0, 4))).senseTriple, IN_STANDBY);
  assert.ok((await gateway.read(now, 0, 128)).equals(block(3)));
  for (const one of [now, aside]) one.close();
  assert.ok((await cluster.compareCopies("vm")) > 0);
});

test(
  "a gateway that is cut off from the metadata alone is left by its initiators",
  LIMIT,
  async (t) => {
    const { cluster, gateway, standby, third } = await started(t, true, { hasFaultyNetwork: true });
    const { initiator: old } = await gateway.login(cluster.portal(0));
    const writer = new Writer(gateway);
    for (let count = 0; count < 64; count++) assert.ok(await writer.step(old));
    cluster.faults.cutMetadata(0);
    const beganMs = performance.now();
    // Writes go on until another has the volume; then they fail, and the session is ended.
    await gateway.client.until(() => old.isEnded, "the end of the old path");
    t.diagnostic(`hung up on after ${Math.round(performance.now() - beganMs)} ms`);
    const { initiator: now, path } = await gateway.login(cluster.portal(third));
    assert.deepEqual(path, [cluster.portal(third), cluster.portal(standby)]);
    await writer.check(now);
    for (let count = 0; count < 64; count++) assert.ok(await writer.step(now));
    cluster.faults.heal();
    const aside = await gateway.session(cluster.portal(0), OTHER_ISID);
    assert.deepEqual((await gateway.attentions(aside)).at(-1), IN_STANDBY);
    await cluster.copiesSoon(standby, "vm", { node1: "in-sync", [name(standby)]: "in-sync" });
    for (const one of [now, aside]) one.close();
    assert.ok((await cluster.compareCopies("vm")) > 0);
  },
);

test("detached where it is, a target goes on at the standby without a loss", LIMIT, async (t) => {
  const { cluster, gateway, standby, third } = await started(t, true);
  const { initiator } = await gateway.login(cluster.portal(third));
  const writer = new Writer(gateway);
  for (let count = 0; count < 64; count++) assert.ok(await writer.step(initiator));
  assert.equal((await gateway.run(initiator, register(KEY, false))).status, 0);
  const detaching = sleep(100).then(() => cluster.api(0).detachVolume("vm"));
  while (await writer.step(initiator));
  await detaching;
  const beganMs = performance.now();
  const { initiator: next, path } = await gateway.login(cluster.portal(0));
  t.diagnostic(`served again after ${Math.round(performance.now() - beganMs)} ms`);
  assert.deepEqual(path, [cluster.portal(0), cluster.portal(standby)]);
  await writer.check(next);
  assert.deepEqual(await keysAt(gateway, next), [KEY_TEXT]);
  next.close();
  assert.ok((await cluster.compareCopies("vm")) > 0);
});

test("libiscsi and QEMU are led on, and find the target where it has gone", LIMIT, async (t) => {
  const { cluster, target, standby, third } = await started(t, true);
  const portal = cluster.portal(third);
  const ls = requireOnSystem("iscsi-ls", "libiscsi-bin");
  const qemuImg = requireOnSystem("qemu-img", "qemu-utils");
  /** A node hears of targets elsewhere a moment later than whoever made them was answered. */
  const named = async (): Promise<string> =>
    (await run(ls, [`iscsi://${portal}`]).catch(() => ({ stdout: "" }))).stdout;
  await soon("the third node names both portals", async () => {
    const stdout = await named();
    const isNamed = (place: string): boolean => stdout.includes(`Target:${target} Portal:${place}`);
    return isNamed(`${cluster.portal(0)},1`) && isNamed(`${cluster.portal(standby)},2`);
  });
  const file = join(cluster.folder, "image");
  writeFileSync(file, randomBytes(4 * MIB));
  const url = `iscsi://${portal}/${target}/0`;
  await run(qemuImg, ["convert", "-n", "-f", "raw", "-O", "raw", file, url]);
  await cluster.kill(0);
  await soon("the standby serves", async () => {
    const { state, backing } = await cluster.volume(standby, "vm");
    return state === "attached" && backing.attachedTo === name(standby);
  });
  await soon("the third node leads to the standby", async () =>
    (await named()).includes(`Portal:${cluster.portal(standby)},2`),
  );
  const compared = ["compare", "-f", "raw", "-F", "raw", file, url];
  assert.match((await run(qemuImg, compared)).stdout, /^Images are identical/m);
});

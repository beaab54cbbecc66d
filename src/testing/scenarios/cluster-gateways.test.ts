// Several paths to one volume, real processes: an iSCSI target of a cluster is found through every
// node's portal; when its node dies, or sleeps, the node that stands by serves it, with every write
// that was answered and the reservations that held, and nothing of the old path lands late.

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

async function keysAt(gateway: GatewayClient, initiator: IscsiInitiator): Promise<string[]> {
  return keysOf(await gateway.run(initiator, READ_KEYS));
}

test("the node of a target is killed: the standby has all of it", LIMIT, async (t) => {
  const { cluster, gateway, standby, third } = await started(t, true);
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
  const through = await gateway.login(cluster.portal(standby), OTHER_ISID);
  assert.deepEqual(through.path, [cluster.portal(standby), cluster.portal(0)]);
  const strange = { cdb: write10(0, 1), data: Buffer.alloc(512, 0xee) };
  assert.equal((await gateway.run(through.initiator, strange)).status, CONFLICT);

  const killing = sleep(300).then(() => cluster.kill(0));
  while (await writer.step(first));
  await killing;
  const lostMs = performance.now();
  const { initiator: second, path: back } = await gateway.login(cluster.portal(standby));
  const tookMs = Math.round(performance.now() - lostMs);
  assert.deepEqual(back, [cluster.portal(standby)]);
  await writer.check(second);
  t.diagnostic(`${writer.count} writes before the kill; served again after ${tookMs} ms`);
  assert.deepEqual(await keysAt(gateway, second), [KEY_TEXT]);
  assert.equal(await portGroups(gateway, second), "1:0");
  assert.deepEqual((await gateway.run(second, IDENTIFICATION)).data, identity);
  for (let count = 0; count < 64; count++) assert.ok(await writer.step(second), "it is the holder");
  const again = await gateway.login(cluster.portal(third), OTHER_ISID);
  assert.deepEqual(again.path, [cluster.portal(third), cluster.portal(standby)]);
  assert.equal((await gateway.run(again.initiator, strange)).status, CONFLICT);

  // It comes back, leads on, and is brought up to date.
  await cluster.restart(0);
  await cluster.copiesSoon(standby, "vm", { node1: "in-sync", [name(standby)]: "in-sync" });
  const late = await gateway.login(cluster.portal(0), "000000000003");
  assert.deepEqual(late.path, [cluster.portal(0), cluster.portal(standby)]);
  await writer.check(late.initiator);
  assert.equal((await cluster.volume(standby, "vm")).backing.attachedTo, name(standby));
  for (const one of [second, again.initiator, late.initiator]) one.close();
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
  const led = await gateway.login(cluster.portal(0), OTHER_ISID);
  assert.deepEqual(led.path, [cluster.portal(0), cluster.portal(standby)]);
  for (const one of [now, led.initiator]) one.close();
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
    const led = await gateway.login(cluster.portal(0), OTHER_ISID);
    assert.deepEqual(led.path, [cluster.portal(0), cluster.portal(standby)]);
    await cluster.copiesSoon(standby, "vm", { node1: "in-sync", [name(standby)]: "in-sync" });
    for (const one of [now, led.initiator]) one.close();
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
  const leadsTo = async (index: number): Promise<boolean> => {
    const told = await run(ls, [`iscsi://${portal}`]).catch(() => ({ stdout: "" }));
    return told.stdout.includes(`Target:${target} Portal:${cluster.portal(index)},1`);
  };
  await soon("the third node leads to the first", () => leadsTo(0));
  const file = join(cluster.folder, "image");
  writeFileSync(file, randomBytes(4 * MIB));
  const url = `iscsi://${portal}/${target}/0`;
  await run(qemuImg, ["convert", "-n", "-f", "raw", "-O", "raw", file, url]);
  await cluster.kill(0);
  await soon("the standby serves", async () => {
    const { state, backing } = await cluster.volume(standby, "vm");
    return state === "attached" && backing.attachedTo === name(standby);
  });
  await soon("the third node leads to the standby", () => leadsTo(standby));
  const compared = ["compare", "-f", "raw", "-F", "raw", file, url];
  assert.match((await run(qemuImg, compared)).stdout, /^Images are identical/m);
});

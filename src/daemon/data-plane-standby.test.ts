// A cluster's target on two nodes at once, over real reactor threads: what a session at the standby
// is told, that nothing it sends reaches a disk, and what becomes of sessions when the volume moves.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { IscsiInitiator } from "../load/index.ts";
import type { ClassicSpec } from "../ports/classic-plane.ts";
import type { ClusterBacking } from "../ports/cluster-plane.ts";
import type { VolumeSpec } from "../ports/data-plane.ts";
import {
  ClassicClient,
  classicSpec,
  IDENTIFICATION,
  INITIATOR,
  keysOf,
  PORTAL,
  portGroups,
  READ_CAPACITY,
  READ_KEYS,
  read10,
  register,
  TEST_UNIT_READY,
  write10,
} from "../testing/nodes/classic-client.ts";
import { TestCluster, type TestNode } from "./_test-cluster.ts";
import { MIB, TestPlane, until, volume } from "./_test-plane.ts";

const STATES_CHANGED = 0x062a06;
const IN_STANDBY = 0x02040b;
const AUTHENTICATION_FAILED = 0x0201;
/** A write of half a MiB is asked for its data. */
const PART_SECTORS = 1024;
const PARTS = 12;
/** With those in which single sectors are written. */
const ALL_PARTS = 20;
/** As many as there is room for in the window of commands. */
const SECTORS = 112;
const CHAP = { user: "vm1", secret: "correct-horse-battery" };
const KEY_TEXT = "0000000000000077";
const KEPT = {
  generation: 1,
  aptpl: false,
  type: 0,
  holder: -1,
  registrations: [{ transportId: "0500000069716e2e", relativePort: 1, key: KEY_TEXT }],
};

class Scene {
  readonly client: ClassicClient = new ClassicClient();
  readonly cluster: TestCluster;
  readonly spec: VolumeSpec;
  readonly members: readonly TestNode[];
  readonly target: ClassicSpec;
  readonly addresses: Map<TestNode, string> = new Map();
  standby: ClusterBacking;

  constructor(cluster: TestCluster, spec: VolumeSpec, more: Partial<ClassicSpec>) {
    this.cluster = cluster;
    this.spec = spec;
    this.members = cluster.nodes;
    this.target = classicSpec(spec, more);
    this.standby = cluster.backing(this.b, this.members, true);
  }

  get a(): TestNode {
    return this.cluster.nodes[0] as TestNode;
  }

  get b(): TestNode {
    return this.cluster.nodes[1] as TestNode;
  }

  /** The first node serves the target, the second has it in standby. */
  static async start(t: TestContext, more: Partial<ClassicSpec> = {}): Promise<Scene> {
    const cluster = await TestCluster.start(t, 2, { portal: PORTAL });
    const spec = await cluster.make("shared", cluster.nodes);
    const scene = new Scene(cluster, spec, more);
    const { a, b, target, addresses } = scene;
    await cluster.own(spec, a, cluster.nodes);
    await b.plane.openVolume({ ...spec, backing: scene.standby }, { create: false });
    addresses.set(a, await a.plane.attachClassic(target));
    addresses.set(b, await b.plane.attachClassic({ ...target, portTag: 2 }));
    await scene.tellPaths(a);
    return scene;
  }

  /** As the control plane does, when it has heard of it. */
  async tellPaths(active: TestNode): Promise<void> {
    const { a, b, spec } = this;
    const path = (node: TestNode, portTag: number) => {
      return { address: this.address(node), portTag, isActive: node === active };
    };
    await a.plane.setPaths(spec.id, [path(b, 2)]);
    await b.plane.setPaths(spec.id, [path(a, 1)]);
  }

  address(node: TestNode): string {
    return this.addresses.get(node) as string;
  }

  async login(node: TestNode, isAware = true): Promise<IscsiInitiator> {
    const initiator = await this.client.login(this.address(node), this.target.targetName);
    if (isAware) await portGroups(this.client, initiator);
    await this.attentions(initiator);
    return initiator;
  }

  /** Takes the unit attentions of a session; the last is what the unit says after them, 0 = ready. */
  async attentions(initiator: IscsiInitiator): Promise<number[]> {
    const told: number[] = [];
    for (;;) {
      const { isDone, senseTriple } = await this.client.run(initiator, { cdb: TEST_UNIT_READY });
      if (!isDone) return [...told, -1];
      told.push(senseTriple);
      if (senseTriple >>> 16 !== 6) return told;
    }
  }

  async sense(initiator: IscsiInitiator, cdb: Uint8Array, data?: Uint8Array): Promise<number> {
    const options = data === undefined ? { cdb, readBytes: 4096 } : { cdb, data };
    return (await this.client.run(initiator, options)).senseTriple;
  }

  async move(from: TestNode, to: TestNode): Promise<void> {
    const { client, cluster, spec, members } = this;
    const backing = cluster.backing(to, members);
    await client.during(from.plane.handOverVolume(spec.id, backing.owner));
    await client.during(to.plane.takeVolume(spec.id, backing));
    await this.tellPaths(to);
  }
}

test("a session at a standby: its port, the others', and no way to a disk", async (t) => {
  const scene = await Scene.start(t, { chap: { ...CHAP, target: null } });
  const { client, a, b, target, spec } = scene;
  const { targetName } = target;
  const attempt = async (secret: string): Promise<IscsiInitiator> =>
    client.tryLogin(scene.address(b), {
      targetName,
      initiatorName: INITIATOR,
      chap: { name: CHAP.user, secret, algorithms: [5] },
    });
  assert.equal((await attempt("wrong-horse-battery")).login.status, AUTHENTICATION_FAILED);
  const session = await attempt(CHAP.secret);
  assert.equal(session.login.status, 0);
  assert.equal(session.login.keys.get("TargetPortalGroupTag"), "2");
  assert.equal((await scene.attentions(session)).at(-1), IN_STANDBY);
  assert.equal(await portGroups(client, session), "1:0 2:2");
  const block = Buffer.alloc(4096, 0xee);
  assert.equal(await scene.sense(session, write10(0, 8), block), IN_STANDBY);
  assert.equal(await scene.sense(session, read10(0, 8)), IN_STANDBY);
  const { cdb, data = block } = register(0x88, false);
  assert.equal(await scene.sense(session, cdb, data), IN_STANDBY);
  const capacity = await client.run(session, { cdb: READ_CAPACITY, readBytes: 8 });
  assert.equal(Buffer.from(capacity.data).readUInt32BE(0), spec.sizeBytes / 512 - 1);
  await b.plane.setReservations(spec.id, KEPT);
  assert.deepEqual(keysOf(await client.run(session, READ_KEYS)), [KEY_TEXT]);
  const damaged = { ...KEPT, holder: 5 };
  await assert.rejects(b.plane.setReservations(spec.id, damaged), { code: "INVALID_REQUEST" });
  const stats = b.plane.volumeStats().find(({ volumeId }) => volumeId === spec.id);
  assert.deepEqual([stats?.writeCount, stats?.readCount, stats?.sessionCount], [0, 0, 1]);
  assert.equal(b.stats(spec)?.state, "standby");
  assert.deepEqual(b.stats(spec)?.epoch, 0, "it has claimed nothing");
  await until(() => a.stats(spec)?.state === "serving", "the owner says that it serves");
});

test("one unit by two ports, and every portal names both", async (t) => {
  const scene = await Scene.start(t);
  const { client, a, b, target } = scene;
  const pages: Buffer[] = [];
  for (const [node, portTag] of [
    [a, 1],
    [b, 2],
  ] as const) {
    const session = await scene.login(node);
    const page = Buffer.from((await client.run(session, IDENTIFICATION)).data);
    // Behind the NAA identifier and the vendor's: relative target port, target port group.
    const port = page.indexOf(Buffer.from([0x94, 0, 4, 0, 0, 0, portTag]));
    const group = page.indexOf(Buffer.from([0x95, 0, 4, 0, 0, 0, portTag]));
    assert.ok(port > 0 && group > port, page.toString("hex"));
    pages.push(page.subarray(4, 16));
    const discovery = await client.tryLogin(scene.address(node), { targetName: null });
    const listing = discovery.text("SendTargets=All\0");
    await client.until(() => listing.isDone, "SendTargets");
    const text = Buffer.from(listing.answer).toString();
    const wanted = [`${scene.address(a)},1`, `${scene.address(b)},2`];
    if (node === b) wanted.reverse();
    const addresses = wanted.map((one) => `TargetAddress=${one}\0`).join("");
    assert.ok(text.includes(`TargetName=${target.targetName}\0${addresses}`), text);
  }
  assert.deepEqual(pages[0], pages[1], "the same NAA identifier");
});

test("handed over under writes: sessions change places, and nothing lands late", async (t) => {
  const scene = await Scene.start(t);
  const { client, a, b, spec } = scene;
  const [old, next, simple] = [
    await scene.login(a),
    await scene.login(b),
    await scene.login(a, false),
  ];
  const block = (fill: number): Buffer => Buffer.alloc(PART_SECTORS * 512, fill);
  for (let at = 0; at < ALL_PARTS; at++) {
    const lba = at * PART_SECTORS;
    assert.equal(await scene.sense(old, write10(lba, PART_SECTORS), block(1)), 0);
  }
  // Some are asked for their data, some are at the disk, some are sectors that are read first.
  const writes = Array.from({ length: PARTS }, (_, at) => {
    return old.command({ cdb: write10(at * PART_SECTORS, PART_SECTORS), data: block(2) });
  });
  const sectors = Array.from({ length: SECTORS }, (_, at) => {
    const lba = PARTS * PART_SECTORS + 8 * at + 1;
    return old.command({ cdb: write10(lba, 1), data: Buffer.alloc(512, 2) });
  });
  await client.until(() => old.openCommands < PARTS + SECTORS, "the first answer");
  await scene.move(a, b);
  const all = [...writes, ...sectors];
  await client.until(() => all.every(({ isDone }) => isDone), "an answer to every write");
  const refused = all.filter(({ status }) => status !== 0);
  t.diagnostic(`${refused.length} of ${all.length} were refused`);
  assert.ok(refused.length > 0, "some came after it");
  // Unit attentions go before; whoever got one was not written.
  for (const { senseTriple } of refused) {
    const isRefused = senseTriple === STATES_CHANGED || senseTriple === IN_STANDBY;
    assert.ok(isRefused, senseTriple.toString(16));
  }
  assert.equal((await scene.attentions(old)).at(-1), IN_STANDBY, "in place");
  assert.equal(await scene.sense(old, write10(0, PART_SECTORS), block(3)), IN_STANDBY);
  assert.ok(!old.isEnded);
  await client.until(() => simple.isEnded, "the end of who does not know of ports");
  const told = await scene.attentions(next);
  assert.ok(told.includes(STATES_CHANGED) && told.at(-1) === 0, told.join(" "));
  assert.equal(await portGroups(client, next), "1:2 2:0");
  assert.equal(await portGroups(client, old), "1:2 2:0");
  const part = (at: number) => {
    return { cdb: read10(at * PART_SECTORS, PART_SECTORS), readBytes: PART_SECTORS * 512 };
  };
  for (const [at, { status }] of writes.entries()) {
    const { data } = await client.run(next, part(at));
    const fill = status === 0 ? 2 : 1;
    assert.ok(block(fill).equals(data), `block ${at}: ${data[0]}, not ${fill}`);
  }
  for (const [at, { status }] of sectors.entries()) {
    const cdb = read10(PARTS * PART_SECTORS + 8 * at, 8);
    const { data } = await client.run(next, { cdb, readBytes: 4096 });
    assert.deepEqual([data[0], data[512]], [1, status === 0 ? 2 : 1], `sector ${at}`);
  }
  const { status } = await client.run(next, { cdb: write10(0, PART_SECTORS), data: block(4) });
  assert.equal(status, 0);
  // And back, under the same sessions.
  await scene.move(b, a);
  const back = await scene.attentions(old);
  assert.ok(back.includes(STATES_CHANGED) && back.at(-1) === 0, back.join(" "));
  assert.equal((await scene.attentions(next)).at(-1), IN_STANDBY);
  assert.ok(block(4).equals((await client.run(old, part(0))).data));
  for (const node of [a, b]) await client.during(node.plane.detach(spec.id));
  await client.until(() => old.isEnded && next.isEnded, "the end of the sessions");
  await scene.cluster.endsEqual(spec, a, b);
});

test("while it is being handed over it is not handed over again", async (t) => {
  const scene = await Scene.start(t);
  const { client, a, spec } = scene;
  const session = await scene.login(a);
  const data = Buffer.alloc(PART_SECTORS * 512, 1);
  for (let at = 0; at < PARTS; at++) {
    session.command({ cdb: write10(at * PART_SECTORS, PART_SECTORS), data });
  }
  await client.until(() => session.openCommands < PARTS, "the first answer");
  const one = a.plane.handOverVolume(spec.id, "one");
  await assert.rejects(client.during(a.plane.handOverVolume(spec.id, "two")), {
    code: "VOLUME_BUSY",
  });
  await client.during(one);
  assert.equal(scene.cluster.record(spec).owner, "one");
});

test("ports of other nodes come and go: initiators hear of it once", async (t) => {
  const plane = await TestPlane.start(t, { portal: PORTAL });
  const client = new ClassicClient();
  const spec = volume("paths", { kind: "memory" }, { sizeBytes: MIB });
  await plane.plane.openVolume(spec, { create: true });
  const target = classicSpec(spec);
  const address = await plane.plane.attachClassic(target);
  const initiator = await client.login(address, target.targetName);
  assert.equal(await portGroups(client, initiator), "1:0");
  const standby = { address: "10.0.0.2:3260", portTag: 2, isActive: false };
  for (const [others, groups] of [
    [[standby], "1:0 2:2"],
    [[], "1:0"],
  ] as const) {
    await plane.plane.setPaths(spec.id, others);
    await plane.plane.setPaths(spec.id, others);
    let told = await client.run(initiator, { cdb: TEST_UNIT_READY });
    if (told.status === 0) told = await client.run(initiator, { cdb: TEST_UNIT_READY });
    assert.equal(told.senseTriple, STATES_CHANGED);
    assert.equal((await client.run(initiator, { cdb: TEST_UNIT_READY })).status, 0, "told once");
    assert.equal(await portGroups(client, initiator), groups);
  }
  await client.during(plane.plane.detach(spec.id));
  await plane.plane.setPaths(spec.id, [standby]);
  await plane.plane.attachClassic(target);
  const again = await client.login(address, target.targetName);
  assert.equal(await portGroups(client, again), "1:0");
  await until(() => plane.plane.portalStats().length > 0, "the portal is counted");
});

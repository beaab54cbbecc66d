// iSCSI targets of a cluster as the control plane sees them, over fake data planes and the embedded
// metadata server: every portal leads to them, their reservations move with them, a standby takes
// them over, and whoever lost one changes nothing any more.

import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import {
  exportMetadata,
  MetaKeys,
  readArchive,
  reservationsCodec,
  volumeCodec,
} from "../meta/index.ts";
import type { Standby } from "../meta/records.ts";
import type { ClusterBackingView } from "../model/cluster-types.ts";
import type { VolumeAttach } from "../model/types.ts";
import type { ClassicSpec, ElsewhereTarget, TargetPath } from "../ports/classic-plane.ts";
import type { MetaOutcome, MetaStore, MetaTransaction } from "../ports/meta-store.ts";
import type { ReservationRecord } from "../ports/reservation-record.ts";
import { ClusterFixture, NodeFixture, refused, until } from "../testing/control/cluster-fixture.ts";
import type { ClusterContext } from "./cluster-context.ts";
import { MetaLink } from "./cluster-link.ts";
import { ClusterReservations } from "./cluster-reservations.ts";

const REALLY = { dryRun: false } as const;
const MIB = 2 ** 20;
const SECRET = "correct-horse-battery";
const HOST_A = "iqn.2026-01.com.example:a";
const CLASSIC: VolumeAttach = { classic: { initiators: [HOST_A] } };
const STANDBY: VolumeAttach = { classic: {}, standby: true };
const RECORD: ReservationRecord = {
  generation: 3,
  aptpl: false,
  type: 0,
  holder: -1,
  registrations: [{ transportId: "0500000069716e2e", relativePort: 1, key: "0000000000000007" }],
};

let scene: ClusterFixture;
let a: NodeFixture;
let b: NodeFixture;
let c: NodeFixture;
beforeEach(async () => {
  scene = await ClusterFixture.start();
  [a, b, c] = (await scene.cluster("a", "b", "c")) as [NodeFixture, NodeFixture, NodeFixture];
  for (const [index, node] of [a, b, c].entries()) listenAt(node, index);
});
afterEach(() => scene.end());

function listenAt({ plane }: NodeFixture, index: number): void {
  plane.portalAddress = `10.0.0.${index + 1}:3260`;
}

function backing(node: NodeFixture): ClusterBackingView {
  return node.control.show("v").backing as ClusterBackingView;
}

/** Where the node's portal leads for the volume: an address, "wait", "" = it knows no target. */
function leadOf({ plane }: NodeFixture): string {
  const [target] = plane.elsewhere;
  return target === undefined ? "" : (target.address ?? "wait");
}

async function leads(node: NodeFixture, wanted: string): Promise<void> {
  await until(
    () => leadOf(node) === wanted,
    () => `${node.name} leads to "${leadOf(node)}", not to "${wanted}"`,
  );
}

async function pathsAt(
  { plane, name }: NodeFixture,
  id: string,
  wanted: readonly TargetPath[],
): Promise<void> {
  const told = (): string => JSON.stringify(plane.paths.get(id));
  await until(
    () => told() === JSON.stringify(wanted),
    () => `${name} was told of ${told()}`,
  );
}

async function attached(request: VolumeAttach = CLASSIC): Promise<string> {
  const { id } = await a.create({ name: "v", sizeBytes: MIB, replicas: 2 });
  await until(() => [b, c].every((node) => node.control.list().some((one) => one.id === id)));
  await a.control.attach("v", request);
  await until(() => [b, c].every((node) => backing(node).attachedTo === "a"));
  return id;
}

/** The node's next life; its portal listens where it is told. */
async function reborn(node: NodeFixture, index: number): Promise<NodeFixture> {
  await node.end();
  const next = new NodeFixture(node.name, node.address, node.root);
  listenAt(next, index);
  scene.nodes[scene.nodes.indexOf(node)] = next;
  return await next.start();
}

async function dies(node: NodeFixture): Promise<void> {
  await node.end();
  scene.nodes.splice(scene.nodes.indexOf(node), 1);
}

function specAt({ plane }: NodeFixture, id: string): ClassicSpec {
  return (plane.open.get(id)?.attachment ?? undefined) as ClassicSpec;
}

describe("portals", () => {
  test("every node leads to a target, with its address and who may log in, and no secret", async () => {
    const chap = { user: "vm1", secret: SECRET };
    const id = await attached({ classic: { chap, initiators: [HOST_A] } });
    const targetName = specAt(a, id).targetName;
    const address = "10.0.0.1:3260";
    const paths = [{ address, portTag: 1, isActive: true }];
    const wanted: ElsewhereTarget = { targetName, initiators: [HOST_A], address, paths };
    for (const node of [b, c]) {
      await leads(node, "10.0.0.1:3260");
      assert.equal(backing(node).targetUrl, `iscsi://10.0.0.1:3260/${targetName}/0`);
      assert.deepEqual(node.plane.elsewhere, [wanted]);
    }
    await leads(a, "");
    const store = scene.store();
    const { entries } = await store.list(new MetaKeys().root);
    store.close();
    const texts = entries.map(({ value }) => Buffer.from(value).toString());
    assert.ok(texts.some((text) => text.includes("vm1")));
    assert.ok(!texts.some((text) => text.includes(SECRET)), "no secret in the metadata");
    await a.control.detach("v");
    await leads(b, "");
  });

  test("a portal at another address is told; a node that is gone leads nowhere", async () => {
    await attached();
    await leads(b, "10.0.0.1:3260");
    await a.end();
    await leads(b, "wait");
    a = await reborn(a, 8);
    await leads(b, "10.0.0.9:3260");
    await leads(c, "10.0.0.9:3260");
  });

  test("an address that is no other one to whoever asks is told to nobody", async () => {
    a.plane.portalAddress = "127.0.0.1:3260";
    b.plane.portalAddress = "127.0.0.1:3260";
    await attached();
    await a.create({ name: "w", sizeBytes: MIB, replicas: 2 });
    await until(() => b.control.list().some(({ name }) => name === "w"));
    // On c it would be c's own machine, on b this very portal.
    assert.equal(leadOf(b), "");
    assert.equal(leadOf(c), "");
    b.plane.portalAddress = "127.0.0.1:3261";
    await a.control.attach("w", { classic: {} });
    await until(() => b.plane.elsewhere.length === 2);
    assert.equal(leadOf(c), "");
  });

  test("a portal that cannot listen keeps nothing else from being done", async () => {
    b.plane.openPortal = async () => {
      throw new Error("10.0.0.2 port 3260: EADDRINUSE");
    };
    await attached();
    await until(() => b.fixture.log.some(({ event }) => event === "cluster.portal-not-open"));
    await b.create({ name: "w", sizeBytes: MIB, replicas: 3 });
    await refused(b.control.attach("w", CLASSIC), "internal", /EADDRINUSE/).catch(() => undefined);
    assert.equal((await b.control.attach("w", {})).changed, true);
    b.plane.openPortal = async () => "10.0.0.2:3260";
    await leads(b, "10.0.0.1:3260");
  });
});

test("a target that is lost while the metadata is away hangs up on its initiators", async () => {
  const id = await attached();
  const owner = a.plane.owners.get(id);
  assert.ok(owner !== undefined);
  await scene.stopMetadata();
  await until(async () => (await a.cluster.show())?.metadata.reachable === false);
  assert.ok(specAt(a, id) !== undefined, "without metadata a target is served on");
  a.plane.tell({ ...owner, state: "surrendered" });
  await until(() => a.plane.calls.some((call) => call === "closeVolume v"));
  assert.equal(specAt(a, id), undefined);
  await scene.startMetadata();
});

describe("reservations", () => {
  const key = (id: string): string => new MetaKeys().volumeReservations(id);

  async function kept(id: string): Promise<ReservationRecord | null> {
    const store = scene.store();
    const entry = await store.get(key(id));
    store.close();
    return entry === null ? null : reservationsCodec.decode(key(id), entry.value).record;
  }

  test("they outlive the daemon and a move to another node; whoever lost it changes none", async () => {
    const id = await attached();
    assert.equal(specAt(a, id).reservations, null);
    await a.cluster.saveReservations(id, RECORD);
    assert.deepEqual(await kept(id), RECORD);
    a = await reborn(a, 0);
    await until(() => specAt(a, id) !== undefined);
    assert.deepEqual(specAt(a, id).reservations, RECORD);
    assert.equal(specAt(a, id).powerWasLost, false);
    await b.control.attach("v", { ...CLASSIC, takeOver: true });
    assert.deepEqual(specAt(b, id).reservations, RECORD);
    assert.equal(specAt(b, id).powerWasLost, false, "a target that moves keeps its power");
    const late = { ...RECORD, generation: 9 };
    await refused(a.cluster.saveReservations(id, late), "volume_unavailable", /another node/);
    assert.deepEqual(await kept(id), RECORD);
    await b.cluster.saveReservations(id, { ...RECORD, generation: 4 });
    assert.equal((await kept(id))?.generation, 4);
    // Nobody has claimed them since, but the volume is another's.
    await c.control.attach("v", { takeOver: true });
    await refused(b.cluster.saveReservations(id, late), "volume_unavailable", /another node/);
    assert.equal((await kept(id))?.generation, 4);
  });

  test("what a run that ended had on its way finds another revision", async () => {
    const id = await attached();
    await a.cluster.saveReservations(id, RECORD);
    const store = scene.store();
    const before = await store.get(key(id));
    a = await reborn(a, 0);
    await until(() => specAt(a, id) !== undefined);
    const late = await store.compareAndSwap(key(id), before?.modRevision ?? 0, null);
    assert.equal(late.outcome, "conflict");
    await a.cluster.saveReservations(id, { ...RECORD, generation: 5 });
    assert.equal((await kept(id))?.generation, 5);
    // Each run writes under its own name alone.
    const now = await store.get(key(id));
    await store.compareAndSwap(key(id), now?.modRevision ?? 0, before?.value ?? null);
    store.close();
    const another = a.cluster.saveReservations(id, { ...RECORD, generation: 6 });
    await refused(another, "volume_unavailable", /another/);
    assert.deepEqual(await kept(id), RECORD);
  });

  test("a change whose answer was lost is put back: nobody was promised it", async () => {
    const id = await attached();
    const store = scene.store();
    let isAnswered = true;
    const forgetful: MetaStore = Object.create(store, {
      transact: {
        value: async (transaction: MetaTransaction): Promise<MetaOutcome> => {
          const outcome = await store.transact(transaction);
          return isAnswered ? outcome : { outcome: "unknown", reason: "the answer was lost" };
        },
      },
    });
    const node = (await a.cluster.listNodes()).find(({ name }) => name === "a");
    const context = {
      member: { nodeId: node?.id },
      incarnation: 99,
      keys: new MetaKeys(),
      link: new MetaLink(forgetful, []),
      inventory: { until: async () => true },
      host: { stopping: false },
      timings: { settleMs: 100 },
      look: () => undefined,
    };
    const reservations = new ClusterReservations(context as unknown as ClusterContext);
    await reservations.claim(id, "v");
    await reservations.save(id, RECORD);
    isAnswered = false;
    for (const generation of [4, 5]) {
      const change = reservations.save(id, { ...RECORD, generation });
      await refused(change, "metadata_unavailable", /may have been done/);
      assert.equal((await kept(id))?.generation, generation, "it was done");
    }
    isAnswered = true;
    await reservations.settle();
    assert.deepEqual(await kept(id), RECORD);
    isAnswered = false;
    await refused(reservations.save(id, RECORD), "metadata_unavailable", /may have been done/);
    isAnswered = true;
    // What is answered after that counts.
    await reservations.save(id, { ...RECORD, generation: 6 });
    await reservations.settle();
    assert.equal((await kept(id))?.generation, 6);
    store.close();
  });

  test("without APTPL they end when it is detached, with it they stay; deleted, nothing does", async () => {
    const id = await attached();
    await a.cluster.saveReservations(id, RECORD);
    await a.control.detach("v");
    await b.control.attach("v", CLASSIC);
    assert.equal(specAt(b, id).powerWasLost, true);
    assert.deepEqual((await kept(id))?.registrations, []);
    await b.cluster.saveReservations(id, { ...RECORD, aptpl: true });
    await b.control.detach("v");
    await a.control.attach("v", CLASSIC);
    assert.deepEqual(specAt(a, id).reservations, { ...RECORD, aptpl: true });
    const store = scene.store();
    const path = join(scene.directory, "archive");
    await exportMetadata(store, new MetaKeys(), path, new Date());
    store.close();
    assert.ok(readArchive(path).values.has(`volume/${id}/reservations`), "it is in the archive");
    await a.control.detach("v");
    await a.control.remove("v", REALLY);
    assert.equal(await kept(id), null);
  });

  test("what is not understood lets nobody in", async () => {
    const id = await attached();
    await a.cluster.saveReservations(id, RECORD);
    const store = scene.store();
    const found = await store.get(key(id));
    await store.compareAndSwap(key(id), found?.modRevision ?? 0, Buffer.from('{"format":1}'));
    store.close();
    a = await reborn(a, 0);
    await until(() => a.control.list().some(({ state }) => state === "unavailable"));
    const { health } = a.control.show("v");
    await until(() => /record of reservations/.test(JSON.stringify(a.control.show("v").health)));
    assert.ok(health !== undefined);
    assert.ok(!a.plane.calls.includes("attachClassic v"));
  });
});

describe("standby", () => {
  test("it leads to the holder, and takes over when that is gone, with its reservations", async () => {
    const id = await attached();
    await a.cluster.saveReservations(id, RECORD);
    const { volume } = await b.control.attach("v", STANDBY);
    assert.equal(volume.state, "standby");
    assert.deepEqual(volume.attachment?.classic?.initiators, [HOST_A]);
    assert.equal((await b.control.attach("v", STANDBY)).changed, false);
    await leads(b, "10.0.0.1:3260");
    // It is a target there, in standby: another port of it, and nobody's volume.
    assert.equal(b.plane.backings.at(-1)?.isStandby, true);
    assert.equal(specAt(b, id).portTag, 2);
    assert.deepEqual(specAt(b, id).reservations, RECORD);
    const active = { address: "10.0.0.1:3260", portTag: 1, isActive: true };
    const standby = { address: "10.0.0.2:3260", portTag: 2, isActive: false };
    await pathsAt(a, id, [standby]);
    await pathsAt(b, id, [active]);
    await until(() => c.plane.elsewhere[0]?.paths.length === 2);
    assert.deepEqual(c.plane.elsewhere[0]?.paths, [active, standby]);
    const changed = { ...RECORD, generation: 4 };
    await a.cluster.saveReservations(id, changed);
    await until(() => b.plane.toldReservations.get(id)?.generation === 4);
    await a.cluster.saveReservations(id, RECORD);
    await a.control.resize("v", { sizeBytes: 2 * MIB }, REALLY);
    b = await reborn(b, 1);
    await until(() => b.control.list().length > 0 && b.control.show("v").state === "standby");
    await dies(a);
    await until(() => backing(c).attachedTo === "b");
    await until(() => specAt(b, id) !== undefined);
    await until(() => b.plane.calls.includes("takeVolume v"));
    assert.deepEqual(b.plane.toldReservations.get(id), RECORD, "before the first command");
    assert.deepEqual(specAt(b, id).initiators, [HOST_A]);
    assert.equal(b.plane.calls.filter((call) => call === "attachClassic v").length, 1);
    assert.ok(!b.plane.calls.includes("detach v"), "its sessions go on");
    assert.equal(b.plane.open.get(id)?.sizeBytes, 2 * MIB);
    await leads(b, "");
    await leads(c, b.plane.portalAddress);
  });

  test("whoever was taken over from stands by again by itself, after a restart or a sleep", async () => {
    const chap = { user: "vm1", secret: SECRET };
    const id = await attached({ classic: { chap, initiators: [HOST_A] } });
    await b.control.attach("v", { classic: { chap }, standby: true });
    await until(() => a.plane.paths.get(id)?.length === 1);
    await a.end();
    await until(() => backing(c).attachedTo === "b");
    assert.equal(backing(c).standby, "a");
    a = await reborn(a, 0);
    await until(() => a.control.list().length > 0 && a.control.show("v").state === "standby");
    assert.equal(specAt(a, id).chap?.secret, SECRET);
    assert.equal(specAt(a, id).portTag, 1, "its port is what it was");
    await pathsAt(b, id, [{ address: "10.0.0.1:3260", portTag: 1, isActive: false }]);
    await pathsAt(a, id, [{ address: "10.0.0.2:3260", portTag: 2, isActive: true }]);
    // By name, they change places, and sessions are not cut.
    assert.equal((await c.cluster.handOver("v", { node: "a" })).changed, true);
    await until(() => a.control.show("v").state === "attached" && backing(c).standby === "b");
    await until(() => b.control.show("v").state === "standby");
    for (const { plane } of [a, b]) assert.ok(!plane.calls.includes("detach v"));
    assert.deepEqual((await a.control.attach("v", { classic: {} })).changed, false);
    await leads(c, "10.0.0.1:3260");
    await pathsAt(a, id, [{ address: "10.0.0.2:3260", portTag: 2, isActive: false }]);
    // Detached, it goes to the other, and this one has nothing to do with it any more.
    await a.control.detach("v");
    await until(() => backing(c).attachedTo === "b" && backing(c).standby === null);
    await until(() => a.control.show("v").attachment === null);
  });

  test("a swap that is refused leaves the standby what it was", async () => {
    const id = await attached();
    await b.control.attach("v", STANDBY);
    await until(() => a.plane.paths.get(id)?.length === 1);
    a.plane.handOverVolume = async () => {
      throw new Error("not now");
    };
    const { code } = await c.cluster.handOver("v", { node: "b" }).then(
      () => assert.fail("it was handed over"),
      (error) => error,
    );
    assert.equal(code, "timed_out");
    assert.equal(backing(c).attachedTo, "a");
    assert.equal(backing(c).standby, "b");
    const store = scene.store();
    const entry = await store.get(new MetaKeys().volumeRecord(id));
    store.close();
    assert.match(Buffer.from(entry?.value ?? []).toString(), /"isWanted":false,"isMove":false/);
  });

  test("a node whose portal is another's is led to when it serves, not before", async () => {
    await attached();
    await b.control.attach("v", STANDBY);
    await until(() => backing(c).standby === "b");
    b.plane.takeVolume = () => new Promise(() => undefined);
    await dies(a);
    await until(() => backing(c).attachedTo === "b");
    await leads(c, "wait");
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.equal(leadOf(c), "wait");
  });

  test("a holder that is alive keeps it, with or without sessions", async () => {
    const id = await attached();
    await b.control.attach("v", STANDBY);
    a.plane.tellFront({ volumeId: id, isRunning: true, isWaiting: false });
    a.plane.tellFront({ volumeId: id, isRunning: false, isWaiting: false });
    await new Promise((resolve) => setTimeout(resolve, 600));
    assert.equal(backing(c).attachedTo, "a");
    assert.equal(backing(c).standby, "b");
  });

  test("handed over: by detach where it is, by a command; never to a node that is not ready", async () => {
    const chap = { user: "vm1", secret: SECRET };
    const id = await attached({ classic: { chap, initiators: [HOST_A] } });
    await refused(c.cluster.handOver("v", { node: "b" }), "volume_attached", /--classic --standby/);
    await until(() => backing(b).standby === null);
    await b.control.attach("v", { classic: { chap }, standby: true });
    a.plane.tellFront({ volumeId: id, isRunning: true, isWaiting: false });
    assert.equal((await c.cluster.handOver("v", { node: "b" })).changed, true);
    await until(() => b.control.show("v").state === "attached");
    await until(() => a.control.show("v").state === "standby");
    await leads(a, "10.0.0.2:3260");
    await a.cluster.saveReservations(id, RECORD).then(
      () => assert.fail("a has lost it"),
      () => undefined,
    );
    await b.cluster.saveReservations(id, RECORD);
    const third = (): Promise<unknown> =>
      c.control.attach("v", { classic: { chap }, standby: true });
    await refused(third(), "volume_busy", /node a stands by/);
    assert.equal((await a.control.detach("v")).changed, true);
    await until(() => backing(c).standby === null);
    await third();
    await until(() => backing(b).standby === "c");
    assert.equal((await b.control.detach("v")).changed, true);
    await until(() => c.control.show("v").state === "attached");
    assert.deepEqual(c.plane.toldReservations.get(id), RECORD);
    assert.equal(specAt(c, id).portTag, 1);
    await leads(b, "10.0.0.3:3260");
    assert.equal((await c.control.detach("v")).changed, true);
    await leads(b, "");
  });

  test("without a secret a target is handed over to any node", async () => {
    const id = await attached();
    assert.equal((await c.cluster.handOver("v", { node: "b" })).changed, true);
    await until(() => specAt(b, id) !== undefined);
    assert.deepEqual(specAt(b, id).initiators, [HOST_A]);
    await leads(a, "10.0.0.2:3260");
  });

  test("who may log in is the same at both; a guest's standby is another thing", async () => {
    await attached({ classic: { chap: { user: "vm1", secret: SECRET }, initiators: [HOST_A] } });
    const standby = (classic: VolumeAttach["classic"]): Promise<unknown> =>
      b.control.attach("v", { ...(classic === undefined ? {} : { classic }), standby: true });
    await refused(standby(undefined), "attachment_differs", /with --classic/);
    await refused(standby({}), "attachment_differs", /with CHAP name vm1/);
    const chap = { user: "vm1", secret: SECRET };
    const others = ["iqn.2026-01.com.example:b"];
    await refused(standby({ chap, initiators: others }), "attachment_differs", /other initiators/);
    await standby({ chap });
    await until(() => [...a.plane.paths.values()].some(({ length }) => length === 1));
    assert.equal((await b.control.detach("v")).changed, true);
    await until(() => backing(a).standby === null);
    await until(() => [...a.plane.paths.values()].every(({ length }) => length === 0));
    assert.equal(b.control.show("v").attachment, null);
    await leads(b, "10.0.0.1:3260");
    await a.control.detach("v");
    await a.control.attach("v", {});
    await until(() => backing(b).attachedTo === "a" && leadOf(b) === "");
    await refused(standby({}), "attachment_differs", /by vhost-user/);
  });
});

describe("a target that proves itself", () => {
  const own = { user: "vm1", secret: SECRET };
  const chap = { ...own, target: { user: "db-1", secret: "target-horse-staple" } };

  async function stored(): Promise<readonly string[]> {
    const store = scene.store();
    const { entries } = await store.list(new MetaKeys().root);
    store.close();
    return entries.map(({ value }) => Buffer.from(value).toString());
  }

  async function standbyOf(id: string): Promise<Standby | undefined> {
    const store = scene.store();
    const key = new MetaKeys().volumeRecord(id);
    const entry = await store.get(key);
    store.close();
    return volumeCodec.decode(key, entry?.value ?? Buffer.from("")).attachment.standby;
  }

  test("its name is in the record, which older nodes refuse; its secret is not", async () => {
    const id = await attached({ classic: { chap } });
    await leads(b, "10.0.0.1:3260");
    const texts = await stored();
    const record = texts.find((text) => text.includes('"chapTargetUser":"db-1"')) ?? "{}";
    assert.equal(JSON.parse(record).format, 2);
    for (const { secret } of [own, chap.target]) {
      assert.ok(!texts.some((text) => text.includes(secret)), "no secret in the metadata");
    }
    a = await reborn(a, 0);
    await until(() => specAt(a, id) !== undefined);
    assert.deepEqual(specAt(a, id).chap, chap);
    assert.equal(a.control.show("v").attachment?.classic?.chapTargetUser, "db-1");
    await a.control.detach("v");
    await a.control.attach("v", { classic: { chap: own } });
    assert.ok((await stored()).every((text) => !text.includes("chapTargetUser")));
    assert.deepEqual(specAt(a, id).chap, { ...own, target: null });
  });

  test("whoever stands by must be able to do the same, and does it when he has it", async () => {
    const id = await attached({ classic: { chap } });
    const standby = (one: object): Promise<unknown> =>
      b.control.attach("v", { classic: { chap: { ...own, ...one } }, standby: true });
    await refused(standby({}), "attachment_differs", /with CHAP name db-1 of the target/);
    const another = { target: { ...chap.target, user: "db-2" } };
    await refused(standby(another), "attachment_differs", /with CHAP name db-1 of the target/);
    await refused(c.cluster.handOver("v", { node: "b" }), "volume_attached", /--classic --standby/);
    await standby({ target: chap.target });
    await until(() => a.plane.paths.get(id)?.length === 1);
    const again = { target: chap.target };
    assert.equal(((await standby(again)) as { changed: boolean }).changed, false);
    const secret = "another-one-1";
    await refused(standby({ ...again, secret }), "attachment_differs", /another CHAP secret/);
    const proof = { target: { ...chap.target, secret } };
    await refused(standby(proof), "attachment_differs", /another CHAP secret of the target/);
    b = await reborn(b, 1);
    await until(() => b.control.list().length > 0 && b.control.show("v").state === "standby");
    await dies(a);
    await until(() => backing(c).attachedTo === "b");
    await until(() => b.control.show("v").state === "attached");
    assert.deepEqual(specAt(b, id).chap, chap);
    await c.control.attach("v", { classic: { chap }, standby: true });
    await until(() => backing(b).standby === "c");
    assert.equal((await b.control.detach("v")).changed, true);
    await until(() => c.control.show("v").state === "attached");
    assert.deepEqual(specAt(c, id).chap, chap);
    assert.equal(b.control.show("v").attachment, null);
  });

  test("a standby that has lost the target's secret is not ready, and nothing is left to it", async () => {
    const id = await attached({ classic: { chap } });
    await b.control.attach("v", { classic: { chap }, standby: true });
    await until(() => a.plane.paths.get(id)?.length === 1);
    rmSync(join(b.fixture.paths.iscsiDirectory, `${id}.chap-target`));
    const before = await standbyOf(id);
    assert.equal(before?.portal, "10.0.0.2:3260");
    b = await reborn(b, 1);
    await until(async () => (await standbyOf(id))?.incarnation !== before?.incarnation);
    assert.equal((await standbyOf(id))?.portal, undefined);
    await refused(c.cluster.handOver("v", { node: "b" }), "volume_attached", /--classic --standby/);
    assert.deepEqual(specAt(a, id).chap, chap);
    assert.equal(specAt(b, id), undefined);
  });

  test("without a target's secret one cannot be stood by for with one", async () => {
    await attached({ classic: { chap: own } });
    const standby = b.control.attach("v", { classic: { chap }, standby: true });
    await refused(standby, "attachment_differs", /without a CHAP name of the target/);
  });
});

// Disks of the store over the fake data plane and fake tools: through the API's routes, over
// restarts, and when what lies at a disk's path is not what was declared.

import assert from "node:assert/strict";
import { existsSync, readdirSync, renameSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { createApiServer } from "../api/index.ts";
import type { Disk } from "../model/disk-types.ts";
import type { Status, Volume } from "../model/types.ts";
import { readDiskFile, writeDiskFile } from "../testing/control/fake-disk-file.ts";
import { HostFixture, never } from "../testing/control/host-fixture.ts";
import { DaemonControl } from "./control.ts";
import { NoCluster } from "./no-cluster.ts";

const MIB = 1024 * 1024;

type App = Awaited<ReturnType<typeof createApiServer>>;

/** A daemon's control plane without its process. */
class Node {
  readonly fixture: HostFixture;
  readonly control: DaemonControl;
  readonly app: App;

  private constructor(fixture: HostFixture, control: DaemonControl, app: App) {
    this.fixture = fixture;
    this.control = control;
    this.app = app;
  }

  static async start(root?: string, transport: "unix" | "tcp" = "unix"): Promise<Node> {
    const fixture = new HostFixture(root);
    const control = new DaemonControl(
      {
        version: "1",
        nodeId: "n",
        startedAt: new Date(0),
        volumeMetrics: true,
        listenWarning: null,
      },
      { host: fixture.host, cluster: new NoCluster(), nowMs: () => performance.now() },
    );
    const modules = {
      controlPlane: control,
      log: fixture.host.modules.log,
      answered: () => undefined,
      fatal: (error: unknown) => void fixture.defects.push(error),
    };
    const token = { name: "ci", token: "0123456789abcdef0123456789abcdef" };
    const app = await createApiServer({ transport, tokens: () => [token as never] }, modules);
    await fixture.recover();
    return new Node(fixture, control, app);
  }

  async call<T>(method: "GET" | "POST" | "DELETE", url: string, payload?: object): Promise<T> {
    const response = await this.app.inject({ method, url, ...(payload ? { payload } : {}) });
    assert.ok(response.statusCode < 400, response.body);
    return response.json() as T;
  }

  async refused(
    method: "GET" | "POST" | "DELETE",
    url: string,
    code: string,
    payload?: object,
  ): Promise<string> {
    const response = await this.app.inject({ method, url, ...(payload ? { payload } : {}) });
    const body = response.json() as { code: string; message: string; advice?: string };
    assert.equal(body.code, code, response.body);
    return `${body.message} | ${body.advice ?? ""}`;
  }

  async init(path: string, more: object = {}): Promise<Disk> {
    const begun = await this.call<Disk>("POST", "/v1/disks", { path, ...more });
    await this.fixture.settleDisks();
    return await this.call<Disk>("GET", `/v1/disks/${begun.name}`);
  }

  events(): readonly string[] {
    return this.control.eventsSince(0).map((event) => `${event.type} ${event.disk ?? ""}`.trim());
  }

  async kill(): Promise<void> {
    this.fixture.kill();
    await this.app.close();
    assert.deepEqual(this.fixture.defects, []);
  }
}

let node: Node;
let nodes: Node[] = [];

async function restart(): Promise<Node> {
  await node.kill();
  node = await Node.start(node.fixture.root);
  nodes.push(node);
  return node;
}

beforeEach(async () => {
  node = await Node.start();
  nodes = [node];
});

afterEach(async () => {
  for (const one of nodes) await one.kill();
  nodes[0]?.fixture.remove();
});

const pathOf = (name: string): string => join(node.fixture.root, name);

describe("disks of the store", () => {
  test("init, list, show: a volume lives there by default, and can live elsewhere", async () => {
    const disk = await node.init(pathOf("Disk_1.img"), { sizeBytes: 64 * MIB });
    assert.equal(disk.name, "disk-1");
    assert.equal(disk.state, "ready");
    assert.equal(disk.incarnation, 1);
    assert.equal(disk.durability, "volatile");
    assert.match(disk.durabilityReason, /write cache is on/);
    assert.equal(disk.usage?.totalBytes, 32 * MIB);
    const made = { name: "v", sizeBytes: 8 * MIB };
    const volume = await node.call<Volume>("POST", "/v1/volumes", made);
    assert.deepEqual(volume.backing, { kind: "store", disk: "disk-1" });
    const inFile = { name: "f", sizeBytes: MIB, backing: "file" };
    const file = await node.call<Volume>("POST", "/v1/volumes", inFile);
    assert.equal(file.backing.kind, "file");
    const { disks } = await node.call<{ disks: Disk[] }>("GET", "/v1/disks");
    assert.deepEqual(
      disks.map(({ name, volumeCount }) => [name, volumeCount]),
      [["disk-1", 1]],
    );
    const status = await node.call<Status>("GET", "/v1/status");
    assert.equal(status.health, "ok");
    assert.deepEqual([status.disks.total, status.disks.ready], [1, 1]);
    const text = await node.control.metrics();
    assert.ok(text.includes('ringstore_disk_data_bytes{disk="disk-1"} 33554432'), text);
    assert.deepEqual(Object.values(readDiskFile(disk.path)?.volumes ?? {}), [8 * MIB]);
    const reply = await node.call<object>("DELETE", "/v1/volumes/v");
    assert.deepEqual(reply, { volume: "v", removedPath: null, removedFromDisk: "disk-1" });
    assert.deepEqual(readDiskFile(disk.path)?.volumes, {});
  });

  test("the disk with most free space is chosen, or the one that is named", async () => {
    await node.init(pathOf("small"), { sizeBytes: 8 * MIB });
    await node.init(pathOf("large"), { sizeBytes: 64 * MIB });
    const disk = async (body: object): Promise<unknown> => {
      const { backing } = await node.call<Volume>("POST", "/v1/volumes", body);
      return (backing as { disk?: string }).disk;
    };
    assert.equal(await disk({ name: "a", sizeBytes: MIB }), "large");
    assert.equal(await disk({ name: "b", sizeBytes: MIB, disk: "small" }), "small");
    const create = (body: object, code: string): Promise<string> =>
      node.refused("POST", "/v1/volumes", code, { name: "c", sizeBytes: MIB, ...body });
    await create({ disk: "other" }, "disk_not_found");
    assert.match(await create({ sizeBytes: MIB + 512 }, "invalid_request"), /4096-byte blocks/);
    assert.match(
      await create({ direct: "on" }, "invalid_request"),
      /direct does not go with backing store/,
    );
    await create({ backing: "memory", disk: "small" }, "invalid_request");
    await create({ backing: "file", disk: "small" }, "invalid_request");
  });

  test("what cannot become a disk is refused, and nothing is left of the attempt", async () => {
    const init = (body: object, code: string): Promise<string> =>
      node.refused("POST", "/v1/disks", code, body);
    assert.match(await init({ path: "here" }, "invalid_request"), /"here" is not absolute/);
    assert.match(await init({ path: pathOf("none") }, "backing_not_found"), /--size 100G/);
    await init({ path: pathOf("no/such"), sizeBytes: MIB }, "backing_not_found");
    const odd = { path: pathOf("odd"), sizeBytes: MIB + 1 };
    assert.match(await init(odd, "invalid_request"), /use 1048576 or 1052672/);
    writeFileSync(pathOf("theirs"), "their words");
    assert.match(await init({ path: pathOf("theirs") }, "disk_foreign"), /--force/);
    const smaller = { path: pathOf("theirs"), sizeBytes: 4096 };
    writeFileSync(pathOf("theirs"), Buffer.alloc(8192, 1));
    assert.match(await init(smaller, "invalid_request"), /has 8192 bytes/);
    await node.call("POST", "/v1/volumes", { name: "v", path: pathOf("theirs") });
    const forced = { path: pathOf("theirs"), force: true };
    assert.match(await init(forced, "backing_in_use"), /backing of volume v/);
    await node.init(pathOf("d"), { sizeBytes: MIB });
    assert.match(await init({ path: pathOf("d"), force: true }, "backing_in_use"), /disk d/);
    await init({ path: pathOf("e"), name: "d", sizeBytes: MIB }, "disk_exists");
    await init({ path: pathOf("e"), name: "No", sizeBytes: MIB }, "invalid_request");
    const over = { name: "w", path: pathOf("d") };
    await node.refused("POST", "/v1/volumes", "backing_in_use", over);
    assert.deepEqual(readdirSync(node.fixture.paths.diskDirectory), ["d.json"]);
    assert.deepEqual(node.fixture.disks.list().length, 1);
    const dry = await node.call<Disk>("POST", "/v1/disks?dryRun=true", {
      path: pathOf("e"),
      sizeBytes: MIB,
    });
    assert.equal(dry.name, "e");
    assert.ok(!existsSync(pathOf("e")));
  });

  test("after a restart the disk is opened again and its volumes are served", async () => {
    await node.init(pathOf("d"), { sizeBytes: 64 * MIB });
    await node.call("POST", "/v1/volumes", { name: "v", sizeBytes: MIB });
    await node.call("POST", "/v1/volumes/v/attach");
    await restart();
    const disk = await node.call<Disk>("GET", "/v1/disks/d");
    assert.deepEqual([disk.state, disk.incarnation], ["ready", 2]);
    const volume = await node.call<Volume>("GET", "/v1/volumes/v");
    assert.equal(volume.state, "attached");
    await node.call("POST", "/v1/volumes/v/resize", { sizeBytes: 2 * MIB });
    await restart();
    assert.equal(node.fixture.host.entries.get("v")?.serving, true);
    assert.deepEqual(Object.values(readDiskFile(pathOf("d"))?.volumes ?? {}), [2 * MIB]);
  });

  test("a missing disk holds up nobody else, and is served when it is back", async () => {
    await node.init(pathOf("a"), { sizeBytes: MIB });
    await node.init(pathOf("b"), { sizeBytes: MIB });
    for (const name of ["a", "b"]) {
      await node.call("POST", "/v1/volumes", { name, sizeBytes: MIB, disk: name });
      await node.call("POST", `/v1/volumes/${name}/attach`);
    }
    renameSync(pathOf("a"), pathOf("away"));
    await restart();
    assert.equal((await node.call<Disk>("GET", "/v1/disks/a")).state, "missing");
    assert.equal((await node.call<Volume>("GET", "/v1/volumes/b")).state, "attached");
    const lost = await node.call<Volume>("GET", "/v1/volumes/a");
    assert.equal(lost.state, "unavailable");
    assert.deepEqual(
      lost.health.map(({ code }) => code),
      ["DISK_UNAVAILABLE"],
    );
    const status = await node.call<Status>("GET", "/v1/status");
    assert.equal(status.health, "error");
    assert.ok(status.items.some((item) => item.code === "DISK_MISSING" && item.disk === "a"));
    assert.ok(node.events().includes("disk.unavailable a"));
    const made = { name: "c", sizeBytes: MIB, disk: "a" };
    await node.refused("POST", "/v1/volumes", "disk_unavailable", made);
    renameSync(pathOf("away"), pathOf("a"));
    const entry = node.fixture.host.entries.get("a");
    for (let tries = 0; entry?.serving !== true; tries++) {
      assert.ok(tries < 1000, "it is tried again");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assert.equal((await node.call<Status>("GET", "/v1/status")).health, "ok");
  });

  for (const [what, change] of [
    ["rolled back", (path: string): void => setIncarnation(path, 1)],
    ["blank", (path: string): void => writeFileSync(path, Buffer.alloc(4096))],
    [
      "another disk",
      (path: string): void => {
        const disk = readDiskFile(path);
        assert.ok(disk !== null);
        writeDiskFile(path, { ...disk, store: "ffffffff-0000-4000-8000-000000000000" });
      },
    ],
  ] as const) {
    test(`a disk that is ${what} is stale: never served, and left as it is`, async () => {
      await node.init(pathOf("d"), { sizeBytes: MIB });
      await node.call("POST", "/v1/volumes", { name: "v", sizeBytes: MIB });
      await node.call("POST", "/v1/volumes/v/attach");
      await restart();
      await node.kill();
      change(pathOf("d"));
      const before = readDiskFile(pathOf("d"));
      await restart();
      const disk = await node.call<Disk>("GET", "/v1/disks/d");
      assert.equal(disk.state, "stale");
      assert.equal(disk.health[0]?.code, "DISK_STALE");
      assert.match(disk.health[0]?.message ?? "", new RegExp(what));
      assert.equal(node.fixture.host.entries.get("v")?.serving, false);
      assert.deepEqual(readDiskFile(pathOf("d")), before);
    });
  }

  test("a format that was cut short is taken back, one that was done is kept", async () => {
    for (const step of ["format", "link"] as const) {
      node.fixture.diskTools.intercept = (at) => (at === step ? never() : undefined);
      const path = pathOf(step);
      await node.call("POST", "/v1/disks", { path, sizeBytes: MIB });
      await new Promise((resolve) => setTimeout(resolve, 20));
      const busy = node.refused("DELETE", `/v1/disks/${step}`, "disk_busy");
      assert.match(await busy, /busy: format/);
      await restart();
      await node.refused("GET", `/v1/disks/${step}`, "disk_not_found");
      assert.ok(node.events().includes(`disk.rolled-back ${step}`));
      const left = readdirSync(node.fixture.root).filter((name) => name.startsWith(step));
      assert.deepEqual(left, []);
    }
    node.fixture.dataPlane.intercept = (method) => (method === "openDisk" ? never() : undefined);
    await node.call("POST", "/v1/disks", { path: pathOf("done"), sizeBytes: MIB });
    await new Promise((resolve) => setTimeout(resolve, 20));
    await restart();
    assert.equal((await node.call<Disk>("GET", "/v1/disks/done")).state, "ready");
  });

  test("check: refused while it serves, otherwise closed, examined and opened again", async () => {
    await node.init(pathOf("d"), { sizeBytes: MIB });
    await node.call("POST", "/v1/volumes", { name: "v", sizeBytes: MIB });
    await node.call("POST", "/v1/volumes/v/attach");
    const busy = node.refused("POST", "/v1/disks/d/check", "disk_busy");
    assert.match(await busy, /serves v \| detach/);
    await node.call("POST", "/v1/volumes/v/detach");
    const finding = { severity: "error", where: "block 7", message: "checksum" } as const;
    node.fixture.diskTools.report = {
      errorCount: 1,
      warningCount: 0,
      blocksVerified: 9,
      pagesVerified: 1,
      groupsVerified: 1,
      findings: [finding],
      findingCount: 1,
    };
    const begun = await node.call<Disk>("POST", "/v1/disks/d/check");
    assert.equal(begun.state, "checking");
    await node.fixture.settleDisks();
    const disk = await node.call<Disk>("GET", "/v1/disks/d");
    assert.deepEqual([disk.state, disk.incarnation], ["ready", 2]);
    assert.deepEqual(disk.lastCheck?.findings, [finding]);
    const { items } = await node.call<Status>("GET", "/v1/status");
    assert.ok(items.some((item) => item.code === "DISK_CHECK_FAILED"));
    assert.ok(node.events().includes("disk.checked d"));
    unlinkSync(pathOf("d"));
    await node.refused("POST", "/v1/disks/x/check", "disk_not_found");
  });

  test("remove: refused with volumes on it, otherwise let go of", async () => {
    await node.init(pathOf("d"), { sizeBytes: MIB });
    await node.call("POST", "/v1/volumes", { name: "v", sizeBytes: MIB });
    assert.match(await node.refused("DELETE", "/v1/disks/d", "disk_busy"), /holds volumes: v/);
    await node.call("DELETE", "/v1/volumes/v");
    const reply = await node.call<object>("DELETE", "/v1/disks/d");
    assert.deepEqual(reply, { disk: "d", path: pathOf("d"), volumes: [] });
    assert.equal(readDiskFile(pathOf("d"))?.clean, true);
    await restart();
    assert.deepEqual(node.fixture.disks.list(), []);
  });

  test("remove by force: nothing of a ready disk, the volumes of a failing one too", async () => {
    const { id } = await node.init(pathOf("d"), { sizeBytes: 8 * MIB });
    for (const name of ["v", "w"]) {
      await node.call("POST", "/v1/volumes", { name, sizeBytes: MIB });
    }
    const forced = "/v1/disks/d?force=true";
    assert.match(await node.refused("DELETE", forced, "disk_busy"), /v, w \| delete them first/);
    const usage = node.fixture.dataPlane.diskStats()[0]?.usage;
    assert.ok(usage !== undefined);
    node.fixture.dataPlane.extraDiskStats.set(id, { phase: "failed", usage, health: [] });
    assert.match(await node.refused("DELETE", "/v1/disks/d", "disk_busy"), /v, w \| .*--force/);
    const dryRun = await node.call<object>("DELETE", `${forced}&dryRun=true`);
    assert.equal((await node.call<Disk>("GET", "/v1/disks/d")).volumeCount, 2);
    assert.deepEqual(await node.call<object>("DELETE", forced), dryRun);
    assert.deepEqual(dryRun, { disk: "d", path: pathOf("d"), volumes: ["v", "w"] });
    await restart();
    assert.deepEqual(node.fixture.disks.list(), []);
    assert.deepEqual(await node.call<object>("GET", "/v1/volumes"), { volumes: [] });
  });

  test("a failed write, corruption and bad health become events and status items", async () => {
    const { id } = await node.init(pathOf("d"), { sizeBytes: MIB });
    node.control.observer.look();
    const usage = node.fixture.dataPlane.diskStats()[0]?.usage;
    assert.ok(usage !== undefined);
    node.fixture.dataPlane.extraDiskStats.set(id, {
      phase: "failed",
      usage: { ...usage, badBlockCount: 2 },
      health: [{ code: "X", message: "y" }],
    });
    let failureCount = 0;
    node.fixture.disks.becameFailed = () => void (failureCount += 1);
    node.control.observer.look();
    const events = node.events();
    for (const type of ["disk.failed d", "disk.corruption d", "disk.health d"]) {
      assert.ok(events.includes(type), type);
    }
    node.control.observer.look();
    assert.equal(node.events().length, events.length, "told once");
    assert.equal(failureCount, 1, "the cluster hears at once, and once");
    const { items } = await node.call<Status>("GET", "/v1/status");
    const codes = items.map((item) => item.code).sort();
    assert.deepEqual(codes, ["DISK_CORRUPTION", "DISK_FAILED", "X"]);
    assert.equal((await node.call<Disk>("GET", "/v1/disks/d")).state, "failed");
    const made = { name: "v", sizeBytes: MIB, backing: "store" };
    await node.refused("POST", "/v1/volumes", "disk_unavailable", made);
  });
});

function setIncarnation(path: string, incarnation: number): void {
  const disk = readDiskFile(path);
  assert.ok(disk !== null && disk.incarnation > incarnation);
  writeDiskFile(path, { ...disk, incarnation });
}

// virtio-scsi behind the daemon as a guest meets it: a real daemon process, driven by its command
// line and by a driver of ours with QEMU's front-end under it. Units of one controller, hot add and
// remove, a daemon that is killed or stopped, reservations, and requests that are refused.

import assert from "node:assert/strict";
import { readdirSync, readFileSync, renameSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type ScsiAnswer, ScsiDriver } from "../load/index.ts";
import { Daemon } from "../testing/daemon.ts";
import { be, read10, write10 } from "../testing/fakes/cdb.ts";
import * as l from "../vhost-user/layouts-scsi.ts";

const LIMIT = { timeout: 180_000 };
const BLOCK = 512;
const BLOCKS = 8;
const WRITES = 16;
const CONNECT_TRIES = 20_000;
const NOT_THERE = 0x052500;
const POWER_ON = 0x062900;
const TEST_UNIT_READY = [0, 0, 0, 0, 0, 0];
const READ_KEYS = [0x5e, 0, 0, 0, 0, 0, 0, 1, 0, 0];
const REPORT_LUNS = [0xa0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0];

function pattern(seed: number): Uint8Array {
  return Uint8Array.from({ length: BLOCKS * BLOCK }, (_, at) => seed * 37 + at * 11 + (at >>> 8));
}

class Scene {
  readonly t: TestContext;
  readonly daemon: Daemon;

  constructor(t: TestContext, daemon: Daemon) {
    this.t = t;
    this.daemon = daemon;
  }

  static async start(t: TestContext, ...flags: readonly string[]): Promise<Scene> {
    const daemon = await Daemon.start({ flags: ["--iscsi-listen", "127.0.0.1:0", ...flags] });
    t.after(() => daemon.stop());
    return new Scene(t, daemon);
  }

  async create(...names: readonly string[]): Promise<void> {
    for (const name of names) {
      await this.daemon.json(["volume", "create", name, "--size", "8M", "--backing", "file"]);
    }
  }

  /** With a volume on it. */
  async createOnDisk(disk: string, volume: string): Promise<void> {
    const path = join(this.daemon.dataDirectory, disk);
    const how = ["--size", "1G", "--allocation", "sparse"];
    await this.daemon.json(["disk", "init", path, ...how, "--label", disk]);
    await this.daemon.json(["volume", "create", volume, "--size", "8M", "--disk", disk]);
  }

  // biome-ignore lint/suspicious/noExplicitAny: a reply of the API.
  async attach(name: string, controller: string, ...more: readonly string[]): Promise<any> {
    const bus = ["--bus", "scsi", "--controller", controller];
    return await this.daemon.json(["volume", "attach", name, ...bus, ...more]);
  }

  // biome-ignore lint/suspicious/noExplicitAny: a volume.
  async show(name: string): Promise<any> {
    return await this.daemon.json(["volume", "show", name]);
  }

  async detach(name: string): Promise<void> {
    await this.daemon.json(["volume", "detach", name]);
  }

  connect(socket: string): ScsiDriver {
    const driver = new ScsiDriver();
    this.t.after(() => driver.close());
    driver.connect(socket);
    return driver;
  }

  /** As soon as somebody listens. */
  async connectSoon(driver: ScsiDriver, socket: string): Promise<void> {
    for (let tries = 0; ; tries++) {
      try {
        driver.connect(socket);
        return;
      } catch (error) {
        if (tries === CONNECT_TRIES) throw error;
        await sleep(1);
      }
    }
  }

  /** The daemon is killed, and `path` is not there when the next one starts. */
  async loseAtRestart(path: string, driver: ScsiDriver, socket: string): Promise<void> {
    this.daemon.kill();
    await this.daemon.waitForExit();
    renameSync(path, `${path}.away`);
    driver.disconnect();
    await this.daemon.launch();
    await this.connectSoon(driver, socket);
  }

  async restart(signal: "SIGKILL" | "SIGTERM"): Promise<void> {
    this.daemon.signal(signal);
    await this.daemon.waitForExit();
    await this.daemon.launch();
    await this.daemon.waitForApi();
  }

  /** What is declared, and which sockets there are. */
  promises(): string {
    const folder = join(this.daemon.dataDirectory, "state");
    const files = readdirSync(folder).map((file) => readFileSync(join(folder, file), "utf8"));
    return JSON.stringify([files, this.sockets()]);
  }

  sockets(): readonly string[] {
    return readdirSync(join(this.daemon.dataDirectory, "vhost")).sort();
  }
}

function assertGood({ response, status, sense }: ScsiAnswer): void {
  assert.deepEqual([response, status], [0, 0], `sense ${sense.toString(16)}`);
}

function serialOf(driver: ScsiDriver, lun: number): string {
  const answer = driver.retried([0x12, 1, 0x80, 0, 64, 0], { lun, room: 64 });
  assertGood(answer);
  return Buffer.from(answer.data.subarray(4, 4 + (answer.data[3] as number))).toString("latin1");
}

function lunsOf(driver: ScsiDriver): readonly number[] {
  const { data } = driver.retried(REPORT_LUNS, { room: 2048 });
  const count = Buffer.from(data).readUInt32BE(0) / 8;
  return Array.from({ length: count }, (_, at) => data[8 + at * 8 + 1] as number);
}

function write(driver: ScsiDriver, lun: number, seed: number, lba = 16): void {
  assertGood(driver.retried(write10(lba, BLOCKS), { lun, out: pattern(seed) }));
}

function assertReads(driver: ScsiDriver, lun: number, seed: number, lba = 16): void {
  const answer = driver.retried(read10(lba, BLOCKS), { lun, room: BLOCKS * BLOCK });
  assertGood(answer);
  assert.deepEqual(answer.data, pattern(seed));
}

/** REGISTER AND IGNORE EXISTING KEY. */
function register(driver: ScsiDriver, lun: number, key: number, isAptpl: boolean): void {
  const out = new Uint8Array(24);
  out.set(be(key, 8), 8);
  out[20] = isAptpl ? 1 : 0;
  assertGood(driver.retried([0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0], { lun, out }));
}

function keysOf(driver: ScsiDriver, lun: number): readonly number[] {
  const { data } = driver.retried(READ_KEYS, { lun, room: 256 });
  const bytes = Buffer.from(data);
  const count = bytes.readUInt32BE(4) / 8;
  return Array.from({ length: count }, (_, at) => Number(bytes.readBigUInt64BE(8 + at * 8)));
}

test("two volumes of one controller: told, found, written, read and counted", LIMIT, async (t) => {
  const scene = await Scene.start(t);
  await scene.create("a", "b");
  const first = await scene.attach("a", "vm1-scsi");
  const socket = join(scene.daemon.dataDirectory, "vhost", "vm1-scsi.scsi.sock");
  assert.equal(first.socket, socket);
  assert.deepEqual(first.scsi, { controller: "vm1-scsi", lun: 0 });
  const device = "vhost-user-scsi-pci,id=ringstore-vm1-scsi-scsi,chardev=ringstore-vm1-scsi.scsi";
  assert.deepEqual(first.qemuDevice["7.2"], [
    ...["-chardev", `socket,id=ringstore-vm1-scsi.scsi,path=${socket}`],
    ...["-device", `${device},num_queues=4`],
  ]);
  assert.match(first.qemu["9.2"].join(" "), /memfd.*share=on .*reconnect-ms=1000/);
  assert.match(first.libvirtXml, /^<qemu:commandline xmlns:qemu=/);
  const second = await scene.attach("b", "vm1-scsi");
  assert.deepEqual([second.socket, second.scsi.lun], [socket, 1]);
  const again = await scene.attach("b", "vm1-scsi");
  assert.deepEqual([again.changed, again.scsi.lun], [false, 1]);
  assert.deepEqual(scene.sockets(), ["vm1-scsi.scsi.sock"]);

  assert.equal((await scene.show("b")).state, "attached");
  const driver = scene.connect(socket);
  assert.deepEqual(lunsOf(driver), [0, 1]);
  for (const [lun, name] of ["a", "b"].entries()) {
    const volume = await scene.show(name);
    assert.deepEqual([volume.state, volume.attachment.sessionCount > 0], ["connected", true]);
    assert.equal(serialOf(driver, lun), volume.serial);
    write(driver, lun, lun + 1);
  }
  for (const [lun, name] of ["a", "b"].entries()) {
    assertReads(driver, lun, lun + 1);
    const { backing } = await scene.show(name);
    const at = 16 * BLOCK;
    const kept = readFileSync(backing.path).subarray(at, at + BLOCKS * BLOCK);
    assert.deepEqual(new Uint8Array(kept), pattern(lun + 1));
  }
  const metrics = await scene.daemon.command(["api", "get", "/metrics"]);
  for (const name of ["a", "b"]) {
    const of = (series: string): number => {
      const line = new RegExp(`^ringstore_volume_${series.replace("V", name)} (\\d+)$`, "m");
      return Number(line.exec(metrics.stdout)?.[1] ?? "-1");
    };
    assert.equal(of('operations_total\\{volume="V",op="write"\\}'), 1);
    assert.equal(of('bytes_total\\{volume="V",op="read"\\}'), BLOCKS * BLOCK);
    assert.equal(of('connected\\{volume="V"\\}'), 1);
    assert.equal(of('inflight_requests\\{volume="V"\\}'), 0);
    assert.ok(of('scsi_commands_total\\{volume="V"\\}') >= 3);
  }
  const { volumes } = await scene.daemon.json(["status"]);
  assert.deepEqual([volumes.attached, volumes.connected], [2, 2]);
});

test("a volume that comes, grows and goes: the guest is told", LIMIT, async (t) => {
  const scene = await Scene.start(t);
  await scene.create("a", "b");
  const { socket } = await scene.attach("a", "c");
  const driver = scene.connect(socket);
  assert.equal(driver.retried(TEST_UNIT_READY, { lun: 7 }).sense, NOT_THERE);
  driver.offerEvent();
  await scene.attach("b", "c", "--lun", "7");
  const { event, lun, reason } = driver.waitEvent();
  assert.deepEqual([event, lun, reason], [l.SCSI_T_TRANSPORT_RESET, 7, l.SCSI_EVT_RESET_RESCAN]);
  assert.deepEqual(lunsOf(driver), [0, 7]);
  write(driver, 7, 5);
  assert.equal((await scene.show("b")).state, "connected");

  driver.offerEvent();
  await scene.daemon.json(["volume", "resize", "b", "16M"]);
  const change = driver.waitEvent();
  assert.deepEqual([change.event, change.lun, change.reason], [l.SCSI_T_PARAM_CHANGE, 7, 0x092a]);
  const capacity = driver.retried([0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], { lun: 7, room: 8 });
  assert.equal(Buffer.from(capacity.data).readUInt32BE(0), (16 * 1024 * 1024) / BLOCK - 1);

  driver.offerEvent();
  await scene.detach("b");
  const gone = driver.waitEvent();
  const removed = [l.SCSI_T_TRANSPORT_RESET, 7, l.SCSI_EVT_RESET_REMOVED];
  assert.deepEqual([gone.event, gone.lun, gone.reason], removed);
  assert.equal(driver.retried(TEST_UNIT_READY, { lun: 7 }).sense, NOT_THERE);
  assert.equal((await scene.show("b")).state, "detached");
  write(driver, 0, 6);
  assertReads(driver, 0, 6);

  // With the last unit the controller goes, and its name is free for another with other queues.
  await scene.detach("a");
  assert.deepEqual(scene.sockets(), []);
  const { scsi } = await scene.attach("b", "c", "--queues", "3");
  assert.deepEqual(scsi, { controller: "c", lun: 0 });
  assertReads(scene.connect(socket), 0, 5);
});

test("killed under writes: the units are back at once, what was answered too", LIMIT, async (t) => {
  const scene = await Scene.start(t);
  await scene.create("a", "b", "c");
  await scene.createOnDisk("d", "s");
  const { socket } = await scene.attach("a", "c1", "--lun", "3");
  for (const name of ["b", "c", "s"]) await scene.attach(name, "c1");
  const all = [0, 1, 2, 3];
  const driver = scene.connect(socket);
  for (const lun of all) write(driver, lun, lun + 1);
  for (let round = 0; round < 3; round++) {
    const pending = Array.from({ length: WRITES }, (_, at) => {
      const lba = 1024 + at * BLOCKS;
      return driver.start(write10(lba, BLOCKS), { lun: at % all.length, out: pattern(at) });
    });
    driver.disconnect();
    scene.daemon.kill();
    await scene.daemon.waitForExit();
    await scene.daemon.launch();
    // A driver's first look after the loss is its only one: no unit may be missing then.
    await scene.connectSoon(driver, socket);
    for (const one of pending) {
      const { response, sense } = driver.wait(one);
      assert.ok(response === l.SCSI_S_OK || response === l.SCSI_S_RESET, `response ${response}`);
      assert.ok(sense === 0 || sense === POWER_ON, `sense ${sense.toString(16)}`);
    }
    for (const lun of all) {
      const { sense } = driver.command(TEST_UNIT_READY, { lun });
      assert.ok(sense === 0 || sense === POWER_ON, `sense ${sense.toString(16)}`);
      assertReads(driver, lun, lun + 1);
    }
    assert.deepEqual(lunsOf(driver), all);
    await scene.daemon.waitForApi();
    for (let at = 0; at < WRITES; at++) write(driver, at % all.length, at, 1024 + at * BLOCKS);
  }
  assert.equal((await scene.show("s")).state, "connected");
});

test("a volume that is not there at a restart is a disk that becomes ready", LIMIT, async (t) => {
  const scene = await Scene.start(t);
  await scene.create("a", "b");
  const { socket } = await scene.attach("a", "c");
  await scene.attach("b", "c");
  const driver = scene.connect(socket);
  for (const lun of [0, 1]) write(driver, lun, lun + 1);
  const serial = serialOf(driver, 1);
  const { path } = (await scene.show("b")).backing;
  await scene.loseAtRestart(path, driver, socket);
  assert.deepEqual(lunsOf(driver), [0, 1]);
  assert.equal(serialOf(driver, 1), serial);
  assert.equal(driver.command(TEST_UNIT_READY, { lun: 1 }).sense, POWER_ON);
  assert.equal(driver.command(TEST_UNIT_READY, { lun: 1 }).sense, 0x020401);
  const refused = driver.command(write10(16, BLOCKS), { lun: 1, out: pattern(7) });
  assert.equal(refused.sense, 0x020401);
  assertReads(driver, 0, 1);
  await scene.daemon.waitForApi();
  const { state, health } = await scene.show("b");
  assert.deepEqual([state, health[0].code], ["unavailable", "BACKING_UNAVAILABLE"]);

  // Back, it is the same disk, which nobody has taken away.
  for (let count = 0; count < 3; count++) driver.offerEvent();
  const missed = driver.waitEvent();
  assert.equal(missed.event, (l.SCSI_T_EVENTS_MISSED | l.SCSI_T_NO_EVENT) >>> 0);
  renameSync(`${path}.away`, path);
  const { event, lun, reason } = driver.waitEvent();
  assert.deepEqual([event, lun, reason], [l.SCSI_T_PARAM_CHANGE, 1, 0x092a]);
  assert.equal(driver.command(TEST_UNIT_READY, { lun: 1 }).sense, POWER_ON);
  assertReads(driver, 1, 2);
  write(driver, 1, 8);
  assert.equal((await scene.show("b")).state, "connected");

  // Gone again, and detached while it is: the guest sees it go.
  await scene.loseAtRestart(path, driver, socket);
  await scene.daemon.waitForApi();
  assert.equal(driver.retried(TEST_UNIT_READY, { lun: 1 }).sense, 0x020401);
  await scene.detach("b");
  assert.equal(driver.retried(TEST_UNIT_READY, { lun: 1 }).sense, NOT_THERE);
  assert.deepEqual(lunsOf(driver), [0]);
});

test("stopped in good order, a guest does not lose its units", LIMIT, async (t) => {
  const scene = await Scene.start(t);
  await scene.create("a", "b");
  const { socket } = await scene.attach("a", "c");
  await scene.attach("b", "c");
  const driver = scene.connect(socket);
  write(driver, 1, 9);
  driver.offerEvent();
  await scene.restart("SIGTERM");
  driver.disconnect();
  driver.connect(socket);
  // What it hears is that it may have missed something, or nothing: not that a unit is gone.
  const { event } = driver.waitEvent();
  assert.equal(event, (l.SCSI_T_EVENTS_MISSED | l.SCSI_T_NO_EVENT) >>> 0);
  assertReads(driver, 1, 9);
});

test(
  "several reactors: what is elsewhere is refused, what is together stays so",
  LIMIT,
  async (t) => {
    const scene = await Scene.start(t, "--reactors", "2");
    for (const at of [1, 2]) await scene.createOnDisk(`d${at}`, `s${at}`);
    await scene.create("a");
    const { socket } = await scene.attach("s2", "c");
    await scene.attach("a", "c");
    const words = ["volume", "attach", "s1", "--bus", "scsi", "--controller", "c"];
    const { exitCode, stderr } = await scene.daemon.command(words);
    assert.equal(exitCode, 5);
    assert.match(
      stderr,
      /controller c is on reactor 1, the volume on reactor 0\n {2}Use a controller/,
    );
    assert.equal((await scene.show("s1")).state, "detached");
    await scene.attach("s1", "c1");
    const driver = scene.connect(socket);
    for (const lun of [0, 1]) write(driver, lun, lun + 1);
    for (let round = 0; round < 3; round++) {
      await scene.restart("SIGKILL");
      driver.disconnect();
      driver.connect(socket);
      for (const lun of [0, 1]) assertReads(driver, lun, lun + 1);
      for (const name of ["a", "s1", "s2"]) assert.deepEqual((await scene.show(name)).health, []);
    }
  },
);

test(
  "reservations are the volume's: kept through a kill, with APTPL also a detach",
  LIMIT,
  async (t) => {
    const scene = await Scene.start(t);
    await scene.create("a", "b");
    const { socket } = await scene.attach("a", "c");
    await scene.attach("b", "c");
    const driver = scene.connect(socket);
    register(driver, 0, 0xa, true);
    register(driver, 1, 0xb, false);
    await scene.restart("SIGKILL");
    driver.disconnect();
    driver.connect(socket);
    assert.deepEqual([keysOf(driver, 0), keysOf(driver, 1)], [[0xa], [0xb]]);
    // The name of the controller is who the guest is: it holds what it held.
    const reserve = new Uint8Array(24);
    reserve.set(be(0xa, 8), 0);
    assertGood(driver.retried([0x5f, 1, 3, 0, 0, 0, 0, 0, 24, 0], { lun: 0, out: reserve }));
    write(driver, 0, 1);
    for (const name of ["a", "b"]) await scene.detach(name);
    const kept = join(scene.daemon.dataDirectory, "iscsi");
    assert.equal(readdirSync(kept).length, 1);
    // To iSCSI, and to another controller, it is the same volume.
    await scene.daemon.json(["volume", "attach", "a", "--classic"]);
    assert.equal(readdirSync(kept).length, 1);
    await scene.detach("a");
    const other = await scene.attach("a", "other");
    const second = scene.connect(other.socket);
    assert.deepEqual(keysOf(second, 0), [0xa]);
    const answer = second.retried(write10(0, BLOCKS), { lun: 0, out: pattern(1) });
    assert.equal(answer.status, 0x18, "RESERVATION CONFLICT");
  },
);

test("what is refused changes nothing", LIMIT, async (t) => {
  const scene = await Scene.start(t);
  await scene.create("a", "b", "c");
  await scene.attach("a", "vm1", "--lun", "1", "--queues", "2");
  await scene.daemon.json(["volume", "attach", "c"]);
  const before = scene.promises();
  const attach = ["volume", "attach"];
  const to = ["--bus", "scsi", "--controller"];
  const refusals: readonly (readonly [readonly string[], RegExp])[] = [
    [["b", ...to, "vm1", "--lun", "1"], /LUN 1 of controller vm1 is volume a[\s\S]*use LUN 0/],
    [["b", ...to, "vm1", "--lun", "256"], /256/],
    [["b", ...to, "Vm_1"], /"Vm_1" is not a controller name[\s\S]*vm1-scsi/],
    [["b", ...to, "vm1", "--queues", "3"], /controller vm1 has queueCountMax 2, not 3/],
    [["b", ...to, "vm1", "--no-packed"], /packedAllowed true, not false/],
    [["b", "--bus", "scsi"], /--bus scsi needs --controller/],
    [["b", "--controller", "vm1"], /--controller needs --bus scsi/],
    [["b", ...to, "vm1", "--standby"], /--standby does not go with --bus scsi/],
    [["b", ...to, "vm1", "--classic"], /--bus does not go with --classic/],
    [["a", ...to, "vm2"], /volume a is attached as LUN 1 of controller vm1/],
    [["a", ...to, "vm1", "--lun", "2"], /as LUN 1 of controller vm1/],
    [["a"], /as LUN 1 of controller vm1/],
    [["a", "--classic"], /as LUN 1 of controller vm1/],
    [["c", ...to, "vm1"], /volume c is attached to no controller/],
    [["none", ...to, "vm1"], /volume "none" does not exist/],
  ];
  for (const [words, message] of refusals) {
    const { exitCode, stderr } = await scene.daemon.command([...attach, ...words]);
    assert.notEqual(exitCode, 0, words.join(" "));
    assert.match(stderr, message);
  }
  assert.equal(scene.promises(), before);
  assert.deepEqual(scene.sockets(), ["c.sock", "vm1.scsi.sock"]);
});

// The disk commands of the command line against a real daemon: what they print for people and for
// programs, their exit codes, and everything they refuse, after which nothing has changed.

import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { MIB } from "../../base/index.ts";
import type { RingstoreClient } from "../../client/index.ts";
import type { Disk, DiskState } from "../../model/disk-types.ts";
import { type CommandResult, Daemon } from "../daemon.ts";
import { apiOf, diskSoon, untilAnswering } from "../soak/api.ts";
import { cleanupOf } from "../soak/cleanup.ts";
import { diskFolder, sparseFile } from "../soak/places.ts";
import { QuietGuest } from "../soak/quiet-guest.ts";

const DISK_BYTES = 96 * MIB;
const EXIT_DONE = 0;
const EXIT_UNEXPECTED = 1;
const EXIT_USAGE = 2;
const EXIT_NOT_FOUND = 3;
const EXIT_WRONG_STATE = 5;

class Scene {
  readonly folder: string;
  readonly daemon: Daemon;

  private constructor(folder: string, daemon: Daemon) {
    this.folder = folder;
    this.daemon = daemon;
  }

  static async start(t: TestContext): Promise<Scene> {
    const cleanup = cleanupOf(t);
    const folder = diskFolder(cleanup);
    const daemon = await Daemon.start({ dataDirectory: join(folder, "data") });
    cleanup.after(() => daemon.stop());
    return new Scene(folder, daemon);
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  async init(name: string): Promise<string> {
    const path = this.path(`${name}.img`);
    const size = ["--size", `${DISK_BYTES}`, "--allocation", "sparse"];
    await this.ok(["disk", "init", path, ...size]);
    return path;
  }

  async ok(args: readonly string[]): Promise<string> {
    const { exitCode, stdout, stderr } = await this.daemon.command(args);
    assert.equal(exitCode, EXIT_DONE, stdout + stderr);
    return stdout;
  }

  /** Refused with this exit code and these words, and nothing has changed. */
  async refused(args: readonly string[], code: number, words: RegExp): Promise<void> {
    const before = await this.state();
    const { exitCode, stdout, stderr } = await this.daemon.command(args);
    assert.match(stderr, words, args.join(" "));
    assert.equal(exitCode, code, stderr);
    assert.equal(stdout, "");
    assert.deepEqual(await this.state(), before, args.join(" "));
  }

  /** What is declared, in the daemon's files and in its own words. */
  private async state(): Promise<unknown> {
    const data = this.path("data");
    const files = readdirSync(data, { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith(".json"))
      .sort()
      .map((name) => [name, readFileSync(join(data, name), "utf8")]);
    assert.ok(files.length > 0, "no declarations");
    const { disks } = await this.api.listDisks();
    const { volumes } = await this.api.listVolumes();
    const stateOf = ({ name, state }: { name: string; state: string }): string =>
      `${name} ${state}`;
    return [files, disks.map(stateOf), volumes.map(stateOf)];
  }

  private get api(): RingstoreClient {
    return apiOf(this.daemon);
  }

  async show(name: string): Promise<Disk> {
    return await this.api.showDisk(name);
  }

  /** Stops the daemon, lets something happen to the disks, and starts it again. */
  async meanwhile(change: () => void): Promise<void> {
    this.daemon.signal("SIGTERM");
    await this.daemon.waitForExit();
    change();
    await this.daemon.launch();
    await untilAnswering(this.daemon);
  }

  async diskSoon(name: string, state: DiskState): Promise<Disk> {
    return await diskSoon(this.api, name, state);
  }
}

/** A table's cells, by the titles of its columns. */
function table(text: string): readonly Readonly<Record<string, string>>[] {
  const [head = "", ...lines] = text.trimEnd().split("\n");
  const titles = head.trim().split(/ {2,}/);
  return lines.map((line) => {
    const cells = line.trim().split(/ {2,}/);
    return Object.fromEntries(titles.map((title, index) => [title, cells[index] ?? ""]));
  });
}

/** Without what moves by itself: the ring is written back in the background. */
function settled({ usage, ...rest }: Disk): unknown {
  assert.ok(usage !== null && usage.ringUsedBytes <= usage.ringBytes);
  return { ...rest, usage: { ...usage, ringUsedBytes: null } };
}

test("disk list and show, for people and for programs", async (t) => {
  const scene = await Scene.start(t);
  const { daemon } = scene;
  const none = await daemon.command(["disk", "list"]);
  assert.match(none.stderr, /no disks yet: ringstore disk init PATH/);
  const one = await scene.init("one");
  await scene.init("two");
  await daemon.json(["volume", "create", "v1", "--size", "16M", "--disk", "one"]);
  await daemon.json(["volume", "create", "v2", "--size", "16M", "--disk", "one"]);
  const rows = table(await scene.ok(["disk", "list"]));
  const names = rows.map((row) => [row["NAME"], row["STATE"], row["VOLUMES"], row["HEALTH"]]);
  assert.deepEqual(names, [
    ["one", "ready", "2", "ok"],
    ["two", "ready", "0", "ok"],
  ]);
  assert.deepEqual([rows[0]?.["PATH"], rows[0]?.["SIZE"]], [one, "96 MiB"]);
  const wide = table(await scene.ok(["disk", "list", "-o", "wide"]));
  const { disks } = await daemon.json(["disk", "list"]);
  assert.deepEqual(
    wide.map((row) => [row["ID"], row["BAD"], row["OPENED"]]),
    disks.map(({ id, incarnation }: Disk) => [id, "0", `${incarnation}`]),
  );
  const disk: Disk = await daemon.json(["disk", "show", "one"]);
  assert.deepEqual(settled(disk), settled(disks[0]));
  assert.equal(disk.sizeBytes, DISK_BYTES);
  const shown = await scene.ok(["disk", "show", "one"]);
  assert.match(shown, /^name +one\nstate +ready\n/);
  assert.match(shown, new RegExp(`^id +${disk.id}$`, "m"));
  assert.match(shown, /^volumes +2$/m);
  assert.match(shown, /^quarantined +0 B$/m);
  await scene.refused(["disk", "show", "three"], EXIT_NOT_FOUND, /disk "three" does not exist/);
  await scene.refused(["disk", "show", "Three!"], EXIT_USAGE, /name/);
  await scene.refused(["disk", "shw", "one"], EXIT_USAGE, /shw/);
});

test("disk init refuses what is somebody else's, in use, or too small", async (t) => {
  const scene = await Scene.start(t);
  const one = await scene.init("one");
  const text = "#!/bin/sh\necho somebody's words\n".padEnd(DISK_BYTES / 4, "x");
  const theirs = scene.path("theirs");
  writeFileSync(theirs, text);
  const size = ["--size", `${DISK_BYTES}`];
  await scene.refused(["disk", "init", theirs], EXIT_WRONG_STATE, /theirs holds .*\n.*--force/);
  assert.equal(readFileSync(theirs, "utf8"), text, "not a byte changed");
  await scene.refused(["disk", "init", one], EXIT_WRONG_STATE, /is disk one of the store/);
  const small = scene.path("small");
  await scene.refused(["disk", "init", small, "--size", "1M"], EXIT_WRONG_STATE, /1 MiB/);
  assert.ok(!existsSync(small), "what was made for nothing is gone");
  const nowhere = ["disk", "init", scene.path("no/where"), ...size];
  await scene.refused(nowhere, EXIT_NOT_FOUND, /does not exist/);
  await scene.refused(["disk", "init", scene.path("new")], EXIT_NOT_FOUND, /--size/);
  const named = ["disk", "init", scene.path("new"), ...size, "--label", "one"];
  await scene.refused(named, EXIT_WRONG_STATE, /disk one exists/);
  assert.ok(!existsSync(scene.path("new")));
  // A volume's file is not a disk's, and what another daemon has open is nobody else's.
  await scene.daemon.json(["volume", "create", "file", "--size", "16M", "--backing", "file"]);
  const { backing } = await scene.daemon.json(["volume", "show", "file"]);
  await scene.refused(["disk", "init", backing.path], EXIT_WRONG_STATE, /volume file/);
  const other = await Daemon.start({ dataDirectory: scene.path("other") });
  t.after(() => other.stop());
  const taken = await other.command(["disk", "init", one, "--force", "--yes"]);
  assert.equal(taken.exitCode, EXIT_WRONG_STATE, taken.stderr);
  assert.match(taken.stderr, /in use by another process/);
  assert.equal((await scene.show("one")).state, "ready");
  // A dry run says what would be, and does not do it.
  const dry = await scene.ok(["disk", "init", scene.path("new"), ...size, "--dry-run"]);
  assert.match(dry, /disk new would be made of/);
  assert.ok(!existsSync(scene.path("new")));
});

test("disk check says what is wrong, and exits with 1", async (t) => {
  const scene = await Scene.start(t);
  const path = await scene.init("one");
  const socket = await scene.daemon.volume("v", ["--size", "16M"]);
  const guest = QuietGuest.connect(socket);
  t.after(() => guest.close());
  await guest.write(0, 7);
  const serves = /disk one cannot be examined: it serves v/;
  await scene.refused(["disk", "check", "one"], EXIT_WRONG_STATE, serves);
  await scene.refused(["disk", "check", "two"], EXIT_NOT_FOUND, /does not exist/);
  guest.close();
  await scene.ok(["volume", "detach", "v"]);
  assert.match(
    await scene.ok(["disk", "check", "one"]),
    /^disk one: 0 errors, 0 warnings; \d+ bl/m,
  );
  await scene.diskSoon("one", "ready");
  const report = await scene.daemon.json(["disk", "check", "one"]);
  assert.deepEqual([report.errorCount, report.findings, report.failure], [0, [], null]);
  assert.ok(report.blocksVerified >= 1 && report.pagesVerified >= 1, JSON.stringify(report));
  await scene.diskSoon("one", "ready");
  await scene.meanwhile(() => spoil(path, 7));
  await scene.diskSoon("one", "ready");
  const bad = await scene.daemon.command(["disk", "check", "one"]);
  assert.equal(bad.exitCode, EXIT_UNEXPECTED, bad.stdout + bad.stderr);
  assert.match(bad.stdout, /^error +.*extent 0 block 0/m);
  assert.match(bad.stdout, /disk one: 1 errors/);
  const json = await scene.daemon.command(["disk", "check", "one", "-o", "json"]);
  assert.equal(json.exitCode, EXIT_UNEXPECTED);
  assert.equal(JSON.parse(json.stdout).errorCount, 1);
  await scene.diskSoon("one", "ready");
  assert.match(await scene.ok(["disk", "show", "one"]), /^checked +.*: 1 errors/m);
});

/** Turns a bit of the last whole block of `byte`: the one in its slab. */
function spoil(path: string, byte: number): void {
  const content = readFileSync(path);
  const at = content.lastIndexOf(Buffer.alloc(4096, byte));
  assert.ok(at > 0, "the block is on the disk");
  content[at] = (content[at] as number) ^ 1;
  writeFileSync(path, content, { flag: "r+" });
}

test("disk remove lets go of an empty disk, and takes it back only by force", async (t) => {
  const scene = await Scene.start(t);
  const path = await scene.init("one");
  await scene.daemon.json(["volume", "create", "v", "--size", "16M"]);
  const holds = /disk one holds volumes: v\n.*delete them first/;
  await scene.refused(["disk", "remove", "one"], EXIT_WRONG_STATE, holds);
  // Force is for disks that are gone: this one is not.
  await scene.refused(["disk", "remove", "one", "--force"], EXIT_WRONG_STATE, holds);
  await scene.ok(["volume", "delete", "v", "--yes"]);
  assert.match(await scene.ok(["disk", "remove", "one", "--dry-run"]), /would be removed/);
  assert.equal((await scene.show("one")).state, "ready");
  const removed = await scene.daemon.json(["disk", "remove", "one"]);
  assert.deepEqual(removed, { disk: "one", path, volumes: [] });
  await scene.refused(["disk", "remove", "one"], EXIT_NOT_FOUND, /does not exist/);
  const holdsDisk = /holds a disk of the store|holds a Ringstore disk|one\.img holds/;
  await scene.refused(["disk", "init", path], EXIT_WRONG_STATE, holdsDisk);
  assert.match(await scene.ok(["disk", "init", path, "--force", "--yes"]), /disk one is ready/);
});

/** What can become of a declared disk, and how it then looks. */
const LOSSES: readonly {
  readonly what: string;
  readonly state: DiskState;
  readonly health: string;
  readonly lose: (scene: Scene, path: string) => void;
}[] = [
  {
    what: "missing",
    state: "missing",
    health: "DISK_MISSING",
    lose: (_, path) => renameSync(path, `${path}.away`),
  },
  {
    what: "blank",
    state: "stale",
    health: "DISK_STALE",
    lose: (_, path) => {
      renameSync(path, `${path}.away`);
      sparseFile(path, DISK_BYTES);
    },
  },
  {
    what: "rolled back",
    state: "stale",
    health: "DISK_STALE",
    lose: (scene, path) => {
      renameSync(path, `${path}.away`);
      writeFileSync(path, readFileSync(scene.path("old")));
    },
  },
];

for (const { what, state, health, lose } of LOSSES) {
  test(`a disk that is ${what} is not served; with force it goes, and its volumes`, async (t) => {
    const scene = await Scene.start(t);
    const path = await scene.init("one");
    await scene.init("two");
    await scene.meanwhile(() => writeFileSync(scene.path("old"), readFileSync(path)));
    for (const name of ["a", "b"]) {
      await scene.daemon.json(["volume", "create", name, "--size", "8M", "--disk", "one"]);
    }
    await scene.daemon.json(["volume", "create", "c", "--size", "8M", "--disk", "two"]);
    await scene.daemon.json(["volume", "attach", "a"]);
    await scene.meanwhile(() => lose(scene, path));
    const disk = await scene.diskSoon("one", state);
    assert.deepEqual([disk.health[0]?.code, disk.usage], [health, null]);
    assert.match(await scene.ok(["disk", "show", "one"]), new RegExp(`^error +${health}: `, "m"));
    const [row] = table(await scene.ok(["disk", "list"]));
    assert.deepEqual([row?.["STATE"], row?.["HEALTH"], row?.["USED"]], [state, health, "-"]);
    assert.equal((await scene.daemon.json(["volume", "show", "a"])).state, "unavailable");
    const newVolume = ["volume", "create", "d", "--size", "8M", "--disk", "one"];
    await scene.refused(newVolume, EXIT_WRONG_STATE, new RegExp(`disk one is ${state}`));
    const remove = ["disk", "remove", "one"];
    const forced = [...remove, "--force"];
    const serves = /disk one cannot be removed: it serves a\n.*detach/;
    await scene.refused(forced, EXIT_WRONG_STATE, serves);
    await scene.ok(["volume", "detach", "a"]);
    await scene.refused(remove, EXIT_WRONG_STATE, /disk one holds volumes: a, b\n.*--force/);
    assert.match(await scene.ok([...forced, "--dry-run"]), /would be removed, and with it .* a, b/);
    assert.equal((await scene.show("one")).volumeCount, 2, "a dry run changes nothing");
    const done: CommandResult = await scene.daemon.command([...forced, "--yes"]);
    assert.equal(done.exitCode, EXIT_DONE, done.stderr);
    assert.match(done.stderr, /volumes that lived only there: a, b/);
    assert.match(done.stdout, /disk one removed, and with it volumes a, b/);
    const gone = async (): Promise<void> => {
      const { volumes } = await scene.daemon.json(["volume", "list"]);
      assert.deepEqual(
        volumes.map(({ name }: { name: string }) => name),
        ["c"],
      );
      const { disks } = await scene.daemon.json(["disk", "list"]);
      assert.deepEqual(
        disks.map(({ name }: Disk) => name),
        ["two"],
      );
    };
    await gone();
    await scene.meanwhile(() => undefined);
    await gone();
    await scene.diskSoon("two", "ready");
  });
}

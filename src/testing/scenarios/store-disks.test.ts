// Disks of the store and the volumes on them are back after every end of the daemon, without
// anyone's help; what is not the disk it should be, or is somebody else's, is refused and left as
// it is.

import assert from "node:assert/strict";
import { copyFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { MIB } from "../../base/index.ts";
import type { RingstoreClient } from "../../client/index.ts";
import { Daemon } from "../daemon.ts";
import { apiOf, attachVolumes, diskSoon, makeDisks, untilAnswering } from "../soak/api.ts";
import { cleanupOf } from "../soak/cleanup.ts";
import { diskFolder } from "../soak/places.ts";
import { QuietGuest } from "../soak/quiet-guest.ts";

interface Scene {
  readonly daemon: Daemon;
  readonly api: RingstoreClient;
  readonly folder: string;
  readonly path: string;
}

const DISK_BYTES = 96 * MIB;

async function scene(t: TestContext): Promise<Scene> {
  const cleanup = cleanupOf(t);
  const folder = diskFolder(cleanup);
  const daemon = await Daemon.start({ dataDirectory: join(folder, "data") });
  cleanup.after(() => daemon.stop());
  const api = apiOf(daemon);
  const disk = { path: "disk1.img", sizeBytes: DISK_BYTES };
  const [path = ""] = await makeDisks(api, folder, [disk]);
  return { daemon, api, folder, path };
}

test("disks, volumes and what was written are back after kill -9 and clean stops", async (t) => {
  const { daemon, api } = await scene(t);
  const [sectors = "", blocks = ""] = await attachVolumes(api, [
    { name: "sectors", sizeBytes: 24 * MIB },
    { name: "blocks", sizeBytes: 24 * MIB, blockBytes: 4096 },
  ]);
  await api.createVolume({ name: "detached", sizeBytes: 8 * MIB });
  await api.createVolume({ name: "deleted", sizeBytes: 8 * MIB });
  await api.deleteVolume("deleted");
  await api.resizeVolume("sectors", { sizeBytes: 32 * MIB });
  const guests = [
    QuietGuest.connect(sectors, { blockBytes: 512 }),
    QuietGuest.connect(blocks, { blockBytes: 4096 }),
  ];
  t.after(() => {
    for (const guest of guests) guest.close();
  });
  for (const guest of guests) {
    await guest.write(4096, 1);
    await guest.write(8192, 7);
  }
  const signals = ["SIGKILL", "SIGTERM", "SIGKILL", "SIGTERM"] as const;
  for (const [round, signal] of signals.entries()) {
    daemon.signal(signal);
    await daemon.waitForExit();
    await daemon.launch();
    for (const [index, guest] of guests.entries()) {
      await guest.reconnect();
      assert.equal(guest.capacityBytes, index === 0 ? 32 * MIB : 24 * MIB);
      assert.ok((await guest.read(4096)).every((byte) => byte === round + 1));
      assert.ok((await guest.read(8192)).every((byte) => byte === 7));
      assert.ok((await guest.read(16 * MIB)).every((byte) => byte === 0));
      await guest.write(4096, round + 2);
    }
    await untilAnswering(daemon);
    const disk = await api.showDisk("disk1");
    assert.deepEqual([disk.state, disk.incarnation], ["ready", round + 2]);
    assert.equal(disk.usage?.badBlockCount, 0);
    const { volumes } = await api.listVolumes();
    assert.deepEqual(
      volumes.map(({ name, state, backing }) => [name, state, backing.kind]),
      [
        ["blocks", "connected", "store"],
        ["detached", "detached", "store"],
        ["sectors", "connected", "store"],
      ],
    );
    assert.equal((await api.status()).health, "ok");
  }
  for (const name of ["sectors", "blocks"]) await api.detachVolume(name);
  const smaller = { sizeBytes: 4 * MIB, allowDataLoss: true };
  await assert.rejects(api.resizeVolume("sectors", smaller), { code: "unsupported" });
  for (const name of ["sectors", "blocks", "detached"]) await api.deleteVolume(name);
  await api.removeDisk("disk1");
  assert.deepEqual((await api.listDisks()).disks, []);
});

test("what is somebody else's is refused, and left as it is", async (t) => {
  const { daemon, api, folder, path } = await scene(t);
  const refused = async (words: readonly string[], message: RegExp): Promise<void> => {
    const { exitCode, stderr } = await daemon.command(["disk", "init", ...words]);
    assert.match(stderr, message);
    assert.notEqual(exitCode, 0);
  };
  const theirs = join(folder, "theirs");
  const words = Buffer.alloc(DISK_BYTES);
  words.write("their words", 5 * MIB + 17);
  words.write("QFI", 0);
  writeFileSync(theirs, words);
  await refused([theirs], /theirs holds a qcow2 image\n.*--force/);
  assert.ok(words.equals(readFileSync(theirs)));
  await refused([path], /disk1.img" is disk disk1 of the store/);
  const small = join(folder, "small");
  await refused([small, "--size", "1M"], /1 MiB/);
  assert.ok(!existsSync(small), "what was made for nothing is gone");
  // Another daemon wants the disk that this one has open, by force.
  const other = await Daemon.start({ dataDirectory: join(folder, "other") });
  t.after(() => other.stop());
  const taken = await other.command(["disk", "init", path, "--force", "--yes"]);
  assert.match(taken.stderr, /disk1.img is in use by another process/);
  assert.deepEqual((await apiOf(other).listDisks()).disks, []);
  assert.equal((await api.showDisk("disk1")).state, "ready");
  // With force, and in nobody's use, it may.
  const forced = await other.command(["disk", "init", theirs, "--force", "--yes"]);
  assert.equal(forced.exitCode, 0, forced.stderr);
  assert.match(forced.stdout, /disk theirs is ready/);
});

test("a disk that was rolled back is stale, and is served when the right one is back", async (t) => {
  const { daemon, api, path } = await scene(t);
  const [socket = ""] = await attachVolumes(api, [{ name: "v", sizeBytes: 16 * MIB }]);
  const guest = QuietGuest.connect(socket);
  t.after(() => guest.close());
  await guest.write(0, 1);
  const stop = async (): Promise<void> => {
    daemon.signal("SIGTERM");
    await daemon.waitForExit();
  };
  await stop();
  copyFileSync(path, `${path}.old`);
  await daemon.launch();
  await guest.reconnect();
  await guest.write(0, 2);
  await stop();
  copyFileSync(path, `${path}.new`);
  copyFileSync(`${path}.old`, path);
  const before = readFileSync(path);
  await daemon.launch();
  await untilAnswering(daemon);
  const stale = await diskSoon(api, "disk1", "stale");
  assert.match(stale.health[0]?.message ?? "", /holds an old state of disk disk1/);
  assert.equal((await api.showVolume("v")).state, "unavailable");
  assert.ok(before.equals(readFileSync(path)), "it is left as it is");
  copyFileSync(`${path}.new`, path);
  await guest.reconnect();
  assert.ok((await guest.read(0)).every((byte) => byte === 2));
  assert.equal((await api.showDisk("disk1")).state, "ready");
});

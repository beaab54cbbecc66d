// What the guest was promised about its writes is what the kernel was asked for: with a write
// cache, a write may wait in the page cache until the guest flushes; without one, or for a guest
// that cannot flush, it has reached the disk when it is answered. A guest that turned its cache off
// keeps that promise when the daemon is killed and started anew.
//
// Seen from outside: the volume's file is mapped here, and /proc/self/smaps tells whether its page
// is dirty, that is, not written to the disk yet.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { MIB, PAGE_BYTES } from "../../base/index.ts";
import * as sys from "../../sys/index.ts";
import { BLK_F_CONFIG_WCE, BLK_F_FLUSH } from "../../virtio/index.ts";
import { Daemon } from "../daemon.ts";
import { apiOf, attachVolumes } from "../soak/api.ts";
import { type Cleanup, cleanupOf } from "../soak/cleanup.ts";
import { diskFolder, sparseFile, takesDirectIo } from "../soak/places.ts";
import { QuietGuest } from "../soak/quiet-guest.ts";

const VOLUME_BYTES: number = 4 * MIB;

/** The pages of a file, in this process's address space. */
class MappedFile {
  private readonly address: number;
  private readonly fd: number;

  constructor(cleanup: Cleanup, path: string) {
    this.fd = sys.check(sys.open(path, sys.O_RDONLY), "open", path);
    const map = sys.mmap(VOLUME_BYTES, sys.PROT_READ, sys.MAP_SHARED, this.fd, 0);
    this.address = sys.check(map, "mmap", path);
    cleanup.after(() => {
      sys.munmap(this.address, VOLUME_BYTES);
      sys.close(this.fd);
    });
  }

  /** Bytes of the file that are not on the disk yet; every page is looked at. */
  get dirtyBytes(): number {
    const bytes = sys.arenaOver(this.address, VOLUME_BYTES).u8;
    let sum = 0;
    for (let at = 0; at < VOLUME_BYTES; at += PAGE_BYTES) sum += bytes[at] as number;
    assert.ok(sum >= 0);
    const start = this.address.toString(16).padStart(8, "0");
    const smaps = readFileSync("/proc/self/smaps", "latin1");
    const block = smaps.slice(smaps.indexOf(`\n${start}-`));
    const kib = ["Shared_Dirty", "Private_Dirty"].map((field) => {
      const found = new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(block);
      assert.ok(found !== null, `smaps has no ${field}`);
      return Number(found[1]);
    });
    return ((kib[0] as number) + (kib[1] as number)) * 1024;
  }
}

interface Scene {
  readonly daemon: Daemon;
  readonly socketPath: string;
  readonly file: MappedFile;
}

/** A volume on a disk, through the page cache. */
async function scene(cleanup: Cleanup): Promise<Scene | null> {
  const folder = diskFolder(cleanup);
  if (!takesDirectIo(folder)) return null;
  const path = sparseFile(join(folder, "volume"), VOLUME_BYTES);
  const daemon = await Daemon.start({ dataDirectory: join(folder, "data") });
  cleanup.after(() => daemon.stop());
  const volumes = [{ name: "disk", path, direct: "off" }] as const;
  const [socketPath = ""] = await attachVolumes(apiOf(daemon), volumes);
  return { daemon, socketPath, file: new MappedFile(cleanup, path) };
}

const NO_DISK = "the temporary folder is not on a disk";

test("with a write cache: a write may wait, a flush returns when it is out", async (t) => {
  const cleanup = cleanupOf(t);
  const set = await scene(cleanup);
  if (set === null) return t.skip(NO_DISK);
  const guest = QuietGuest.connect(set.socketPath);
  cleanup.after(() => guest.close());
  assert.equal(guest.writeback, true);
  await guest.write(8192, 1);
  assert.equal(set.file.dirtyBytes, PAGE_BYTES, "else the next tests see nothing");
  await guest.flush();
  assert.equal(set.file.dirtyBytes, 0);
});

test("a guest that cannot flush: every write is out when it is answered", async (t) => {
  const cleanup = cleanupOf(t);
  const set = await scene(cleanup);
  if (set === null) return t.skip(NO_DISK);
  const refuseFeatures = [BLK_F_FLUSH, BLK_F_CONFIG_WCE];
  for (const packed of [false, true]) {
    const guest = QuietGuest.connect(set.socketPath, { refuseFeatures, packed });
    await guest.write(8192, 2);
    assert.equal(set.file.dirtyBytes, 0, packed ? "packed" : "split");
    guest.close();
  }
});

test("a guest's writeback=0 is kept over kill -9, clean stops, and back", async (t) => {
  const cleanup = cleanupOf(t);
  const set = await scene(cleanup);
  if (set === null) return t.skip(NO_DISK);
  const { daemon, file } = set;
  const guest = QuietGuest.connect(set.socketPath);
  cleanup.after(() => guest.close());
  guest.setWriteback(false);
  assert.equal(guest.writeback, false);
  await guest.write(0, 3);
  assert.equal(file.dirtyBytes, 0);
  for (const signal of ["SIGKILL", "SIGTERM", "SIGKILL"] as const) {
    daemon.signal(signal);
    await daemon.waitForExit();
    await daemon.launch();
    await guest.reconnect();
    assert.equal(guest.writeback, false, `after ${signal} the guest would read something else`);
    await guest.write(PAGE_BYTES, 4);
    assert.equal(file.dirtyBytes, 0, `a write after ${signal} was not durable`);
  }
  // And the other way: what the guest allows again is not done at the disk's pace for ever.
  guest.setWriteback(true);
  daemon.kill();
  await daemon.launch();
  await guest.reconnect();
  assert.equal(guest.writeback, true);
  await guest.write(PAGE_BYTES, 5);
  assert.equal(file.dirtyBytes, PAGE_BYTES);
});

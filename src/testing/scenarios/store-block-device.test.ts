// A raw block device as a disk of the store: a loop device over a file, where the machine lets us
// make one. Used by somebody else it is refused; what was written to it is back after kill -9, and
// the offline checker finds nothing wrong.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { closeSync, constants, openSync, readSync, truncateSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { test } from "node:test";
import { GIB, MIB } from "../../base/index.ts";
import { Daemon } from "../daemon.ts";
import { apiOf, attachVolumes, untilAnswering } from "../soak/api.ts";
import { type Cleanup, cleanupOf } from "../soak/cleanup.ts";
import { diskFolder } from "../soak/places.ts";
import { QuietGuest } from "../soak/quiet-guest.ts";

const DEVICE_BYTES: number = GIB;

/** A loop device over a new file, or why there is none. */
function loopDevice(cleanup: Cleanup, folder: string): { device: string } | { missing: string } {
  const file = join(folder, "backing");
  writeFileSync(file, "");
  truncateSync(file, DEVICE_BYTES);
  try {
    const words = ["--find", "--show", file];
    const device = execFileSync("losetup", words, { encoding: "utf8", stdio: "pipe" }).trim();
    cleanup.after(() => {
      execFileSync("losetup", ["--detach", device]);
    });
    return { device };
  } catch (error) {
    const { stderr, message } = error as Error & { stderr?: string };
    return { missing: (stderr ?? message).trim() };
  }
}

/** What this process reads of the device itself. */
function readDevice(device: string, offsetBytes: number, bytes: number): Buffer {
  const fd = openSync(device, "r");
  const found = Buffer.alloc(bytes);
  readSync(fd, found, 0, bytes, offsetBytes);
  closeSync(fd);
  return found;
}

test("a block device is a disk like a file, and is claimed while it is open", async (t) => {
  const cleanup = cleanupOf(t);
  const folder = diskFolder(cleanup);
  const made = loopDevice(cleanup, folder);
  if ("missing" in made) {
    t.skip(`no loop device can be made here: ${made.missing}`);
    return;
  }
  const { device } = made;
  const name = basename(device);
  const daemon = await Daemon.start({ dataDirectory: join(folder, "data") });
  cleanup.after(() => daemon.stop());
  const api = apiOf(daemon);

  // What a mounted file system or another program's claim looks like to us.
  const claim = openSync(device, constants.O_RDWR | constants.O_EXCL);
  const refused = await daemon.command(["disk", "init", device]);
  assert.match(refused.stderr, /in use by another process/);
  assert.notEqual(refused.exitCode, 0);
  closeSync(claim);
  assert.ok(
    readDevice(device, 0, MIB).every((byte) => byte === 0),
    "it is left as it is",
  );

  const init = await daemon.command(["disk", "init", device]);
  assert.equal(init.exitCode, 0, init.stderr);
  assert.match(init.stdout, /is ready: .* for volumes/);
  const [socket = ""] = await attachVolumes(api, [{ name: "v", sizeBytes: 64 * MIB }]);
  const guest = QuietGuest.connect(socket);
  cleanup.after(() => guest.close());
  for (let round = 1; round <= 3; round++) {
    await guest.write(round * MIB, round);
    assert.throws(() => openSync(device, constants.O_RDWR | constants.O_EXCL), { code: "EBUSY" });
    daemon.signal("SIGKILL");
    await daemon.waitForExit();
    await daemon.launch();
    await guest.reconnect();
    for (let written = 1; written <= round; written++) {
      const found = await guest.read(written * MIB);
      assert.ok(
        found.every((byte) => byte === written),
        `round ${round}, write ${written}`,
      );
    }
  }
  await untilAnswering(daemon);
  const disk = await api.showDisk(name);
  assert.deepEqual([disk.state, disk.path, disk.sizeBytes], ["ready", device, DEVICE_BYTES]);
  await api.detachVolume("v");
  const check = await daemon.command(["disk", "check", name]);
  assert.equal(check.exitCode, 0, check.stdout + check.stderr);
  await api.deleteVolume("v");
  await api.removeDisk(name);
});

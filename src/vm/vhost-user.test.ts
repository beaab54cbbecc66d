// A guest's disk over vhost-user, served by qemu-storage-daemon: shows that the command line,
// the shared memory and the plugging work before any back-end of ours is involved.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { MIB } from "../base/index.ts";
import { sparseFile, testDirectory, testGuest } from "./_test-guest.ts";
import { copyBootImage, ensureBootImage } from "./boot-image.ts";
import { requireOnSystem } from "./host-program.ts";

const LIMIT = { timeout: 180_000 };

/** Serves `path` on a socket until the test ends. */
async function serve(t: TestContext, path: string, socket: string): Promise<void> {
  const program = requireOnSystem("qemu-storage-daemon", "qemu-system-common");
  const node = `driver=file,node-name=f,filename=${path},discard=unmap`;
  const address = `addr.type=unix,addr.path=${socket}`;
  const server = spawn(
    program,
    [
      ...["--blockdev", node],
      "--export",
      `type=vhost-user-blk,id=e,${address},node-name=f,writable=on,num-queues=4`,
    ],
    { stdio: ["ignore", "ignore", "inherit"] },
  );
  t.after(() => server.kill("SIGKILL"));
  while (!existsSync(socket)) {
    assert.equal(server.exitCode, null, "qemu-storage-daemon ended");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test("file system and fio on a vhost-user disk with several queues", LIMIT, async (t) => {
  const directory = await testDirectory(t);
  const socket = join(directory, "vhost.sock");
  await serve(t, await sparseFile(join(directory, "disk"), 128 * MIB), socket);
  const disk = { kind: "vhost-user-blk" as const, socket, queueCount: 2, queueSize: 256 };
  const guest = await testGuest(t, { cpuCount: 2, disks: [disk] });
  assert.equal((await guest.must("ls -d /sys/block/vda/mq/*")).trim().split("\n").length, 2);
  await guest.must(
    "fio --name=j --filename=/dev/vda --rw=randrw --bs=4k --size=8M --direct=1 " +
      "--ioengine=libaio --iodepth=16 --verify=crc32c --verify_fatal=1",
    { timeoutMs: 120_000 },
  );
  await guest.must("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && cp /bin/busybox /mnt/");
  await guest.must("umount /mnt && e2fsck -fn /dev/vda");
  assert.doesNotMatch(guest.console.text, /I\/O error/);
});

test("a vhost-user disk is plugged and unplugged", LIMIT, async (t) => {
  const directory = await testDirectory(t);
  const socket = join(directory, "vhost.sock");
  await serve(t, await sparseFile(join(directory, "disk"), 32 * MIB), socket);
  const guest = await testGuest(t, { initramfs: { programs: [] } });
  for (let round = 1; round <= 2; round++) {
    const id = await guest.addDisk({ kind: "vhost-user-blk", socket, queueCount: 1 });
    await guest.must("until [ -b /dev/vda ]; do usleep 10000; done");
    await guest.must("dd if=/dev/vda of=/dev/null bs=64k count=16 2>/dev/null");
    await guest.removeDisk(id);
  }
});

test("a guest boots from a vhost-user disk through SeaBIOS", LIMIT, async (t) => {
  const directory = await testDirectory(t);
  const path = join(directory, "disk");
  await copyBootImage(await ensureBootImage(), path, 64 * MIB);
  const socket = join(directory, "vhost.sock");
  await serve(t, path, socket);
  const guest = await testGuest(t, {
    bootFrom: "disk",
    disks: [{ kind: "vhost-user-blk", socket, bootIndex: 0 }],
  });
  assert.match(await guest.must("cat /proc/cmdline"), /BOOT_IMAGE/);
});

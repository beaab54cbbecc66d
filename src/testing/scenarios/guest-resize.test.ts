// A volume grows, and shrinks, while its guest runs: the guest is told at once, uses the new space,
// and nothing that was there is lost. The new size holds for the next daemon and the next guest.

import assert from "node:assert/strict";
import { MIB, TIB } from "../../base/index.ts";
import type { Guest } from "../../vm/index.ts";
import {
  assertNoErrors,
  blk,
  killAndRestart,
  limit,
  rounds,
  scenario,
  until,
  verifiedFio,
} from "./guest-fixture.ts";

const START_BYTES: number = 128 * MIB;
const STEP_BYTES: number = 64 * MIB;

async function seenBytes(guest: Guest): Promise<number> {
  return Number(await guest.must("cat /sys/block/vda/size")) * 512;
}

scenario("a running guest sees its volume grow, under I/O", limit("RESIZE"), async (host) => {
  const daemon = await host.daemon();
  const socket = await daemon.volume("grows", ["--size", `${START_BYTES}`]);
  const guest = await host.guest({ cpuCount: 2, disks: [blk(socket, { queueCount: 2 })] });
  await guest.must("mkfs.ext4 -q -E nodiscard /dev/vda 64M && mount /dev/vda /mnt");
  await guest.must("dd if=/dev/urandom of=/mnt/before bs=1M count=8 2>/dev/null && sync");
  const sum = await guest.must("sha256sum </mnt/before");
  const load = guest.run(
    verifiedFio({ device: "/dev/vda", offset: "64M", size: "48M", seconds: 5 * rounds("RESIZE") }),
    { timeoutMs: limit("RESIZE").timeout },
  );
  let sizeBytes = START_BYTES;
  for (let round = 1; round <= rounds("RESIZE"); round++) {
    sizeBytes += STEP_BYTES;
    await daemon.json(["volume", "resize", "grows", `${sizeBytes}`]);
    const wanted = sizeBytes;
    await until(
      () => seenBytes(guest),
      (bytes) => bytes === wanted,
      `${wanted} bytes`,
    );
    // The last block there is: nothing may refuse it, and nothing may wrap around.
    await guest.must(
      `dd if=/dev/urandom of=/tmp/block bs=4k count=1 2>/dev/null && ` +
        `dd if=/tmp/block of=/dev/vda bs=4k seek=${sizeBytes / 4096 - 1} oflag=direct 2>/dev/null`,
    );
    await guest.must(
      `dd if=/dev/vda bs=4k skip=${sizeBytes / 4096 - 1} iflag=direct 2>/dev/null | cmp - /tmp/block`,
    );
  }
  const ended = await load;
  assert.equal(ended.exitCode, 0, ended.stdout);
  await guest.must("resize2fs /dev/vda 2>/dev/null");
  const freeKib = Number(await guest.must("df -k /mnt | awk 'NR==2 {print $4}'"));
  assert.ok(freeKib * 1024 > sizeBytes * 0.7, `${freeKib} KiB are free after resize2fs`);
  await guest.must("dd if=/dev/zero of=/mnt/after bs=1M count=150 conv=fsync 2>/dev/null");
  await guest.must("echo 3 >/proc/sys/vm/drop_caches");
  assert.equal(await guest.must("sha256sum </mnt/before"), sum);

  // The daemon that comes after a crash serves the new size to the same guest.
  await killAndRestart(daemon);
  await guest.must("echo 3 >/proc/sys/vm/drop_caches; sha256sum </mnt/before");
  assert.equal(await seenBytes(guest), sizeBytes);
  await guest.must("umount /mnt && e2fsck -fn /dev/vda");
  await assertNoErrors(guest);
});

scenario("a volume beyond 2 TiB grows, and none shrinks under a guest", limit(), async (host) => {
  const daemon = await host.daemon();
  const large = 3 * TIB;
  const socket = await daemon.volume("large", ["--size", `${large}`, "--backing", "null"]);
  const guest = await host.guest({ disks: [blk(socket)] });
  assert.equal(await seenBytes(guest), large);
  await daemon.json(["volume", "resize", "large", `${2 * large}`]);
  await until(
    () => seenBytes(guest),
    (bytes) => bytes === 2 * large,
    "twice as large",
  );
  const smaller = ["volume", "resize", "large", `${TIB}`, "--allow-data-loss", "--yes"];
  assert.match((await daemon.command(smaller)).stderr, /attached and cannot be made smaller/);
  assert.equal(await seenBytes(guest), 2 * large);
  await assertNoErrors(guest);
});

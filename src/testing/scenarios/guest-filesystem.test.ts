// What people do with a disk, on every kind of volume that a guest can meet: make a file system,
// fill it, check it, discard what is not needed, switch the write cache, write where nothing may be
// written. One guest has them all.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { closeSync, openSync, readSync, statSync } from "node:fs";
import { KIB, MIB } from "../../base/index.ts";
import { type Guest, requireOnSystem } from "../../vm/index.ts";
import type { Daemon } from "../daemon.ts";
import {
  allocatedBytes,
  assertNoErrors,
  blk,
  killAndRestart,
  limit,
  scenario,
  verifiedFio,
  volumeFile,
} from "./guest-fixture.ts";

const SIZE_BYTES: number = 192 * MIB;
const DATA_MIB = 32;
const QUARTER_MIB: number = DATA_MIB / 4;

function readAt(path: string, offsetBytes: number, bytes: number): Buffer {
  const buffer = Buffer.alloc(bytes);
  const fd = openSync(path, "r");
  try {
    assert.equal(readSync(fd, buffer, 0, bytes, offsetBytes), bytes);
  } finally {
    closeSync(fd);
  }
  return buffer;
}

async function makeAndCheck(guest: Guest, device: string): Promise<void> {
  await guest.must(`mkfs.ext4 -q ${device} && mount ${device} /mnt`);
  await guest.must(
    "for n in $(seq 1 200); do mkdir -p /mnt/$((n % 7)); echo $n >/mnt/$((n % 7))/$n; done; " +
      "dd if=/dev/urandom of=/mnt/large bs=1M count=16 2>/dev/null; " +
      "cp -r /sbin /mnt/; mv /mnt/3 /mnt/moved; rm -r /mnt/5; " +
      "cd /mnt; find . -type f | sort | xargs md5sum >/tmp/sums; cd /; umount /mnt",
  );
  await guest.must(`e2fsck -fn ${device} && mount -o ro ${device} /mnt`);
  await guest.must(
    "cd /mnt && md5sum -c /tmp/sums >/tmp/checked; r=$?; cd /; umount /mnt; exit $r",
  );
  assert.ok(Number(await guest.must("wc -l </tmp/sums")) > 150);
}

async function queuesOf(guest: Guest, disk: string): Promise<number> {
  return Number(await guest.must(`ls /sys/block/${disk}/mq | wc -l`));
}

async function queueValue(guest: Guest, disk: string, name: string): Promise<string> {
  return (await guest.must(`cat /sys/block/${disk}/queue/${name}`)).trim();
}

scenario("file systems on volumes of every kind", limit(), async (host) => {
  const daemon = await host.daemon();
  const size = ["--size", `${SIZE_BYTES}`];
  const guest = await host.guest({
    cpuCount: 2,
    disks: [
      blk(await daemon.volume("split", size), { queueCount: 2, queueSize: 256 }),
      blk(await daemon.volume("packed", size), { queueCount: 2, packed: true }),
      blk(await daemon.volume("blocks", [...size, "--block-size", "4096"]), { queueCount: 2 }),
      blk(await daemon.volume("memory", [...size, "--backing", "memory"]), { queueSize: 1024 }),
    ],
  });
  assert.equal(await queuesOf(guest, "vda"), 2);
  assert.equal(await queueValue(guest, "vda", "logical_block_size"), "512");
  assert.equal(await queueValue(guest, "vdc", "logical_block_size"), "4096");
  const packed = 34;
  const features = (disk: string): Promise<string> => {
    return guest.must(`cat /sys/block/${disk}/device/features`);
  };
  assert.equal((await features("vdb"))[packed], "1");
  assert.equal((await features("vda"))[packed], "0");
  for (const disk of ["vda", "vdb", "vdc", "vdd"]) {
    await makeAndCheck(guest, `/dev/${disk}`);
    const more = "--bsrange=4k-256k --blockalign=4k";
    const fio = verifiedFio({ device: `/dev/${disk}`, rw: "randrw", size: "16M", more });
    await guest.must(fio);
  }
  await assertNoErrors(guest);
});

scenario("discard gives space back; zeroes are written without data", limit(), async (host) => {
  const daemon = await host.daemon();
  const size = ["--size", `${SIZE_BYTES}`];
  const disks = [
    blk(await daemon.volume("direct", size), { queueCount: 2 }),
    blk(await daemon.volume("buffered", [...size, "--direct", "off"]), { packed: true }),
  ];
  const guest = await host.guest({ cpuCount: 2, disks });
  for (const [disk, name] of [
    ["vda", "direct"],
    ["vdb", "buffered"],
  ] as const) {
    await discardsAndZeroes(guest, `/dev/${disk}`, await volumeFile(daemon, name));
    await trims(guest, `/dev/${disk}`, await volumeFile(daemon, name));
  }
  await assertNoErrors(guest);
});

async function discardsAndZeroes(guest: Guest, device: string, path: string): Promise<void> {
  const range = `bs=1M count=${DATA_MIB}`;
  await guest.must(`dd if=/dev/urandom of=/tmp/data ${range} 2>/dev/null`);
  await guest.must(`dd if=/tmp/data of=${device} ${range} conv=fsync 2>/dev/null`);
  assert.ok(allocatedBytes(path) >= DATA_MIB * MIB, "the data takes space");
  // The second quarter is discarded and the third zeroed; the others stay.
  const quarter = QUARTER_MIB * MIB;
  await guest.must(`blkdiscard -o ${quarter} -l ${quarter} ${device}`);
  assert.ok(allocatedBytes(path) <= (DATA_MIB * 3 * MIB) / 4 + 64 * KIB, "a hole was punched");
  await guest.must(`blkdiscard -z -o ${2 * quarter} -l ${quarter} ${device}`);
  await guest.must("echo 3 >/proc/sys/vm/drop_caches");
  const quarterOf = `bs=1M skip=$((q * ${QUARTER_MIB})) count=${QUARTER_MIB} 2>/dev/null`;
  const quarters = `for q in 0 1 2 3; do dd if=${device} ${quarterOf}`;
  const seen = (await guest.must(`${quarters} | md5sum; done`))
    .split("\n")
    .map((line) => line.slice(0, 32));
  const sent = `for q in 0 3; do dd if=/tmp/data ${quarterOf}`;
  const data = (await guest.must(`${sent} | md5sum; done`))
    .split("\n")
    .map((line) => line.slice(0, 32));
  const zeroes = (
    await guest.must(`dd if=/dev/zero bs=1M count=${QUARTER_MIB} 2>/dev/null | md5sum`)
  ).slice(0, 32);
  assert.deepEqual(seen.slice(0, 4), [data[0], zeroes, zeroes, data[1]]);
  assert.ok(readAt(path, quarter, MIB).equals(Buffer.alloc(MIB)), "the host reads the same");
  // Zeroes that are to take their space: the guest asks not to unmap.
  await guest.must(`blkdiscard ${device}`);
  assert.ok(allocatedBytes(path) <= 64 * KIB, `${allocatedBytes(path)} bytes are left`);
  assert.equal(statSync(path).size, SIZE_BYTES, "the volume keeps its size");
}

async function trims(guest: Guest, device: string, path: string): Promise<void> {
  await guest.must(`mkfs.ext4 -q ${device} && mount ${device} /mnt`);
  await guest.must(`cp /tmp/data /mnt/ && sync`);
  const full = allocatedBytes(path);
  await guest.must("rm /mnt/data && sync && fstrim /mnt");
  assert.ok(
    allocatedBytes(path) < full - (DATA_MIB - 8) * MIB,
    "fstrim gave the file's space back",
  );
  await guest.must(`umount /mnt && e2fsck -fn ${device}`);
}

scenario("nothing is written to a read-only volume", limit(), async (host) => {
  const daemon = await host.daemon();
  await daemon.volume("golden", ["--size", "32M"]);
  const writer = await host.guest({
    disks: [blk((await daemon.json(["volume", "attach", "golden"])).socket)],
  });
  await writer.must("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && echo golden >/mnt/file");
  await writer.must("umount /mnt && md5sum </dev/vda >/dev/null");
  await writer.shutdown();
  await daemon.json(["volume", "detach", "golden"]);
  const { socket } = await daemon.json(["volume", "attach", "golden", "--read-only"]);
  const path = await volumeFile(daemon, "golden");
  const before = readAt(path, 0, 32 * MIB);
  const guest = await host.guest({ disks: [blk(socket)] });
  assert.equal(await guest.must("cat /sys/block/vda/ro"), "1\n");
  assert.equal(await guest.must("mount -o ro /dev/vda /mnt && cat /mnt/file"), "golden\n");
  await guest.must("umount /mnt");
  for (const command of [
    "dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct",
    "mount -o rw /dev/vda /mnt && echo spoilt >/mnt/file",
    "blkdiscard /dev/vda",
    "blkdiscard -z /dev/vda",
    // The guest's kernel can be told to try it all the same.
    "blockdev --setrw /dev/vda && dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct",
  ]) {
    assert.notEqual((await guest.run(command)).exitCode, 0, command);
  }
  assert.ok(readAt(path, 0, 32 * MIB).equals(before), "not a byte changed");
});

scenario(
  "the write cache obeys the guest, and a killed daemon remembers",
  limit(),
  async (host) => {
    const daemon = await host.daemon();
    const socket = await daemon.volume("cached", ["--size", "64M", "--direct", "off"]);
    const guest = await host.guest({ cpuCount: 2, disks: [blk(socket, { queueCount: 2 })] });
    const path = await volumeFile(daemon, "cached");
    // Not on tmpfs, say: there the durability of a write cannot be seen from outside.
    const canTell = await hasUnwrittenData(guest, path, 0).catch(() => false);
    host.say(canTell ? "the host shows data it has not written" : "the host does not show that");
    const setCache = async (mode: string): Promise<void> => {
      await guest.must(`echo "${mode}" >/sys/block/vda/cache_type`);
      assert.equal((await guest.must("cat /sys/block/vda/cache_type")).trim(), mode);
      assert.equal(await queueValue(guest, "vda", "write_cache"), mode);
    };
    assert.equal((await guest.must("cat /sys/block/vda/cache_type")).trim(), "write back");
    await setCache("write through");
    const assertDurable = async (round: number): Promise<void> => {
      if (canTell) assert.equal(await hasUnwrittenData(guest, path, round), false);
    };
    await assertDurable(1);
    const flushesBefore = await flushCount(daemon);
    await guest.must("dd if=/dev/zero of=/dev/vda bs=4k count=8 seek=2000 conv=fsync 2>/dev/null");
    assert.equal(await flushCount(daemon), flushesBefore, "nothing is left to be flushed");

    await killAndRestart(daemon);
    await assertDurable(2);
    await setCache("write back");
    await killAndRestart(daemon);
    if (canTell) assert.equal(await hasUnwrittenData(guest, path, 3), true, "the cache is back");
    await daemon.waitForApi();
    const flushes = await flushCount(daemon);
    await guest.must("dd if=/dev/zero of=/dev/vda bs=4k count=8 seek=2000 conv=fsync 2>/dev/null");
    assert.ok((await flushCount(daemon)) > flushes, "fsync reaches the volume");
    await assertNoErrors(guest);
  },
);

/**
 * Whether what the guest just wrote has no place on the host's disk yet: so it is on ext4, xfs and
 * btrfs unless the write was durable.
 */
async function hasUnwrittenData(guest: Guest, path: string, round: number): Promise<boolean> {
  const seekMib = 4 * (round + 1);
  await guest.must(`dd if=/dev/urandom of=/dev/vda bs=1M count=1 seek=${seekMib} oflag=direct`);
  const filefrag = requireOnSystem("filefrag", "e2fsprogs");
  const extents = execFileSync(filefrag, ["-v", "-b4096", path], { encoding: "utf8" }).split("\n");
  const block = (seekMib * MIB) / 4096;
  const extent = extents.find((line) => new RegExp(`^ *\\d+: +${block}\\.\\.`).test(line));
  assert.ok(extent !== undefined, extents.join("\n"));
  return extent.includes("delalloc");
}

async function flushCount(daemon: Daemon): Promise<number> {
  const { stdout } = await daemon.command(["api", "get", "/metrics"]);
  const found = /^ringstore_volume_operations_total\{.*op="flush".*\} (\d+)$/m.exec(stdout);
  assert.ok(found !== null, stdout);
  return Number(found[1]);
}

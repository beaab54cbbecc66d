// Linux guests on virtio-scsi controllers: the kernel's driver, file systems, and SCSI commands
// by hand with sg3_utils: inquiry, VPD pages, persistent reservations between two guests, UNMAP,
// COMPARE AND WRITE; units that come, go and grow under a running guest. The target is a process
// of its own, as in the tests of the protocol; in the last scenario it is the daemon.
//
// QEMU 7.2 does not connect a vhost-user-scsi device again when its back-end has died; restarts
// are tried with a driver of ours, in scsi-session.test.ts.

import assert from "node:assert/strict";
import { renameSync } from "node:fs";
import { join } from "node:path";
import { type Guest, SG3_UTILS, type VhostUserScsiController } from "../../vm/index.ts";
import { startTarget, type Target } from "../target.ts";
import {
  allocatedBytes,
  assertNoErrors,
  killAndRestart,
  limit,
  scenario,
  until,
  verifiedFio,
  volumeFile,
} from "./guest-fixture.ts";

const SIZE_BYTES: number = 64 * 1024 * 1024;
const PROMPT = { timeoutMs: 120_000 };

function controller(
  socket: string,
  more: Partial<VhostUserScsiController> = {},
): VhostUserScsiController {
  return { kind: "vhost-user-scsi", socket, queueCount: 2, ...more };
}

/** The guest's SCSI drivers, and its first disk. */
async function findDisk(guest: Guest): Promise<void> {
  await guest.must("modprobe virtio_scsi && modprobe sd_mod && modprobe sg");
  await guest.must("until [ -b /dev/sda ] && [ -e /dev/sg0 ]; do usleep 10000; done", PROMPT);
}

async function startOn(end: (stop: () => Promise<void>) => void): Promise<Target> {
  return await startTarget({ after: (hook) => end(hook) });
}

scenario("sg3_utils and file systems on a virtio-scsi disk", limit(), async (host) => {
  const target = await startOn((stop) => host.atEnd(stop));
  const path = join(host.folder(), "disk");
  const backing = { kind: "file" as const, path };
  const socket = await target.add({ name: "c", scsi: {}, sizeBytes: SIZE_BYTES, backing });
  const guest = await host.guest({
    cpuCount: 2,
    disks: [controller(socket)],
    initramfs: { programs: [...SG3_UTILS] },
  });
  await findDisk(guest);
  const inquiry = await guest.must("sg_inq /dev/sg0");
  assert.match(inquiry, /Vendor identification: RINGSTOR/);
  assert.match(inquiry, /Unit serial number: c\n/);
  assert.match(await guest.must("sg_vpd -p di /dev/sg0"), /designator type: NAA/);
  assert.match(await guest.must("sg_vpd -p bl /dev/sg0"), /Maximum compare and write length: 128/);
  assert.match(await guest.must("sg_vpd -p lbpv /dev/sg0"), /LBPU.*: 1/);
  assert.match(await guest.must("sg_luns /dev/sg0"), /Number of luns.*: 1|LUN list length = 8/i);
  assert.match(await guest.must("sg_readcap -l /dev/sg0"), /Number of logical blocks=131072/);
  // COMPARE AND WRITE: zeroes against zeroes, then again, which does not match any more.
  await guest.must("(dd if=/dev/zero bs=512 count=1; dd if=/dev/urandom bs=512 count=1) >/tmp/caw");
  await guest.must("sg_compare_and_write --in=/tmp/caw --lba=100 --num=1 --xferlen=1024 /dev/sg0");
  await guest.must(
    "dd if=/dev/sda skip=100 count=1 2>/dev/null >/tmp/a; tail -c 512 /tmp/caw | cmp - /tmp/a",
  );
  const again = await guest.run(
    "sg_compare_and_write --in=/tmp/caw --lba=100 --num=1 --xferlen=1024 /dev/sg0",
  );
  assert.equal(again.exitCode, 14, "MISCOMPARE is exit status 14");
  // UNMAP gives the space back and leaves zeroes.
  await guest.must("dd if=/dev/urandom of=/dev/sda bs=1M seek=8 count=8 oflag=direct 2>/dev/null");
  const before = allocatedBytes(path);
  await guest.must("sg_unmap --lba=16384 --num=16384 --force /dev/sg0");
  assert.ok(allocatedBytes(path) <= before - 4 * 1024 * 1024, "UNMAP gave nothing back");
  await guest.must(
    "dd if=/dev/sda bs=1M skip=8 count=8 iflag=direct 2>/dev/null | cmp -n 8388608 - /dev/zero",
  );
  await assertNoErrors(guest);
});

scenario("two guests reserve one volume against each other", limit(), async (host) => {
  const target = await startOn((stop) => host.atEnd(stop));
  const one = await target.add({ name: "one", scsi: {}, sizeBytes: SIZE_BYTES });
  const two = await target.add({ name: "two", scsi: { sharesWith: "one" } });
  const guests = await Promise.all(
    [one, two].map((socket) =>
      host.guest({ disks: [controller(socket)], initramfs: { programs: [...SG3_UTILS] } }),
    ),
  );
  const [first, second] = guests as [Guest, Guest];
  for (const guest of guests) await findDisk(guest);
  const persist = "sg_persist --no-inquiry";
  await first.must(`${persist} --out --register --param-sark=0xa /dev/sg0`);
  await second.must(`${persist} --out --register --param-sark=0xb /dev/sg0`);
  await first.must(`${persist} --out --reserve --param-rk=0xa --prout-type=5 /dev/sg0`);
  const keys = await second.must(`${persist} --in --read-keys /dev/sg0`);
  assert.match(keys, /0xa\n[\s\S]*0xb\n/);
  const reserved = await second.must(`${persist} --in --read-reservation /dev/sg0`);
  assert.match(reserved, /Key=0xa[\s\S]*Write Exclusive, registrants only/);
  // Registrants may write; the first takes the second's registration away, then it may not.
  const write = "dd if=/dev/zero of=/dev/sda bs=4k count=1 oflag=direct";
  await second.must(write);
  await first.must(
    `${persist} --out --preempt --param-rk=0xa --param-sark=0xb --prout-type=5 /dev/sg0`,
  );
  assert.notEqual((await second.run(write)).exitCode, 0, "the second guest still writes");
  await first.must(write);
  await second.must("dd if=/dev/sda of=/dev/null bs=4k count=1 iflag=direct");
});

scenario("units come, go and grow under a running guest", limit(), async (host) => {
  const target = await startOn((stop) => host.atEnd(stop));
  const path = join(host.folder(), "disk");
  const backing = { kind: "file" as const, path };
  const socket = await target.add({ name: "c", scsi: {}, backing, sizeBytes: SIZE_BYTES });
  const guest = await host.guest({ cpuCount: 2, disks: [controller(socket)] });
  await guest.must("modprobe virtio_scsi && modprobe sd_mod");
  await guest.must("until [ -b /dev/sda ]; do usleep 10000; done", PROMPT);
  await guest.must("mkfs.ext4 -q /dev/sda && mount /dev/sda /mnt && umount /mnt", PROMPT);
  await guest.must("e2fsck -fn /dev/sda");
  await guest.must(verifiedFio({ device: "/dev/sda", size: "8M" }), { timeoutMs: 240_000 });
  await target.plug("c", 9, true);
  await guest.must("until [ -b /dev/sdb ]; do usleep 10000; done", PROMPT);
  await guest.must("dd if=/dev/sdb of=/dev/null bs=64k count=16 iflag=direct 2>/dev/null");
  await target.plug("c", 9, false);
  await guest.must("until [ ! -e /dev/sdb ]; do usleep 10000; done", PROMPT);
  await target.resize("c", 2 * SIZE_BYTES);
  const sectors = `${(2 * SIZE_BYTES) / 512}`;
  await until(
    async () => (await guest.must("cat /sys/block/sda/size")).trim(),
    (size) => size === sectors,
    "the new size",
  );
});

scenario(
  "a daemon's controller: disks come, go and grow, and keep their data",
  limit(),
  async (host) => {
    const daemon = await host.daemon();
    const create = ["--size", "64M", "--backing", "file"];
    for (const name of ["one", "two"]) await daemon.json(["volume", "create", name, ...create]);
    const bus = ["--bus", "scsi", "--controller", "vm1-scsi"];
    const reply = await daemon.json(["volume", "attach", "one", ...bus]);
    // As it is printed: without the memory, which every guest of these tests has.
    const guest = await host.guest({ cpuCount: 2, extraArguments: reply.qemuDevice["7.2"] });
    await findDisk(guest);
    const one = await daemon.json(["volume", "show", "one"]);
    assert.equal(one.state, "connected");
    assert.equal((await guest.must("cat /sys/block/sda/device/vendor")).trim(), "RINGSTOR");
    const serial = await guest.must("tail -c +5 /sys/block/sda/device/vpd_pg80");
    assert.equal(serial.trim(), one.serial);
    await guest.must("mkfs.ext4 -q /dev/sda && mount /dev/sda /mnt && cp -r /sbin /mnt/", PROMPT);
    const second = await daemon.json(["volume", "attach", "two", ...bus, "--lun", "9"]);
    assert.equal(second.socket, reply.socket);
    await guest.must("until [ -b /dev/sdb ]; do usleep 10000; done", PROMPT);
    await guest.must(verifiedFio({ device: "/dev/sdb", size: "8M" }), { timeoutMs: 240_000 });
    await daemon.json(["volume", "resize", "two", "128M"]);
    const sectors = `${(2 * SIZE_BYTES) / 512}`;
    await until(
      async () => (await guest.must("cat /sys/block/sdb/size")).trim(),
      (size) => size === sectors,
      "the new size",
    );
    await daemon.json(["volume", "detach", "two"]);
    await guest.must("until [ ! -e /dev/sdb ]; do usleep 10000; done", PROMPT);
    await guest.must("umount /mnt && e2fsck -fn /dev/sda", PROMPT);
    await assertNoErrors(guest);
    await guest.kill();
    await daemon.json(["volume", "detach", "one"]);
    assert.equal((await daemon.json(["volume", "show", "one"])).state, "detached");
  },
);

scenario(
  "a disk that is not there yet when its guest boots is waited for",
  limit(),
  async (host) => {
    const daemon = await host.daemon();
    const create = ["--size", "64M", "--backing", "file"];
    const bus = ["--bus", "scsi", "--controller", "vm1-scsi"];
    for (const name of ["one", "two"]) {
      await daemon.json(["volume", "create", name, ...create]);
      await daemon.json(["volume", "attach", name, ...bus]);
    }
    const path = await volumeFile(daemon, "two");
    renameSync(path, `${path}.away`);
    await killAndRestart(daemon);
    await daemon.waitForApi();
    assert.equal((await daemon.json(["volume", "show", "two"])).state, "unavailable");
    const { qemuDevice } = await daemon.json(["volume", "attach", "one", ...bus]);
    const guest = await host.guest({ cpuCount: 2, extraArguments: qemuDevice["7.2"] });
    // Whoever loads the driver waits until it has seen all disks: up to 100 s for one of these.
    await guest.must("modprobe virtio_scsi && (modprobe sd_mod </dev/null >/dev/null 2>&1 &)");
    // Which is which: the kernel names disks as it comes to them.
    const find = (lun: number): string => `ls /sys/class/scsi_device/*:0:0:${lun}/device/block`;
    const found = async (lun: number): Promise<string> => {
      const name = `until ${find(lun)} 2>/dev/null; do usleep 10000; done`;
      return (await guest.must(name, PROMPT)).trim();
    };
    const one = await found(0);
    await guest.must(`until [ -b /dev/${one} ]; do usleep 10000; done`, PROMPT);
    await guest.must(`mkfs.ext4 -q /dev/${one} && mount /dev/${one} /mnt`, PROMPT);
    assert.match(await guest.must("cat /sys/class/scsi_device/*:0:0:1/device/vendor"), /RINGSTOR/);
    assert.notEqual((await guest.run(find(1))).exitCode, 0, "the kernel waits for it");
    renameSync(`${path}.away`, path);
    await daemon.json(["volume", "attach", "two", ...bus]);
    const two = await found(1);
    const sectors = `${SIZE_BYTES / 512}`;
    await until(
      async () => (await guest.must(`cat /sys/block/${two}/size`)).trim(),
      (size) => size === sectors,
      "the disk's size",
    );
    await guest.must(verifiedFio({ device: `/dev/${two}`, size: "8M" }), { timeoutMs: 240_000 });
    await guest.must("umount /mnt");
  },
);

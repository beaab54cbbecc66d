// Volumes are plugged into a running guest and unplugged again, and so is memory while I/O runs
// through it. Nothing of a plugged disk stays behind in the daemon.

import assert from "node:assert/strict";
import {
  assertNoErrors,
  assertNoMore,
  blk,
  holdings,
  limit,
  rounds,
  STOP_FILE,
  scenario,
  steady,
  until,
  untilStopped,
  verifiedFio,
} from "./guest-fixture.ts";

/** The smallest that Linux puts in. */
const MODULE_MIB = 128;
/**
 * What stays when the modules have gone. It must hold all that the guest cannot drop, with room to
 * spare: a guest that has not enough empties its modules page by page, for minutes.
 */
const BOOT_MIB = 256;
const FILE_MIB = 64;
/** Of the file, this much at least must have been read into modules. */
const IN_MODULES_MIB = 32;
/** The modules of one round; each is a region of its own in the daemon. */
const MODULES: readonly string[] = ["dimm0", "dimm1"];

scenario("a volume is plugged and unplugged, beside one in use", limit("PLUG"), async (host) => {
  const daemon = await host.daemon();
  const stays = await daemon.volume("stays", ["--size", "64M"]);
  const comes = await daemon.volume("comes", ["--size", "32M", "--serial", "comes-and-goes"]);
  const guest = await host.guest({ cpuCount: 2, disks: [blk(stays, { queueCount: 2 })] });
  const load = guest.run(untilStopped(verifiedFio({ device: "/dev/vda" })), {
    timeoutMs: limit("PLUG").timeout,
  });
  await guest.must("dd if=/dev/urandom of=/tmp/data bs=64k count=16 2>/dev/null");
  let before = holdings(daemon.pid);
  for (let round = 1; round <= rounds("PLUG"); round++) {
    // Every round another shape, so that the daemon cannot count on the last one's.
    const queueCount = 1 + (round % 4);
    const packed = round % 3 === 0;
    const id = await guest.addDisk(
      blk(comes, { queueCount, queueSize: 64 << (round % 4), packed }),
    );
    await guest.must("until [ -b /dev/vdb ]; do usleep 10000; done");
    assert.equal((await guest.must("cat /sys/block/vdb/serial")).trim(), "comes-and-goes");
    // What the last round wrote is there.
    if (round > 1) await guest.must("dd if=/dev/vdb bs=64k count=16 2>/dev/null | cmp - /tmp/data");
    await guest.must("dd if=/dev/urandom of=/tmp/data bs=64k count=16 2>/dev/null");
    await guest.must("dd if=/tmp/data of=/dev/vdb bs=64k oflag=direct 2>/dev/null");
    await guest.removeDisk(id);
    await guest.must("until [ ! -e /dev/vdb ]; do usleep 10000; done");
    // What the daemon makes once, for the first volume that is plugged in, is no loss.
    if (round === 1) before = await steady(daemon.pid);
  }
  await assertNoMore(daemon.pid, before, "nothing stays behind");
  await guest.must(`touch ${STOP_FILE}`);
  const ended = await load;
  assert.equal(ended.exitCode, 0, ended.stdout + ended.stderr);
  assert.match(ended.stdout, /verified/, "fio ran beside it");
  await assertNoErrors(guest);
});

/** Prints the MiB of file contents in the movable zone, of which all is in modules. */
const FILE_MIB_IN_MODULES =
  'awk \'/^Node/ {movable = $4 == "Movable"} ' +
  "movable && /nr_zone_(in)?active_file/ {pages += $2} END {print int(pages / 256)}' /proc/zoneinfo";

scenario("memory comes and goes while I/O runs through it", limit("MEMORY"), async (host) => {
  const daemon = await host.daemon();
  const raw = await daemon.volume("raw", ["--size", "64M"]);
  const files = await daemon.volume("files", ["--size", "256M"]);
  const guest = await host.guest({
    cpuCount: 2,
    memoryMiB: BOOT_MIB,
    memorySlots: { count: 4, maxMiB: 1024 },
    disks: [blk(raw, { queueCount: 2 }), blk(files, { queueCount: 2 })],
  });
  await guest.must("mkfs.ext4 -q /dev/vdb && mount /dev/vdb /mnt");
  await guest.must(`dd if=/dev/urandom of=/mnt/file bs=1M count=${FILE_MIB} conv=fsync`);
  const sum = await guest.must("md5sum </mnt/file");
  const totalKib = async (): Promise<number> =>
    Number(await guest.must("awk '/^MemTotal:/ {print $2}' /proc/meminfo"));
  const smallKib = await totalKib();
  const before = holdings(daemon.pid);
  const load = guest.run(
    untilStopped(verifiedFio({ device: "/dev/vda", size: "64M", seconds: 10 })),
    { timeoutMs: limit("MEMORY").timeout },
  );
  for (let round = 1; round <= rounds("MEMORY"); round++) {
    for (const id of MODULES) await guest.addMemory(id, MODULE_MIB);
    const wantedKib = smallKib + MODULES.length * MODULE_MIB * 1024 - 4096;
    await until(totalKib, (kib) => kib >= wantedKib, `${wantedKib} KiB`);
    assert.ok(holdings(daemon.pid).sharedMaps > before.sharedMaps, "the daemon mapped it");
    // Read anew, into the new regions: the guest prefers them for what it can move again.
    await guest.must("echo 3 >/proc/sys/vm/drop_caches");
    assert.equal(await guest.must("md5sum </mnt/file"), sum);
    const inModulesMib = Number(await guest.must(FILE_MIB_IN_MODULES));
    assert.ok(inModulesMib >= IN_MODULES_MIB, `${inModulesMib} MiB were read into the modules`);
    // What can be read again need not be moved. fio's buffers and programs must be, while they run.
    await guest.must("echo 3 >/proc/sys/vm/drop_caches");
    for (const id of MODULES) await guest.removeMemory(id);
    assert.equal(await totalKib(), smallKib);
  }
  assert.equal(await guest.must("md5sum </mnt/file"), sum);
  await assertNoMore(daemon.pid, before, "unplugged memory is unmapped");
  await guest.must(`touch ${STOP_FILE}`);
  const ended = await load;
  assert.equal(ended.exitCode, 0, ended.stdout + ended.stderr);
  assert.match(ended.stdout, /verified/, "fio ran all the time");
  await guest.must("umount /mnt && e2fsck -fn /dev/vdb");
  await assertNoErrors(guest);
});

// Real guests on volumes of the store, through Boost: a file system, a database, and everything cut
// off in the middle of both, at once for the guest and for the daemon.

import assert from "node:assert/strict";
import { join } from "node:path";
import { MIB } from "../../base/index.ts";
import type { DiskUsage } from "../../model/disk-types.ts";
import type { Guest } from "../../vm/index.ts";
import type { Daemon } from "../daemon.ts";
import { checkDiskOffline } from "../soak/store-volumes.ts";
import {
  assertNoErrors,
  blk,
  type GuestHost,
  killAndRestart,
  limit,
  rounds,
  scenario,
  until,
} from "./guest-fixture.ts";
import {
  type Acknowledged,
  acknowledgedIn,
  assertDatabase,
  makeDatabase,
  NOTHING,
  stopWriters,
  untilMore,
  WRITERS,
} from "./guest-writers.ts";

/** Less than its two volumes: they are thin. */
const DISK_BYTES: number = 256 * MIB;
const VOLUME_BYTES: number = 160 * MIB;
const FILLER_MIB = 48;
const FILL_ROUNDS = 6;
const LARGE_MIB = 8;
/** Both file systems without the filler: a large file each, programs, journals, tables. */
const EMPTY_BYTES_MAX: number = (2 * LARGE_MIB + 24) * MIB;

interface Scene {
  readonly daemon: Daemon;
  readonly diskPath: string;
  /** Of two volumes: sectors on a split ring, blocks of 4 KiB on a packed one. */
  readonly sockets: readonly [string, string];
}

async function storeScene(host: GuestHost): Promise<Scene> {
  const folder = host.folder();
  const diskPath = join(folder, "disk1.img");
  const daemon = await host.daemon({ dataDirectory: join(folder, "data") });
  await daemon.json(["disk", "init", diskPath, "--size", `${DISK_BYTES}`]);
  const size = ["--size", `${VOLUME_BYTES}`];
  const sectors = await daemon.volume("sectors", size);
  const blocks = await daemon.volume("blocks", [...size, "--block-size", "4096"]);
  for (const name of ["sectors", "blocks"]) {
    assert.equal((await daemon.json(["volume", "show", name])).backing.kind, "store");
  }
  return { daemon, diskPath, sockets: [sectors, blocks] };
}

async function guestOn(
  host: GuestHost,
  sockets: readonly [string, string],
  allowReboot = false,
): Promise<Guest> {
  return await host.guest({
    cpuCount: 2,
    allowReboot,
    initramfs: WRITERS,
    disks: [blk(sockets[0], { queueCount: 2 }), blk(sockets[1], { queueCount: 2, packed: true })],
  });
}

async function usage(daemon: Daemon): Promise<DiskUsage> {
  return (await daemon.json(["disk", "show", "disk1"])).usage;
}

const MAKE_FILES =
  "for n in $(seq 1 150); do mkdir -p /mnt/$((n % 7)); echo $n >/mnt/$((n % 7))/$n; done; " +
  `dd if=/dev/urandom of=/mnt/large bs=1M count=${LARGE_MIB} 2>/dev/null; ` +
  " cp -r /sbin /mnt/; " +
  "mv /mnt/3 /mnt/moved; rm -r /mnt/5; cd /mnt; find . -type f | sort | xargs md5sum >/tmp/sums; " +
  "mv /tmp/sums /mnt/sums; test $(wc -l <sums) -gt 120; cd /; sync";

/** The files are as they were made, the file system is clean; it is left unmounted. */
async function assertFiles(guest: Guest, device: string): Promise<void> {
  await guest.must(`mount ${device} /mnt && cd /mnt && md5sum -c sums >/tmp/checked`);
  await guest.must(`umount /mnt && e2fsck -fn ${device}`);
}

/**
 * Fills space and frees it, over and over: more than the disk holds. Freed slabs wait in quarantine
 * until no crash can bring them back, which is when somebody needs them.
 */
async function takeAndGiveBack(guest: Guest, daemon: Daemon, device: string): Promise<void> {
  await guest.must(`mount ${device} /mnt`);
  await guest.must(`dd if=/dev/urandom of=/tmp/data bs=1M count=${FILLER_MIB / 3} 2>/dev/null`);
  for (let round = 0; round < FILL_ROUNDS; round++) {
    await guest.must("cat /tmp/data /tmp/data /tmp/data >/mnt/filler && sync");
    // The daemon's figures are a second old at most.
    const full = await until(
      () => usage(daemon),
      ({ usedBytes }) => usedBytes >= (FILLER_MIB + 2 * LARGE_MIB) * MIB,
      "in use",
    );
    assertSums(full);
    await guest.must("rm /mnt/filler && sync");
    // ext4 knows what is free a moment after its journal has it: trimmed again until then.
    const trim = async (): Promise<DiskUsage> => {
      await guest.must("fstrim /mnt");
      return await usage(daemon);
    };
    const isBack = ({ usedBytes }: DiskUsage): boolean => usedBytes <= EMPTY_BYTES_MAX;
    assertSums(await until(trim, isBack, "given back"));
  }
  const { quarantinedBytes, totalBytes } = await usage(daemon);
  assert.ok(FILL_ROUNDS * FILLER_MIB * MIB > totalBytes, "the disk was filled more than once");
  assert.ok(quarantinedBytes < totalBytes / 2, `${quarantinedBytes} of ${totalBytes}`);
  await guest.must("umount /mnt");
}

function assertSums({ usedBytes, freeBytes, quarantinedBytes, totalBytes }: DiskUsage): void {
  // What is promised to writes on their way is neither.
  const sum = usedBytes + freeBytes + quarantinedBytes;
  assert.ok(sum <= totalBytes && sum > totalBytes - MIB, `${sum} of ${totalBytes}`);
}

scenario("a file system: fsck, space given back, a reboot", limit(), async (host) => {
  const { daemon, sockets } = await storeScene(host);
  const guest = await guestOn(host, sockets, true);
  for (const device of ["/dev/vda", "/dev/vdb"]) {
    await guest.must(`mkfs.ext4 -q ${device} && mount ${device} /mnt`);
    await guest.must(`${MAKE_FILES} && umount /mnt`);
    await assertFiles(guest, device);
  }
  await takeAndGiveBack(guest, daemon, "/dev/vda");
  await assertNoErrors(guest);
  await guest.reboot();
  for (const device of ["/dev/vda", "/dev/vdb"]) await assertFiles(guest, device);
  await assertNoErrors(guest);
  assert.equal((await usage(daemon)).badBlockCount, 0);
});

scenario("SQLite on a store whose daemon is killed", limit("KILL"), async (host) => {
  const { daemon, sockets } = await storeScene(host);
  const guest = await guestOn(host, sockets);
  await guest.must("mkdir /mnt/w /mnt/d");
  const both = { w: "/dev/vda", d: "/dev/vdb" } as const;
  for (const [name, device] of Object.entries(both)) {
    await guest.must(`mkfs.ext4 -q ${device} && mount ${device} /mnt/${name}`);
    await makeDatabase(guest, `/mnt/${name}/db`);
  }
  const writers = [
    guest.run("transactions WAL FULL W /mnt/w/db"),
    guest.run("transactions DELETE FULL D /mnt/d/db"),
  ];
  for (let round = 0; round < rounds("KILL"); round++) {
    await untilMore(guest, ["W", "D"], 3);
    await killAndRestart(daemon);
  }
  await untilMore(guest, ["W", "D"], 3);
  await stopWriters(guest);
  for (const { exitCode, stderr } of await Promise.all(writers)) assert.equal(exitCode, 0, stderr);
  // What the guest still has in memory proves nothing about the volume.
  await guest.must("umount /mnt/w && umount /mnt/d && echo 3 >/proc/sys/vm/drop_caches");
  for (const [name, device] of Object.entries(both)) {
    await guest.must(`e2fsck -fn ${device} && mount ${device} /mnt/${name}`);
    const last = acknowledgedIn(guest)[name === "w" ? "W" : "D"];
    const count = await assertDatabase(guest, `/mnt/${name}/db`, last);
    host.say(`${name}: ${count} transactions, ${last} acknowledged on the console`);
  }
  await assertNoErrors(guest);
});

/** Everything that was acknowledged is there, after a cut. */
async function assertRecovered(guest: Guest, last: Acknowledged): Promise<void> {
  for (const device of ["/dev/vda", "/dev/vdb"]) {
    // 1: the journal was replayed, or inodes that were open are gone.
    const replayed = await guest.run(`e2fsck -p ${device}`);
    assert.ok(replayed.exitCode <= 1, replayed.stdout + replayed.stderr);
    await guest.must(`e2fsck -fn ${device}`);
  }
  await mountBoth(guest);
  await assertDatabase(guest, "/mnt/w.db", last.W);
  await assertDatabase(guest, "/db/d.db", last.D);
  await guest.must(`files-are-there ${last.F}`);
}

async function mountBoth(guest: Guest): Promise<void> {
  await guest.must("mkdir -p /db && mount /dev/vda /mnt && mount /dev/vdb /db");
}

scenario("a power cut of guest and daemon in the middle of it", limit("CUT"), async (host) => {
  const { daemon, diskPath, sockets } = await storeScene(host);
  let last = NOTHING;
  for (let round = 0; round <= rounds("CUT"); round++) {
    const guest = await guestOn(host, sockets);
    if (round === 0) {
      await guest.must("mkfs.ext4 -q /dev/vda && mkfs.ext4 -q /dev/vdb");
      await mountBoth(guest);
      await makeDatabase(guest, "/mnt/w.db");
      await makeDatabase(guest, "/db/d.db");
      // Databases whose making was not synced may be gone after a cut.
      await guest.must("sync");
    } else {
      await assertRecovered(guest, last);
    }
    if (round === rounds("CUT")) {
      await assertNoErrors(guest);
      break;
    }
    void guest.run("transactions WAL FULL W /mnt/w.db");
    // With FULL alone the end of the rollback journal is not synced, so that the last transaction
    // may be rolled back after a cut: SQLite's own words on EXTRA.
    void guest.run("transactions DELETE EXTRA D /db/d.db");
    void guest.run(`files ${last.F}`);
    await untilMore(guest, ["W", "D", "F"], 10, last);
    daemon.kill();
    await Promise.all([guest.kill(), daemon.waitForExit()]);
    last = acknowledgedIn(guest, last);
    host.say(`cut after ${JSON.stringify(last)}`);
    assert.equal(await checkDiskOffline(diskPath), "");
    await daemon.launch();
    await daemon.waitForApi();
  }
  const disk = await daemon.json(["disk", "show", "disk1"]);
  assert.deepEqual([disk.state, disk.usage.badBlockCount], ["ready", 0]);
});

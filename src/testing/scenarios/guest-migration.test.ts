// A guest moves between two QEMUs of this machine while it writes and reads its volumes: there,
// back, and almost. Both QEMUs hold a session with the daemon; the second one's rings wait until
// the first has stopped. What the daemon writes into guest memory while that is copied must reach
// the other side. (Rings are marked by QEMU as well when they stop: that we log them is shown by
// the tests of vhost-user/.)

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { MIB } from "../../base/index.ts";
import type { BootOptions, Guest, MigrationProgress, RunResult } from "../../vm/index.ts";
import type { Daemon } from "../daemon.ts";
import {
  assertNoErrors,
  blk,
  type GuestHost,
  killAndRestart,
  limit,
  rounds,
  STOP_FILE,
  scenario,
  until,
  untilStopped,
  verifiedFio,
} from "./guest-fixture.ts";

/** Slow enough that requests run through all of the copying. */
const SLOWLY = { bandwidthBytesPerSecond: 40 * MIB, downtimeLimitMs: 2000 } as const;
const MEMORY_MIB = 192;
/** Regions of the disk with different content, read in turn into the same pages. */
const REGIONS = 3;
const REGION_MIB = 12;
const QUEUE_COUNT = 2;
/** When something happens to a migration: early, and while there is much left to send. */
const CANCEL_BYTES: number = 20 * MIB;
const KILL_BYTES: number = 10 * MIB;

interface Moving {
  readonly daemon: Daemon;
  readonly options: BootOptions;
  readonly guest: Guest;
}

async function startMoving(host: GuestHost, packed: boolean): Promise<Moving> {
  const daemon = await host.daemon();
  const written = await daemon.volume("written", ["--size", "64M"]);
  const read = await daemon.volume("read", ["--size", "64M"]);
  const options: BootOptions = {
    cpuCount: 2,
    memoryMiB: MEMORY_MIB,
    migratable: true,
    // Pages that the guest's CPU clears before the daemon fills them are sent again on that account.
    append: "init_on_alloc=0",
    disks: [
      blk(written, { queueCount: QUEUE_COUNT, packed }),
      blk(read, { queueCount: QUEUE_COUNT, queueSize: 256, packed }),
    ],
  };
  const guest = await host.guest(options);
  await guest.must(`dd if=/dev/urandom of=/dev/vdb bs=1M count=${REGIONS * REGION_MIB}`);
  await guest.must("sync");
  return { daemon, options, guest };
}

/**
 * Reads the regions one after the other into the page cache, which the device fills, and sums them
 * up from the cache again and again: a page that was not copied after the device wrote it shows
 * another region's data, or what was there before. Ends when /tmp/stop appears, with its failures.
 */
function canary(): string {
  const region = `bs=1M count=${REGION_MIB} if=/dev/vdb`;
  return [
    `for r in $(seq 0 ${REGIONS - 1}); do`,
    `  dd ${region} skip=$((r * ${REGION_MIB})) iflag=direct 2>/dev/null | md5sum >/tmp/region$r`,
    "done",
    // An open file keeps the cache when dd ends.
    "exec 9</dev/vdb",
    "reads() { awk '{print $1}' /sys/block/vdb/stat; }",
    "touch /tmp/canary; n=0; bad=0",
    `while [ ! -e ${STOP_FILE} ]; do`,
    `  r=$((n % ${REGIONS})); n=$((n + 1))`,
    "  echo 1 >/proc/sys/vm/drop_caches",
    `  dd ${region} skip=$((r * ${REGION_MIB})) of=/dev/null 2>/dev/null`,
    "  before=$(reads)",
    `  dd ${region} skip=$((r * ${REGION_MIB})) 2>/dev/null | md5sum | cmp - /tmp/region$r || bad=$((bad + 1))`,
    '  [ "$(reads)" = "$before" ] || echo "read again in round $n"',
    "done",
    'echo "$n rounds, $bad bad"; [ $bad = 0 ]',
  ].join("\n");
}

interface Loads {
  readonly fio: Promise<RunResult>;
  readonly canary: Promise<RunResult>;
}

async function startLoads(guest: Guest): Promise<Loads> {
  const timeoutMs = limit("MIGRATE").timeout;
  const fio = verifiedFio({ device: "/dev/vda", size: "48M", seconds: 5, depth: 8 });
  const loads = {
    fio: guest.run(`rm -f ${STOP_FILE}; ${untilStopped(fio)}`, { timeoutMs }),
    canary: guest.run(canary(), { timeoutMs }),
  };
  for (const load of Object.values(loads)) load.catch(() => undefined);
  await guest.must("until pidof fio && [ -e /tmp/canary ]; do usleep 50000; done");
  return loads;
}

async function endLoads(host: GuestHost, guest: Guest, loads: Loads): Promise<void> {
  await guest.must(`touch ${STOP_FILE}`);
  const canaryResult = await loads.canary;
  host.say(`canary: ${canaryResult.stdout.trim()}`);
  assert.equal(canaryResult.exitCode, 0, canaryResult.stdout + canaryResult.stderr);
  const fio = await loads.fio;
  assert.equal(fio.exitCode, 0, fio.stdout + fio.stderr);
  assert.match(fio.stdout, /verified: \(groupid/);
  assert.doesNotMatch(fio.stdout + fio.stderr, /verify:|error=|fio:/);
  await assertNoErrors(guest);
}

async function oneSession(daemon: Daemon): Promise<void> {
  await until(
    () => sessions(daemon),
    (count) => count === 1,
    "one session",
  );
}

async function sessions(daemon: Daemon): Promise<number> {
  return (await daemon.json(["volume", "show", "written"])).attachment.sessionCount;
}

/** Moves the guest to a new QEMU; returns it there. */
async function move(
  host: GuestHost,
  moving: Moving,
  source: Guest,
  meanwhile: (progress: MigrationProgress) => void = () => undefined,
): Promise<Guest> {
  const { daemon, options } = moving;
  const target = await host.guest({ ...options, incoming: true });
  assert.equal(await sessions(daemon), 2, "both QEMUs have a session");
  const moved = await source.migrateTo(target, {
    ...SLOWLY,
    compareMemory: true,
    cancelWhen: (progress) => {
      meanwhile(progress);
      return false;
    },
  });
  assert.equal(moved.status, "completed");
  const lost = moved.differingPages;
  host.say(
    `moved in ${moved.totalMs} ms, stood still for ${moved.downtimeMs} ms, ${lost.length} lost`,
  );
  // A back-end that forgets to log what it wrote loses more than a thousand (measured).
  assert.deepEqual(lost, [], "pages not sent again");
  await oneSession(daemon);
  return target;
}

scenario("cancelled, there, and back, under verified I/O", limit("MIGRATE"), async (host) => {
  const moving = await startMoving(host, false);
  let { guest } = moving;
  await guest.must('echo "write through" >/sys/block/vdb/cache_type');
  const loads = await startLoads(guest);
  for (let round = 0; round < rounds("MIGRATE"); round++) {
    const nobody = await host.guest({ ...moving.options, incoming: true });
    const moved = await guest.migrateTo(nobody, {
      ...SLOWLY,
      cancelWhen: (progress) => progress.transferredBytes > CANCEL_BYTES,
    });
    assert.equal(moved.status, "cancelled");
    await nobody.kill();
    await oneSession(moving.daemon);
    for (const _ of ["there", "back"]) {
      guest = await move(host, moving, guest);
      await sleep(500);
    }
  }
  // No front-end tells the destination's back-end what the guest had set.
  assert.equal((await guest.must("cat /sys/block/vdb/cache_type")).trim(), "write through");
  assert.equal((await guest.must("cat /sys/block/vda/cache_type")).trim(), "write back");
  await endLoads(host, guest, loads);
});

scenario("packed rings; the daemon is killed meanwhile", limit("MIGRATE"), async (host) => {
  const moving = await startMoving(host, true);
  let { guest } = moving;
  const loads = await startLoads(guest);
  for (let round = 0; round < rounds("MIGRATE"); round++) {
    guest = await move(host, moving, guest);
    let killed = false;
    guest = await move(host, moving, guest, ({ transferredBytes }) => {
      if (killed || transferredBytes < KILL_BYTES) return;
      killed = true;
      void killAndRestart(moving.daemon);
    });
    assert.ok(killed);
  }
  await endLoads(host, guest, loads);
});

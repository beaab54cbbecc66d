// A guest whose disks' daemon is killed with `kill -9`, stopped in order, away for long, or not
// there yet: it waits, and never sees an error. What is under test are the guest's own checksums:
// fio writes blocks with sequence numbers, reads them back, and ends at the first wrong one.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { ensureBootImage, type Guest, type RunResult, writeBootImage } from "../../vm/index.ts";
import type { Daemon } from "../daemon.ts";
import {
  assertNoErrors,
  blk,
  type GuestHost,
  killAndRestart,
  limit,
  rounds,
  scenario,
  until,
  verifiedFio,
  volumeFile,
} from "./guest-fixture.ts";

/** Between two kills: long enough that requests flow again, short enough to hit a recovery. */
const PAUSES_MS: readonly number[] = [1500, 900, 300, 2000, 100];
const AWAY_MS = 6000;

async function runFio(guest: Guest, device: string, seconds: number): Promise<RunResult> {
  const timeoutMs = limit("KILL").timeout;
  // Large and small requests, so that a kill finds long lists of segments in flight as well.
  const more = "--bsrange=4k-64k --blockalign=4k --iodepth_batch_submit=8";
  return await guest.run(verifiedFio({ device, size: "64M", seconds, more }), { timeoutMs });
}

function assertVerified(host: GuestHost, results: readonly RunResult[]): void {
  for (const { exitCode, stdout, stderr } of results) {
    assert.equal(exitCode, 0, stdout + stderr);
    // fio's own word for the longest that one request took.
    const slowest = [...stdout.matchAll(/ lat \((.sec)\): .*max=([^,]+)/g)];
    host.say(`slowest: ${slowest.map(([, unit, max]) => `${max} ${unit}`).join(", ")}`);
  }
}

/** Two disks of different kinds; returns their sockets. */
async function twoVolumes(daemon: Daemon): Promise<[string, string]> {
  const onDisk = await daemon.volume("disk", ["--size", "64M"]);
  const buffered = await daemon.volume("buffered", ["--size", "64M", "--direct", "off"]);
  return [onDisk, buffered];
}

scenario("kill -9 under verified I/O, again and again", limit("KILL"), async (host) => {
  const daemon = await host.daemon();
  const [split, packed] = await twoVolumes(daemon);
  const guest = await host.guest({
    cpuCount: 2,
    disks: [blk(split, { queueCount: 2 }), blk(packed, { queueCount: 2, packed: true })],
  });
  const seconds = 4 + 2 * rounds("KILL");
  const load = ["/dev/vda", "/dev/vdb"].map((device) => runFio(guest, device, seconds));
  let over = false;
  const ended = Promise.all(load).finally(() => {
    over = true;
  });
  await guest.must("until pidof fio; do usleep 20000; done");
  let duringLoad = 0;
  for (let round = 0; round < rounds("KILL"); round++) {
    await sleep(PAUSES_MS[round % PAUSES_MS.length] as number);
    if (!over) duringLoad += 1;
    await killAndRestart(daemon);
  }
  assertVerified(host, await ended);
  assert.equal(duringLoad, rounds("KILL"), "every kill came while fio ran");
  await assertNoErrors(guest);
});

scenario("a stop in order, and a daemon that is away for seconds", limit(), async (host) => {
  const daemon = await host.daemon();
  const sockets = await twoVolumes(daemon);
  const guest = await host.guest({
    cpuCount: 2,
    disks: sockets.map((socket) => blk(socket, { queueCount: 2 })),
  });
  const load = ["/dev/vda", "/dev/vdb"].map((device) => runFio(guest, device, 14));
  await guest.must("until pidof fio; do usleep 20000; done");
  daemon.signal("SIGTERM");
  await daemon.waitForExit();
  await sleep(AWAY_MS);
  // Its disks are gone, but the guest itself lives.
  assert.equal(await guest.must("echo alive"), "alive\n");
  await daemon.launch();
  assertVerified(host, await Promise.all(load));
  await assertNoErrors(guest);
});

scenario(
  "QEMU started before the daemon; a kill while the firmware boots",
  limit(),
  async (host) => {
    const daemon = await host.daemon();
    await daemon.json(["volume", "create", "boot", "--size", "128M"]);
    const image = await ensureBootImage({ initramfs: { programs: [] } });
    await writeBootImage(image, await volumeFile(daemon, "boot"));
    const { socket } = await daemon.json(["volume", "attach", "boot"]);
    daemon.kill();
    await daemon.waitForExit();
    const booting = host.guest({ bootFrom: "disk", disks: [blk(socket, { bootIndex: 0 })] });
    booting.catch(() => undefined);
    await sleep(2000);
    await daemon.launch();
    await daemon.waitForApi();
    // The firmware and the boot loader read with requests of their own, one at a time.
    const { backing: _, ...first } = await until(
      () => daemon.json(["volume", "show", "boot"]),
      (volume) => volume.state === "connected",
      "connected",
    );
    assert.equal(first.attachment.sessionCount, 1);
    for (let round = 0; round < 3; round++) {
      await sleep(200);
      await killAndRestart(daemon);
    }
    const guest = await booting;
    assert.match(await guest.must("cat /proc/cmdline"), /BOOT_IMAGE=\/vmlinuz/);
    await assertNoErrors(guest);
  },
);

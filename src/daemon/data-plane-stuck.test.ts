// A local device that hangs: reported, nobody else held up, calls and the stop bounded, and its
// late I/O fenced from the successor. A frozen file system on a loop device plays the device.

import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { runLoadInChild, startLoad } from "../load/index.ts";
import type { AttachmentSpec, VolumeSpec, VolumeStats } from "../ports/data-plane.ts";
import { formatImage, mountImage, runs } from "../testing/soak/loop-mount.ts";
import { BackingOpening, closeBacking } from "../uring/index.ts";
import { PlaneHost } from "./_test-host.ts";
import { MIB, volume } from "./_test-plane.ts";

let folder = "";
let mountPoint = "";
let cannot = "";
let host: PlaneHost;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "rs-stuck-"));
  mountPoint = join(folder, "mnt");
  mkdirSync(mountPoint);
  const image = join(folder, "image");
  const isMounted = formatImage(image, 64 * MIB) && mountImage(image, mountPoint);
  const canFreeze = isMounted && freeze() && thaw();
  cannot = canFreeze ? "" : "no loop device can be mounted and frozen here (needs root)";
  host = new PlaneHost();
  if (canFreeze) await host.start({ limits: { detachMs: 500, stopMs: 500, stuckMs: 1500 } });
});

afterEach(async () => {
  thaw();
  await host.kill();
  runs("umount", mountPoint);
  rmSync(folder, { recursive: true });
});

function freeze(): boolean {
  return runs("fsfreeze", "--freeze", mountPoint);
}

function thaw(): boolean {
  return runs("fsfreeze", "--unfreeze", mountPoint);
}

function attachmentOf(spec: VolumeSpec): AttachmentSpec {
  return {
    volumeId: spec.id,
    socketPath: join(folder, `${spec.name}.sock`),
    socketMode: 0o660,
    socketGroupId: -1,
    queueCountMax: 4,
    packedAllowed: true,
    readOnly: false,
  };
}

async function serve(spec: VolumeSpec): Promise<string> {
  await host.call("openVolume", spec, { create: true });
  const attachment = attachmentOf(spec);
  await host.call("attach", attachment);
  return attachment.socketPath;
}

async function statsOf(spec: VolumeSpec): Promise<VolumeStats> {
  const all = await host.call<readonly VolumeStats[]>("volumeStats");
  const stats = all.find(({ volumeId }) => volumeId === spec.id);
  assert.ok(stats !== undefined);
  return stats;
}

async function until(condition: () => Promise<boolean>, what: string): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!(await condition())) {
    assert.ok(performance.now() < deadline, `in vain: ${what}`);
    await sleep(50);
  }
}

/** A volume on the file system that freezes, with writes that hang in it. */
async function hang(): Promise<{ spec: VolumeSpec; load: ReturnType<typeof startLoad> }> {
  const path = join(mountPoint, "data");
  const spec = volume("slow", { kind: "file", path, direct: "auto" });
  const socketPath = await serve(spec);
  const load = startLoad({ socketPath, readPercent: 0, runtimeMs: 60_000, warmupMs: 0, depth: 8 });
  load.report.catch(() => undefined);
  await until(async () => (await statsOf(spec)).writeCount > 100, "the load writes");
  assert.ok(freeze());
  let before = -1;
  await until(async () => {
    const { writeCount } = await statsOf(spec);
    const isStill = writeCount === before;
    before = writeCount;
    return isStill;
  }, "the writes hang");
  return { spec, load };
}

function tryToOpen(spec: VolumeSpec): BackingOpening {
  const { backing, sizeBytes } = spec;
  assert.equal(backing.kind, "file");
  const { path } = backing as { path: string };
  const options = { path, direct: "auto", sizeBytes, blockBytes: 512 } as const;
  return new BackingOpening({ ...options, create: false, readOnly: false });
}

test("a device that hangs is reported, and holds up nobody else", async (t) => {
  if (cannot !== "") return t.skip(cannot);
  const { spec, load } = await hang();
  await until(async () => (await statsOf(spec)).health.length > 0, "it is reported");
  const [item] = (await statsOf(spec)).health;
  assert.equal(item?.code, "DEVICE_STUCK");
  assert.match(item?.message ?? "", /mnt\/data has not answered a request for \d+ s/);
  // The same reactor serves this one.
  const other = volume("other", { kind: "memory" });
  const socketPath = await serve(other);
  const report = await runLoadInChild({ socketPath, requestCount: 1000, warmupMs: 0 });
  assert.equal(report.errorCount, 0);
  const timedOut = { code: "TIMED_OUT", message: /did not finish detach in 500 ms/ };
  await assert.rejects(host.call("detach", spec.id), timedOut);
  thaw();
  await until(async () => {
    const stats = await host.call<readonly VolumeStats[]>("volumeStats");
    return stats.every(({ volumeId }) => volumeId !== spec.id);
  }, "the detach ends when the device answers");
  load.kill();
  await host.call("closeVolume", spec.id);
  await host.call("stop");
});

test("a stop is bounded, and keeps the lock of what still hangs", async (t) => {
  if (cannot !== "") return t.skip(cannot);
  const { spec, load } = await hang();
  const start = performance.now();
  await host.call("stop");
  const tookMs = performance.now() - start;
  assert.ok(tookMs >= 500, `${tookMs} ms: it waited for the device`);
  assert.ok(tookMs < 10_000, `${tookMs} ms`);
  const opening = tryToOpen(spec);
  assert.equal(opening.attempt(), false, "the lock is still held");
  thaw();
  await host.kill();
  load.kill();
  await until(async () => opening.attempt(), "the lock is free with the process");
  closeBacking(opening.finish());
});

test("killed with I/O that hangs: no free lock before the last of it has landed", async (t) => {
  if (cannot !== "") return t.skip(cannot);
  const { spec, load } = await hang();
  const gone = host.kill();
  load.kill();
  const opening = tryToOpen(spec);
  const deadline = performance.now() + 1000;
  while (performance.now() < deadline) {
    assert.equal(opening.attempt(), false, "free while its predecessor's writes hang");
    await sleep(20);
  }
  assert.ok(existsSync(join(mountPoint, "data")));
  thaw();
  await gone;
  await until(async () => opening.attempt(), "the lock is free");
  closeBacking(opening.finish());
});

// --reconnect against our own back-end, killed under verified load: the socket path stays the
// same (a symbolic link follows the living target), the disk is the same file, the requests in
// flight are finished by the successor.

import assert from "node:assert/strict";
import { mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { startTarget, type Target } from "../testing/target.ts";
import { startLoad } from "./child.ts";
import { LoadError } from "./errors.ts";
import type { LoadOptions } from "./options.ts";

const MIB = 1024 * 1024;
const KILLS = 3;

/** Points `link` at the target's socket, at no moment at nothing. */
function pointTo(link: string, socketPath: string): void {
  symlinkSync(socketPath, `${link}.new`);
  renameSync(`${link}.new`, link);
}

function scratch(context: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "ringstore-load-"));
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

async function serve(context: TestContext, folder: string): Promise<Target> {
  const target = await startTarget(context);
  const backing = { kind: "file", path: join(folder, "disk") } as const;
  pointTo(join(folder, "socket"), await target.add({ name: "disk", backing, sizeBytes: 16 * MIB }));
  return target;
}

const RUNS: readonly Partial<LoadOptions>[] = [
  { queueCount: 2 },
  { packed: true, polling: true },
  { blockBytes: 65536, readPercent: 90, depth: 16 },
];

for (const options of RUNS) {
  test(`${KILLS} kills under verified load: ${JSON.stringify(options)}`, async (context) => {
    const folder = scratch(context);
    let target = await serve(context, folder);
    const stopFile = join(folder, "stop");
    const run = startLoad({
      socketPath: join(folder, "socket"),
      reconnect: true,
      verify: true,
      areaBytes: 8 * MIB,
      readPercent: 50,
      warmupMs: 0,
      runtimeMs: 120_000,
      stopFile,
      ...options,
    });
    const report = run.report.finally(() => run.kill());
    report.catch(() => undefined);
    for (let kill = 0; kill < KILLS; kill++) {
      await target.until((counts) => counts.devices["disk"]?.connected === true, "connected");
      await sleep(200);
      await target.kill();
      target = await serve(context, folder);
    }
    await target.until((counts) => counts.devices["disk"]?.connected === true, "connected");
    await sleep(200);
    writeFileSync(stopFile, "");
    const result = await report;
    assert.deepEqual(result.failures, []);
    assert.equal(result.ok, true);
    assert.equal(result.reconnectCount, KILLS);
    assert.equal(result.targetCpuUsPerRequest, null);
    assert.ok(result.longestPauseMs > 0);
    assert.ok((result.verify?.checkedBlocks ?? 0) > 100);
    assert.ok((result.canary?.checkedBuffers ?? 0) > 100);
  });
}

test("nobody comes back: the run ends with an error after its time limit", async (context) => {
  const folder = scratch(context);
  const target = await serve(context, folder);
  const run = startLoad({
    socketPath: join(folder, "socket"),
    reconnect: true,
    runtimeMs: 60_000,
    reconnectTimeoutMs: 300,
    progress: () => void target.kill(),
  });
  await assert.rejects(
    run.report,
    (error) => error instanceof LoadError && error.code === "CONNECT_FAILED",
  );
});

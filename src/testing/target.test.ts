// target.ts: a target serves, counts, holds back, and never outlives its test.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { FrontEnd } from "../load/index.ts";
import { startTarget, Target } from "./target.ts";

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

test("a target answers, counts sessions, and forgets them", async (t) => {
  const target = await startTarget(t);
  const path = await target.add({ name: "one", queueCountMax: 7, serial: "serial-1" });
  const before = await target.counts();
  const frontEnd = FrontEnd.connect(path);
  assert.equal(frontEnd.peerPid, target.pid);
  assert.equal(frontEnd.getQueueNum(), 7);
  const during = await target.counts();
  assert.equal(during.devices["one"]?.sessionCount, 1);
  assert.equal(during.fdCount, before.fdCount + 1);
  assert.equal(during.watchCount, before.watchCount + 1);
  assert.equal(during.arenaCount, before.arenaCount + 1);
  frontEnd.close();
  const after = await target.until((counts) => counts.devices["one"]?.sessionCount === 0, "closed");
  assert.equal(after.fdCount, before.fdCount);
  await assert.rejects(target.resize("two", 512), /no device two/);
  await target.remove("one");
  assert.ok(!existsSync(path));
});

test("a target that dies makes calls reject with its last words", async (t) => {
  const target = await startTarget(t);
  process.kill(target.pid, "SIGKILL");
  await assert.rejects(target.counts(), /ended \(SIGKILL\)/);
  await assert.rejects(target.counts(), /ended \(SIGKILL\)/);
  assert.ok(!target.alive);
});

test("stop() removes the process and its folder", async () => {
  const target = new Target();
  await target.add({ name: "one" });
  await target.stop();
  assert.ok(!isRunning(target.pid));
  assert.ok(!existsSync(target.folder));
});

test("a target ends with the process that started it, however that ends", async (t) => {
  const entry = fileURLToPath(new URL("./target.js", import.meta.url));
  const script = `
    import { Target } from ${JSON.stringify(entry)};
    import { rmSync } from "node:fs";
    const target = new Target();
    await target.counts();
    rmSync(target.folder, { recursive: true });
    console.log(target.pid);
    setInterval(() => {}, 1000);
  `;
  const args = ["--input-type=module", "--eval", script];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  const [data] = (await once(child.stdout, "data")) as [Buffer];
  const pid = Number(data.toString("utf8"));
  assert.ok(isRunning(pid));
  child.kill("SIGKILL");
  for (let attempt = 0; attempt < 500 && isRunning(pid); attempt++) await sleep(10);
  assert.ok(!isRunning(pid), "the target outlived its test");
});

// Ending processes: the right one, at its own pace, and never one that merely has its number.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { endProcess, forget, isRunning, readRecords, startTicksOf } from "./processes.mjs";

const folder = mkdtempSync(join(tmpdir(), "p-"));
const children = [];
after(() => {
  for (const child of children) child.kill("SIGKILL");
  rmSync(folder, { recursive: true, force: true });
});

/** A process that sleeps, as a record that names it; resolves once it has set itself up. */
async function start(script, name = "sleeper") {
  const child = spawn("bash", ["-c", `${script} echo up; while :; do sleep 0.1; done`], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  children.push(child);
  await new Promise((resolve) => child.stdout.once("data", resolve));
  const record = { pid: child.pid, startTicks: startTicksOf(child.pid) };
  writeFileSync(join(folder, `${name}.pid`), JSON.stringify(record));
  const [found] = readRecords(folder).filter((one) => one.name === name);
  return { child, record: found };
}

const LIMITS = { graceMs: 20_000, killMs: 20_000 };

test("a process ends when asked", async () => {
  const { child, record } = await start("");
  const exit = new Promise((resolve) => child.on("exit", (_code, signal) => resolve(signal)));
  assert.equal(isRunning(record), true);
  assert.equal(await endProcess(record, LIMITS), "ended");
  assert.equal(await exit, "SIGTERM");
  assert.equal(await endProcess(record, LIMITS), "gone");
  forget(record);
  assert.equal(existsSync(record.path), false);
});

test("a process that does not listen is killed", async () => {
  const { child, record } = await start("trap '' TERM;");
  const exit = new Promise((resolve) => child.on("exit", (_code, signal) => resolve(signal)));
  assert.equal(await endProcess(record, { ...LIMITS, graceMs: 200 }), "killed");
  assert.equal(await exit, "SIGKILL");
});

test("a process that merely has the number is left alone", async () => {
  const { child, record } = await start("");
  for (const other of [{ startTicks: record.startTicks - 1 }, { bootId: "another boot" }]) {
    assert.equal(await endProcess({ ...record, ...other }, LIMITS), "gone");
    assert.equal(child.exitCode, null);
    assert.equal(isRunning(record), true);
  }
});

test("records that make no sense name nobody", () => {
  for (const text of ["", "null", "[]", "{}", '{"pid":1,"startTicks":1}', '{"pid":"5"}', "7"]) {
    writeFileSync(join(folder, "odd.pid"), text);
    const [record] = readRecords(folder).filter((one) => one.name === "odd");
    assert.equal(record.pid, 0, text);
    assert.equal(isRunning(record), false);
  }
  rmSync(join(folder, "odd.pid"));
});

test("records come in the order in which to end them", () => {
  const order = mkdtempSync(join(folder, "o-"));
  const write = (name, record) => writeFileSync(join(order, name), JSON.stringify(record));
  write("daemon.pid", { pid: 5, startTicks: 5, stopOrder: 2 });
  write("guest-b.pid", { pid: 6, startTicks: 5 });
  write("guest-a.pid", { pid: 7, startTicks: 5 });
  write("notes.txt", {});
  const names = readRecords(order).map((one) => one.name);
  assert.deepEqual(names, ["guest-a", "guest-b", "daemon"]);
  assert.deepEqual(readRecords(join(order, "missing")), []);
});

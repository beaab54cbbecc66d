// A defect on any thread ends the whole process, by signal, at once, and says why: processes with
// a planted defect, observed from outside.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import * as sys from "../sys/index.ts";

const PROGRAM = fileURLToPath(new URL("./_test-fatal.js", import.meta.url));
/** The promise. A loaded machine may break it now and then, not every time. */
const GONE_WITHIN_MS = 100;
const ATTEMPTS = 6;
const PATIENCE_MS = 20_000;

interface Death {
  readonly signal: NodeJS.Signals | null;
  readonly stderr: string;
  readonly tookMs: number;
}

/** Runs the program until it dies. `stderrFd`: where its stderr goes, read by nobody. */
async function die(mode: string, stderrFd?: number): Promise<Death> {
  const child = spawn(process.execPath, [PROGRAM, mode], {
    stdio: ["ignore", "pipe", stderrFd ?? "pipe"],
  });
  const patience = setTimeout(() => child.kill("SIGKILL"), PATIENCE_MS);
  let announced = "";
  let stderr = "";
  let endedMs = 0;
  child.stdout?.on("data", (data) => (announced += String(data)));
  child.stderr?.on("data", (data) => (stderr += String(data)));
  child.once("exit", () => (endedMs = performance.timeOrigin + performance.now()));
  const [, signal] = (await once(child, "close")) as [number | null, NodeJS.Signals | null];
  clearTimeout(patience);
  assert.notEqual(announced, "", `the defect was never reached:\n${stderr}`);
  const [announcedMs] = announced.split("\n");
  return { signal, stderr, tookMs: endedMs - Number(announcedMs) };
}

/** Dies as promised, within the promised time at least once. */
async function expectDeath(mode: string, words: RegExp): Promise<string> {
  const times: number[] = [];
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const { signal, stderr, tookMs } = await die(mode);
    assert.equal(signal, "SIGABRT", `ended by ${signal}:\n${stderr}`);
    assert.match(stderr, words);
    times.push(Math.round(tookMs));
    if (tookMs < GONE_WITHIN_MS) return stderr;
  }
  assert.fail(`gone only after ${times.join(", ")} ms`);
}

test("a throw on the main thread, while the reactors sleep in the kernel", async () => {
  await expectDeath("main-throw", /planted on the main thread/);
});

test("an unhandled rejection on the main thread", async () => {
  await expectDeath("main-reject", /planted rejection/);
});

test("a throw in a reactor's loop: with what the reactor logged before", async () => {
  const stderr = await expectDeath("reactor-loop", /planted in a reactor's loop/);
  const lines = stderr.trim().split("\n");
  const records = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  const last = records.at(-1);
  assert.equal(last?.["event"], "daemon.defect");
  assert.equal(last?.["reactor"], 1);
  assert.match(String(last?.["stack"]), /_test-fatal/, "with its stack");
  const words = records.find(({ event }) => event === "last words of the reactor");
  assert.equal(words?.["why"], "a test");
});

test("a throw in a reactor's loop while the main thread is busy", async () => {
  await expectDeath("reactor-loop-main-busy", /planted in a reactor's loop/);
});

test("a failed assertion in a reactor's loop", async () => {
  await expectDeath("reactor-assert", /AssertionFailure: planted assertion/);
});

test("a stack overflow in a reactor's loop", async () => {
  await expectDeath("reactor-overflow", /Maximum call stack size exceeded/);
});

test("a throw while a reactor starts", async () => {
  await expectDeath("reactor-start", /planted in a reactor's start/);
});

test("a throw while a reactor's modules load", async () => {
  await expectDeath("reactor-module", /planted while a reactor's modules load/);
});

test("a reactor that ends without having been told to", async () => {
  await expectDeath("reactor-exit", /reactor 1 ended by itself/);
});

test("a stderr that nobody reads does not keep the process alive", async () => {
  const [readEnd, writeEnd] = sys.pipe();
  const memory = new sys.SystemMemory();
  const arena = memory.allocate(65536);
  while (sys.pollOne(writeEnd, sys.POLLOUT, 0) !== 0) sys.write(writeEnd, arena.address, 4096);
  const { signal, tookMs } = await die("reactor-loop-stderr-full", writeEnd);
  assert.equal(signal, "SIGABRT");
  assert.ok(tookMs < PATIENCE_MS / 2, `${tookMs} ms`);
  memory.free(arena);
  sys.close(readEnd);
  sys.close(writeEnd);
});

// The runner sees every way in which a test file can go wrong, and counts what went right.

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { startTicksOf } from "./processes.mjs";
import { runGroup } from "./test-run.mjs";

const root = mkdtempSync(join(tmpdir(), "r-"));
after(() => rmSync(root, { recursive: true, force: true }));
let runCount = 0;

/** Runs one file of tests; gives its outcome and all that was written. */
async function runText(lines, { limitMs = 60_000, signal = new AbortController().signal } = {}) {
  const folder = join(root, String(runCount++));
  mkdirSync(folder);
  const path = join(folder, "x.test.mjs");
  const head = 'import { test, describe } from "node:test"; import assert from "node:assert";';
  writeFileSync(path, [head, ...lines].join("\n"));
  let output = "";
  const group = { name: "g", files: [path], concurrency: 1, limitMs };
  const write = (text) => {
    output += text;
  };
  const [outcome] = await runGroup(group, { folder, signal, write });
  return { ...outcome, output };
}

test("what passes, fails and is skipped is counted and named", async () => {
  const { counts, problems, entries, output } = await runText([
    'test("good", () => {});',
    'test("bad", () => assert.equal(1, 2));',
    'test("later", { skip: "no KVM here" }, () => {});',
    'test("outer", async (t) => { await t.test("inner", () => {}); });',
    'describe("suite", () => { test("in suite", () => { throw new Error("why"); }); });',
    'test("says", (t) => t.diagnostic("a figure"));',
  ]);
  assert.deepEqual(problems, []);
  assert.deepEqual(counts, {
    tests: 7,
    suites: 1,
    pass: 4,
    fail: 2,
    cancelled: 0,
    skipped: 1,
    todo: 0,
  });
  assert.match(output, /✔ \S+ › good \(\d+ ms\)/);
  assert.match(output, /✖ \S+ › bad [\s\S]*1 == 2/);
  assert.match(output, /﹣ \S+ › later .*no KVM here/);
  assert.match(output, /✔ \S+ › outer › inner /);
  assert.match(output, /✖ \S+ › suite › in suite [\s\S]*Error: why/);
  assert.match(output, /\S+ › a figure/);
  const errors = entries.filter(({ error }) => error !== undefined);
  assert.deepEqual(
    errors.map(({ name }) => name),
    ["bad", "suite › in suite"],
  );
  assert.match(errors[0].error, /1 == 2/);
});

test("a file that ends before its tests is no success", async () => {
  const early = await runText(['test("a", () => {});', 'test("b", () => process.exit(0));']);
  assert.deepEqual(early.problems, ["ended before its tests did"]);
  const broken = await runText(['import "./missing.mjs";']);
  assert.equal(broken.problems.length, 1);
  assert.match(broken.output, /ERR_MODULE_NOT_FOUND/);
  const hooks =
    'describe("s", () => { test("a", () => {}); after(() => { throw new Error("x"); }); });';
  const hook = await runText(['import { after } from "node:test";', hooks]);
  assert.ok(hook.problems.length + hook.counts.fail > 0);
});

test("a file that dies by a signal is no success, and says where it was", async () => {
  const { problems } = await runText([
    'test("deadly", async () => {',
    '  setTimeout(() => process.kill(process.pid, "SIGKILL"), 300);',
    "  await new Promise(() => {});",
    "});",
  ]);
  assert.deepEqual(problems, ["was ended by SIGKILL; last begun: deadly"]);
});

test("a file that does not end is ended, even when it does not listen", async () => {
  const { problems, durationMs } = await runText(
    [
      'process.on("SIGTERM", () => {});',
      'test("endless", () => new Promise(() => setInterval(() => {}, 1000)));',
    ],
    { limitMs: 3_000 },
  );
  // A loaded machine may not have begun with the test by then.
  assert.equal(problems.length, 1);
  assert.match(problems[0], /^took longer than 3 s; last begun: (endless|nothing yet)$/);
  assert.ok(durationMs < 60_000);
});

test("a process left behind is ended, and counts against the file", async () => {
  const { problems, output } = await runText([
    'import { spawn } from "node:child_process";',
    'test("leaves", (t) => {',
    '  const child = spawn("sleep", ["300"], { detached: true, stdio: "ignore" });',
    "  child.unref();",
    "  t.diagnostic(`child ${child.pid}`);",
    "});",
  ]);
  const pid = Number(output.match(/child (\d+)/)[1]);
  assert.deepEqual(problems, [`left a process running: ${pid} sleep 300`]);
  assert.equal(startTicksOf(pid), null);
});

test("files left behind are named and taken away", async () => {
  const { problems, output } = await runText([
    'import { writeFileSync } from "node:fs"; import { tmpdir } from "node:os";',
    'test("writes", () => writeFileSync(`${tmpdir()}/left.txt`, ""));',
  ]);
  assert.deepEqual(problems, []);
  assert.match(output, /left left\.txt in the temporary folder/);
});

test("once stopped, nothing more is run", async () => {
  const signal = AbortSignal.abort();
  const { problems } = await runText(['test("a", () => {});'], { signal });
  assert.deepEqual(problems, ["was not run"]);
});

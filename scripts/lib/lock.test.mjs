// The set-up lock: one holder at a time, across processes, and none left when a holder is killed.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";

const folder = mkdtempSync(join(tmpdir(), "l-"));
after(() => rmSync(folder, { recursive: true, force: true }));

/** A process that takes the lock, prints "in", and lets go when told (or when killed). */
function holder() {
  const script = `
    import { withLock } from ${JSON.stringify(new URL("./lock.mjs", import.meta.url).href)};
    await withLock("test", async () => {
      process.stdout.write("in");
      await new Promise((resolve) => process.stdin.once("data", resolve));
      process.stdout.write("out");
    }, process.argv[1]);
    process.stdin.unref();
  `;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script, folder], {
    stdio: ["pipe", "pipe", "ignore"],
  });
  let printed = "";
  child.stdout.setEncoding("utf8").on("data", (text) => {
    printed += text;
  });
  const ended = new Promise((resolve) => child.on("close", resolve));
  const until = async (text) => {
    while (printed !== text) await Promise.race([new Promise((r) => setTimeout(r, 20)), ended]);
  };
  return { child, ended, until, printed: () => printed };
}

test("the second waits for the first", async () => {
  const first = holder();
  await first.until("in");
  const second = holder();
  await new Promise((resolve) => setTimeout(resolve, 500));
  assert.equal(second.printed(), "");
  first.child.stdin.write("x");
  await second.until("in");
  assert.equal(first.printed(), "inout");
  second.child.stdin.write("x");
  await Promise.all([first.ended, second.ended]);
});

test("a killed holder leaves no lock", async () => {
  const first = holder();
  await first.until("in");
  const second = holder();
  first.child.kill("SIGKILL");
  await second.until("in");
  second.child.stdin.write("x");
  await Promise.all([first.ended, second.ended]);
});

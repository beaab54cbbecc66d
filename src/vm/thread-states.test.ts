// That a stalled process is described as what it is.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { describeThreads } from "./thread-states.ts";

test("a process that computes and one that sleeps are told apart", async () => {
  const busy = spawn("sh", ["-c", "while :; do :; done"]);
  const idle = spawn("sleep", ["100"]);
  try {
    await Promise.all([once(busy, "spawn"), once(idle, "spawn")]);
    const [computes, sleeps] = await Promise.all(
      [busy, idle].map(({ pid }) => describeThreads(pid as number)),
    );
    assert.match(computes as string, /^sh [RS].*, [1-9]\d* % CPU$/);
    assert.match(sleeps as string, /^sleep S.*, 0 % CPU$/);
  } finally {
    busy.kill("SIGKILL");
    idle.kill("SIGKILL");
  }
  await Promise.all([once(busy, "exit"), once(idle, "exit")]);
  assert.equal(await describeThreads(busy.pid as number), "no such process");
});

// The host's side of the agent against a guest played by the test. That the real guest's script
// speaks the same protocol is shown by qemu.test.ts.

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { GuestAgent } from "./guest-agent.ts";

interface PlayedGuest {
  readonly agent: GuestAgent;
  readonly port: Socket;
  /** The next line from the host. */
  line(): Promise<string>;
}

async function play(
  t: TestContext,
  options: { incoming: boolean; resendMs?: number } = { incoming: false },
): Promise<PlayedGuest> {
  const directory = await mkdtemp(join(tmpdir(), "ringstore-agent-"));
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(join(directory, "s"), resolve));
  const accepted = new Promise<Socket>((resolve) => server.once("connection", resolve));
  const port = connect(join(directory, "s"));
  const agent = new GuestAgent(options);
  agent.attach(await accepted);
  const lines: string[] = [];
  const readers: ((line: string) => void)[] = [];
  let rest = "";
  port.setEncoding("utf8").on("data", (text: string) => {
    const whole = (rest + text).split("\n");
    rest = whole.pop() ?? "";
    for (const line of whole) {
      const reader = readers.shift();
      if (reader === undefined) lines.push(line);
      else reader(line);
    }
  });
  t.after(async () => {
    agent.close("The test is over.");
    port.destroy();
    server.close();
    await rm(directory, { recursive: true });
  });
  const line = (): Promise<string> => {
    const ready = lines.shift();
    if (ready !== undefined) return Promise.resolve(ready);
    return new Promise((resolve) => readers.push(resolve));
  };
  return { agent, port, line };
}

async function ready(guest: PlayedGuest): Promise<void> {
  const boots = guest.agent.boots + 1;
  guest.port.write("READY 1 6.1.0\n");
  await guest.agent.waitForBoot(boots, 5000);
}

function base64(text: string): string {
  return Buffer.from(text).toString("base64");
}

test("a command and its answer, in pieces and amid noise", async (t) => {
  const guest = await play(t);
  await assert.rejects(guest.agent.run("early"), { code: "option" });
  guest.port.write("login: \x1b[0m\n");
  await ready(guest);
  const result = guest.agent.run("echo hällo");
  assert.equal(
    await guest.line(),
    `RUN 1 ${base64("echo hällo\n").length} ${base64("echo hällo\n")}`,
  );
  const answer = `ACK 1\r\nOUT 1 ${base64("hällo\n")}\r\nERR 1 \nEND 1 7 7 0\n`;
  for (const character of answer) guest.port.write(character);
  assert.deepEqual(await result, { exitCode: 7, stdout: "hällo\n", stderr: "" });
});

test("a command that does not end is killed and its late answer ignored", async (t) => {
  const guest = await play(t);
  await ready(guest);
  const slow = guest.agent.run("sleep 100", { timeoutMs: 50 });
  await guest.line();
  guest.port.write("ACK 1\n");
  await assert.rejects(slow, { code: "timeout", message: /sleep 100/ });
  assert.equal(await guest.line(), "KILL 1");
  guest.port.write("OUT 1 \nERR 1 \nEND 1 137 0 0\n");
  const next = guest.agent.run("true");
  assert.match(await guest.line(), /^RUN 2 /);
  guest.port.write("ACK 2\nOUT 2 \nERR 2 \nEND 2 0 0 0\n");
  assert.equal((await next).exitCode, 0);
});

test("a command that gets lost on the way is sent again until it is acknowledged", async (t) => {
  const guest = await play(t, { incoming: false, resendMs: 50 });
  await ready(guest);
  const result = guest.agent.run("true", { timeoutMs: 20_000 });
  const sent = await guest.line();
  for (let copy = 1; copy <= 2; copy++) {
    assert.equal(await guest.line(), "", "ends what may be left of the lost one");
    assert.equal(await guest.line(), sent);
  }
  guest.port.write("ACK 1\nOUT 1 \nERR 1 \nEND 1 0 0 0\n");
  assert.equal((await result).exitCode, 0);
});

test("a reboot, and the end of QEMU, reject what was running", async (t) => {
  const guest = await play(t);
  await ready(guest);
  const first = guest.agent.run("first");
  await ready(guest);
  assert.equal(guest.agent.boots, 2);
  await assert.rejects(first, { code: "gone", message: /started anew.*first/ });
  const second = guest.agent.run("second");
  guest.port.destroy();
  await guest.agent.drained;
  guest.agent.close("QEMU ended (signal SIGKILL).");
  await assert.rejects(second, { code: "gone", message: /SIGKILL.*second/s });
  await assert.rejects(guest.agent.waitForBoot(3, 1000), { code: "gone" });
});

test("output beyond the limit is an error, not a cut result", async (t) => {
  const guest = await play(t);
  await ready(guest);
  const result = guest.agent.run("cat /dev/zero");
  guest.port.write(`ACK 1\nOUT 1 ${base64("x")}\nERR 1 \nEND 1 0 99999999 0\n`);
  await assert.rejects(result, { code: "command", message: /99999999 bytes/ });
});

test("an agent of another version is refused", async (t) => {
  const guest = await play(t);
  const boot = guest.agent.waitForBoot(1, 5000);
  guest.port.write("READY 2 6.1.0\n");
  await assert.rejects(boot, { code: "gone", message: /version 2/ });
});

test("after a migration the destination answers what the source was asked", async (t) => {
  const source = await play(t);
  const target = await play(t, { incoming: true });
  await ready(source);
  const half = source.agent.run("half", { timeoutMs: 5000 });
  const unread = source.agent.run("unread", { timeoutMs: 5000 });
  const late = source.agent.run("late", { timeoutMs: 2000 });
  // The guest has read two commands and is in the middle of an answer when it moves on.
  source.port.write(`ACK 1\nACK 3\nOUT 1 ${base64("whole\n").slice(0, 3)}`);
  source.port.end();
  source.agent.release();
  await source.agent.drained;
  source.agent.close("QEMU quit.");
  // The destination's bytes may come before the hand-over.
  target.port.write(`${base64("whole\n").slice(3)}\nERR 1 \nEND 1 0 6 0\n`);
  await new Promise((resolve) => setTimeout(resolve, 50));
  target.agent.adopt(source.agent);
  assert.deepEqual(await half, { exitCode: 0, stdout: "whole\n", stderr: "" });

  // What was not acknowledged is sent again, after a line feed that ends any half line.
  assert.equal(await target.line(), "");
  assert.match(await target.line(), /^RUN 2 /);
  target.port.write("ACK 2\nOUT 2 \nERR 2 \nEND 2 4 0 0\n");
  assert.equal((await unread).exitCode, 4);
  await assert.rejects(late, { code: "timeout" });
  assert.equal(await target.line(), "KILL 3", "the limit is enforced where the guest is now");
  assert.equal(target.agent.boots, 1);
});

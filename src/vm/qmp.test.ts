// The QMP client against a QEMU played by the test.

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { QmpClient } from "./qmp.ts";

/** A client and the far end of its socket, where the test plays QEMU. */
async function pair(t: TestContext): Promise<{ client: QmpClient; qemu: Socket }> {
  const directory = await mkdtemp(join(tmpdir(), "ringstore-qmp-"));
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(join(directory, "s"), resolve));
  const accepted = new Promise<Socket>((resolve) => server.once("connection", resolve));
  const qemu = connect(join(directory, "s"));
  const client = new QmpClient(await accepted);
  qemu.setEncoding("utf8");
  t.after(async () => {
    client.close("The test is over.");
    qemu.destroy();
    server.close();
    await rm(directory, { recursive: true });
  });
  return { client, qemu };
}

function say(qemu: Socket, message: unknown): void {
  qemu.write(`${JSON.stringify(message)}\r\n`);
}

/** Answers each command with what `reply` returns, under the command's id. */
function answer(qemu: Socket, reply: (command: string) => Record<string, unknown>): void {
  let rest = "";
  qemu.on("data", (text: string) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const { execute, id } = JSON.parse(line) as { execute: string; id: number };
      say(qemu, { id, ...reply(execute) });
    }
  });
}

test("greeting, answers by id, refusals", async (t) => {
  const { client, qemu } = await pair(t);
  answer(qemu, (command) => {
    if (command === "bad") return { error: { class: "GenericError", desc: "No such device" } };
    return { return: { command } };
  });
  say(qemu, { QMP: { version: {} } });
  await client.negotiate(5000);
  assert.deepEqual(await Promise.all([client.execute("one"), client.execute("two")]), [
    { command: "one" },
    { command: "two" },
  ]);
  await assert.rejects(client.execute("bad"), {
    code: "qmp",
    message: "QEMU refused bad: No such device",
  });
});

test("a command without answer ends at its limit, and a late answer harms nobody", async (t) => {
  const { client, qemu } = await pair(t);
  await assert.rejects(client.execute("slow", {}, 50), { code: "timeout", message: /slow/ });
  say(qemu, { id: 1, return: {} });
  answer(qemu, () => ({ return: "fine" }));
  assert.equal(await client.execute("next"), "fine");
});

test("events are found whether they came before the wait or come after", async (t) => {
  const { client, qemu } = await pair(t);
  answer(qemu, () => ({ return: {} }));
  const event = (name: string, device: string): unknown => {
    return { event: name, data: { device }, timestamp: { seconds: 1, microseconds: 2 } };
  };
  say(qemu, event("DEVICE_DELETED", "a"));
  await client.execute("anything"); // the event has been read by now
  assert.equal((await client.waitForEvent("DEVICE_DELETED")).data["device"], "a");

  const since = client.eventCount;
  const later = client.waitForEvent("DEVICE_DELETED", { since });
  const match = client.waitForEvent("DEVICE_DELETED", {
    match: (found) => found.data["device"] === "c",
  });
  say(qemu, event("DEVICE_DELETED", "b"));
  say(qemu, event("DEVICE_DELETED", "c"));
  assert.equal((await later).data["device"], "b");
  assert.equal((await match).data["device"], "c");
  await assert.rejects(client.waitForEvent("NEVER", { timeoutMs: 30 }), { code: "timeout" });
});

test("everything pending is rejected with the reason for the end", async (t) => {
  const { client, qemu } = await pair(t);
  const command = client.execute("x");
  const event = client.waitForEvent("Y");
  qemu.destroy();
  await client.drained;
  client.close("QEMU crashed.");
  await assert.rejects(command, { code: "gone", message: /QEMU crashed/ });
  await assert.rejects(event, { code: "gone", message: /QEMU crashed/ });
  await assert.rejects(client.execute("z"), { code: "gone" });
});

test("what is not QMP closes the connection", async (t) => {
  const { client, qemu } = await pair(t);
  const command = client.execute("x");
  qemu.write("HTTP/1.1 400 Bad Request\r\n");
  await assert.rejects(command, { code: "gone", message: /not QMP: HTTP/ });
});

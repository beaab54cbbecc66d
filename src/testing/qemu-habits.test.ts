// What QEMU does that the specification does not say, driven here without QEMU: each of these once
// made a guest hang or lose something, and a guest takes far longer to show it.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { FrontEnd } from "../load/index.ts";
import * as m from "../vhost-user/messages.ts";
import * as v from "../virtio/index.ts";
import { Victim, type VictimOptions } from "./hostile/victim.ts";
import { startTarget } from "./target.ts";

const STATUS_RUNNING = 0x0f;
const NEED_REPLY = m.FLAG_VERSION | m.FLAG_NEED_REPLY;
const WRITEBACK_OFFSET = 32;

async function device(t: TestContext): Promise<string> {
  const target = await startTarget(t);
  return await target.add({ name: "disk" });
}

function guest(t: TestContext, socketPath: string, options: VictimOptions = {}): Victim {
  const victim = new Victim(socketPath, options);
  t.after(() => victim.close());
  return victim;
}

for (const packed of [false, true]) {
  const kind = packed ? "packed" : "split";
  test(`QEMU 7.2 sends SET_STATUS 0 before GET_VRING_BASE: ${kind} rings`, async (t) => {
    const socketPath = await device(t);
    const victim = guest(t, socketPath, { packed });
    victim.frontEnd.setStatus(STATUS_RUNNING);
    for (let count = 0; count < 5; count++) victim.run(victim.read(count, 512));
    victim.frontEnd.setStatus(0);
    for (const index of [0, 1]) victim.frontEnd.setVringEnable(index, false);
    const base = victim.frontEnd.getVringBase(0);
    // What a migration's destination is told to go on with: five requests, three descriptors each.
    const expected = packed ? (15 | 0x8000) * 0x10001 : 5;
    assert.equal(base >>> 0, expected >>> 0);
  });
}

test("QEMU before 9.1 goes on with a new connection as if it were the old one", async (t) => {
  const socketPath = await device(t);
  const frontEnd = FrontEnd.connect(socketPath);
  t.after(() => frontEnd.close());
  const offered = frontEnd.getFeatures();
  frontEnd.setFeatures(offered);
  assert.equal(frontEnd.getStatus(), 0);
  const status = Uint8Array.of(STATUS_RUNNING, 0, 0, 0, 0, 0, 0, 0);
  // It waits for this answer with its main loop stopped.
  frontEnd.sendMessage({ request: m.SET_STATUS, flags: NEED_REPLY, payload: status });
  const reply = frontEnd.receiveMessage();
  assert.equal(reply.request, m.SET_STATUS);
  assert.deepEqual([...reply.payload], [0, 0, 0, 0, 0, 0, 0, 0]);

  // One that said which features it takes is taken at its word.
  const strict = FrontEnd.connect(socketPath);
  t.after(() => strict.close());
  strict.setProtocolFeatures(0n);
  strict.setFeatures(offered);
  strict.getStatus();
  strict.sendMessage({ request: m.SET_STATUS, flags: NEED_REPLY, payload: status });
  assert.equal(strict.getFeatures(), offered, "the next answer is that of the next question");
});

test("a migration's destination inherits the write cache setting", async (t) => {
  const socketPath = await device(t);
  const source = guest(t, socketPath);
  const early = guest(t, socketPath, { start: false });
  const writeback = (of: Victim): number => of.frontEnd.getConfig(WRITEBACK_OFFSET, 1)[0] as number;
  assert.equal(writeback(early), 1);
  source.frontEnd.setConfig(WRITEBACK_OFFSET, Uint8Array.of(0));
  const late = guest(t, socketPath, { start: false });
  assert.equal(writeback(late), 0, "it was so when the destination connected");
  assert.equal(source.run(source.read(0, 512)).status, v.BLK_S_OK);
  for (const index of [0, 1]) source.frontEnd.getVringBase(index);
  assert.equal(writeback(early), 0, "it was so when the source stopped");
  early.start();
  assert.equal(early.run(early.read(0, 512)).status, v.BLK_S_OK);

  // Whoever comes when nobody is there starts with a cache.
  for (const victim of [source, early, late]) victim.frontEnd.close();
  const fresh = await eventually(
    () => guest(t, socketPath, { start: false }),
    (of) => writeback(of) === 1,
  );
  assert.equal(writeback(fresh), 1);
});

/** Sessions end a moment after their sockets: tries anew for a while. */
async function eventually<T>(make: () => T, accept: (made: T) => boolean): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    const made = make();
    if (accept(made) || attempt === 100) return made;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

// The pair over real loopback sockets, one reactor each: data arrives whole, a connection that the
// kernel breaks comes back and resumes, and hundreds of thousands of messages leave no garbage.
//
// This file is also the process whose garbage is watched: RINGSTORE_PEER_RUN is set there.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { OP_READ } from "../base/index.ts";
import { LoopbackMember, LoopbackOwner, newReactor } from "../testing/peer/loopback.ts";

/** Of both ends together, for each message. */
const GARBAGE_BYTES_MAX = 320;

interface Pair {
  readonly member: LoopbackMember;
  readonly owner: LoopbackOwner;
  turn(): void;
  until(condition: () => boolean, what: string): void;
}

/** Both reactors on this thread, a turn each. */
function pair(depthMax: number, blocks: number): Pair {
  const member = new LoopbackMember(newReactor(0));
  const owner = new LoopbackOwner(newReactor(0), member.port, depthMax, blocks);
  const turn = (): void => {
    owner.reactor.turn();
    member.reactor.turn();
  };
  const until = (condition: () => boolean, what: string): void => {
    const deadline = performance.now() + 30_000;
    while (!condition()) {
      turn();
      assert.ok(performance.now() < deadline, `waited in vain for ${what}`);
    }
  };
  return { member, owner, turn, until };
}

function fence(one: Pair, epoch: number): void {
  let isReady = false;
  for (let attempt = 0; attempt < 100 && !isReady; attempt++) {
    let isDone = false;
    one.owner.replica.fence(epoch, (answer) => {
      isDone = true;
      isReady = !("code" in answer);
    });
    one.until(() => isDone, "a fence");
  }
  assert.ok(isReady, one.owner.link.lastFailure);
}

function run(one: Pair, count: number, depth: number): void {
  const goal = one.owner.completedCount + count;
  one.owner.start(depth);
  while (one.owner.completedCount < goal && one.owner.failedCount === 0) one.turn();
  one.owner.isRunning = false;
  one.until(() => one.owner.inflightCount === 0, "the last writes");
}

/** Bytes of the heap that are left after so many writes. */
function measureGrowth(): void {
  const collect = (globalThis as unknown as { gc: () => void }).gc;
  const one = pair(32, 1);
  fence(one, 1);
  run(one, 60_000, 32);
  collect();
  const before = process.memoryUsage().heapUsed;
  const count = 300_000;
  run(one, count, 32);
  const used = process.memoryUsage().heapUsed;
  collect();
  const after = process.memoryUsage().heapUsed;
  const failed = one.owner.failedCount;
  process.stdout.write(JSON.stringify({ garbage: used - before, kept: after - before, failed }));
  process.exit(0);
}

if (process.env["RINGSTORE_PEER_RUN"] !== undefined) {
  measureGrowth();
} else {
  test("writes of one and of many blocks arrive whole, reads bring them back", () => {
    for (const blocks of [1, 5, 64, 150]) {
      const one = pair(8, blocks);
      fence(one, 1);
      run(one, 300, 8);
      assert.equal(one.owner.failedCount, 0);
      const { reactor, data } = one.owner;
      one.owner.replica.write(0, 0, 17, blocks, data.address, 1e9);
      one.owner.inflightCount += 1;
      one.until(() => one.owner.inflightCount === 0, "a write");
      const bytes = blocks * 4096;
      const { member } = one.member;
      const at = member.blocks.address + 17 * 4096;
      assert.equal(reactor.memory.compare(at, data.address, bytes), 0);
      const target = reactor.memory.allocate(bytes);
      let result = 1;
      const requests = reactor.requests;
      const owner = requests.addOwner({
        requestCompleted: (slot, outcome) => {
          result = outcome;
          requests.release(slot);
        },
      });
      const slot = requests.acquire(owner);
      requests.op[slot] = OP_READ;
      requests.offsetBytes[slot] = 17 * 4096;
      requests.addSegment(slot, target.address, bytes);
      one.owner.replica.submitRead(slot);
      one.until(() => result !== 1, "a read");
      assert.equal(result, 0);
      assert.equal(reactor.memory.compare(target.address, data.address, bytes), 0);
      one.owner.link.close();
      one.until(() => one.member.server.linkCount === 0, "the end");
    }
  });

  test("the member hangs up: writes end with -ENOTCONN, the link comes back and resumes", () => {
    const one = pair(8, 1);
    fence(one, 1);
    run(one, 100, 8);
    one.owner.start(8);
    for (let turn = 0; turn < 3; turn++) one.turn();
    for (const link of one.member.server.openLinks()) link.close();
    one.until(() => one.owner.resumeCount === 1, "the resume");
    assert.ok(one.owner.failedCount > 0);
    one.owner.isRunning = false;
    one.until(() => one.owner.inflightCount === 0, "the last writes");
    one.owner.failedCount = 0;
    run(one, 100, 8);
    assert.equal(one.owner.failedCount, 0);
    assert.ok(one.owner.replica.grantedUntilUs > one.owner.reactor.clock.nowUs());
  });

  test("300 000 writes leave nothing on the heap, and make hardly any garbage", () => {
    const file = fileURLToPath(import.meta.url);
    // Room for all of it: no collection hides garbage.
    const options = ["--expose-gc", "--min-semi-space-size=256", "--max-semi-space-size=256"];
    const child = spawnSync(process.execPath, [...options, file], {
      env: { ...process.env, RINGSTORE_PEER_RUN: "1" },
      encoding: "utf8",
      timeout: 120_000,
    });
    assert.equal(child.status, 0, child.stderr);
    const { garbage, kept, failed } = JSON.parse(child.stdout) as Record<string, number>;
    assert.equal(failed, 0);
    assert.ok((kept as number) < 512 * 1024, `${kept} bytes kept`);
    // Addresses are numbers that do not fit a small integer: handed on, some become objects of
    // 16 bytes. Anything more, a closure or an object per message, shows.
    const each = (garbage as number) / 300_000;
    assert.ok(each < GARBAGE_BYTES_MAX, `${each} bytes of garbage for each message`);
  });
}

// The reactor and its client over a device that writes in place: requests come back, in turns that
// the seed decides; timers, pollers and flushes keep the port's rules.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { EINVAL, Prng } from "../../base/index.ts";
import type { Poller } from "../../ports/index.ts";
import { InPlaceDevice, Rig } from "./_sim-rig.ts";
import { type ClientRequest, SimClient } from "./sim-client.ts";
import { SimReactor } from "./sim-reactor.ts";

function bench(seed: number, isCut = false): { rig: Rig; reactor: SimReactor; client: SimClient } {
  const options = { offsetAlignmentBytes: 512, memoryAlignmentBytes: 512 };
  const rig = new Rig({ ...options, seed });
  const { scheduler, memory } = rig;
  const reactor = new SimReactor({ scheduler, memory, requestSlots: 8 });
  const device = new InPlaceDevice(rig.disk, reactor.requests, memory);
  const cutting = isCut ? { cutter: new Prng(seed) } : {};
  return { rig, reactor, client: new SimClient({ reactor, memory, device, ...cutting }) };
}

/** Does `polls` units of work, then none; writes down what is asked of it. */
class FakePoller implements Poller {
  readonly calls: string[] = [];
  polls = 0;
  isWorkThereWhenArmed = false;

  poll(): number {
    this.calls.push("poll");
    this.polls -= 1;
    return this.polls >= 0 ? 1 : 0;
  }

  arm(): boolean {
    this.calls.push("arm");
    const isThere = this.isWorkThereWhenArmed;
    this.isWorkThereWhenArmed = false;
    return isThere;
  }

  disarm(): void {
    this.calls.push("disarm");
  }

  flush(): void {
    this.calls.push("flush");
  }
}

describe("SimClient over SimReactor", () => {
  it("writes, reads, zeroes, discards and flushes, more in flight than there are slots", () => {
    const { rig, client } = bench(1);
    const order: number[] = [];
    const data = (byte: number): Uint8Array => new Uint8Array(4096).fill(byte);
    const done = (request: ClientRequest): void => void order.push(request.offsetBytes / 4096);
    for (let block = 0; block < 30; block++) client.write(block * 4096, data(block), done);
    assert.equal(client.inflightCount, 30);
    assert.equal(order.length, 0);
    rig.run();
    assert.equal(client.inflightCount, 0);
    assert.notDeepEqual(
      order,
      order.toSorted((a, b) => a - b),
    );
    const zeroes = [client.writeZeroes(4096, 4096), client.discard(8192, 4096), client.flush()];
    rig.run();
    assert.deepEqual(
      zeroes.map(({ result }) => result),
      [0, 0, 0],
    );
    const read = client.read(0, 16384);
    assert.equal(read.result, null);
    rig.run();
    assert.equal(read.result, 0);
    assert.deepEqual(
      [0, 1, 2, 3].map((block) => read.data[block * 4096 + 9]),
      [0, 0, 0, 3],
    );
    // Nothing is left but the rig's arena and the request table.
    assert.equal(rig.memory.arenaCount, 2);
  });

  it("cuts buffers into segments, and puts what is read together again", () => {
    let refused = 0;
    for (let seed = 1; seed <= 30; seed++) {
      const { rig, client } = bench(seed, true);
      // A disk that needs alignment refuses cut buffers: that they are cut shows in that.
      const write = client.write(
        0,
        Uint8Array.from({ length: 2048 }, (_, at) => at * 7),
      );
      rig.run();
      if (write.result === -EINVAL) refused += 1;
      else assert.equal(write.result, 0);
    }
    assert.ok(refused > 10 && refused < 30, `${refused} refused`);
  });

  it("stops with its process: nothing is delivered any more", () => {
    const { rig, reactor, client } = bench(1);
    const write = client.write(0, new Uint8Array(512));
    let fired = 0;
    reactor.setTimer(1, { timerFired: () => (fired += 1) }, 1);
    rig.scheduler.runUntil(() => reactor.requests.hasCompletions);
    reactor.stop();
    rig.run();
    assert.deepEqual([write.result, fired, reactor.turnCount], [null, 0, 0]);
  });
});

describe("SimReactor", () => {
  it("fires timers with the first tick that is no earlier, and not when cancelled", () => {
    const { rig, reactor } = bench(1);
    const fired: [number, number][] = [];
    const handler = { timerFired: (tag: number) => fired.push([tag, rig.scheduler.clock.nowUs()]) };
    rig.scheduler.runFor(1500);
    reactor.setTimer(0, handler, 1);
    reactor.setTimer(3, handler, 2);
    reactor.cancelTimer(reactor.setTimer(1, handler, 3));
    rig.scheduler.runUntilQuiet();
    assert.deepEqual(fired, []);
    rig.run();
    assert.deepEqual(fired, [
      [1, 2000],
      [2, 5000],
    ]);
  });

  it("polls while there is work, arms before it sleeps, wakes by activate, flushes once", () => {
    const { rig, reactor } = bench(1);
    const poller = new FakePoller();
    poller.polls = 2;
    poller.isWorkThereWhenArmed = true;
    reactor.addPoller(poller);
    rig.run();
    assert.deepEqual(poller.calls, ["poll", "poll", "poll", "arm", "disarm", "poll", "arm"]);
    poller.calls.length = 0;
    poller.polls = 1;
    reactor.activate(poller);
    reactor.activate(poller);
    reactor.requestFlush(poller);
    reactor.requestFlush(poller);
    assert.deepEqual(poller.calls, ["disarm"]);
    rig.run();
    assert.deepEqual(poller.calls, ["disarm", "flush", "poll", "poll", "arm"]);
    reactor.requestFlush(poller);
    reactor.removePoller(poller);
    poller.calls.length = 0;
    rig.run();
    assert.deepEqual(poller.calls, []);
  });

  it("keeps the log, and refuses descriptors", () => {
    const { reactor } = bench(1);
    reactor.log.log("warn", "odd", { count: 3 });
    assert.deepEqual(reactor.entries, [
      { timeUs: 0, level: "warn", event: "odd", fields: { count: 3 } },
    ]);
    assert.throws(() => reactor.watch(), /descriptors/);
    assert.throws(() => reactor.signalAsync(), /descriptors/);
    assert.throws(() => reactor.unwatch(), /descriptors/);
    assert.throws(() => reactor.closeAfterSignals(), /descriptors/);
  });
});

// The simulated network keeps what it promises: order, windows, short transfers, cuts at a byte,
// ends that hear of it each in its time, and memory that is read as late as allowed.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { Stream, StreamHandler } from "../../ports/index.ts";
import { SimMemory } from "./sim-memory.ts";
import { type SimConnection, SimNetwork, type SimNetworkOptions } from "./sim-network.ts";
import { SimScheduler } from "./sim-scheduler.ts";

class End implements StreamHandler {
  opened: number | null = null;
  readonly received: number[] = [];
  readonly bytes: number[] = [];
  readonly sent: number[] = [];
  closedCount = 0;
  stream!: Stream;
  private readonly arena;
  private readonly memory: SimMemory;

  constructor(memory: SimMemory) {
    this.memory = memory;
    this.arena = memory.allocate(65536);
  }

  streamOpened(result: number): void {
    this.opened = result;
  }
  streamReceived(result: number): void {
    this.received.push(result);
    for (let at = 0; at < result; at++) this.bytes.push(this.arena.u8[at] as number);
    if (result > 0) this.listen();
  }
  streamSent(result: number): void {
    this.sent.push(result);
  }
  streamClosed(): void {
    this.closedCount += 1;
  }
  listen(): void {
    this.stream.receive(this.arena.address, 4096);
  }
  /** Sends `count` bytes 0, 1, 2...; the rest of a short send is not sent. */
  say(count: number): void {
    for (let at = 0; at < count; at++) this.arena.u8[16384 + at] = at;
    const { u32, address } = this.arena;
    u32[2048] = address + 16384;
    u32[2049] = 0;
    u32[2050] = count;
    u32[2051] = 0;
    this.stream.send(address + 8192, 1);
  }
  free(): void {
    this.memory.free(this.arena);
  }
}

function rig(seed: number, options: Partial<SimNetworkOptions> = {}) {
  const scheduler = new SimScheduler(seed);
  const memory = new SimMemory();
  const network = new SimNetwork({ scheduler, memory, ...options });
  const [client, server] = [new End(memory), new End(memory)];
  client.stream = network
    .dialer({
      streamAccepted: (stream) => {
        server.stream = stream;
        stream.setHandler(server);
        server.listen();
      },
    })
    .dial(client);
  scheduler.runUntilIdle();
  return { scheduler, memory, network, client, server };
}

test("bytes arrive in order, in pieces; a window that is full stalls the sender", () => {
  for (let seed = 1; seed < 20; seed++) {
    const { scheduler, client, server } = rig(seed, { windowBytes: 100 });
    assert.equal(client.opened, 0);
    client.say(200);
    scheduler.runUntilIdle();
    const taken = client.sent[0] as number;
    assert.ok(taken >= 1 && taken <= 100);
    assert.deepEqual(
      server.bytes,
      Array.from({ length: taken }, (_, at) => at),
    );
    client.stream.close();
    scheduler.runUntilIdle();
    assert.equal(server.received.at(-1), 0, "the end comes behind the bytes");
    assert.equal(client.closedCount, 1);
  }
});

test("a cut after a byte: what was in transit is lost, both ends hear of it once", () => {
  const connected = (connection: SimConnection): void => {
    connection.toAccepted.cutAtBytes = 7;
  };
  const { scheduler, client, server } = rig(3, { connected, isShort: false });
  client.say(50);
  scheduler.runUntilIdle();
  assert.deepEqual(client.sent, [7]);
  assert.ok((server.received[0] as number) < 0);
  client.listen();
  scheduler.runUntilIdle();
  assert.ok((client.received[0] as number) < 0);
});

test("half-open: only the dialling end hears of it; held bytes still arrive at the other", () => {
  const { scheduler, network, client, server } = rig(4, { isShort: false });
  const connection = network.connections[0] as SimConnection;
  connection.toAccepted.hold();
  client.say(9);
  scheduler.runUntilIdle();
  connection.cutDialledEnd();
  client.listen();
  scheduler.runUntilIdle();
  assert.ok((client.received[0] as number) < 0);
  assert.deepEqual(server.bytes, []);
  connection.toAccepted.release();
  scheduler.runUntilIdle();
  assert.equal(server.bytes.length, 9);
});

test("memory of a send that is freed before its completion is noticed", () => {
  const { scheduler, client } = rig(5);
  client.say(9);
  client.free();
  assert.throws(() => scheduler.runUntilIdle(), /nothing is there/);
});

test("nobody is reachable: the dial fails, then closes", () => {
  const scheduler = new SimScheduler(6);
  const memory = new SimMemory();
  const network = new SimNetwork({ scheduler, memory });
  network.isReachable = false;
  const end = new End(memory);
  end.stream = network.dialer({ streamAccepted: () => assert.fail("accepted") }).dial(end);
  scheduler.runUntilIdle();
  assert.equal(end.opened, -111);
  end.stream.close();
  scheduler.runUntilIdle();
  assert.equal(end.closedCount, 1);
});

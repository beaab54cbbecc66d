// Run by scsi-heap.test.ts in a process of its own, with --expose-gc: sends READs and WRITEs
// through a virtio-scsi request ring and says on stdout, as JSON, how many bytes each has
// allocated.

import { SegmentCopier } from "../base/index.ts";
import { LogicalUnit, Reservations, ScsiEngine, VolatileReservationStore } from "../scsi/index.ts";
import { FakeMemory } from "../testing/fakes/guest-memory.ts";
import { TestMemory } from "../testing/fakes/memory.ts";
import { FAKE_INFO, FakeReactor, NullDevice } from "../testing/fakes/reactor.ts";
import { SplitDriver } from "../testing/fakes/ring-driver.ts";
import { COMMAND_REQUEST, COMMAND_RESPONSE, FIRST_REQUEST_RING } from "./layouts-scsi.ts";
import type { ScsiGuest } from "./scsi-guest.ts";
import { ScsiModel } from "./scsi-model.ts";

const SLOTS = 64;
const DEPTH = 32;
const WARM_UP = 400_000;
const COUNT = 1_000_000;
const BASE = 0x10000;
const REGION_BYTES = 0x100000;
const DATA_BYTES = 4096;

const memory = new FakeMemory([{ gpa: BASE, bytes: REGION_BYTES }]);
const reactor = new FakeReactor(SLOTS);
const { requests } = reactor;
const host = new TestMemory();
const copier = new SegmentCopier(requests, host);
const engine = new ScsiEngine({ requests, memory: host, copier }, SLOTS);
const meter = { counters: new Float64Array(64), recordLatency: (): void => {} };
const model = new ScsiModel(engine, reactor, {
  requestQueueCount: 1,
  packedAllowed: false,
  meter,
  identity: { transportId: new Uint8Array(24).fill(15), relativePort: 1 },
});
const unit = new LogicalUnit({
  identity: { naa: new Uint8Array(8), vendor: "", product: "", revision: "", serial: "" },
  reservations: new Reservations(new VolatileReservationStore()),
  groups: [],
});
unit.setDevice(new NullDevice(requests, FAKE_INFO));
model.addUnit(0, unit, meter);
const guest = model.newGuest(null) as ScsiGuest;
guest.begin();
unit.links.forEach((link) => {
  link.takeAttention();
});

const driver = new SplitDriver(memory, 128, {
  descriptors: BASE,
  driver: 0x12000,
  device: 0x14000,
});
const queue = guest.newQueue(FIRST_REQUEST_RING, {
  reactor,
  breakHandler: { ringBroken: (_ring, reason) => void process.exit(-reason) },
  ring: { enabled: true },
});
queue.start({
  ring: {
    size: driver.size,
    ...driver.areas(false),
    base: 0,
    featuresLow: 0,
    featuresHigh: 1,
    memory,
    tracker: null,
    ringLog: null,
  },
  notifier: { signal: (): void => {} },
  resubmit: null,
});

let nextGpa = 0x16000;
function take(bytes: number): number {
  const gpa = nextGpa;
  nextGpa += Math.ceil(bytes / 64) * 64;
  return gpa;
}

/** A request of 8 blocks; its chain is offered again and again. */
function prepare(opcode: number): number {
  const request = new Uint8Array(COMMAND_REQUEST.BYTES);
  request[COMMAND_REQUEST.lun] = 1;
  request[COMMAND_REQUEST.cdb] = opcode;
  request[COMMAND_REQUEST.cdb + 8] = 8;
  const gpa = take(request.length);
  memory.write(gpa, request, 0, request.length);
  const response = {
    gpa: take(COMMAND_RESPONSE.BYTES),
    bytes: COMMAND_RESPONSE.BYTES,
    write: true,
  };
  const data = { gpa: take(DATA_BYTES), bytes: DATA_BYTES, write: opcode === 0x28 };
  const first = { gpa, bytes: request.length };
  return driver.add(opcode === 0x28 ? [first, response, data] : [first, data, response]);
}

function turn(): void {
  while (queue.poll() > 0) reactor.deliver();
  reactor.deliver();
}

const heads = { read: [] as number[], write: [] as number[] };
for (let index = 0; index < DEPTH / 2; index++) {
  heads.read.push(prepare(0x28));
  heads.write.push(prepare(0x2a));
}
turn();

function run(chains: readonly number[], count: number): void {
  for (let done = 0; done < count; done += chains.length) {
    for (let index = 0; index < chains.length; index++) driver.offer(chains[index] as number);
    turn();
  }
}

const collect = (globalThis as unknown as { gc: () => void }).gc;
const perRequest: Record<string, number> = {};
for (const [name, chains] of Object.entries(heads)) {
  run(chains, WARM_UP);
  // The least of three: a compiler that is late leaves its own in one of them.
  let least = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 3; round++) {
    collect();
    const before = process.memoryUsage().heapUsed;
    run(chains, COUNT);
    least = Math.min(least, (process.memoryUsage().heapUsed - before) / COUNT);
  }
  perRequest[name] = least;
}
const [readCount, , writeCount] = meter.counters;
process.stdout.write(JSON.stringify({ perRequest, readCount, writeCount }));

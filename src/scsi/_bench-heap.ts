// Run by heap.test.ts in a process of its own, with --expose-gc: sends READs and WRITEs and says on
// stdout, as JSON, how many bytes each has allocated, kept or not.

import { RequestTable, SegmentCopier, segmentArenaBytes } from "../base/index.ts";
import type { BlockDevice } from "../ports/index.ts";
import { TestMemory } from "../testing/fakes/memory.ts";
import { ScsiEngine } from "./engine.ts";
import { LogicalUnit } from "./logical-unit.ts";
import { Reservations, VolatileReservationStore } from "./reservations.ts";
import { ScsiTarget } from "./target.ts";
import { CDB_BYTES_MAX, MAP_OK, type ScsiTransport } from "./task.ts";

const SLOTS = 64;
const WARM_UP = 400_000;
const COUNT = 1_000_000;
const BUFFER = 2 ** 42;

const u32 = new Uint32Array(segmentArenaBytes(SLOTS) / 4);
const requests = new RequestTable(SLOTS, { address: 2 ** 45, u32 });
const memory = new TestMemory();
const copier = new SegmentCopier(requests, memory);
const engine = new ScsiEngine({ requests, memory, copier }, SLOTS);

const device: BlockDevice = {
  info: {
    capacityBytes: 2 ** 40,
    blockBytes: 512,
    physicalBlockBytes: 4096,
    optimalIoBytes: 65536,
    readOnly: false,
    canDiscard: true,
    discardGranularityBytes: 4096,
    serial: "heap",
  },
  inflightCount: 0,
  submit: (slot) => requests.complete(slot, 0),
};

let doneCount = 0;
let failedCount = 0;
const transport: ScsiTransport = {
  fetchDataOut: (task) => engine.dataOutReady(task),
  mapDataOut: (_task, slot, bytes) => map(slot, bytes),
  mapDataIn: (_task, slot, bytes) => map(slot, bytes),
  taskDone: (task) => {
    doneCount += 1;
    if (engine.tasks.status[task] !== 0) failedCount += 1;
  },
  taskAborted: () => {},
  unitAttention: () => {},
};

function map(slot: number, bytes: number): number {
  requests.addSegment(slot, BUFFER, bytes);
  return MAP_OK;
}

const unit = new LogicalUnit({
  identity: {
    naa: new Uint8Array(8),
    vendor: "RINGSTOR",
    product: "VOLUME",
    revision: "1",
    serial: "heap",
  },
  reservations: new Reservations(new VolatileReservationStore()),
  groups: [],
});
unit.setDevice(device);
const target = new ScsiTarget(engine);
target.addUnit(0, unit);
const identity = { transportId: Uint8Array.of(5, 0, 0, 0), relativePort: 1 };
const nexus = target.addNexus(identity, transport);
unit.links.forEach((link) => {
  link.takeAttention();
});

function send(opcode: number, index: number): void {
  const { tasks } = engine;
  const task = tasks.acquire();
  const at = task * CDB_BYTES_MAX;
  tasks.cdb[at] = opcode;
  tasks.cdb[at + 3] = index;
  tasks.cdb[at + 4] = index >>> 8;
  tasks.cdb[at + 8] = 8;
  tasks.nexus[task] = nexus;
  if (opcode === 0x28) tasks.dataInBytes[task] = 4096;
  else tasks.dataOutBytes[task] = 4096;
  engine.submit(task);
}

function run(opcode: number, count: number): void {
  for (let done = 0; done < count; done += 32) {
    for (let index = 0; index < 32; index++) send(opcode, done + index);
    requests.drain(SLOTS);
  }
}

const collect = (globalThis as unknown as { gc: () => void }).gc;
const perRequest: Record<string, number> = {};
const COMMANDS = [
  ["read", 0x28],
  ["write", 0x2a],
] as const;
// Both before either is measured: code that has met one of them only is optimised by a guess.
for (const [, opcode] of COMMANDS) run(opcode, WARM_UP);
for (const [name, opcode] of COMMANDS) {
  // The least of three: a compiler that is late leaves its own in one of them.
  let least = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 3; round++) {
    collect();
    const before = process.memoryUsage().heapUsed;
    run(opcode, COUNT);
    least = Math.min(least, (process.memoryUsage().heapUsed - before) / COUNT);
  }
  perRequest[name] = least;
}
process.stdout.write(JSON.stringify({ perRequest, doneCount, failedCount }));

// A target with one logical unit, initiators, and a transport that keeps the rules of task.ts to
// the letter: each task ends once, memory is exactly as long as was asked for, cut into odd pieces.

import assert from "node:assert/strict";
import { RequestTable, SegmentCopier, segmentArenaBytes } from "../base/index.ts";
import type { Arena } from "../ports/index.ts";
import { TestDevice } from "../testing/fakes/block-device.ts";
import { TestMemory } from "../testing/fakes/memory.ts";
import { ScsiEngine } from "./engine.ts";
import { LogicalUnit, type UnitOptions } from "./logical-unit.ts";
import { manage } from "./management.ts";
import { Reservations, VolatileReservationStore } from "./reservations.ts";
import { ScsiTarget } from "./target.ts";
import {
  CDB_BYTES_MAX,
  LUN_BYTES,
  MAP_FAULT,
  MAP_OK,
  type ScsiTransport,
  SENSE_BYTES_MAX,
} from "./task.ts";

const SLOTS = 64;
const TASKS = 128;
/** What data-in holds before a command writes it. */
export const UNTOUCHED = 0xee;

export interface Answer {
  status: number;
  /** Sense key << 16 | ASC << 8 | ASCQ; 0 without sense data. */
  sense: number;
  rawSense: Uint8Array;
  data: Uint8Array;
  /** All of the initiator's buffer. */
  buffer: Uint8Array;
  movedBytes: number;
  residual: number;
  isAborted: boolean;
}

export interface CommandOptions {
  readonly out?: Uint8Array;
  /** Room for data-in. */
  readonly room?: number;
  readonly lun?: number;
  readonly attribute?: number;
  /** Data-out is not there before Pending.arrive(). */
  readonly isSlow?: boolean;
}

export interface Pending {
  readonly task: number;
  answer: Answer | null;
  /** Bytes the engine asked for, once it has. */
  wantsOut: number;
  arrive(): void;
}

/** Asked by a function, so that what it says is not taken to stay. */
export function isWaiting(pending: Pending): boolean {
  return pending.answer === null;
}

interface Buffers {
  readonly pending: Pending;
  readonly out: Arena | null;
  readonly room: Arena | null;
  readonly isSlow: boolean;
}

export class TestInitiator implements ScsiTransport {
  readonly rig: ScsiRig;
  readonly name: string;
  readonly nexus: number;
  readonly attentions: number[] = [];
  mapAnswer: number = MAP_OK;
  private readonly buffers: Map<number, Buffers> = new Map();

  constructor(rig: ScsiRig, name: string, port: number) {
    this.rig = rig;
    this.name = name;
    const transportId = transportIdOf(name);
    this.nexus = rig.target.addNexus({ transportId, relativePort: port }, this);
  }

  start(cdb: readonly number[], options: CommandOptions = {}): Pending {
    const { engine, memory } = this.rig;
    const { tasks } = engine;
    const task = tasks.acquire();
    assert.ok(task >= 0, "no task left");
    tasks.cdb.set(cdb, task * CDB_BYTES_MAX);
    tasks.lun[task * LUN_BYTES + 1] = options.lun ?? 0;
    tasks.nexus[task] = this.nexus;
    tasks.attribute[task] = options.attribute ?? 0;
    const pending: Pending = {
      task,
      answer: null,
      wantsOut: -1,
      arrive: () => engine.dataOutReady(task),
    };
    const out = options.out === undefined ? null : memory.allocate(options.out.length);
    if (options.out !== undefined) out?.u8.set(options.out);
    const room = options.room === undefined ? null : memory.allocate(options.room);
    room?.u8.fill(UNTOUCHED);
    tasks.dataOutBytes[task] = out?.bytes ?? 0;
    tasks.dataInBytes[task] = room?.bytes ?? 0;
    this.buffers.set(task, { pending, out, room, isSlow: options.isSlow ?? false });
    engine.submit(task);
    return pending;
  }

  /** Runs a command to its end. */
  run(cdb: readonly number[], options: CommandOptions = {}): Answer {
    const pending = this.start(cdb, options);
    this.rig.drain();
    assert.ok(pending.answer !== null, `command ${cdb[0]?.toString(16)} did not end`);
    return pending.answer;
  }

  /** Forgets the unit attentions that a nexus begins with. */
  ready(lun: number = 0): this {
    for (let tries = 0; tries < 10; tries++) {
      if (this.run([0, 0, 0, 0, 0, 0], { lun }).status === 0) return this;
    }
    throw new Error("the unit does not become ready");
  }

  manage(management: number, task: number = -1, lun: number = 0): { response: number } {
    const outcome = { response: -1 };
    const request = {
      nexus: this.nexus,
      lun: Uint8Array.of(0, lun, 0, 0, 0, 0, 0, 0),
      management,
      task,
    };
    const managementDone = (_tag: number, response: number): void => {
      assert.equal(outcome.response, -1, "answered twice");
      outcome.response = response;
    };
    manage(this.rig.engine, request, { managementDone }, 0);
    return outcome;
  }

  // ScsiTransport ---------------------------------------------------------------------------------

  fetchDataOut(task: number, bytes: number): void {
    const buffers = this.buffers.get(task);
    assert.ok(buffers !== undefined && buffers.pending.answer === null);
    assert.ok(bytes > 0 && bytes <= (buffers.out?.bytes ?? 0), "more data-out than there is");
    assert.equal(buffers.pending.wantsOut, -1, "data-out fetched twice");
    buffers.pending.wantsOut = bytes;
    if (!buffers.isSlow) this.rig.engine.dataOutReady(task);
  }

  mapDataOut(task: number, slot: number, bytes: number): number {
    return this.map(this.buffers.get(task)?.out, slot, bytes);
  }

  mapDataIn(task: number, slot: number, bytes: number): number {
    return this.map(this.buffers.get(task)?.room, slot, bytes);
  }

  private map(arena: Arena | null | undefined, slot: number, bytes: number): number {
    if (this.mapAnswer !== MAP_OK) return this.mapAnswer;
    if (arena === null || arena === undefined || arena.bytes < bytes) return MAP_FAULT;
    const first = Math.min(bytes, 7);
    this.rig.requests.addSegment(slot, arena.address, first);
    if (bytes > first) this.rig.requests.addSegment(slot, arena.address + first, bytes - first);
    return MAP_OK;
  }

  taskDone(task: number): void {
    this.end(task, false);
  }

  taskAborted(task: number): void {
    this.end(task, true);
  }

  unitAttention(_lun: number, code: number): void {
    this.attentions.push(code);
  }

  private end(task: number, isAborted: boolean): void {
    const buffers = this.buffers.get(task);
    assert.ok(buffers !== undefined, "a task ended twice");
    this.buffers.delete(task);
    const { tasks } = this.rig.engine;
    const { pending, out, room } = buffers;
    const at = task * SENSE_BYTES_MAX;
    const rawSense = tasks.sense.slice(at, at + tasks.senseBytes[task]);
    const buffer = room === null ? new Uint8Array(0) : room.u8.slice();
    const movedBytes = tasks.movedBytes[task];
    pending.answer = {
      status: tasks.status[task],
      sense: rawSense.length === 0 ? 0 : senseCode(rawSense),
      rawSense,
      data: room === null ? buffer : buffer.slice(0, movedBytes),
      buffer,
      movedBytes,
      residual: tasks.residualBytes(task),
      isAborted,
    };
    for (const arena of [out, room]) if (arena !== null) this.rig.memory.free(arena);
  }
}

export interface RigOptions extends Partial<UnitOptions> {
  readonly blocks?: number;
  readonly blockBytes?: number;
}

export class ScsiRig {
  readonly memory: TestMemory = new TestMemory();
  readonly requests: RequestTable;
  readonly engine: ScsiEngine;
  readonly target: ScsiTarget;
  readonly unit: LogicalUnit;
  readonly device: TestDevice;

  constructor(options: RigOptions = {}) {
    const u32 = new Uint32Array(segmentArenaBytes(SLOTS) / 4);
    this.requests = new RequestTable(SLOTS, { address: 2 ** 45, u32 });
    const { memory, requests } = this;
    const copier = new SegmentCopier(requests, memory);
    this.engine = new ScsiEngine({ requests, memory, copier }, TASKS);
    this.target = new ScsiTarget(this.engine);
    this.unit = this.makeUnit(options);
    this.device = this.makeDevice(options.blocks ?? 1024, options.blockBytes ?? 512);
    this.unit.setDevice(this.device);
    this.target.addUnit(0, this.unit);
  }

  makeUnit(options: Partial<UnitOptions> = {}): LogicalUnit {
    return new LogicalUnit({
      identity: {
        naa: Uint8Array.of(0x60, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
        vendor: "RINGSTOR",
        product: "VOLUME",
        revision: "1",
        serial: "serial-1",
      },
      reservations: new Reservations(new VolatileReservationStore()),
      groups: [{ id: 1, state: 0, isPreferred: true, ports: [1, 2] }],
      ...options,
    });
  }

  makeDevice(blocks: number, blockBytes: number): TestDevice {
    return new TestDevice(this.requests, this.memory, blocks, blockBytes);
  }

  initiator(name: string = "iqn.2026-01.test:a", port: number = 1): TestInitiator {
    return new TestInitiator(this, name, port);
  }

  drain(): void {
    while (this.requests.hasCompletions) this.requests.drain(64);
  }

  /** Nothing is left of any command. */
  checkIdle(): void {
    assert.equal(this.requests.freeSlots, SLOTS, "request slots left over");
    assert.equal(this.engine.tasks.freeTasks, TASKS, "tasks left over");
    assert.equal(this.unit.firstTask, -1);
    assert.equal(this.unit.orderedCount, 0);
    assert.equal(this.unit.exclusiveCount, 0);
    assert.equal(this.unit.blockedCount, 0);
  }
}

/** Sense key << 16 | ASC << 8 | ASCQ of either format. */
function senseCode(sense: Uint8Array): number {
  const isDescriptor = (sense[0] & 0x7f) >= 0x72;
  const [key, asc, ascq] = isDescriptor ? [1, 2, 3] : [2, 12, 13];
  return ((sense[key] & 0xf) << 16) | (sense[asc] << 8) | sense[ascq];
}

/** An iSCSI TransportID of format 00b. */
function transportIdOf(name: string): Uint8Array {
  const bytes = (name.length + 4) & ~3;
  const id = new Uint8Array(4 + bytes);
  id[0] = 0x05;
  id[3] = bytes;
  id.set(Buffer.from(name), 4);
  return id;
}

// A device server for tests of the transport alone: INQUIRY, TEST UNIT READY, READ and WRITE of a
// few MiB in memory, through the same seam as the real one. Can hold its commands back, and counts
// what it is asked to do.

import { SegmentCopier } from "../base/index.ts";
import type { Arena, ReactorPort } from "../ports/index.ts";
import {
  CDB_BYTES_MAX,
  LUN_BYTES,
  MAP_OK,
  type ManagementHandler,
  type NexusIdentity,
  ScsiTaskTable,
  type ScsiTransport,
  SENSE_BYTES_MAX,
  STATUS_BUSY,
  STATUS_CHECK_CONDITION,
  TMF_ABORT_TASK,
  TMF_COMPLETE,
  TMF_INCORRECT_LUN,
  TMF_LOGICAL_UNIT_RESET,
  TMF_TARGET_RESET,
  writeSense,
} from "../scsi/index.ts";
import type { ScsiManagement, ScsiService } from "./target.ts";

export const BLOCK_BYTES = 512;
export const STUB_BYTES: number = 8 << 20;
const LUN_COUNT = 2;

const FETCHING = 1;
const AT_DEVICE = 2;

interface Nexus {
  readonly transport: ScsiTransport;
  readonly identity: NexusIdentity;
}

interface Waiter {
  readonly left: Set<number>;
  readonly done: () => void;
}

export class StubScsi implements ScsiService {
  readonly tasks: ScsiTaskTable;
  readonly disk: Arena;
  readonly nexuses: (Nexus | null)[] = [];
  readonly phase: Map<number, number> = new Map();
  readonly aborted: Set<number> = new Set();
  /** While set commands stay at the device: they end with release(). */
  isStuck = false;
  submittedCount = 0;
  completedCount = 0;
  abortedCount = 0;
  /** CDB opcodes in the order in which they came. */
  readonly opcodes: number[] = [];
  /** First LBA of each READ and WRITE, in that order. */
  readonly blocks: number[] = [];
  private readonly reactor: ReactorPort;
  private readonly copier: SegmentCopier;
  private readonly owner: number;
  private waiters: Waiter[] = [];
  /** Request slots that the device does not give back yet. */
  private readonly stuck: number[] = [];

  constructor(reactor: ReactorPort, taskCount = 512) {
    this.reactor = reactor;
    this.tasks = new ScsiTaskTable(taskCount);
    this.disk = reactor.memory.allocate(STUB_BYTES);
    this.copier = new SegmentCopier(reactor.requests, reactor.memory);
    this.owner = reactor.requests.addOwner(this);
  }

  get inflightCount(): number {
    return this.phase.size;
  }

  get nexusCount(): number {
    return this.nexuses.filter((one) => one !== null).length;
  }

  addNexus(identity: NexusIdentity, transport: ScsiTransport): number {
    const free = this.nexuses.indexOf(null);
    const nexus = { identity, transport };
    if (free < 0) return this.nexuses.push(nexus) - 1;
    this.nexuses[free] = nexus;
    return free;
  }

  removeNexus(nexus: number, done: () => void): void {
    const tasks = [...this.phase.keys()].filter((task) => this.tasks.nexus[task] === nexus);
    this.abort(tasks, () => {
      this.nexuses[nexus] = null;
      done();
    });
  }

  private transport(task: number): ScsiTransport {
    return (this.nexuses[this.tasks.nexus[task]] as Nexus).transport;
  }

  private wanted(task: number): { opcode: number; from: number; bytes: number } {
    const { cdb } = this.tasks;
    const at = task * CDB_BYTES_MAX;
    const opcode = cdb[at];
    const view = new DataView(cdb.buffer, at, 16);
    if (opcode === 0x28 || opcode === 0x2a) {
      const from = view.getUint32(2) * BLOCK_BYTES;
      return { opcode, from, bytes: view.getUint16(7) * BLOCK_BYTES };
    }
    if (opcode === 0x88 || opcode === 0x8a) {
      const from = view.getUint32(6) * BLOCK_BYTES;
      return { opcode, from, bytes: view.getUint32(10) * BLOCK_BYTES };
    }
    if (opcode === 0x12) return { opcode, from: 0, bytes: Math.min(36, view.getUint16(3)) };
    return { opcode, from: 0, bytes: 0 };
  }

  private lun(task: number): number {
    return this.tasks.lun[task * LUN_BYTES + 1];
  }

  submit(task: number): void {
    const { tasks } = this;
    tasks.markSubmitted(task);
    this.submittedCount += 1;
    const { opcode, from, bytes } = this.wanted(task);
    this.opcodes.push(opcode);
    if (opcode !== 0x12 && opcode !== 0) this.blocks.push(from / BLOCK_BYTES);
    if (this.lun(task) >= LUN_COUNT) {
      this.fail(task, 0x052500);
      return;
    }
    if (![0, 0x12, 0x28, 0x2a, 0x88, 0x8a].includes(opcode)) {
      this.fail(task, 0x052000);
      return;
    }
    if (from + bytes > STUB_BYTES) {
      this.fail(task, 0x052100);
      return;
    }
    tasks.wantedBytes[task] = bytes;
    const isWrite = opcode === 0x2a || opcode === 0x8a;
    const room = Math.min(bytes, isWrite ? tasks.dataOutBytes[task] : tasks.dataInBytes[task]);
    if (room === 0) {
      this.end(task);
      return;
    }
    this.phase.set(task, FETCHING);
    if (isWrite) this.transport(task).fetchDataOut(task, room);
    else this.run(task, room, false);
  }

  dataOutReady(task: number): void {
    if (this.phase.get(task) !== FETCHING) throw new Error("data for a task that wants none");
    const { bytes } = this.wanted(task);
    this.run(task, Math.min(bytes, this.tasks.dataOutBytes[task]), true);
  }

  private run(task: number, bytes: number, isWrite: boolean): void {
    const { requests } = this.reactor;
    const slot = requests.acquire(this.owner);
    if (slot < 0) {
      this.tasks.status[task] = STATUS_BUSY;
      this.phase.delete(task);
      this.end(task);
      return;
    }
    const transport = this.transport(task);
    const map = isWrite
      ? transport.mapDataOut(task, slot, bytes)
      : transport.mapDataIn(task, slot, bytes);
    if (map !== MAP_OK || requests.lengthBytes[slot] !== bytes) throw new Error("a bad mapping");
    this.tasks.slot[task] = slot;
    this.phase.set(task, AT_DEVICE);
    requests.ownerTagA[slot] = task;
    if (this.isStuck) this.stuck.push(slot);
    else requests.complete(slot, 0);
  }

  /** The device goes on. */
  release(): void {
    this.isStuck = false;
    for (const slot of this.stuck.splice(0)) this.reactor.requests.complete(slot, 0);
  }

  requestCompleted(slot: number, _result: number): void {
    const task = this.reactor.requests.ownerTagA[slot];
    const bytes = this.reactor.requests.lengthBytes[slot];
    const { opcode, from } = this.wanted(task);
    // The device touches the memory now, whether or not the task was aborted meanwhile.
    if (opcode === 0x12) {
      const inquiry = this.reactor.memory.allocate(4096);
      inquiry.u8.set(Buffer.from("\0\0\x06\x12\x1f\0\0\x02RINGSTORSTUB            0001", "latin1"));
      this.copier.scatter(slot, 0, inquiry.address, bytes);
      this.reactor.memory.free(inquiry);
    } else if (opcode === 0x2a || opcode === 0x8a) {
      this.copier.gather(slot, 0, this.disk.address + from, bytes);
    } else {
      this.copier.scatter(slot, 0, this.disk.address + from, bytes);
    }
    this.tasks.movedBytes[task] = bytes;
    this.end(task);
  }

  private fail(task: number, triple: number): void {
    this.tasks.status[task] = STATUS_CHECK_CONDITION;
    const at = task * SENSE_BYTES_MAX;
    this.tasks.senseBytes[task] = writeSense(this.tasks.sense, at, false, triple, -1, 0);
    this.end(task);
  }

  private end(task: number): void {
    const transport = this.transport(task);
    this.phase.delete(task);
    if (this.aborted.delete(task)) {
      this.abortedCount += 1;
      transport.taskAborted(task);
    } else {
      this.completedCount += 1;
      transport.taskDone(task);
    }
    const slot = this.tasks.slot[task];
    if (slot >= 0) this.reactor.requests.release(slot);
    this.tasks.slot[task] = -1;
    this.tasks.release(task);
    this.ended(task);
  }

  private ended(task: number): void {
    for (const waiter of [...this.waiters]) {
      if (!waiter.left.delete(task) || waiter.left.size > 0) continue;
      this.waiters = this.waiters.filter((one) => one !== waiter);
      waiter.done();
    }
  }

  manage(request: ScsiManagement, handler: ManagementHandler, tag: number): void {
    const { management: operation, task } = request;
    const lun = request.lun[1];
    if (operation <= TMF_LOGICAL_UNIT_RESET && lun >= LUN_COUNT) {
      handler.managementDone(tag, TMF_INCORRECT_LUN);
      return;
    }
    const isMeant = (one: number): boolean => {
      if (operation === TMF_ABORT_TASK) return one === task;
      if (operation === TMF_TARGET_RESET) return true;
      if (operation === TMF_LOGICAL_UNIT_RESET) return this.lun(one) === lun;
      return this.tasks.nexus[one] === request.nexus && this.lun(one) === lun;
    };
    const done = (): void => handler.managementDone(tag, TMF_COMPLETE);
    this.abort([...this.phase.keys()].filter(isMeant), done);
  }

  private abort(tasks: readonly number[], done: () => void): void {
    if (tasks.length === 0) {
      done();
      return;
    }
    this.waiters.push({ left: new Set(tasks), done });
    for (const one of tasks) {
      this.aborted.add(one);
      // What waits for data ends at once; what is at the device when the device gives it back.
      if (this.phase.get(one) === FETCHING) this.end(one);
    }
  }
}

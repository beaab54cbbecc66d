// One command that is not a plain READ or WRITE, while it runs: a generator that yields what it
// waits for, and the hands it works with. Such commands are rare or long; they may allocate.
//
// The generator ends by returning: with GOOD status, unless one of the refuse functions has set
// another. Helpers that can refuse return false; the generator then just returns.
//
// Invariants:
//  - data-in is mapped before the first wait (mapIn or reply), data-out right after fetch(): the
//    transport gives its memory only then (see ScsiTransport.mapDataIn);
//  - the medium is touched only between enter() and the end;
//  - a scratch buffer is taken after enter(), so that who holds one waits for nobody.

import {
  assert,
  ECANCELED,
  FLAG_DURABLE,
  FLAG_UNMAP,
  getU16,
  getU24,
  getU32,
  getU64,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
  type RequestTable,
} from "../base/index.ts";
import type { Address, Arena, BlockDevice, BlockDeviceInfo, Memory } from "../ports/index.ts";
import type { Command } from "./command.ts";
import type { LogicalUnit, NexusLink } from "./logical-unit.ts";
import {
  fieldPointer,
  SENSE_INFORMATION_UNIT,
  SENSE_INVALID_FIELD_IN_CDB,
  SENSE_INVALID_FIELD_IN_PARAMETERS,
  SENSE_NONE,
  SENSE_PARAMETER_LENGTH,
  SENSE_STANDBY,
  SENSE_WRITE_PROTECTED,
  senseOfResult,
} from "./sense.ts";
import type { ScsiTarget } from "./target.ts";
import {
  CDB_BYTES_MAX,
  type ScsiTaskTable,
  STATUS_GOOD,
  STATUS_RESERVATION_CONFLICT,
} from "./task.ts";
import type { TaskOrder } from "./task-order.ts";

/** What a command yields. The engine resumes it with a result; negative is an errno. */
export const STEP_FETCH = 1;
export const STEP_ENTER = 2;
export const STEP_DEVICE = 3;
export const STEP_SCRATCH = 4;
const STEP_OUTSIDE = 5;

export type Steps = Generator<number, void, number>;
export type Part<T> = Generator<number, T, number>;

/** Longest data-in or parameter list of these commands. */
export const REPLY_BYTES_MAX = 65536;
export const SCRATCH_BYTES = 262144;

/** What a run needs of the engine. */
export interface RunHost {
  readonly tasks: ScsiTaskTable;
  readonly requests: RequestTable;
  readonly memory: Memory;
  readonly order: TaskOrder;
  /** REPLY_BYTES_MAX of memory, anybody's between two waits. */
  readonly replyArena: Arena;
  /** Maps the first `bytes` of data-out or data-in; false: the run is refused. */
  mapOut(run: CommandRun, bytes: number): boolean;
  mapIn(run: CommandRun, bytes: number): boolean;
  /** Copies between the mapped data and memory of our own. 0 or a negated errno. */
  scatter(task: number, skipBytes: number, from: Address, bytes: number): number;
  gather(task: number, skipBytes: number, to: Address, bytes: number): number;
  /** A request slot for the run's own operations; false: the run is refused. */
  takeWorkSlot(run: CommandRun): boolean;
  /** Ends all tasks of the nexuses with these ids at the unit, then calls `done`. */
  abortOthers(unit: LogicalUnit, ids: readonly string[], done: () => void): void;
}

export class CommandRun {
  readonly host: RunHost;
  readonly target: ScsiTarget;
  readonly link: NexusLink;
  readonly unit: LogicalUnit;
  readonly command: Command;
  readonly task: number;

  steps: Steps | null = null;

  // Outcome.
  status: number = STATUS_GOOD;
  senseCode: number = SENSE_NONE;
  senseInformation = -1;
  senseSpecific = 0;

  // Arguments of the step that is yielded.
  stepBytes = 0;
  /** For STEP_DEVICE: where to, and which slot. */
  stepDevice: BlockDevice | null = null;
  stepSlot = -1;
  workSlot = -1;
  scratch: Arena | null = null;
  /** For STEP_OUTSIDE: started by the engine; calls back once. */
  outside: ((done: (result: number) => void) => void) | null = null;

  private readonly cdbAt: number;

  constructor(host: RunHost, target: ScsiTarget, link: NexusLink, command: Command, task: number) {
    this.host = host;
    this.target = target;
    this.link = link;
    this.unit = link.unit;
    this.command = command;
    this.task = task;
    this.cdbAt = task * CDB_BYTES_MAX;
  }

  // The CDB ---------------------------------------------------------------------------------------

  u8(at: number): number {
    return this.host.tasks.cdb[this.cdbAt + at];
  }

  u16(at: number): number {
    return getU16(this.host.tasks.cdb, this.cdbAt + at);
  }

  u24(at: number): number {
    return getU24(this.host.tasks.cdb, this.cdbAt + at);
  }

  u32(at: number): number {
    return getU32(this.host.tasks.cdb, this.cdbAt + at);
  }

  u64(at: number): number {
    return getU64(this.host.tasks.cdb, this.cdbAt + at);
  }

  // Refusing --------------------------------------------------------------------------------------

  refuse(code: number, information: number = -1): false {
    this.senseCode = code;
    this.senseInformation = information;
    return false;
  }

  /** INVALID FIELD IN CDB; `bit` is the field's most significant bit, -1 for whole bytes. */
  refuseField(byte: number, bit: number = -1): false {
    this.senseSpecific = fieldPointer(true, byte, bit);
    return this.refuse(SENSE_INVALID_FIELD_IN_CDB);
  }

  refuseParameter(byte: number, bit: number = -1): false {
    this.senseSpecific = fieldPointer(false, byte, bit);
    return this.refuse(SENSE_INVALID_FIELD_IN_PARAMETERS);
  }

  /** For a negative `result` of the device. */
  refuseResult(result: number, isRead: boolean): false {
    return this.refuse(senseOfResult(result, isRead));
  }

  conflict(): false {
    this.status = STATUS_RESERVATION_CONFLICT;
    return false;
  }

  // Data ------------------------------------------------------------------------------------------

  /** Has the transport bring exactly `bytes` of data-out. False: refused, or there is less. */
  *fetch(bytes: number): Part<boolean> {
    const { tasks } = this.host;
    tasks.wantedBytes[this.task] = bytes;
    if (bytes === 0) return true;
    if (tasks.dataOutBytes[this.task] < bytes) return this.refuse(SENSE_INFORMATION_UNIT);
    this.stepBytes = bytes;
    yield STEP_FETCH;
    if (!this.host.mapOut(this, bytes)) return false;
    tasks.movedBytes[this.task] = bytes;
    return true;
  }

  /** A parameter list of `bytes`, copied; null: refused. */
  *parameters(bytes: number): Part<Uint8Array | null> {
    if (bytes > REPLY_BYTES_MAX) {
      this.refuse(SENSE_PARAMETER_LENGTH);
      return null;
    }
    if (!(yield* this.fetch(bytes))) return null;
    if (bytes === 0) return new Uint8Array(0);
    const { replyArena } = this.host;
    const result = this.host.gather(this.task, 0, replyArena.address, bytes);
    if (result < 0) {
      this.refuseResult(result, false);
      return null;
    }
    return replyArena.u8.slice(0, bytes);
  }

  /** Zeroed bytes to build data-in in, until the next wait. */
  page(bytes: number): Uint8Array {
    assert(bytes <= REPLY_BYTES_MAX, "a reply that is too long");
    const page = this.host.replyArena.u8.subarray(0, bytes);
    page.fill(0);
    return page;
  }

  /** Sends the first `bytes` of page(), as much as the initiator allows. */
  reply(bytes: number, allocationLength: number): boolean {
    const { tasks, replyArena } = this.host;
    const wanted = Math.min(bytes, allocationLength);
    const moved = Math.min(wanted, tasks.dataInBytes[this.task]);
    if (moved > 0 && !this.host.mapIn(this, moved)) return false;
    return this.sendMapped(wanted, replyArena.address);
  }

  /** Maps data-in for a reply of at most `bytes` that comes after a wait. */
  mapIn(bytes: number): boolean {
    const moved = Math.min(bytes, this.host.tasks.dataInBytes[this.task]);
    return moved === 0 || this.host.mapIn(this, moved);
  }

  /** Sends `wanted` bytes at `from`, as far as there is room. Data-in is mapped. */
  sendMapped(wanted: number, from: Address): boolean {
    const { tasks } = this.host;
    const moved = Math.min(wanted, tasks.dataInBytes[this.task]);
    tasks.wantedBytes[this.task] = wanted;
    if (moved > 0) {
      const result = this.host.scatter(this.task, 0, from, moved);
      if (result < 0) return this.refuseResult(result, true);
    }
    tasks.movedBytes[this.task] = moved;
    return true;
  }

  // The medium ------------------------------------------------------------------------------------

  get info(): BlockDeviceInfo {
    const { info } = this.unit;
    assert(info !== null, "a command at the medium of a unit that has none");
    return info;
  }

  get blockBytes(): number {
    return this.info.blockBytes;
  }

  get blockCount(): number {
    return this.info.capacityBytes / this.blockBytes;
  }

  checkWritable(): boolean {
    return !this.unit.isWriteProtected || this.refuse(SENSE_WRITE_PROTECTED);
  }

  /** Waits for the turn at [lba, lba + blocks) and takes a slot. False: refused. */
  *enter(lba: number, blocks: number, isExclusive: boolean): Part<boolean> {
    const { unit } = this;
    if (unit.device === null) return this.refuse(SENSE_STANDBY);
    const { blockBytes } = this;
    const from = lba * blockBytes;
    this.host.order.claim(unit, this.task, from, from + blocks * blockBytes, isExclusive);
    yield STEP_ENTER;
    if (unit.device === null) return this.refuse(SENSE_STANDBY);
    return this.host.takeWorkSlot(this);
  }

  /** SCRATCH_BYTES of memory until the end of the command. */
  *takeScratch(): Part<Arena> {
    yield STEP_SCRATCH;
    return this.scratch as Arena;
  }

  /** Writes the mapped data-out, all of it, straight from the transport's memory. */
  *writeMapped(offset: number, isDurable: boolean): Part<number> {
    const { requests, tasks } = this.host;
    if (this.unit.device === null) return -ECANCELED;
    const slot = tasks.slot[this.task];
    requests.op[slot] = OP_WRITE;
    requests.offsetBytes[slot] = offset;
    if (isDurable) requests.flags[slot] |= FLAG_DURABLE;
    this.stepDevice = this.unit.device;
    this.stepSlot = slot;
    return yield STEP_DEVICE;
  }

  /** One operation at the device: 0 or a negated errno. All in bytes. */
  *read(
    offset: number,
    address: Address,
    bytes: number,
    from: BlockDevice | null = this.unit.device,
  ): Part<number> {
    return yield* this.submit(from, OP_READ, offset, address, bytes, 0);
  }

  *write(
    offset: number,
    address: Address,
    bytes: number,
    isDurable: boolean,
    to: BlockDevice | null = this.unit.device,
  ): Part<number> {
    const flags = isDurable ? FLAG_DURABLE : 0;
    return yield* this.submit(to, OP_WRITE, offset, address, bytes, flags);
  }

  *flush(): Part<number> {
    return yield* this.submit(this.unit.device, OP_FLUSH, 0, 0, 0, 0);
  }

  *writeZeroes(offset: number, bytes: number, mayUnmap: boolean, isDurable: boolean): Part<number> {
    const flags = (mayUnmap ? FLAG_UNMAP : 0) | (isDurable ? FLAG_DURABLE : 0);
    return yield* this.submit(this.unit.device, OP_WRITE_ZEROES, offset, 0, bytes, flags);
  }

  private *submit(
    device: BlockDevice | null,
    op: number,
    offset: number,
    address: Address,
    bytes: number,
    flags: number,
  ): Part<number> {
    const { requests } = this.host;
    const slot = this.workSlot;
    assert(slot >= 0, "the medium touched before enter()");
    // The device may have gone while the command waited.
    if (device === null) return -ECANCELED;
    requests.op[slot] = op;
    requests.flags[slot] = flags;
    requests.offsetBytes[slot] = offset;
    requests.segmentCount[slot] = 0;
    requests.lengthBytes[slot] = 0;
    if (op === OP_READ || op === OP_WRITE) requests.addSegment(slot, address, bytes);
    else requests.lengthBytes[slot] = bytes;
    this.stepDevice = device;
    this.stepSlot = slot;
    return yield STEP_DEVICE;
  }

  /** Waits for something that calls back once. */
  *wait(start: (done: (result: number) => void) => void): Part<number> {
    this.outside = start;
    return yield STEP_OUTSIDE;
  }
}

// @hot
// The tasks of one session: what was commanded and is not answered and sent yet, as columns of
// typed arrays; a task is its slot. Found by the initiator's task tag through a small hash table.
//
//   admitted -> [waits for its turn by CmdSN] -> [gathers data] -> with SCSI -> answers -> sent
//
// Invariants:
//  - a slot's pieces are its own until release(); `generation` tells a late reference;
//  - openCount counts commands that hold a place in the command window: until their status is
//    queued.

import { assert, getU32 } from "../base/index.ts";
import type { Address, Arena, Memory } from "../ports/index.ts";
import { BHS, BHS_BYTES, IMMEDIATE, SCSI_COMMAND } from "./layouts.ts";
import {
  COMMANDS_MAX,
  IMMEDIATE_MAX,
  LARGE_PIECE_BYTES,
  PIECES_PER_TASK,
  SMALL_PIECE_BYTES,
  TASKS_MAX,
} from "./limits.ts";
import { type Pieces, POOL_FIRST, POOL_REST, POOL_SMALL } from "./pieces.ts";

export const TASK_FREE = 0;
/** Its header is here; its own data segment comes in. */
export const TASK_ARRIVING = 1;
/** Commands before it are missing. */
export const TASK_HELD = 2;
/** Waits for pieces. */
export const TASK_STARVING = 3;
/** Waits for data of the initiator. */
export const TASK_GATHERING = 4;
export const TASK_IN_SCSI = 5;
/** Its answer is being queued or sent. */
export const TASK_ANSWERING = 6;
/** Aborted: only memory that somebody still touches keeps it. */
export const TASK_GONE = 7;

const HASH_SIZE = 512;
const HEADER_STRIDE = 64;

export class TaskTable {
  readonly state: Uint8Array = new Uint8Array(TASKS_MAX);
  readonly generation: Uint16Array = new Uint16Array(TASKS_MAX);
  readonly isImmediate: Uint8Array = new Uint8Array(TASKS_MAX);
  /** It holds a place in the window, or among the immediate ones. */
  readonly isOpen: Uint8Array = new Uint8Array(TASKS_MAX);
  readonly opcode: Uint8Array = new Uint8Array(TASKS_MAX);
  readonly tag: Uint32Array = new Uint32Array(TASKS_MAX);
  readonly cmdSn: Uint32Array = new Uint32Array(TASKS_MAX);
  /** ExpectedDataTransferLength. */
  readonly expectedBytes: Uint32Array = new Uint32Array(TASKS_MAX);
  /** Data segment of the command itself. */
  readonly ownBytes: Uint32Array = new Uint32Array(TASKS_MAX);
  /** What memory there is, and what there must be before the task can start. */
  readonly pieceCount: Uint8Array = new Uint8Array(TASKS_MAX);
  readonly neededPieces: Uint8Array = new Uint8Array(TASKS_MAX);
  /** Data-out: all that is taken, what has come, and what no R2T has asked for yet. */
  readonly outBytes: Uint32Array = new Uint32Array(TASKS_MAX);
  readonly outDone: Uint32Array = new Uint32Array(TASKS_MAX);
  readonly askedBytes: Uint32Array = new Uint32Array(TASKS_MAX);
  readonly r2tSn: Uint32Array = new Uint32Array(TASKS_MAX);
  readonly burstCount: Uint8Array = new Uint8Array(TASKS_MAX);
  /** Unsolicited data: where the next must begin, and its DataSN; -1 = none is expected. */
  readonly unsolicitedAt: Float64Array = new Float64Array(TASKS_MAX);
  readonly unsolicitedSn: Uint32Array = new Uint32Array(TASKS_MAX);
  /** When data last came, or was asked for. */
  readonly heardUs: Float64Array = new Float64Array(TASKS_MAX);
  /** Data-in: all of it, and what has been queued. */
  readonly inBytes: Uint32Array = new Uint32Array(TASKS_MAX);
  readonly inDone: Uint32Array = new Uint32Array(TASKS_MAX);
  readonly dataSn: Uint32Array = new Uint32Array(TASKS_MAX);
  readonly status: Uint8Array = new Uint8Array(TASKS_MAX);
  readonly senseBytes: Uint16Array = new Uint16Array(TASKS_MAX);
  /** What SCSI would have moved, for the residual. */
  readonly wantedBytes: Float64Array = new Float64Array(TASKS_MAX);
  /** Queued PDUs whose data is the task's. */
  readonly sendingCount: Uint16Array = new Uint16Array(TASKS_MAX);
  /** The stream receives into its pieces. */
  readonly isReceiving: Uint8Array = new Uint8Array(TASKS_MAX);
  /** Sense to be sent; 0 = SCSI's own, else a key, code and qualifier of the transport. */
  readonly faultSense: Uint32Array = new Uint32Array(TASKS_MAX);
  /** Next task in whatever queue it stands. */
  readonly next: Int16Array = new Int16Array(TASKS_MAX);
  /** Basic header segments, HEADER_STRIDE apart. */
  readonly headers: Arena;
  /** Non-immediate commands that hold a place in the window. */
  openCount = 0;
  immediateCount = 0;
  usedCount = 0;
  private readonly memory: Memory;
  private readonly pieces: Pieces;
  private readonly pieceOf: Int16Array = new Int16Array(TASKS_MAX * PIECES_PER_TASK);
  private readonly hashHead: Int16Array = new Int16Array(HASH_SIZE).fill(-1);
  private readonly hashNext: Int16Array = new Int16Array(TASKS_MAX);
  private freeHead = 0;

  constructor(memory: Memory, pieces: Pieces) {
    this.memory = memory;
    this.pieces = pieces;
    this.headers = memory.allocate(TASKS_MAX * HEADER_STRIDE);
    for (let slot = 0; slot < TASKS_MAX; slot++) this.next[slot] = slot + 1;
    this.next[TASKS_MAX - 1] = -1;
  }

  get hasFree(): boolean {
    return this.freeHead >= 0;
  }

  /** A slot for the request whose header is at `at`; there must be one. */
  acquire(u8: Uint8Array, at: number): number {
    const slot = this.freeHead;
    assert(slot >= 0, "a task without a free slot");
    this.freeHead = this.next[slot];
    this.usedCount += 1;
    const { u8: headers } = this.headers;
    const base = slot * HEADER_STRIDE;
    for (let index = 0; index < BHS_BYTES; index++) headers[base + index] = u8[at + index];
    const isImmediate = (u8[at] & IMMEDIATE) !== 0;
    this.state[slot] = TASK_ARRIVING;
    this.isImmediate[slot] = isImmediate ? 1 : 0;
    this.isOpen[slot] = 1;
    if (isImmediate) this.immediateCount += 1;
    else this.openCount += 1;
    this.opcode[slot] = u8[at] & ~IMMEDIATE & 0x3f;
    this.tag[slot] = getU32(u8, at + BHS.initiatorTaskTag);
    this.cmdSn[slot] = getU32(u8, at + SCSI_COMMAND.cmdSn);
    this.reset(slot);
    this.link(slot);
    return slot;
  }

  private reset(slot: number): void {
    this.expectedBytes[slot] = 0;
    this.ownBytes[slot] = 0;
    this.pieceCount[slot] = 0;
    this.neededPieces[slot] = 0;
    this.outBytes[slot] = 0;
    this.outDone[slot] = 0;
    this.askedBytes[slot] = 0;
    this.r2tSn[slot] = 0;
    this.burstCount[slot] = 0;
    this.unsolicitedAt[slot] = -1;
    this.unsolicitedSn[slot] = 0;
    this.heardUs[slot] = 0;
    this.inBytes[slot] = 0;
    this.inDone[slot] = 0;
    this.dataSn[slot] = 0;
    this.status[slot] = 0;
    this.senseBytes[slot] = 0;
    this.wantedBytes[slot] = 0;
    this.sendingCount[slot] = 0;
    this.isReceiving[slot] = 0;
    this.faultSense[slot] = 0;
    this.next[slot] = -1;
  }

  /** Its status is queued, or it is aborted: another command may come. */
  closePlace(slot: number): void {
    if (this.isOpen[slot] === 0) return;
    this.isOpen[slot] = 0;
    if (this.isImmediate[slot] === 1) this.immediateCount -= 1;
    else this.openCount -= 1;
    this.unlink(slot);
  }

  /** Places that the window can still give out. */
  get freePlaces(): number {
    return COMMANDS_MAX - this.openCount;
  }

  get hasImmediatePlace(): boolean {
    return this.immediateCount < IMMEDIATE_MAX;
  }

  /** Frees the slot and its pieces. Nobody touches its memory any more. */
  release(slot: number): void {
    assert(this.state[slot] !== TASK_FREE, "a task released twice");
    assert(this.sendingCount[slot] === 0 && this.isReceiving[slot] === 0, "a task in use");
    this.closePlace(slot);
    const first = slot * PIECES_PER_TASK;
    for (let index = 0; index < this.pieceCount[slot]; index++) {
      this.pieces.put(this.pieceOf[first + index]);
    }
    this.pieceCount[slot] = 0;
    this.state[slot] = TASK_FREE;
    this.generation[slot] += 1;
    this.next[slot] = this.freeHead;
    this.freeHead = slot;
    this.usedCount -= 1;
  }

  headerAt(slot: number): number {
    return slot * HEADER_STRIDE;
  }

  // --- by the initiator's task tag --------------------------------------------------------------

  private link(slot: number): void {
    const bucket = this.tag[slot] & (HASH_SIZE - 1);
    this.hashNext[slot] = this.hashHead[bucket];
    this.hashHead[bucket] = slot;
  }

  private unlink(slot: number): void {
    const bucket = this.tag[slot] & (HASH_SIZE - 1);
    let at = this.hashHead[bucket];
    if (at === slot) {
      this.hashHead[bucket] = this.hashNext[slot];
      return;
    }
    while (at >= 0) {
      const next = this.hashNext[at];
      if (next === slot) {
        this.hashNext[at] = this.hashNext[slot];
        return;
      }
      at = next;
    }
    assert(false, "a task that is not in its bucket");
  }

  /** The task that has this tag and no status yet, or -1. */
  find(tag: number): number {
    let slot = this.hashHead[tag & (HASH_SIZE - 1)];
    while (slot >= 0 && this.tag[slot] !== tag) slot = this.hashNext[slot];
    return slot;
  }

  // --- pieces -----------------------------------------------------------------------------------

  /** The first piece for a task that moves `bytes`; false: none is free. */
  takeFirstPiece(slot: number, bytes: number): boolean {
    if (bytes === 0 || this.pieceCount[slot] > 0) return true;
    const piece = this.pieces.take(bytes <= SMALL_PIECE_BYTES ? POOL_SMALL : POOL_FIRST);
    if (piece < 0) return false;
    this.pieceOf[slot * PIECES_PER_TASK] = piece;
    this.pieceCount[slot] = 1;
    return true;
  }

  /** What `bytes` need. */
  setNeeded(slot: number, bytes: number): void {
    const isSmall = bytes <= SMALL_PIECE_BYTES;
    const count = isSmall ? 1 : Math.ceil(bytes / LARGE_PIECE_BYTES);
    assert(count <= PIECES_PER_TASK, "a task longer than any may be");
    this.neededPieces[slot] = bytes === 0 ? 0 : count;
  }

  /** All that it needs, or nothing more than it has; false: not enough are free. */
  takePieces(slot: number): boolean {
    let count = this.pieceCount[slot];
    const missing = this.neededPieces[slot] - count;
    if (missing <= 0) return true;
    if (this.pieces.freeCount(POOL_REST) < missing) return false;
    for (; count < this.neededPieces[slot]; count++) {
      this.pieceOf[slot * PIECES_PER_TASK + count] = this.pieces.take(POOL_REST);
    }
    this.pieceCount[slot] = count;
    return true;
  }

  pieceAt(slot: number, index: number): number {
    return this.pieceOf[slot * PIECES_PER_TASK + index];
  }

  /** Address of the task's data at `offset`. */
  addressAt(slot: number, offset: number): Address {
    const index = Math.floor(offset / LARGE_PIECE_BYTES);
    assert(index < this.pieceCount[slot], "data beyond the task's pieces");
    const piece = this.pieceOf[slot * PIECES_PER_TASK + index];
    return this.pieces.addressOf(piece) + (offset - index * LARGE_PIECE_BYTES);
  }

  /** Bytes in one piece from `offset` on. */
  contiguousAt(slot: number, offset: number): number {
    const index = Math.floor(offset / LARGE_PIECE_BYTES);
    const piece = this.pieceOf[slot * PIECES_PER_TASK + index];
    return this.pieces.bytesOf(piece) - (offset - index * LARGE_PIECE_BYTES);
  }

  // @cold
  free(): void {
    this.memory.free(this.headers);
  }
}

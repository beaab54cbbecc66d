// @hot
// Lets a request in: a task slot, its first piece of memory, and whether its own data is allowed
// (RFC 7143 sections 11.3.1 and 11.3.4).
//
// Invariant: a request that has to wait has changed nothing; it is looked at again as if it were
// new.

import { getU32 } from "../base/index.ts";
import { SENSE_UNEXPECTED_DATA } from "./data-out.ts";
import {
  COMMAND_WRITE,
  FLAG_FINAL,
  OP_SCSI_COMMAND,
  OP_TEXT_REQUEST,
  SCSI_COMMAND,
} from "./layouts.ts";
import { SMALL_PIECE_BYTES, TRANSFER_BYTES_MAX } from "./limits.ts";
import type { SessionParameters } from "./negotiation.ts";
import { PAUSE, TAKE_MEMORY, TAKE_NOTHING } from "./pdu-stream.ts";
import { type Pieces, POOL_FIRST, POOL_SMALL } from "./pieces.ts";
import type { TaskTable } from "./task-table.ts";

export class Admission {
  /** The task that the last admit() has begun. */
  slot = -1;
  private readonly tasks: TaskTable;
  private readonly pieces: Pieces;
  private readonly parameters: SessionParameters;

  constructor(tasks: TaskTable, pieces: Pieces, parameters: SessionParameters) {
    this.tasks = tasks;
    this.pieces = pieces;
    this.parameters = parameters;
  }

  /** TAKE_MEMORY, TAKE_NOTHING, or PAUSE where there is no room for it yet. */
  admit(u8: Uint8Array, at: number, opcode: number, dataBytes: number): number {
    const { tasks } = this;
    if (!tasks.hasFree) return PAUSE;
    if (opcode === OP_SCSI_COMMAND) return this.admitCommand(u8, at, dataBytes);
    // A text answer needs memory even where the request has none.
    const bytes = opcode === OP_TEXT_REQUEST && dataBytes === 0 ? 1 : dataBytes;
    if (!this.hasPieceFor(bytes)) return PAUSE;
    this.slot = tasks.acquire(u8, at);
    tasks.takeFirstPiece(this.slot, bytes);
    return this.takeOwn(dataBytes);
  }

  private hasPieceFor(bytes: number): boolean {
    if (bytes === 0) return true;
    return this.pieces.freeCount(bytes <= SMALL_PIECE_BYTES ? POOL_SMALL : POOL_FIRST) > 0;
  }

  private admitCommand(u8: Uint8Array, at: number, dataBytes: number): number {
    const { tasks, parameters } = this;
    const expected = getU32(u8, at + SCSI_COMMAND.expectedDataTransferLength);
    const bytes = expected < TRANSFER_BYTES_MAX ? expected : TRANSFER_BYTES_MAX;
    if (!this.hasPieceFor(bytes)) return PAUSE;
    const slot = tasks.acquire(u8, at);
    this.slot = slot;
    tasks.expectedBytes[slot] = expected;
    tasks.takeFirstPiece(slot, bytes);
    const isWrite = (u8[at + 1] & COMMAND_WRITE) !== 0;
    const isFinal = (u8[at + 1] & FLAG_FINAL) !== 0;
    const first = parameters.firstBurstLength;
    if (dataBytes > 0) {
      const isAllowed = isWrite && parameters.immediateData && dataBytes <= first;
      if (!isAllowed || dataBytes > expected) {
        tasks.faultSense[slot] = SENSE_UNEXPECTED_DATA;
        return TAKE_NOTHING;
      }
    }
    if (!isFinal && isWrite) {
      // Unsolicited data follows, behind what is in the command itself.
      if (parameters.initialR2T) tasks.faultSense[slot] = SENSE_UNEXPECTED_DATA;
      else if (dataBytes < first && dataBytes < expected) tasks.unsolicitedAt[slot] = dataBytes;
    }
    return this.takeOwn(dataBytes);
  }

  private takeOwn(dataBytes: number): number {
    this.tasks.ownBytes[this.slot] = dataBytes;
    if (dataBytes === 0) return TAKE_NOTHING;
    this.tasks.isReceiving[this.slot] = 1;
    return TAKE_MEMORY;
  }
}

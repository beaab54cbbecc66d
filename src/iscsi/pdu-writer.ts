// @hot
// Composes what a target sends in the full feature phase, with the session's counters: StatSN,
// ExpCmdSN and MaxCmdSN (RFC 7143 sections 4.2.2 and 11).
//
// Invariants:
//  - StatSN grows by one with every PDU that carries a status, and with no other;
//  - MaxCmdSN never goes back, and never lets more commands in than there are places.

import { putU16, putU32 } from "../base/index.ts";
import type { Address } from "../ports/index.ts";
import { LUN_BYTES, SENSE_BYTES_MAX, STATUS_GOOD } from "../scsi/index.ts";
import { isBefore } from "./layout-bytes.ts";
import {
  BHS,
  BHS_BYTES,
  DATA_IN,
  DATA_STATUS,
  FLAG_FINAL,
  OP_DATA_IN,
  OP_R2T,
  OP_REJECT,
  OP_SCSI_RESPONSE,
  R2T,
  REJECT,
  RESERVED_TAG,
  RESIDUAL_OVERFLOW,
  RESIDUAL_UNDERFLOW,
  SCSI_RESPONSE,
  TASK_RESPONSE,
} from "./layouts.ts";
import type { PduStream } from "./pdu-stream.ts";
import type { TaskTable } from "./task-table.ts";

/** Where a task's sense lies in `senses`. */
export const SENSE_STRIDE: number = SENSE_BYTES_MAX;

export class PduWriter {
  readonly stream: PduStream;
  statSn: number;
  expCmdSn: number;
  maxCmdSn: number;
  private readonly tasks: TaskTable;

  constructor(stream: PduStream, tasks: TaskTable, statSn: number, cmdSn: number) {
    this.stream = stream;
    this.tasks = tasks;
    this.statSn = statSn;
    this.expCmdSn = cmdSn;
    this.maxCmdSn = (cmdSn - 1) >>> 0;
    this.openWindow();
  }

  /** Lets in as many commands as there are places. Returns how many more than before. */
  openWindow(): number {
    const max = (this.expCmdSn + this.tasks.freePlaces - 1) >>> 0;
    if (!isBefore(this.maxCmdSn, max)) return 0;
    const more = (max - this.maxCmdSn) >>> 0;
    this.maxCmdSn = max;
    return more;
  }

  /** Begins an answer, with a status or without; returns where its header is. */
  begin(opcode: number, flags: number, tag: number, hasStatus: boolean): number {
    const { stream } = this;
    const at = stream.begin();
    const { u8 } = stream.out;
    this.openWindow();
    u8[at] = opcode;
    u8[at + 1] = flags;
    putU32(u8, at + TASK_RESPONSE.initiatorTaskTag, tag);
    putU32(u8, at + TASK_RESPONSE.statSn, this.statSn);
    putU32(u8, at + TASK_RESPONSE.expCmdSn, this.expCmdSn);
    putU32(u8, at + TASK_RESPONSE.maxCmdSn, this.maxCmdSn);
    if (hasStatus) this.statSn = (this.statSn + 1) >>> 0;
    return at;
  }

  /** One Data-In PDU of a task; the last has the status in it when that is good. */
  dataIn(slot: number, address: Address, bytes: number, isLast: boolean, isFinal: boolean): void {
    const { tasks } = this;
    const { u8 } = this.stream.out;
    const flags = isFinal ? FLAG_FINAL : 0;
    const at = this.begin(OP_DATA_IN, flags, tasks.tag[slot], isLast);
    putU32(u8, at + DATA_IN.targetTransferTag, RESERVED_TAG);
    putU32(u8, at + DATA_IN.dataSn, tasks.dataSn[slot]);
    putU32(u8, at + DATA_IN.bufferOffset, tasks.inDone[slot]);
    if (isLast) {
      u8[at + 1] |= DATA_STATUS | this.putResidual(at, slot);
      u8[at + DATA_IN.status] = STATUS_GOOD;
    } else {
      // Only a PDU with a status carries StatSN.
      putU32(u8, at + DATA_IN.statSn, 0);
    }
    tasks.dataSn[slot] += 1;
    tasks.sendingCount[slot] += 1;
    this.stream.finish(at, address, bytes, slot);
  }

  /** Expected less wanted; sets the count and returns the flags. */
  private putResidual(at: number, slot: number): number {
    const { tasks } = this;
    const residual = tasks.expectedBytes[slot] - tasks.wantedBytes[slot];
    if (residual === 0) return 0;
    const { u8 } = this.stream.out;
    const count = residual > 0 ? residual : -residual;
    putU32(u8, at + DATA_IN.residualCount, count > 0xffffffff ? 0xffffffff : count);
    return residual > 0 ? RESIDUAL_UNDERFLOW : RESIDUAL_OVERFLOW;
  }

  /** The SCSI Response of a task, with its sense from `senses`. */
  scsiResponse(slot: number, senses: Uint8Array): void {
    const { tasks, stream } = this;
    const { u8 } = stream.out;
    const at = this.begin(OP_SCSI_RESPONSE, FLAG_FINAL, tasks.tag[slot], true);
    u8[at + 1] |= this.putResidual(at, slot);
    u8[at + SCSI_RESPONSE.status] = tasks.status[slot];
    putU32(u8, at + SCSI_RESPONSE.expDataSn, tasks.dataSn[slot] + tasks.r2tSn[slot]);
    const bytes = tasks.senseBytes[slot];
    if (bytes === 0) {
      stream.finishInline(at, 0);
      return;
    }
    const to = stream.inlineAt(at);
    putU16(u8, to, bytes);
    const from = slot * SENSE_STRIDE;
    for (let index = 0; index < bytes; index++) u8[to + 2 + index] = senses[from + index];
    stream.finishInline(at, bytes + 2);
  }

  r2t(slot: number, headers: Uint8Array, ttt: number, offset: number, bytes: number): void {
    const { tasks, stream } = this;
    const { u8 } = stream.out;
    const at = this.begin(OP_R2T, FLAG_FINAL, tasks.tag[slot], false);
    copyLun(u8, at, headers, tasks.headerAt(slot));
    putU32(u8, at + R2T.targetTransferTag, ttt);
    putU32(u8, at + R2T.r2tSn, tasks.r2tSn[slot]);
    putU32(u8, at + R2T.bufferOffset, offset);
    putU32(u8, at + R2T.desiredDataTransferLength, bytes);
    tasks.r2tSn[slot] += 1;
    stream.finishInline(at, 0);
  }

  /** Refuses the PDU whose header is at `from` of `header`. */
  reject(reason: number, header: Uint8Array, from: number): void {
    const { stream } = this;
    const { u8 } = stream.out;
    const at = this.begin(OP_REJECT, FLAG_FINAL, RESERVED_TAG, true);
    u8[at + REJECT.reason] = reason;
    const to = stream.inlineAt(at);
    for (let index = 0; index < BHS_BYTES; index++) u8[to + index] = header[from + index];
    stream.finishInline(at, BHS_BYTES);
  }
}

/** The logical unit number of a header, to the same place of another. */
export function copyLun(to: Uint8Array, toAt: number, from: Uint8Array, fromAt: number): void {
  for (let index = BHS.lun; index < BHS.lun + LUN_BYTES; index++)
    to[toAt + index] = from[fromAt + index];
}

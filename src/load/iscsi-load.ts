// A load run over iSCSI, as a hypervisor's initiator does it: one session to one logical unit,
// commands at depth, everything unsolicited that the target lets us send. Requests are drawn as for
// virtio-blk (workload.ts) and latencies kept in the same histogram, so that both protocols are
// compared by the same means.
//
// Invariants:
// - the initiator task tag is the slot; a slot is free, or has one command in flight;
// - a latency begins before its command is put together, and ends after its status was seen.

import { getU24, getU32, putU24, putU32 } from "../base/index.ts";
import {
  BHS,
  BHS_BYTES,
  COMMAND_READ,
  COMMAND_WRITE,
  DATA_IN,
  DATA_STATUS,
  FLAG_FINAL,
  OP_DATA_IN,
  OP_NOP_IN,
  OP_R2T,
  OP_SCSI_RESPONSE,
  OPCODE_MASK,
  R2T,
  RESERVED_TAG,
  SCSI_COMMAND,
  SCSI_RESPONSE,
  TEXT_REQUEST,
} from "../iscsi/layouts.ts";
import type { Memory } from "../ports/index.ts";
import { SystemClock } from "../sys/index.ts";
import { LoadError } from "./errors.ts";
import { Histogram } from "./histogram.ts";
import { IscsiLoadSession, type IscsiTarget } from "./iscsi-load-session.ts";
import { KIND_READ, type Workload } from "./workload.ts";

const FAILURES_MAX = 10;
/** A new session's unit attentions come before the capacity does. */
const CAPACITY_TRIES = 4;
const OP_READ_16 = 0x88;
const OP_WRITE_16 = 0x8a;
const OP_SERVICE_ACTION_IN_16 = 0x9e;
const READ_CAPACITY_16 = 0x10;
const CAPACITY_BYTES = 32;

/** Data that an R2T has asked for, and how much of it has gone. */
interface Asked {
  readonly slot: number;
  readonly ttt: number;
  readonly endBytes: number;
  atBytes: number;
  dataSn: number;
}

export interface IscsiLoadRoom {
  readonly depth: number;
  /** Of the largest request. */
  readonly bytesMax: number;
  readonly stallTimeoutMs: number;
}

export class IscsiLoad {
  readonly histogram: Histogram = new Histogram();
  capacityBytes = 0;
  blockBytes = 512;
  requestCount = 0;
  bytes = 0;
  errorCount = 0;
  readonly failures: string[] = [];
  private readonly session: IscsiLoadSession;
  private readonly data: Uint8Array;
  // By slot.
  private readonly startedUs: Float64Array;
  private readonly lengthBytes: Float64Array;
  private readonly isRead: Uint8Array;
  private readonly freeSlots: Int32Array;
  private freeCount: number;
  private readonly asked: Asked[] = [];
  private readonly clock: SystemClock = new SystemClock();
  private readonly nowUs: Float64Array = new Float64Array(1);

  constructor(memory: Memory, { depth, bytesMax, stallTimeoutMs }: IscsiLoadRoom) {
    this.session = new IscsiLoadSession(memory, stallTimeoutMs);
    this.data = Uint8Array.from({ length: bytesMax }, (_, at) => at * 31 + (at >>> 8));
    this.startedUs = new Float64Array(depth);
    this.lengthBytes = new Float64Array(depth);
    this.isRead = new Uint8Array(depth);
    this.freeSlots = Int32Array.from({ length: depth }, (_, slot) => depth - 1 - slot);
    this.freeCount = depth;
  }

  /** Logs in, with the initiator's own keys overruled by `offers`, and reads the capacity. */
  open(target: IscsiTarget, offers: Readonly<Record<string, string>> = {}): void {
    this.session.open(target, offers);
    for (let tries = 0; this.capacityBytes === 0; tries++) {
      if (tries === CAPACITY_TRIES) {
        throw new LoadError("REFUSED", `READ CAPACITY fails: ${this.failures.join(" ")}`);
      }
      this.readCapacity();
    }
    this.reset();
  }

  private readCapacity(): void {
    const { line } = this.session;
    const slot = this.take(true, CAPACITY_BYTES);
    const failedBefore = this.errorCount;
    const cdb = this.session.command(slot, COMMAND_READ, CAPACITY_BYTES) + SCSI_COMMAND.cdb;
    line.out[cdb] = OP_SERVICE_ACTION_IN_16;
    line.out[cdb + 1] = READ_CAPACITY_16;
    line.out[cdb + 13] = CAPACITY_BYTES;
    while (this.freeCount < this.freeSlots.length) {
      const bytes = this.session.pduBytes();
      if (bytes < 0) {
        // A target may send data and status in one go: wait only when nothing is left of that.
        line.flush();
        this.session.receive();
        continue;
      }
      const { in: u8, inAt } = line;
      if (((u8[inAt] as number) & OPCODE_MASK) === OP_DATA_IN) {
        const body = inAt + BHS_BYTES;
        this.blockBytes = getU32(u8, body + 8);
        const lastBlock = getU32(u8, body) * 2 ** 32 + getU32(u8, body + 4);
        this.capacityBytes = (lastBlock + 1) * this.blockBytes;
      }
      this.takePdu(inAt);
      line.inAt += bytes;
    }
    // Data that came with CHECK CONDITION means nothing.
    if (this.errorCount !== failedBefore) this.capacityBytes = 0;
  }

  /** Counts from here on. */
  reset(): void {
    this.histogram.reset();
    this.requestCount = 0;
    this.bytes = 0;
    this.errorCount = 0;
    this.failures.length = 0;
  }

  /** Keeps every slot busy until the time has come, or so many requests are begun. */
  run(workload: Workload, runtimeMs: number, requestsMax: number): void {
    const { session } = this;
    const endUs = this.clock.nowUs() + runtimeMs * 1000;
    for (let left = requestsMax; ; ) {
      const isOver = left === 0 || this.clock.nowUs() >= endUs;
      if (isOver && this.freeCount === this.freeSlots.length) return;
      while (!isOver && left > 0 && this.freeCount > 0 && this.mayIssue()) {
        this.issue(workload);
        left -= 1;
      }
      this.sendAsked();
      session.line.flush();
      session.receive();
      this.clock.storeNowUs(this.nowUs);
      for (let bytes = session.pduBytes(); bytes >= 0; bytes = session.pduBytes()) {
        this.takePdu(session.line.inAt);
        session.line.inAt += bytes;
      }
    }
  }

  /** The target takes another command, and there is room for what goes with it. */
  private mayIssue(): boolean {
    const { session } = this;
    if (!session.isWindowOpen) return false;
    const segments = Math.ceil(session.firstBurstBytes / session.segmentBytes) + 1;
    const bytesMax = Math.min(session.firstBurstBytes, this.data.length);
    return session.line.room(segments * BHS_BYTES + bytesMax) >= 0;
  }

  private take(isRead: boolean, lengthBytes: number): number {
    this.freeCount -= 1;
    const slot = this.freeSlots[this.freeCount] as number;
    this.startedUs[slot] = this.clock.nowUs();
    this.isRead[slot] = isRead ? 1 : 0;
    this.lengthBytes[slot] = lengthBytes;
    return slot;
  }

  private issue(workload: Workload): void {
    workload.pick();
    const { offsetBytes, lengthBytes } = workload;
    const isRead = workload.kind === KIND_READ;
    const slot = this.take(isRead, lengthBytes);
    const at = this.session.command(slot, isRead ? COMMAND_READ : COMMAND_WRITE, lengthBytes);
    const { out } = this.session.line;
    const cdb = at + SCSI_COMMAND.cdb;
    const lba = offsetBytes / this.blockBytes;
    out[cdb] = isRead ? OP_READ_16 : OP_WRITE_16;
    putU32(out, cdb + 2, Math.floor(lba / 2 ** 32));
    putU32(out, cdb + 6, lba >>> 0);
    putU32(out, cdb + 10, lengthBytes / this.blockBytes);
    if (!isRead) this.sendUnasked(slot, at, lengthBytes);
  }

  /** Behind the command at `at`: as much of the data as may go without being asked for. */
  private sendUnasked(slot: number, at: number, bytes: number): void {
    const { session, data } = this;
    const { line } = session;
    const burst = Math.min(bytes, session.firstBurstBytes);
    const own = Math.min(burst, session.immediateBytes);
    if (own > 0) {
      const from = session.room(own);
      line.out.set(data.subarray(0, own), from);
      line.outEnd = from + own;
      putU24(line.out, at + BHS.dataSegmentLength, own);
    }
    if (!session.isUnsolicited || burst <= own) return;
    line.out[at + 1] = (line.out[at + 1] as number) & ~FLAG_FINAL;
    session.sendData(slot, RESERVED_TAG, own, burst, 0, data);
  }

  private sendAsked(): void {
    const { session, data } = this;
    for (let one = this.asked[0]; one !== undefined; one = this.asked[0]) {
      const { slot, ttt, atBytes, endBytes } = one;
      one.atBytes = session.sendData(slot, ttt, atBytes, endBytes, one.dataSn, data);
      one.dataSn += Math.ceil((one.atBytes - atBytes) / session.segmentBytes);
      if (one.atBytes < endBytes) return;
      this.asked.shift();
    }
  }

  private takePdu(at: number): void {
    const { session } = this;
    const { in: u8 } = session.line;
    const opcode = (u8[at] as number) & OPCODE_MASK;
    const tag = getU32(u8, at + BHS.initiatorTaskTag);
    session.maxCmdSn = getU32(u8, at + SCSI_RESPONSE.maxCmdSn);
    if (opcode === OP_NOP_IN && tag === RESERVED_TAG) {
      session.pong(getU32(u8, at + TEXT_REQUEST.targetTransferTag));
      return;
    }
    if (tag >= this.startedUs.length) {
      throw new LoadError("BAD_REPLY", `Opcode 0x${opcode.toString(16)} came for no command.`);
    }
    if (opcode === OP_R2T) {
      this.takeR2T(tag, at);
      return;
    }
    if (opcode !== OP_DATA_IN && opcode !== OP_SCSI_RESPONSE) {
      throw new LoadError("BAD_REPLY", `Opcode 0x${opcode.toString(16)} was not expected.`);
    }
    if (opcode === OP_DATA_IN && ((u8[at + 1] as number) & DATA_STATUS) === 0) return;
    session.expStatSn = (getU32(u8, at + DATA_IN.statSn) + 1) >>> 0;
    this.finish(tag, u8[at + SCSI_RESPONSE.status] as number, at);
  }

  private takeR2T(slot: number, at: number): void {
    const { in: u8 } = this.session.line;
    const atBytes = getU32(u8, at + R2T.bufferOffset);
    const endBytes = atBytes + getU32(u8, at + R2T.desiredDataTransferLength);
    const ttt = getU32(u8, at + R2T.targetTransferTag);
    if (endBytes > (this.lengthBytes[slot] as number)) {
      throw new LoadError("BAD_REPLY", "An R2T asks for more than there is.");
    }
    this.asked.push({ slot, ttt, atBytes, endBytes, dataSn: 0 });
  }

  private finish(slot: number, status: number, at: number): void {
    this.freeSlots[this.freeCount] = slot;
    this.freeCount += 1;
    if (status !== 0) {
      this.fail(slot, status, at);
      return;
    }
    this.histogram.recordSpan(this.startedUs, slot, this.nowUs);
    this.requestCount += 1;
    this.bytes += this.lengthBytes[slot] as number;
  }

  private fail(slot: number, status: number, at: number): void {
    this.errorCount += 1;
    if (this.failures.length >= FAILURES_MAX) return;
    const { in: u8 } = this.session.line;
    const sense = at + BHS_BYTES + 2;
    const hasSense = getU24(u8, at + BHS.dataSegmentLength) >= 16;
    const key = hasSense ? (u8[sense + 2] as number) & 15 : 0;
    const code = hasSense ? (u8[sense + 12] as number) * 256 + (u8[sense + 13] as number) : 0;
    const what = this.isRead[slot] === 1 ? "A read" : "A write";
    const text = `status 0x${status.toString(16)}, sense key ${key}, 0x${code.toString(16)}`;
    this.failures.push(`${what} failed: ${text}.`);
  }

  end(): void {
    this.session.end();
  }
}

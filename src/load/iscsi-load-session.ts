// A session of the iSCSI load generator: login, counters, and PDUs put together where they are sent
// from. No digests unless they are asked for.

import { assert, getU24, getU32, putU24, putU32 } from "../base/index.ts";
import { padBytes } from "../iscsi/layout-bytes.ts";
import {
  BHS,
  BHS_BYTES,
  DATA_OUT,
  FLAG_FINAL,
  IMMEDIATE,
  LOGIN_MOVED_PERMANENTLY,
  LOGIN_MOVED_TEMPORARILY,
  OP_DATA_OUT,
  OP_NOP_OUT,
  OP_SCSI_COMMAND,
  RESERVED_TAG,
  SCSI_COMMAND,
  SCSI_RESPONSE,
  TEXT_REQUEST,
} from "../iscsi/layouts.ts";
import type { Memory } from "../ports/index.ts";
import type { TcpAddress } from "../sys/index.ts";
import { LoadError } from "./errors.ts";
import { InitiatorLogin } from "./iscsi-initiator-login.ts";
import { IscsiLine } from "./iscsi-line.ts";

/** What we take in one PDU, and offer as bursts: as QEMU's initiator does. */
const SEGMENT_BYTES = 262144;
const ROOM_BYTES: number = 4 * SEGMENT_BYTES;
const REDIRECTIONS_MAX = 3;
const ATTRIBUTE_SIMPLE = 1;

export interface IscsiTarget extends TcpAddress {
  readonly targetName: string;
  /** At most 255. */
  readonly lun: number;
}

export class IscsiLoadSession {
  readonly line: IscsiLine;
  expStatSn = 0;
  maxCmdSn = 0;
  // Agreed on.
  segmentBytes = 8192;
  firstBurstBytes = 65536;
  immediateBytes = 0;
  isUnsolicited = false;
  private cmdSn = 1;
  private lun = 0;
  private readonly stallTimeoutMs: number;

  constructor(memory: Memory, stallTimeoutMs: number) {
    this.line = new IscsiLine(memory, ROOM_BYTES, ROOM_BYTES);
    this.stallTimeoutMs = stallTimeoutMs;
  }

  /** Logs in, also where it is sent on to. Throws LoadError. */
  open(target: IscsiTarget, offers: Readonly<Record<string, string>>): void {
    let address: TcpAddress = target;
    this.lun = target.lun;
    for (let count = 0; ; count++) {
      this.line.connect(address);
      const login = this.login(target.targetName, offers);
      const { status } = login;
      if (status === 0) {
        this.begin(login);
        return;
      }
      const isMoved = status === LOGIN_MOVED_TEMPORARILY || status === LOGIN_MOVED_PERMANENTLY;
      const next = /^\[?(.+?)\]?:(\d+)/.exec(login.keys.get("TargetAddress") ?? "");
      if (!isMoved || next === null || count === REDIRECTIONS_MAX) {
        const code = `0x${status.toString(16).padStart(4, "0")}`;
        throw new LoadError("REFUSED", `${target.targetName}: the login is refused, ${code}.`);
      }
      address = { host: next[1] as string, port: Number(next[2]) };
    }
  }

  private login(targetName: string, offers: Readonly<Record<string, string>>): InitiatorLogin {
    const isid = `80${process.pid.toString(16).padStart(10, "0")}`;
    const options = {
      initiatorName: "iqn.2024-01.io.ringstore:load",
      targetName,
      isid,
      offers: {
        HeaderDigest: "None",
        DataDigest: "None",
        ImmediateData: "Yes",
        InitialR2T: "No",
        FirstBurstLength: String(SEGMENT_BYTES),
        MaxBurstLength: String(SEGMENT_BYTES),
        MaxRecvDataSegmentLength: String(SEGMENT_BYTES),
        ...offers,
      },
    };
    const login = new InitiatorLogin(options, (header, data) => {
      const at = this.room(BHS_BYTES + data.length + 3);
      this.line.out.set(header, at);
      putU24(this.line.out, at + BHS.dataSegmentLength, data.length);
      this.line.out.set(data, at + BHS_BYTES);
      const end = at + BHS_BYTES + data.length;
      this.line.outEnd = end + padBytes(data.length);
      this.line.out.fill(0, end, this.line.outEnd);
    });
    login.start();
    while (!login.isDone) {
      this.line.flush();
      this.receive();
      const bytes = this.pduBytes();
      if (bytes < 0) continue;
      const { in: u8, inAt } = this.line;
      const length = getU24(u8, inAt + BHS.dataSegmentLength);
      const header = u8.slice(inAt, inAt + BHS_BYTES);
      login.take({ header, data: u8.slice(inAt + BHS_BYTES, inAt + BHS_BYTES + length) });
      if (login.isDone) this.maxCmdSn = getU32(header, SCSI_RESPONSE.maxCmdSn);
      this.line.inAt += bytes;
    }
    return login;
  }

  private begin(login: InitiatorLogin): void {
    const number = (key: string, otherwise: number): number =>
      Number(login.keys.get(key) ?? otherwise);
    this.cmdSn = 1;
    this.expStatSn = login.statSn;
    this.segmentBytes = number("MaxRecvDataSegmentLength", 8192);
    this.firstBurstBytes = number("FirstBurstLength", 65536);
    const isImmediate = login.keys.get("ImmediateData") !== "No";
    this.immediateBytes = isImmediate ? Math.min(this.firstBurstBytes, this.segmentBytes) : 0;
    this.isUnsolicited = login.keys.get("InitialR2T") === "No";
  }

  /** The target's window has room for another command. */
  get isWindowOpen(): boolean {
    return ((this.maxCmdSn - this.cmdSn) | 0) >= 0;
  }

  /** A command's header with an empty CDB; returns where it is. */
  command(slot: number, flags: number, bytes: number): number {
    const at = this.header(OP_SCSI_COMMAND, flags | ATTRIBUTE_SIMPLE | FLAG_FINAL, slot, 0);
    this.line.out[at + BHS.lun + 1] = this.lun;
    putU32(this.line.out, at + SCSI_COMMAND.expectedDataTransferLength, bytes);
    putU32(this.line.out, at + SCSI_COMMAND.cmdSn, this.cmdSn);
    this.cmdSn = (this.cmdSn + 1) >>> 0;
    return at;
  }

  room(bytes: number): number {
    const at = this.line.room(bytes);
    assert(at >= 0, "no room for a PDU");
    return at;
  }

  header(opcode: number, flags: number, tag: number, dataBytes: number): number {
    const at = this.room(BHS_BYTES + dataBytes);
    const { out } = this.line;
    out.fill(0, at, at + BHS_BYTES);
    out[at] = opcode;
    out[at + 1] = flags;
    putU24(out, at + BHS.dataSegmentLength, dataBytes);
    putU32(out, at + BHS.initiatorTaskTag, tag);
    putU32(out, at + SCSI_COMMAND.expStatSn, this.expStatSn);
    this.line.outEnd = at + BHS_BYTES + dataBytes;
    return at;
  }

  /** Data-Out PDUs for [from, to); returns how far there was room. */
  sendData(
    slot: number,
    ttt: number,
    from: number,
    to: number,
    dataSn: number,
    data: Uint8Array,
  ): number {
    const { line } = this;
    let at = from;
    for (let count = dataSn; at < to; count++) {
      const bytes = Math.min(this.segmentBytes, to - at);
      if (line.room(BHS_BYTES + bytes) < 0) return at;
      const flags = at + bytes === to ? FLAG_FINAL : 0;
      const header = this.header(OP_DATA_OUT, flags, slot, bytes);
      putU32(line.out, header + DATA_OUT.targetTransferTag, ttt);
      putU32(line.out, header + DATA_OUT.dataSn, count);
      putU32(line.out, header + DATA_OUT.bufferOffset, at);
      line.out.set(data.subarray(at, at + bytes), header + BHS_BYTES);
      at += bytes;
    }
    return at;
  }

  /** Something more than there was. */
  receive(): void {
    while (!this.line.fill()) {
      if (this.line.wait(this.stallTimeoutMs)) {
        this.line.flush();
        continue;
      }
      const ms = this.stallTimeoutMs;
      throw new LoadError("TIMEOUT", `The target has not said anything for ${ms} ms.`);
    }
  }

  /** Of the PDU that is next, once it is all there; otherwise -1. */
  pduBytes(): number {
    const { in: u8, inAt, inEnd } = this.line;
    if (inEnd - inAt < BHS_BYTES) return -1;
    const length = getU24(u8, inAt + BHS.dataSegmentLength);
    if (length > SEGMENT_BYTES) throw new LoadError("BAD_REPLY", `A PDU of ${length} bytes came.`);
    const bytes = BHS_BYTES + length + padBytes(length);
    return inEnd - inAt < bytes ? -1 : bytes;
  }

  pong(ttt: number): void {
    const at = this.header(OP_NOP_OUT | IMMEDIATE, FLAG_FINAL, RESERVED_TAG, 0);
    putU32(this.line.out, at + TEXT_REQUEST.targetTransferTag, ttt);
    putU32(this.line.out, at + SCSI_COMMAND.cmdSn, this.cmdSn);
  }

  end(): void {
    this.line.end();
  }
}

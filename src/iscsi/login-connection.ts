// One connection before its full feature phase: login requests in, responses out, with as little
// memory as a login needs (RFC 7143 sections 6.3, 11.12 and 11.13).
//
// Invariants:
//  - the first PDU that is no login request ends the connection;
//  - one request at a time: the next is not read before the response to the last has gone out;
//  - loginEnded comes once, or loginDone; never both.

import { ECONNRESET, EPROTO, putU16, putU32 } from "../base/index.ts";
import type { Arena, Memory, Stream } from "../ports/index.ts";
import {
  BHS_BYTES,
  IMMEDIATE,
  LOGIN_RESPONSE,
  LOGIN_SUCCESS,
  OP_LOGIN_REQUEST,
  OP_LOGIN_RESPONSE,
} from "./layouts.ts";
import { COMMANDS_MAX, DEFAULT_SEGMENT_BYTES, LOGIN_INBOX_BYTES } from "./limits.ts";
import { Login, type LoginModules, type LoginReply } from "./login.ts";
import { PAUSE, type PduHandler, PduStream, STOP, TAKE_INBOX } from "./pdu-stream.ts";

const OUTBOX_SLOTS = 4;

export interface LoginConnectionOwner {
  /** The last response waits until the portal says answerNow(): a predecessor has to go first. */
  mayAnswer(connection: LoginConnection): boolean;
  /** Logged in: the stream is free for the session. `before` came behind the last request. */
  loginDone(connection: LoginConnection, stream: Stream, before: Uint8Array): void;
  loginEnded(connection: LoginConnection): void;
}

export class LoginConnection implements PduHandler {
  readonly login: Login;
  /** Address of the peer, for limits. */
  readonly from: string;
  readonly acceptedUs: number;
  statSn = 0;
  /** Why it ended; empty while it has not. */
  endReason = "";
  private readonly memory: Memory;
  private readonly stream: Stream;
  private readonly pdus: PduStream;
  private readonly owner: LoginConnectionOwner;
  private readonly header: Uint8Array = new Uint8Array(BHS_BYTES);
  private readonly text: Arena;
  private held: LoginReply | null = null;
  private isLast = false;
  private isRefused = false;

  constructor(
    memory: Memory,
    stream: Stream,
    from: string,
    nowUs: number,
    modules: LoginModules,
    owner: LoginConnectionOwner,
  ) {
    this.memory = memory;
    this.stream = stream;
    this.from = from;
    this.acceptedUs = nowUs;
    this.owner = owner;
    this.login = new Login(modules);
    this.text = memory.allocate(DEFAULT_SEGMENT_BYTES);
    this.pdus = new PduStream(memory, stream, this, {
      inboxBytes: LOGIN_INBOX_BYTES,
      outboxSlots: OUTBOX_SLOTS,
    });
    this.pdus.segmentBytesMax = DEFAULT_SEGMENT_BYTES;
  }

  open(): void {
    this.pdus.open(new Uint8Array(0));
  }

  /** The last response is on its way. */
  get isAnswered(): boolean {
    return this.isLast;
  }

  /** The last response is held until answerNow(). */
  get isHeld(): boolean {
    return this.held !== null;
  }

  pduHeader(at: number, _dataBytes: number): number {
    const { u8 } = this.pdus.in;
    if (this.isLast || this.isRefused || this.held !== null) return STOP;
    if (!this.pdus.isDrained) return PAUSE;
    if (u8[at] !== (OP_LOGIN_REQUEST | IMMEDIATE)) {
      this.close("a PDU that is no login request");
      return STOP;
    }
    this.header.set(u8.subarray(at, at + BHS_BYTES));
    return TAKE_INBOX;
  }

  dataTarget(): void {}

  pduEnd(dataAt: number, _isDigestGood: boolean): void {
    const { header } = this;
    const bytes = ((header[5] as number) << 16) | ((header[6] as number) << 8) | (header[7] ?? 0);
    const data = this.pdus.in.u8.subarray(dataAt, dataAt + bytes);
    const reply = this.login.step(header, data);
    if (reply.isFullFeature && !this.owner.mayAnswer(this)) {
      this.held = reply;
      this.pdus.pause();
      return;
    }
    this.answer(reply);
  }

  /** The predecessor is gone. */
  answerNow(): void {
    const reply = this.held;
    this.held = null;
    if (reply !== null) this.answer(reply);
  }

  private answer(reply: LoginReply): void {
    const { pdus, login } = this;
    const { u8 } = pdus.out;
    const at = pdus.begin();
    this.isLast = reply.isFullFeature;
    this.isRefused = reply.status !== LOGIN_SUCCESS;
    if (this.isLast || this.isRefused) pdus.pause();
    u8[at] = OP_LOGIN_RESPONSE;
    u8[at + 1] = reply.flags;
    for (let index = 8; index < 14; index++) u8[at + index] = this.header[index] as number;
    putU16(u8, at + LOGIN_RESPONSE.tsih, login.tsih);
    putU32(u8, at + LOGIN_RESPONSE.initiatorTaskTag, login.initiatorTaskTag);
    putU32(u8, at + LOGIN_RESPONSE.statSn, this.statSn);
    this.statSn = (this.statSn + 1) >>> 0;
    putU32(u8, at + LOGIN_RESPONSE.expCmdSn, login.cmdSn);
    putU32(u8, at + LOGIN_RESPONSE.maxCmdSn, login.cmdSn + COMMANDS_MAX - 1);
    u8[at + LOGIN_RESPONSE.statusClass] = reply.status >>> 8;
    u8[at + LOGIN_RESPONSE.statusDetail] = reply.status & 0xff;
    const text = reply.text.subarray(0, DEFAULT_SEGMENT_BYTES);
    this.text.u8.set(text);
    pdus.finish(at, this.text.address, text.length, -1);
    pdus.flush();
  }

  pduSent(_token: number): void {}

  outboxMoved(): void {
    if (!this.pdus.isDrained) return;
    if (this.isRefused) {
      this.close(`refused: ${this.login.refusal}`);
      return;
    }
    if (this.isLast) {
      this.finish();
      return;
    }
    this.pdus.resume();
  }

  /** Logged in, and the initiator has been told. */
  private finish(): void {
    const before = this.pdus.release();
    this.memory.free(this.text);
    this.login.end();
    this.owner.loginDone(this, this.stream, before);
  }

  close(reason: string): void {
    if (this.endReason !== "") return;
    this.endReason = reason;
    this.pdus.close(reason === "" ? -ECONNRESET : -EPROTO);
  }

  streamEnded(): void {
    if (this.endReason === "") this.endReason = "the connection is gone";
    this.memory.free(this.text);
    this.login.end();
    this.owner.loginEnded(this);
  }
}

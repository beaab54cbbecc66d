// What a session answers besides SCSI: NOP, text negotiation and SendTargets, logout, and messages
// of its own (RFC 7143 sections 11.9 to 11.19 and appendix C). None of it is hot.

import { getU16, getU32, putU16, putU32 } from "../base/index.ts";
import { writeSense } from "../scsi/index.ts";
import {
  ASYNC_DROP_CONNECTION,
  ASYNC_LOGOUT_REQUEST,
  ASYNC_MESSAGE,
  ASYNC_NEGOTIATE,
  ASYNC_SCSI_EVENT,
  FLAG_CONTINUE,
  FLAG_FINAL,
  LOGOUT_FOR_RECOVERY,
  LOGOUT_NO_CID,
  LOGOUT_NO_RECOVERY,
  LOGOUT_REQUEST,
  LOGOUT_RESPONSE,
  LOGOUT_SUCCESS,
  OP_ASYNC_MESSAGE,
  OP_LOGOUT_RESPONSE,
  OP_NOP_IN,
  OP_TEXT_RESPONSE,
  REJECT_PROTOCOL_ERROR,
  RESERVED_TAG,
  TEXT_REQUEST,
  TEXT_RESPONSE,
} from "./layouts.ts";
import { SMALL_PIECE_BYTES } from "./limits.ts";
import { answerInFullFeature, type SessionParameters } from "./negotiation.ts";
import { copyLun, type PduWriter } from "./pdu-writer.ts";
import type { Pieces } from "./pieces.ts";
import type { IscsiTarget, TargetDirectory } from "./target.ts";
import { TASK_ANSWERING, type TaskTable } from "./task-table.ts";
import { encodeText, parseText, TextGatherer, type TextPair } from "./text.ts";

/** What a session is, for its own answers. */
export interface SessionFacts {
  readonly initiatorName: string;
  /** Null in a discovery session. */
  readonly target: IscsiTarget | null;
  readonly cid: number;
  readonly directory: TargetDirectory;
  /** `address:port` of the portal, where a target names none of its own. */
  readonly portalAddress: string;
}

export interface SessionControlOwner {
  /** The answer is queued; the connection ends when it has gone out. */
  closeWhenSent(reason: string): void;
  /** The peer has broken the protocol. */
  fail(reason: string): void;
  hasOutput(): void;
}

export class SessionControl {
  /** Transfer tag of the NOP-In that waits for its answer, or RESERVED_TAG. */
  pingTag: number = RESERVED_TAG;
  private readonly facts: SessionFacts;
  private readonly tasks: TaskTable;
  private readonly pieces: Pieces;
  private readonly writer: PduWriter;
  private readonly parameters: SessionParameters;
  private readonly owner: SessionControlOwner;
  private readonly gatherer: TextGatherer = new TextGatherer();
  /** Of a text answer that needs several PDUs. */
  private rest: Uint8Array = new Uint8Array(0);
  private nextTag = 0;

  constructor(
    facts: SessionFacts,
    tasks: TaskTable,
    pieces: Pieces,
    writer: PduWriter,
    parameters: SessionParameters,
    owner: SessionControlOwner,
  ) {
    this.facts = facts;
    this.tasks = tasks;
    this.pieces = pieces;
    this.writer = writer;
    this.parameters = parameters;
    this.owner = owner;
  }

  private takeTag(): number {
    const tag = this.nextTag;
    // Stays below 2^31: never RESERVED_TAG.
    this.nextTag = (tag + 1) & 0x7fffffff;
    return tag;
  }

  /** Queues an answer whose data is in the task's first piece. */
  private finishWithPiece(slot: number, at: number, bytes: number): void {
    const { tasks, writer } = this;
    tasks.state[slot] = TASK_ANSWERING;
    if (bytes === 0) {
      writer.stream.finishInline(at, 0);
      tasks.release(slot);
    } else {
      tasks.sendingCount[slot] = 1;
      writer.stream.finish(at, tasks.addressAt(slot, 0), bytes, slot);
    }
    this.owner.hasOutput();
  }

  // --- NOP --------------------------------------------------------------------------------------

  /** NOP-Out that wants an answer: its data goes back as far as the initiator takes it. */
  answerNop(slot: number): void {
    const { tasks, writer } = this;
    const { u8 } = writer.stream.out;
    tasks.closePlace(slot);
    const at = writer.begin(OP_NOP_IN, FLAG_FINAL, tasks.tag[slot], true);
    copyLun(u8, at, tasks.headers.u8, tasks.headerAt(slot));
    putU32(u8, at + TEXT_RESPONSE.targetTransferTag, RESERVED_TAG);
    const bytes = Math.min(tasks.ownBytes[slot], this.parameters.peerSegmentBytes);
    this.finishWithPiece(slot, at, bytes);
  }

  /** Asks the initiator whether it is there. */
  ping(): void {
    const { writer } = this;
    const { u8 } = writer.stream.out;
    this.pingTag = this.takeTag();
    const at = writer.begin(OP_NOP_IN, FLAG_FINAL, RESERVED_TAG, false);
    putU32(u8, at + TEXT_RESPONSE.targetTransferTag, this.pingTag);
    writer.stream.finishInline(at, 0);
    this.owner.hasOutput();
  }

  // --- text -------------------------------------------------------------------------------------

  answerText(slot: number): void {
    const { tasks } = this;
    const { u8 } = tasks.headers;
    const header = tasks.headerAt(slot);
    const flags = u8[header + 1];
    const transferTag = getU32(u8, header + TEXT_REQUEST.targetTransferTag);
    const bytes = tasks.ownBytes[slot];
    tasks.closePlace(slot);
    const isEnd = (flags & FLAG_FINAL) !== 0;
    if (transferTag !== RESERVED_TAG && this.rest.length > 0 && bytes === 0) {
      this.sendText(slot, this.rest, isEnd);
      return;
    }
    // A new negotiation ends the one before.
    this.rest = new Uint8Array(0);
    const from = bytes === 0 ? 0 : this.pieces.offsetOf(tasks.pieceAt(slot, 0));
    if (!this.gatherer.add(this.pieces.u8.subarray(from, from + bytes))) {
      tasks.release(slot);
      this.owner.fail("more text than a negotiation may have");
      return;
    }
    if ((flags & FLAG_CONTINUE) !== 0) {
      this.queueText(slot, new Uint8Array(0), false, false);
      return;
    }
    const pairs = parseText(this.gatherer.take());
    if (typeof pairs === "string") {
      this.writer.reject(REJECT_PROTOCOL_ERROR, u8, header);
      tasks.release(slot);
      this.owner.hasOutput();
      return;
    }
    this.sendText(slot, encodeText(this.answerPairs(pairs)), isEnd);
  }

  private answerPairs(pairs: readonly TextPair[]): TextPair[] {
    const answers: TextPair[] = [];
    for (const [key, value] of pairs) {
      if (key === "SendTargets") {
        answers.push(...this.sendTargets(value));
        continue;
      }
      const answer = answerInFullFeature(key, value, this.parameters);
      if (answer !== null) answers.push([key, answer]);
    }
    return answers;
  }

  /** Appendix C: All in a discovery session only; a normal one may ask for its own target. */
  private sendTargets(value: string): TextPair[] {
    const { directory, target, initiatorName } = this.facts;
    if (target !== null) {
      const isOwn = value === "" || value.toLowerCase() === target.name;
      return isOwn ? this.describe(target) : [["SendTargets", "Reject"]];
    }
    if (value === "") return [["SendTargets", "Reject"]];
    const asked = value === "All" ? directory.list() : [directory.find(value.toLowerCase())];
    const answers: TextPair[] = [];
    for (const one of asked) {
      if (one === null) continue;
      if (one.initiators !== null && !one.initiators.has(initiatorName)) continue;
      answers.push(...this.describe(one));
    }
    return answers;
  }

  private describe(target: IscsiTarget): TextPair[] {
    const own = `${this.facts.portalAddress},${target.portalGroupTag}`;
    const addresses = target.addresses.length > 0 ? target.addresses : [own];
    return [
      ["TargetName", target.name],
      ...addresses.map((address): TextPair => ["TargetAddress", address]),
    ];
  }

  /** As much as one PDU takes; the initiator asks for the rest with an empty request. */
  private sendText(slot: number, text: Uint8Array, mayEnd: boolean): void {
    const most = Math.min(this.parameters.peerSegmentBytes, SMALL_PIECE_BYTES);
    this.rest = text.subarray(Math.min(most, text.length));
    const isPart = this.rest.length > 0;
    this.queueText(slot, text.subarray(0, most), isPart, mayEnd && !isPart);
  }

  private queueText(slot: number, text: Uint8Array, isPart: boolean, isEnd: boolean): void {
    const { tasks, writer, pieces } = this;
    const { u8 } = writer.stream.out;
    const flags = (isPart ? FLAG_CONTINUE : 0) | (isEnd ? FLAG_FINAL : 0);
    const at = writer.begin(OP_TEXT_RESPONSE, flags, tasks.tag[slot], true);
    const tag = isEnd ? RESERVED_TAG : this.takeTag();
    copyLun(u8, at, tasks.headers.u8, tasks.headerAt(slot));
    putU32(u8, at + TEXT_RESPONSE.targetTransferTag, tag);
    if (text.length > 0) pieces.u8.set(text, pieces.offsetOf(tasks.pieceAt(slot, 0)));
    this.finishWithPiece(slot, at, text.length);
  }

  // --- logout -----------------------------------------------------------------------------------

  answerLogout(slot: number): void {
    const { tasks, writer } = this;
    const header = tasks.headerAt(slot);
    const reason = tasks.headers.u8[header + 1] & 0x7f;
    const cid = getU16(tasks.headers.u8, header + LOGOUT_REQUEST.cid);
    let response = LOGOUT_SUCCESS;
    if (reason === LOGOUT_FOR_RECOVERY) response = LOGOUT_NO_RECOVERY;
    else if (reason !== 0 && cid !== this.facts.cid) response = LOGOUT_NO_CID;
    tasks.closePlace(slot);
    const at = writer.begin(OP_LOGOUT_RESPONSE, FLAG_FINAL, tasks.tag[slot], true);
    writer.stream.out.u8[at + LOGOUT_RESPONSE.response] = response;
    putU16(writer.stream.out.u8, at + LOGOUT_RESPONSE.time2Wait, this.parameters.defaultTime2Wait);
    putU16(writer.stream.out.u8, at + LOGOUT_RESPONSE.time2Retain, 0);
    this.finishWithPiece(slot, at, 0);
    if (response === LOGOUT_SUCCESS) this.owner.closeWhenSent("logout");
  }

  // --- messages of our own ----------------------------------------------------------------------

  /** Asks the initiator to log out within `seconds`, or says that we hang up. */
  sendAsync(event: number, seconds: number): void {
    const at = this.beginAsync(event);
    const { u8 } = this.writer.stream.out;
    if (event === ASYNC_LOGOUT_REQUEST) putU16(u8, at + ASYNC_MESSAGE.parameter3, seconds);
    if (event === ASYNC_DROP_CONNECTION) {
      putU16(u8, at + ASYNC_MESSAGE.parameter1, this.facts.cid);
      putU16(u8, at + ASYNC_MESSAGE.parameter2, this.parameters.defaultTime2Wait);
    }
    if (event === ASYNC_NEGOTIATE) putU16(u8, at + ASYNC_MESSAGE.parameter3, seconds);
    this.writer.stream.finishInline(at, 0);
    this.owner.hasOutput();
  }

  /** A unit attention as it happens: `code` is ASC * 256 + ASCQ. */
  sendScsiEvent(lun: number, code: number): void {
    const at = this.beginAsync(ASYNC_SCSI_EVENT);
    const { stream } = this.writer;
    const { u8 } = stream.out;
    // Flat space addressing above 255 (SAM-5 4.7.7.4), peripheral below.
    putU16(u8, at + ASYNC_MESSAGE.lun, lun < 256 ? lun : 0x4000 | lun);
    const to = stream.inlineAt(at);
    const bytes = writeSense(u8, to + 2, false, 0x060000 | code, -1, 0);
    putU16(u8, to, bytes);
    stream.finishInline(at, bytes + 2);
    this.owner.hasOutput();
  }

  private beginAsync(event: number): number {
    const { writer } = this;
    const at = writer.begin(OP_ASYNC_MESSAGE, FLAG_FINAL, RESERVED_TAG, true);
    writer.stream.out.u8[at + ASYNC_MESSAGE.asyncEvent] = event;
    return at;
  }
}

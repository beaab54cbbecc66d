// @hot
// One session in its full feature phase, with its one connection: takes PDUs, puts commands into
// the order of their CmdSN, hands them on, and ends only when nothing touches its memory any more
// (RFC 7143 sections 4.2 and 7).
//
//   PduStream -> header -> task slot -> [in order?] -> ScsiTasks | SessionControl | TaskManagement
//
// Invariants:
//  - a command outside the window is ignored; one inside is executed once, in the order of CmdSN;
//  - what a PDU brings is taken only when there is room for it and for its answer: else the
//    connection is not read from, and only this peer waits;
//  - sessionEnded comes once, after the last touch of the kernel and of SCSI.

import { ECANCELED, EPROTO, getU32 } from "../base/index.ts";
import type { Poller, ReactorPort, Stream } from "../ports/index.ts";
import { Admission } from "./admission.ts";
import { type CommandExecutor, CommandOrder } from "./command-order.ts";
import { SENSE_CRC_ERROR } from "./data-out.ts";
import {
  BHS,
  BHS_BYTES,
  IMMEDIATE,
  OP_DATA_OUT,
  OP_LOGOUT_REQUEST,
  OP_NOP_OUT,
  OP_SCSI_COMMAND,
  OP_SNACK,
  OP_TASK_REQUEST,
  OP_TEXT_REQUEST,
  OPCODE_MASK,
  REJECT_DATA_DIGEST,
  REJECT_INVALID_FIELD,
  REJECT_NOT_SUPPORTED,
  REJECT_PROTOCOL_ERROR,
  REJECT_SNACK,
  REJECT_TASK_IN_PROGRESS,
  REJECT_TOO_MANY_IMMEDIATE,
  RESERVED_TAG,
  SCSI_COMMAND,
  TEXT_REQUEST,
} from "./layouts.ts";
import { INBOX_BYTES, LARGE_PIECE_BYTES, OUTBOX_SLOTS } from "./limits.ts";
import type { SessionParameters } from "./negotiation.ts";
import {
  PAUSE,
  type PduHandler,
  PduStream,
  STOP,
  TAKE_MEMORY,
  TAKE_NOTHING,
} from "./pdu-stream.ts";
import { PduWriter } from "./pdu-writer.ts";
import { Pieces } from "./pieces.ts";
import { ScsiTasks, type ScsiTasksOwner } from "./scsi-tasks.ts";
import { SessionControl, type SessionControlOwner, type SessionFacts } from "./session-control.ts";
import { SessionWatch } from "./session-watch.ts";
import type { IscsiTarget } from "./target.ts";
import { TaskManagement, type TaskManagementOwner } from "./task-management.ts";
import { TaskTable } from "./task-table.ts";

/** Slots of the outbox that must be free before a PDU is taken. */
const OUTBOX_ROOM = 64;
/** What the PDU that comes in is, besides a task's slot. */
const INCOMING_NOTHING = -1;
const INCOMING_DATA_OUT = -2;
const INCOMING_REJECTED = -3;

/** What opens a session, and where it is registered. */
export interface SessionOptions {
  readonly facts: SessionFacts;
  readonly isid: string;
  readonly tsih: number;
  readonly parameters: SessionParameters;
  readonly transportId: Uint8Array;
  readonly statSn: number;
  readonly cmdSn: number;
}

export interface SessionOwner {
  sessionEnded(session: Session): void;
  coldReset(session: Session): void;
}

export class Session
  implements
    PduHandler,
    Poller,
    CommandExecutor,
    ScsiTasksOwner,
    SessionControlOwner,
    TaskManagementOwner
{
  readonly options: SessionOptions;
  readonly stream: PduStream;
  readonly tasks: TaskTable;
  readonly pieces: Pieces;
  readonly control: SessionControl;
  commandCount = 0;
  rejectCount = 0;
  /** Requests outside the window. */
  ignoredCount = 0;
  /** Of its nexus in the target's device server; -1: it has none. */
  nexusIndex = -1;
  /** Why it ends; empty while it does not. */
  endReason = "";
  private readonly reactor: ReactorPort;
  private readonly owner: SessionOwner;
  private readonly writer: PduWriter;
  private readonly scsiTasks: ScsiTasks | null = null;
  private readonly management: TaskManagement | null = null;
  private readonly admission: Admission;
  private readonly order: CommandOrder;
  private readonly watch: SessionWatch;
  private incoming = INCOMING_NOTHING;
  /** The header of a PDU that will be refused. */
  private readonly refused: Uint8Array = new Uint8Array(BHS_BYTES);
  private refusal = 0;
  private isFlushDue = false;
  private isClosingWhenSent = false;
  private isStreamEnded = false;
  private isNexusLost = false;
  private isOver = false;

  constructor(reactor: ReactorPort, stream: Stream, options: SessionOptions, owner: SessionOwner) {
    const { facts, parameters } = options;
    this.reactor = reactor;
    this.owner = owner;
    this.options = options;
    this.stream = new PduStream(reactor.memory, stream, this, {
      inboxBytes: INBOX_BYTES,
      outboxSlots: OUTBOX_SLOTS,
    });
    this.stream.hasHeaderDigest = parameters.headerDigest;
    this.stream.hasDataDigest = parameters.dataDigest;
    this.stream.segmentBytesMax = parameters.ownSegmentBytes;
    this.pieces = new Pieces(reactor.memory);
    this.tasks = new TaskTable(reactor.memory, this.pieces);
    this.writer = new PduWriter(this.stream, this.tasks, options.statSn, options.cmdSn);
    const { tasks, pieces, writer } = this;
    this.control = new SessionControl(facts, tasks, pieces, writer, parameters, this);
    const scsi = facts.target === null ? null : facts.target.scsi;
    if (scsi !== null && facts.target !== null) {
      this.scsiTasks = new ScsiTasks(reactor, scsi, tasks, writer, parameters, this);
      this.management = new TaskManagement(tasks, this.scsiTasks, scsi, writer, this);
      const identity = {
        transportId: options.transportId,
        relativePort: facts.target.portalGroupTag,
        portName: targetPortName(facts.target),
      };
      this.nexusIndex = scsi.addNexus(identity, this.scsiTasks);
      this.scsiTasks.setNexus(this.nexusIndex);
      this.management.setNexus(this.nexusIndex);
    }
    this.admission = new Admission(tasks, pieces, parameters);
    this.order = new CommandOrder(writer, tasks, this);
    const nowUs = reactor.loopTimeUs;
    this.watch = new SessionWatch(this.stream, this.control, this.scsiTasks, nowUs);
    reactor.addPoller(this);
  }

  /** Begins; `before` is what the initiator has sent behind its login. */
  // @cold
  open(before: Uint8Array): void {
    if (this.options.facts.target !== null && this.nexusIndex < 0)
      this.close("too many I_T nexuses");
    else this.stream.open(before);
  }

  get isOpen(): boolean {
    return this.endReason === "";
  }

  // --- the loop ---------------------------------------------------------------------------------

  poll(): number {
    return 0;
  }

  arm(): boolean {
    return false;
  }

  disarm(): void {}

  flush(): void {
    this.isFlushDue = false;
    this.stream.flush();
    if (this.isClosingWhenSent && this.stream.isDrained) this.close("logout");
  }

  hasOutput(): void {
    if (this.isFlushDue || this.isOver) return;
    this.isFlushDue = true;
    this.reactor.requestFlush(this);
  }

  // --- PDUs -------------------------------------------------------------------------------------

  pduHeader(at: number, dataBytes: number): number {
    this.incoming = INCOMING_NOTHING;
    if (!this.isOpen || this.isClosingWhenSent) return STOP;
    if (this.stream.freeSlots < OUTBOX_ROOM) return PAUSE;
    const { u8 } = this.stream.in;
    const opcode = u8[at] & OPCODE_MASK;
    if (opcode === OP_DATA_OUT && this.scsiTasks !== null) {
      this.incoming = INCOMING_DATA_OUT;
      if (this.stream.hasDataDigest) this.keepHeader(at);
      const isWanted = this.scsiTasks.dataOut.header(u8, at, dataBytes);
      return isWanted ? TAKE_MEMORY : TAKE_NOTHING;
    }
    switch (opcode) {
      case OP_SCSI_COMMAND:
      case OP_TASK_REQUEST:
        if (this.scsiTasks === null) return this.refuse(REJECT_PROTOCOL_ERROR, at);
        return this.requestHeader(u8, at, opcode, dataBytes);
      case OP_NOP_OUT:
      case OP_TEXT_REQUEST:
      case OP_LOGOUT_REQUEST:
        return this.requestHeader(u8, at, opcode, dataBytes);
      case OP_SNACK:
        return this.refuse(REJECT_SNACK, at);
      case OP_DATA_OUT:
        return this.refuse(REJECT_PROTOCOL_ERROR, at);
      default:
        return this.refuse(REJECT_NOT_SUPPORTED, at);
    }
  }

  private keepHeader(at: number): void {
    const { u8 } = this.stream.in;
    for (let index = 0; index < BHS_BYTES; index++) this.refused[index] = u8[at + index];
  }

  /** The PDU is answered with a Reject once it is whole. */
  // @cold
  private refuse(reason: number, at: number): number {
    this.refusal = reason;
    this.keepHeader(at);
    this.incoming = INCOMING_REJECTED;
    return TAKE_NOTHING;
  }

  private requestHeader(u8: Uint8Array, at: number, opcode: number, dataBytes: number): number {
    const cmdSn = getU32(u8, at + SCSI_COMMAND.cmdSn);
    const tag = getU32(u8, at + BHS.initiatorTaskTag);
    const isImmediate = (u8[at] & IMMEDIATE) !== 0;
    if (!isImmediate && !this.order.isInWindow(cmdSn)) {
      this.ignoredCount += 1;
      return TAKE_NOTHING;
    }
    if (opcode === OP_NOP_OUT && tag === RESERVED_TAG) return this.takePong(u8, at, isImmediate);
    if (isImmediate && !this.tasks.hasImmediatePlace) {
      return this.refuse(REJECT_TOO_MANY_IMMEDIATE, at);
    }
    const isLong = opcode !== OP_SCSI_COMMAND && dataBytes > LARGE_PIECE_BYTES;
    if (tag === RESERVED_TAG || isLong) return this.refuseInOrder(REJECT_INVALID_FIELD, at, cmdSn);
    if (this.tasks.find(tag) >= 0) {
      return this.refuseInOrder(REJECT_TASK_IN_PROGRESS, at, cmdSn);
    }
    const take = this.admission.admit(u8, at, opcode, dataBytes);
    if (take !== PAUSE) this.incoming = this.admission.slot;
    return take;
  }

  /** Refused, but its CmdSN counts: the initiator will not send it again. */
  // @cold
  private refuseInOrder(reason: number, at: number, cmdSn: number): number {
    const isImmediate = (this.stream.in.u8[at] & IMMEDIATE) !== 0;
    const take = this.refuse(reason, at);
    if (!isImmediate) this.skipCommand(cmdSn);
    return take;
  }

  /** A NOP-Out that answers our ping, or says nothing at all. */
  // @cold
  private takePong(u8: Uint8Array, at: number, isImmediate: boolean): number {
    const transferTag = getU32(u8, at + TEXT_REQUEST.targetTransferTag);
    if (transferTag === this.control.pingTag) this.control.pingTag = RESERVED_TAG;
    if (!isImmediate) this.skipCommand(getU32(u8, at + SCSI_COMMAND.cmdSn));
    return TAKE_NOTHING;
  }

  dataTarget(offset: number): void {
    const { stream, tasks } = this;
    if (this.incoming === INCOMING_DATA_OUT) {
      const { dataOut } = this.scsiTasks as ScsiTasks;
      const slot = dataOut.incomingSlot;
      stream.targetAddress = tasks.addressAt(slot, dataOut.incomingOffset + offset);
      stream.targetBytes = tasks.contiguousAt(slot, dataOut.incomingOffset + offset);
      return;
    }
    stream.targetAddress = tasks.addressAt(this.incoming, offset);
    stream.targetBytes = tasks.contiguousAt(this.incoming, offset);
  }

  pduEnd(_dataAt: number, isDigestGood: boolean): void {
    const { incoming } = this;
    this.incoming = INCOMING_NOTHING;
    if (incoming === INCOMING_NOTHING) return;
    if (incoming === INCOMING_DATA_OUT) {
      if (!isDigestGood) this.reject(REJECT_DATA_DIGEST, this.refused, 0);
      (this.scsiTasks as ScsiTasks).dataOut.end(isDigestGood, this.reactor.loopTimeUs);
      this.hasOutput();
      return;
    }
    if (incoming === INCOMING_REJECTED) {
      this.reject(this.refusal, this.refused, 0);
      return;
    }
    this.requestArrived(incoming, isDigestGood);
  }

  // @cold
  private reject(reason: number, header: Uint8Array, at: number): void {
    this.rejectCount += 1;
    this.writer.reject(reason, header, at);
    this.hasOutput();
  }

  private requestArrived(slot: number, isDigestGood: boolean): void {
    const { tasks } = this;
    tasks.isReceiving[slot] = 0;
    if (!isDigestGood) this.digestFailed(slot);
    if (tasks.opcode[slot] === OP_SCSI_COMMAND) {
      this.commandCount += 1;
      tasks.outDone[slot] = tasks.faultSense[slot] === 0 ? tasks.ownBytes[slot] : 0;
    }
    if (tasks.isImmediate[slot] === 1) {
      this.execute(slot);
      return;
    }
    this.order.arrived(slot);
  }

  // @cold
  private digestFailed(slot: number): void {
    const { tasks } = this;
    this.reject(REJECT_DATA_DIGEST, tasks.headers.u8, tasks.headerAt(slot));
    tasks.faultSense[slot] = SENSE_CRC_ERROR;
  }

  execute(slot: number): void {
    if (this.tasks.opcode[slot] === OP_SCSI_COMMAND) {
      (this.scsiTasks as ScsiTasks).start(slot);
      this.hasOutput();
      return;
    }
    this.executeOther(slot);
  }

  // @cold
  private executeOther(slot: number): void {
    const { tasks } = this;
    if (tasks.faultSense[slot] !== 0) {
      // Its data was damaged; the Reject is its answer.
      tasks.release(slot);
      return;
    }
    switch (tasks.opcode[slot]) {
      case OP_NOP_OUT:
        this.control.answerNop(slot);
        return;
      case OP_TEXT_REQUEST:
        this.control.answerText(slot);
        return;
      case OP_LOGOUT_REQUEST:
        this.control.answerLogout(slot);
        return;
      default:
        (this.management as TaskManagement).execute(slot);
    }
  }

  pduSent(token: number): void {
    if (this.scsiTasks !== null) {
      this.scsiTasks.sent(token);
      return;
    }
    this.tasks.sendingCount[token] = 0;
    this.tasks.release(token);
    this.hasRoom();
  }

  outboxMoved(): void {
    if (this.isClosingWhenSent && this.stream.isDrained) {
      this.close("logout");
      return;
    }
    if (this.scsiTasks !== null) {
      this.scsiTasks.dataOut.askMore();
      this.scsiTasks.pump();
    }
    this.stream.resume();
  }

  hasRoom(): void {
    this.stream.resume();
  }

  // @cold
  skipCommand(cmdSn: number): void {
    this.order.skip(cmdSn);
  }

  // @cold
  forgetHeld(slot: number): void {
    this.order.forget(slot);
  }

  /** The initiator has so long to log out by itself. */
  // @cold
  closeAfter(seconds: number): void {
    this.watch.closeAtUs = this.reactor.loopTimeUs + seconds * 1e6;
  }

  /** Called now and then by the portal. */
  // @cold
  tick(): void {
    if (!this.isOpen) return;
    const reason = this.watch.tick(this.reactor.loopTimeUs);
    if (reason !== "") this.fail(reason);
  }

  // @cold
  unitAttention(lun: number, code: number): void {
    // Capacity and inventory of logical units: what a rescan is for. The others come as sense data.
    if (code !== 0x2a09 && code !== 0x3f0e) return;
    if (this.isOpen && this.stream.freeSlots > 1) this.control.sendScsiEvent(lun, code);
  }

  // --- the end ----------------------------------------------------------------------------------

  // @cold
  closeWhenSent(_reason: string): void {
    this.isClosingWhenSent = true;
    this.hasOutput();
  }

  // @cold
  coldReset(): void {
    this.owner.coldReset(this);
  }

  /** The peer is at fault, or gone. */
  // @cold
  fail(reason: string): void {
    this.close(reason);
  }

  /** Ends the session: its tasks are stopped, then sessionEnded. */
  // @cold
  close(reason: string): void {
    if (!this.isOpen) return;
    this.endReason = reason;
    this.scsiTasks?.end();
    this.management?.end();
    this.stream.close(reason === "logout" ? -ECANCELED : -EPROTO);
    const { target } = this.options.facts;
    if (target === null || this.nexusIndex < 0) {
      this.isNexusLost = true;
      return;
    }
    target.scsi.removeNexus(this.nexusIndex, () => {
      this.isNexusLost = true;
      this.finish();
    });
  }

  // @cold
  streamEnded(): void {
    this.isStreamEnded = true;
    if (this.isOpen) this.close("the connection is gone");
    this.finish();
  }

  // @cold
  private finish(): void {
    if (!this.isStreamEnded || !this.isNexusLost || this.isOver) return;
    this.isOver = true;
    this.reactor.removePoller(this);
    if (this.scsiTasks !== null) this.scsiTasks.sweep();
    this.tasks.free();
    this.pieces.release();
    this.owner.sessionEnded(this);
  }

  /** For tests: a session that does nothing holds nothing. */
  // @cold
  get isQuiet(): boolean {
    return this.tasks.usedCount === 0 && this.pieces.isWhole;
  }
}

/** SCSI name string of a target port: its name and portal group tag (RFC 7143 section 4.4.1). */
// @cold
function targetPortName(target: IscsiTarget): string {
  return `${target.name},t,0x${target.portalGroupTag.toString(16).padStart(4, "0")}`;
}

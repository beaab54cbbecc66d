// A small iSCSI initiator for tests: one session over one Stream, commands at depth, every way to
// move data, task management, and raw PDUs for tests of hostile peers. Written against RFC 7143,
// sharing nothing with the target but the layout tables.
//
// Invariant: what the target sends is checked as it comes (DataSN, R2TSN, offsets, StatSN, digests,
// windows); what is wrong is counted in `violations`, with a sentence each.

import { getU32, putU32 } from "../base/index.ts";
import { isBefore } from "../iscsi/layout-bytes.ts";
import {
  BHS_BYTES,
  COMMAND_READ,
  COMMAND_WRITE,
  DATA_IN,
  DATA_OUT,
  DATA_STATUS,
  FLAG_FINAL,
  IMMEDIATE,
  LOGOUT_REQUEST,
  OP_ASYNC_MESSAGE,
  OP_DATA_IN,
  OP_DATA_OUT,
  OP_LOGIN_RESPONSE,
  OP_LOGOUT_REQUEST,
  OP_NOP_IN,
  OP_NOP_OUT,
  OP_R2T,
  OP_REJECT,
  OP_SCSI_COMMAND,
  OP_SCSI_RESPONSE,
  OP_TASK_REQUEST,
  OP_TEXT_REQUEST,
  OPCODE_MASK,
  R2T,
  RESERVED_TAG,
  SCSI_COMMAND,
  SCSI_RESPONSE,
  TASK_REQUEST,
  TASK_RESPONSE,
  TEXT_REQUEST,
} from "../iscsi/layouts.ts";
import type { Memory, StreamDialer } from "../ports/index.ts";
import { InitiatorLogin, type LoginOptions } from "./iscsi-initiator-login.ts";
import { type Pdu, PduPipe, type PduPipeOwner } from "./iscsi-initiator-pipe.ts";

export interface CommandOptions {
  readonly cdb: Uint8Array;
  readonly lun?: number;
  /** Room for data; its length is the expected transfer length of a read. */
  readonly readBytes?: number;
  /** Data to write. */
  readonly data?: Uint8Array;
  /** Expected data transfer length, where it shall differ from the data's. */
  readonly expectedBytes?: number;
  readonly isImmediate?: boolean;
  readonly cmdSn?: number;
  readonly attribute?: number;
  /** Data that R2Ts ask for is not sent. */
  readonly isMute?: boolean;
}

export class InitiatorCommand {
  readonly tag: number;
  readonly options: CommandOptions;
  readonly cmdSn: number;
  isDone = false;
  status = -1;
  /** Flags and count of the residual. */
  residualFlags = 0;
  residual = 0;
  sense: Uint8Array = new Uint8Array(0);
  data: Uint8Array;
  receivedBytes = 0;
  dataSn = 0;
  r2tSn = 0;
  r2tCount = 0;
  /** A Task Management response. */
  response = -1;
  /** A Text or NOP answer. */
  answer: Uint8Array = new Uint8Array(0);

  constructor(tag: number, cmdSn: number, options: CommandOptions) {
    this.tag = tag;
    this.cmdSn = cmdSn;
    this.options = options;
    this.data = new Uint8Array(options.readBytes ?? 0);
  }

  /** Key, code and qualifier of fixed-format sense data in 24 bits; 0 without. */
  get senseTriple(): number {
    const { sense } = this;
    if (sense.length < 14) return 0;
    const key = (sense[2] as number) & 0x0f;
    return (key << 16) | ((sense[12] as number) << 8) | (sense[13] as number);
  }
}

const NOTHING: Uint8Array = new Uint8Array(0);

export class IscsiInitiator implements PduPipeOwner {
  readonly pipe: PduPipe;
  readonly login: InitiatorLogin;
  readonly violations: string[] = [];
  readonly rejects: Pdu[] = [];
  readonly asyncs: Pdu[] = [];
  /** Everything that came behind the login. */
  readonly pdus: Pdu[] = [];
  isOpened = false;
  openResult = 0;
  isEnded = false;
  pingCount = 0;
  /** Answers the target's NOP-Ins. */
  answersPings = true;
  cmdSn: number;
  expStatSn = 0;
  maxCmdSn = 0;
  private readonly commands: Map<number, InitiatorCommand> = new Map();
  private nextTag = 1;

  constructor(memory: Memory, dialer: StreamDialer, options: LoginOptions) {
    this.pipe = new PduPipe(memory, this);
    this.login = new InitiatorLogin(options, (header, data) => this.pipe.send(header, data));
    this.cmdSn = options.firstCmdSn ?? 1;
    this.pipe.setStream(dialer.dial(this.pipe));
  }

  get isLoggedIn(): boolean {
    return this.login.isDone && this.login.status === 0;
  }

  get openCommands(): number {
    return this.commands.size;
  }

  /** What was agreed on: the target's answer, else the specification's default. */
  private parameter(key: string, otherwise: string): string {
    return this.login.keys.get(key) ?? otherwise;
  }

  private number(key: string, otherwise: number): number {
    return Number(this.parameter(key, String(otherwise)));
  }

  pipeOpened(result: number): void {
    this.isOpened = true;
    this.openResult = result;
    if (result === 0) this.login.start();
    else this.pipe.close(result);
  }

  pipeEnded(_reason: number): void {
    this.isEnded = true;
  }

  // --- requests ---------------------------------------------------------------------------------

  /** A header with its counters; a non-immediate one takes the next CmdSN. */
  header(opcode: number, flags: number, tag: number, isImmediate: boolean, lun = 0): Uint8Array {
    const header = new Uint8Array(BHS_BYTES);
    header[0] = opcode | (isImmediate ? IMMEDIATE : 0);
    header[1] = flags;
    header[9] = lun;
    putU32(header, 16, tag);
    putU32(header, SCSI_COMMAND.cmdSn, this.cmdSn);
    putU32(header, SCSI_COMMAND.expStatSn, this.expStatSn);
    if (!isImmediate) this.cmdSn = (this.cmdSn + 1) >>> 0;
    return header;
  }

  private register(options: CommandOptions): InitiatorCommand {
    const command = new InitiatorCommand(this.nextTag, options.cmdSn ?? this.cmdSn, options);
    this.nextTag += 1;
    this.commands.set(command.tag, command);
    return command;
  }

  /** Sends a SCSI command, with as much of its data as may go unasked. */
  command(options: CommandOptions): InitiatorCommand {
    const command = this.register(options);
    const { data } = options;
    const isWrite = data !== undefined;
    const expected = options.expectedBytes ?? (isWrite ? data.length : (options.readBytes ?? 0));
    let flags = (options.attribute ?? 1) & 7;
    if (isWrite) flags |= COMMAND_WRITE;
    else if (expected > 0) flags |= COMMAND_READ;
    const isYes = (key: string, otherwise: string): boolean =>
      this.parameter(key, otherwise) === "Yes";
    const firstBurst = Math.min(
      this.number("FirstBurstLength", 65536),
      data?.length ?? 0,
      expected,
    );
    const segment = this.number("MaxRecvDataSegmentLength", 8192);
    const own = isWrite && isYes("ImmediateData", "Yes") ? Math.min(firstBurst, segment) : 0;
    const unsolicited = isWrite && !isYes("InitialR2T", "Yes") ? firstBurst : own;
    if (unsolicited <= own) flags |= FLAG_FINAL;
    const explicit = options.cmdSn !== undefined;
    const isImmediate = options.isImmediate === true || explicit;
    const header = this.header(OP_SCSI_COMMAND, flags, command.tag, isImmediate, options.lun);
    if (explicit && options.isImmediate !== true) header[0] = OP_SCSI_COMMAND;
    putU32(header, SCSI_COMMAND.cmdSn, command.cmdSn);
    putU32(header, SCSI_COMMAND.expectedDataTransferLength, expected);
    header.set(options.cdb, SCSI_COMMAND.cdb);
    this.pipe.send(header, data?.subarray(0, own) ?? NOTHING);
    if (unsolicited > own) this.sendData(command, RESERVED_TAG, own, unsolicited);
    return command;
  }

  /** Data-Out PDUs for [from, to) of a command's data. */
  private sendData(command: InitiatorCommand, ttt: number, from: number, to: number): void {
    const data = command.options.data ?? NOTHING;
    const segment = this.number("MaxRecvDataSegmentLength", 8192);
    let dataSn = 0;
    for (let at = from; at < to; dataSn++) {
      const bytes = Math.min(segment, to - at);
      const isLast = at + bytes === to;
      this.dataOut(command, ttt, dataSn, at, data.subarray(at, at + bytes), isLast);
      at += bytes;
    }
  }

  /** One Data-Out PDU, as a test wants it. */
  dataOut(
    command: InitiatorCommand,
    ttt: number,
    dataSn: number,
    offset: number,
    data: Uint8Array,
    isLast: boolean,
  ): void {
    const header = this.header(OP_DATA_OUT, isLast ? FLAG_FINAL : 0, command.tag, true);
    header[0] = OP_DATA_OUT;
    putU32(header, 24, 0);
    putU32(header, DATA_OUT.targetTransferTag, ttt);
    putU32(header, DATA_OUT.dataSn, dataSn);
    putU32(header, DATA_OUT.bufferOffset, offset);
    this.pipe.send(header, data);
  }

  /** A task management request about `subject`, or about a logical unit. */
  manage(
    operation: number,
    subject: InitiatorCommand | null,
    isImmediate = true,
  ): InitiatorCommand {
    const command = this.register({ cdb: NOTHING });
    const lun = subject?.options.lun ?? 0;
    const flags = FLAG_FINAL | operation;
    const header = this.header(OP_TASK_REQUEST, flags, command.tag, isImmediate, lun);
    putU32(header, TASK_REQUEST.referencedTaskTag, subject?.tag ?? RESERVED_TAG);
    putU32(header, TASK_REQUEST.refCmdSn, subject?.cmdSn ?? 0);
    this.pipe.send(header);
    return command;
  }

  nop(data: Uint8Array, isImmediate = true): InitiatorCommand {
    const command = this.register({ cdb: NOTHING });
    const header = this.header(OP_NOP_OUT, FLAG_FINAL, command.tag, isImmediate);
    putU32(header, TEXT_REQUEST.targetTransferTag, RESERVED_TAG);
    this.pipe.send(header, data);
    return command;
  }

  text(text: string, ttt: number = RESERVED_TAG): InitiatorCommand {
    const command = this.register({ cdb: NOTHING });
    const header = this.header(OP_TEXT_REQUEST, FLAG_FINAL, command.tag, true);
    putU32(header, TEXT_REQUEST.targetTransferTag, ttt);
    this.pipe.send(header, Buffer.from(text, "utf8"));
    return command;
  }

  logout(reason = 0): InitiatorCommand {
    const command = this.register({ cdb: NOTHING });
    const header = this.header(OP_LOGOUT_REQUEST, FLAG_FINAL | reason, command.tag, true);
    putU32(header, LOGOUT_REQUEST.cid, (this.login.options.cid ?? 0) << 16);
    this.pipe.send(header);
    return command;
  }

  close(): void {
    this.pipe.close();
  }

  // --- answers ----------------------------------------------------------------------------------

  pduArrived(pdu: Pdu): void {
    const opcode = (pdu.header[0] as number) & OPCODE_MASK;
    if (!this.login.isDone) {
      if (opcode !== OP_LOGIN_RESPONSE) this.violations.push(`opcode ${opcode} during login`);
      this.login.take(pdu);
      if (this.login.isDone) this.begin(pdu);
      return;
    }
    this.pdus.push(pdu);
    this.checkCounters(pdu, opcode);
    if (opcode === OP_R2T) this.takeR2T(pdu);
    else if (opcode === OP_DATA_IN) this.takeData(pdu);
    else if (opcode === OP_REJECT) this.rejects.push(pdu);
    else if (opcode === OP_ASYNC_MESSAGE) this.asyncs.push(pdu);
    else this.takeAnswer(pdu, opcode);
  }

  private begin(pdu: Pdu): void {
    if (this.login.status !== 0) return;
    this.expStatSn = this.login.statSn;
    this.maxCmdSn = getU32(pdu.header, TASK_RESPONSE.maxCmdSn);
    this.pipe.hasHeaderDigest = this.parameter("HeaderDigest", "None") === "CRC32C";
    this.pipe.hasDataDigest = this.parameter("DataDigest", "None") === "CRC32C";
  }

  private checkCounters({ header }: Pdu, opcode: number): void {
    const statSn = getU32(header, TASK_RESPONSE.statSn);
    const maxCmdSn = getU32(header, TASK_RESPONSE.maxCmdSn);
    const isPing = opcode === OP_NOP_IN && getU32(header, 16) === RESERVED_TAG;
    const isData = opcode === OP_DATA_IN && ((header[1] as number) & DATA_STATUS) === 0;
    const hasStatus = opcode !== OP_R2T && !isPing && !isData;
    if (hasStatus) {
      if (statSn !== this.expStatSn)
        this.violations.push(`StatSN ${statSn}, not ${this.expStatSn}`);
      this.expStatSn = (statSn + 1) >>> 0;
    }
    if (isBefore(maxCmdSn, this.maxCmdSn)) this.violations.push("MaxCmdSN went back");
    this.maxCmdSn = maxCmdSn;
  }

  private takeR2T({ header }: Pdu): void {
    const command = this.commands.get(getU32(header, 16));
    if (command === undefined) {
      this.violations.push("an R2T for no command");
      return;
    }
    const offset = getU32(header, R2T.bufferOffset);
    const bytes = getU32(header, R2T.desiredDataTransferLength);
    if (getU32(header, R2T.r2tSn) !== command.r2tSn) this.violations.push("a wrong R2TSN");
    command.r2tSn += 1;
    command.r2tCount += 1;
    if (bytes > this.number("MaxBurstLength", 262144)) this.violations.push("an R2T too long");
    if (command.options.isMute === true) return;
    this.sendData(command, getU32(header, R2T.targetTransferTag), offset, offset + bytes);
  }

  private takeData({ header, data }: Pdu): void {
    const command = this.commands.get(getU32(header, 16));
    if (command === undefined) {
      this.violations.push("Data-In for no command");
      return;
    }
    const offset = getU32(header, DATA_IN.bufferOffset);
    if (getU32(header, DATA_IN.dataSn) !== command.dataSn) this.violations.push("a wrong DataSN");
    if (offset !== command.receivedBytes) this.violations.push("Data-In at a wrong offset");
    const most = Number(this.login.options.offers?.["MaxRecvDataSegmentLength"] ?? 8192);
    if (data.length > most) this.violations.push("a data segment too long");
    command.dataSn += 1;
    if (offset + data.length > command.data.length) this.violations.push("more data than room");
    else command.data.set(data, offset);
    command.receivedBytes = offset + data.length;
    if (((header[1] as number) & DATA_STATUS) === 0) return;
    if (((header[1] as number) & FLAG_FINAL) === 0) this.violations.push("a status without F");
    this.finish(command, header);
  }

  private finish(command: InitiatorCommand, header: Uint8Array): void {
    command.status = header[SCSI_RESPONSE.status] as number;
    command.residualFlags = (header[1] as number) & 6;
    command.residual = getU32(header, SCSI_RESPONSE.residualCount);
    command.isDone = true;
    this.commands.delete(command.tag);
  }

  private takeAnswer(pdu: Pdu, opcode: number): void {
    const { header } = pdu;
    const tag = getU32(header, 16);
    if (opcode === OP_NOP_IN && tag === RESERVED_TAG) {
      this.pingCount += 1;
      if (this.answersPings) this.pong(getU32(header, TEXT_REQUEST.targetTransferTag));
      return;
    }
    const command = this.commands.get(tag);
    if (command === undefined) {
      this.violations.push(`opcode ${opcode} for no command`);
      return;
    }
    if (opcode === OP_SCSI_RESPONSE) {
      command.sense = pdu.data.slice(2);
      this.finish(command, header);
      return;
    }
    command.response = header[TASK_RESPONSE.response] as number;
    command.answer = pdu.data;
    command.isDone = true;
    this.commands.delete(tag);
  }

  private pong(ttt: number): void {
    const header = this.header(OP_NOP_OUT, FLAG_FINAL, RESERVED_TAG, true);
    putU32(header, TEXT_REQUEST.targetTransferTag, ttt);
    this.pipe.send(header);
  }
}

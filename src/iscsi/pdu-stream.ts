// @hot
// PDUs over one Stream, both ways, without an allocation per PDU (RFC 7143 sections 11.2, 12.1).
//
//   inbox    | done |  header  | data ... |  header | part of one |   free   |
//   a long data segment is received straight into the memory that the handler names
//   outbox   slots of 384 bytes: header, digest, padding and digest of the data, a little data
//
// Everything queued since the last flush goes out with one gathered send.
//
// Invariants:
//  - a header is handed on once it is whole and matches its digest; nothing of a PDU is handed on
//    after the first thing that is wrong with the framing: there is no way back into step;
//  - memory named by dataTarget() is touched until pduEnd(), memory of a queued PDU until
//    pduSent(token); neither after streamEnded();
//  - a handler that says PAUSE is asked again by resume(); until then nothing more is received
//    than the inbox holds.

import {
  assert,
  crc32cTable,
  ECONNRESET,
  EPROTO,
  getU24,
  putU24,
  SendQueue,
  type SendQueueOwner,
} from "../base/index.ts";
import {
  type Address,
  type Arena,
  type Memory,
  STREAM_IOVECS_MAX,
  type Stream,
  type StreamHandler,
} from "../ports/index.ts";
import { getDigest, headerBytes, padBytes, putDigest } from "./layout-bytes.ts";
import { BHS, BHS_BYTES, DIGEST_BYTES } from "./layouts.ts";

/** What a handler says to a header. */
export const TAKE_INBOX = 0;
/** The data goes to dataTarget(). */
export const TAKE_MEMORY = 1;
/** The data is of no use. */
export const TAKE_NOTHING = 2;
/** Not now; see resume(). */
export const PAUSE = 3;
/** No more of this, until resume() or the end. */
export const STOP = 4;

export interface PduHandler {
  /** A whole header at byte `at` of `stream.in.u8`; a data segment of `dataBytes` follows. */
  pduHeader(at: number, dataBytes: number): number;
  /** Sets targetAddress and targetBytes (at least 1) of the stream for the data at `offset`. */
  dataTarget(offset: number): void;
  /** The PDU is whole; in TAKE_INBOX its data is at `dataAt`. False: a wrong digest. */
  pduEnd(dataAt: number, isDigestGood: boolean): void;
  /** Of a PDU queued with a token >= 0: its data may change. */
  pduSent(token: number): void;
  /** Slots have become free, or everything has gone out. */
  outboxMoved(): void;
  /** Once, after the last touch. */
  streamEnded(): void;
}

const OUT_STRIDE = 384;
/** Padding and digest of the data, in a slot of the outbox. */
const TAIL_AT = 56;
const INLINE_AT = 64;
const INLINE_BYTES_MAX: number = OUT_STRIDE - INLINE_AT;
/** Shorter rests are received into the inbox, with what follows them. */
const DIRECT_BYTES_MIN = 2048;
/** The longest header: its additional segments have at most 255 words. */
const HEADER_BYTES_MAX: number = BHS_BYTES + 255 * 4 + DIGEST_BYTES;

const READ_HEADER = 0;
const READ_DATA = 1;
const READ_TAIL = 2;

export class PduStream implements StreamHandler, SendQueueOwner {
  /** Received bytes. */
  readonly in: Arena;
  /** Queued headers; begin() says where. */
  readonly out: Arena;
  /** Set by dataTarget(). */
  targetAddress: Address = 0;
  targetBytes = 0;
  /** Longest data segment that is taken; more is an error of the peer. */
  segmentBytesMax = 0;
  hasHeaderDigest = false;
  hasDataDigest = false;
  /** Why it ended: 0 while open, else a negated errno. */
  endReason = 0;
  receivedBytes = 0;
  sentBytes = 0;

  private readonly memory: Memory;
  private readonly stream: Stream;
  private readonly handler: PduHandler;
  private readonly inboxBytes: number;
  private readonly iovecs: Arena;
  private readonly queue: SendQueue;
  private isSending = false;
  private start = 0;
  private end = 0;
  private state = READ_HEADER;
  private take = TAKE_NOTHING;
  private segmentBytes = 0;
  private segmentDone = 0;
  private dataCrc = 0;
  private dataAt = 0;
  private isReceiving = false;
  private isDirect = false;
  private isPaused = false;
  private isParsing = false;
  private isClosing = false;

  constructor(
    memory: Memory,
    stream: Stream,
    handler: PduHandler,
    sizes: { readonly inboxBytes: number; readonly outboxSlots: number },
  ) {
    this.memory = memory;
    this.stream = stream;
    this.handler = handler;
    this.inboxBytes = sizes.inboxBytes;
    this.queue = new SendQueue(sizes.outboxSlots, OUT_STRIDE, TAIL_AT);
    this.in = memory.allocate(sizes.inboxBytes);
    this.out = memory.allocate(sizes.outboxSlots * OUT_STRIDE);
    this.iovecs = memory.allocate(this.queue.iovecBytes(STREAM_IOVECS_MAX));
    stream.setHandler(this);
  }

  /** Begins to receive. `before` = what arrived in front, for a stream that is handed over. */
  // @cold
  open(before: Uint8Array): void {
    this.in.u8.set(before, 0);
    this.end = before.length;
    this.parse();
    this.receiveMore();
  }

  get isOpen(): boolean {
    return !this.isClosing;
  }

  get freeSlots(): number {
    return this.queue.freeSlots;
  }

  /** Everything queued has gone out. */
  get isDrained(): boolean {
    return this.queue.isEmpty && !this.isSending;
  }

  // --- sending -----------------------------------------------------------------------------------

  /** Begins a PDU; returns the byte of its zeroed header in `out.u8`. There must be a free slot. */
  begin(): number {
    const at = this.queue.nextAt;
    this.out.u8.fill(0, at, at + BHS_BYTES);
    return at;
  }

  /** Byte of the data that finishInline() sends, in `out.u8`. */
  inlineAt(at: number): number {
    return at + INLINE_AT;
  }

  /** Ends a PDU with `bytes` of data in its own slot. */
  finishInline(at: number, bytes: number): void {
    assert(bytes <= INLINE_BYTES_MAX, "inline data too long");
    this.finish(at, this.out.address + at + INLINE_AT, bytes, -1);
  }

  /** Ends a PDU whose data is `bytes` at `address`. It goes out with flush(). */
  finish(at: number, address: Address, bytes: number, token: number): void {
    const { u8 } = this.out;
    putU24(u8, at + BHS.dataSegmentLength, bytes);
    let head = BHS_BYTES;
    if (this.hasHeaderDigest) {
      putDigest(u8, at + BHS_BYTES, crc32cTable(u8, 0, at, at + BHS_BYTES));
      head += DIGEST_BYTES;
    }
    let tail = padBytes(bytes);
    const tailAt = at + TAIL_AT;
    u8.fill(0, tailAt, tailAt + tail);
    if (this.hasDataDigest && bytes > 0) {
      const crc = this.memory.crc32c(address, bytes, 0);
      putDigest(u8, tailAt + tail, crc32cTable(u8, crc, tailAt, tailAt + tail));
      tail += DIGEST_BYTES;
    }
    this.queue.put(head, address, bytes, tail, token);
  }

  /** Sends what is queued, unless a send is under way: then it follows that. */
  flush(): void {
    if (this.isSending || this.isClosing || this.queue.isEmpty) return;
    const count = this.queue.gather(this.out.address, this.iovecs.u32);
    this.isSending = true;
    this.stream.send(this.iovecs.address, count);
  }

  streamSent(result: number): void {
    this.isSending = false;
    if (result <= 0) {
      this.close(result === 0 ? -ECONNRESET : result);
      return;
    }
    this.sentBytes += result;
    this.queue.sent(result, this);
    if (!this.isClosing) this.handler.outboxMoved();
    this.flush();
  }

  slotSent(token: number): void {
    this.handler.pduSent(token);
  }

  // --- receiving ---------------------------------------------------------------------------------

  streamReceived(result: number): void {
    this.isReceiving = false;
    if (this.isClosing) return;
    if (result <= 0) {
      this.close(result === 0 ? -ECONNRESET : result);
      return;
    }
    this.receivedBytes += result;
    if (this.isDirect) {
      this.isDirect = false;
      this.placed(this.targetAddress, result);
    } else {
      this.end += result;
    }
    this.parse();
    this.receiveMore();
  }

  /** Nothing more is handed on until resume(), as if a header had been answered with PAUSE. */
  pause(): void {
    this.isPaused = true;
  }

  /** A paused stream can be handed over: nothing is under way. */
  get isIdle(): boolean {
    return this.isDrained && !this.isReceiving && !this.isClosing;
  }

  /** Lets go of the stream, for another handler of it; returns what was not read yet. */
  // @cold
  release(): Uint8Array {
    assert(this.isPaused && this.isIdle, "a stream released in mid-air");
    const rest = Uint8Array.from(this.in.u8.subarray(this.start, this.end));
    this.free();
    return rest;
  }

  /** A handler that has paused can go on. */
  resume(): void {
    if (!this.isPaused || this.isParsing || this.isClosing) return;
    this.isPaused = false;
    this.parse();
    this.receiveMore();
  }

  private receiveMore(): void {
    if (this.isClosing || this.isPaused || this.isReceiving) return;
    this.isReceiving = true;
    if (this.state === READ_DATA && this.take === TAKE_MEMORY && this.start === this.end) {
      this.aim();
      if (this.targetBytes >= DIRECT_BYTES_MIN) {
        this.isDirect = true;
        this.stream.receive(this.targetAddress, this.targetBytes);
        return;
      }
    }
    this.makeRoom();
    this.stream.receive(this.in.address + this.end, this.inboxBytes - this.end);
  }

  /** What is left in the inbox is shorter than what it is part of: it fits at the front. */
  private makeRoom(): void {
    if (this.start === this.end) {
      this.start = 0;
      this.end = 0;
      return;
    }
    const isWhole = this.state === READ_DATA && this.take === TAKE_INBOX;
    const needed = isWhole ? this.segmentBytes + 8 : HEADER_BYTES_MAX;
    if (this.inboxBytes - this.start >= needed && this.end < this.inboxBytes) return;
    this.in.u8.copyWithin(0, this.start, this.end);
    this.end -= this.start;
    this.start = 0;
    assert(this.end < this.inboxBytes, "a full inbox without a whole unit");
  }

  /** Asks the handler where the next bytes of data go. */
  private aim(): void {
    this.handler.dataTarget(this.segmentDone);
    assert(this.targetBytes > 0, "a data target without room");
    const left = this.segmentBytes - this.segmentDone;
    if (this.targetBytes > left) this.targetBytes = left;
  }

  /** So many bytes of the data segment lie at `address` now. */
  private placed(address: Address, bytes: number): void {
    if (this.hasDataDigest) this.dataCrc = this.memory.crc32c(address, bytes, this.dataCrc);
    this.segmentDone += bytes;
  }

  private parse(): void {
    this.isParsing = true;
    let goesOn = true;
    while (goesOn && !this.isClosing && !this.isPaused) {
      if (this.state === READ_HEADER) goesOn = this.parseHeader();
      else if (this.state === READ_DATA) goesOn = this.parseData();
      else goesOn = this.parseTail();
    }
    this.isParsing = false;
  }

  private parseHeader(): boolean {
    const { u8 } = this.in;
    const at = this.start;
    const there = this.end - at;
    if (there < BHS_BYTES) return false;
    const bytes = headerBytes(u8, at, this.hasHeaderDigest);
    if (there < bytes) return false;
    if (this.hasHeaderDigest) {
      const crcAt = at + bytes - DIGEST_BYTES;
      if (crc32cTable(u8, 0, at, crcAt) !== getDigest(u8, crcAt)) {
        this.close(-EPROTO);
        return false;
      }
    }
    const dataBytes = getU24(u8, at + BHS.dataSegmentLength);
    if (dataBytes > this.segmentBytesMax) {
      this.close(-EPROTO);
      return false;
    }
    const take = this.handler.pduHeader(at, dataBytes);
    if (this.isClosing) return false;
    if (take === PAUSE || take === STOP) {
      this.isPaused = true;
      return false;
    }
    this.take = take;
    this.segmentBytes = dataBytes;
    this.segmentDone = 0;
    this.dataCrc = 0;
    this.start = at + bytes;
    if (dataBytes === 0) {
      this.handler.pduEnd(this.start, true);
      return true;
    }
    this.state = READ_DATA;
    return true;
  }

  private parseData(): boolean {
    if (this.take === TAKE_INBOX) {
      if (this.end - this.start < this.segmentBytes) return false;
      this.dataAt = this.start;
      this.placed(this.in.address + this.start, this.segmentBytes);
      this.start += this.segmentBytes;
      this.state = READ_TAIL;
      return true;
    }
    while (this.segmentDone < this.segmentBytes) {
      const there = this.end - this.start;
      if (there === 0) return false;
      const left = this.segmentBytes - this.segmentDone;
      let bytes = there < left ? there : left;
      const from = this.in.address + this.start;
      if (this.take === TAKE_MEMORY) {
        this.aim();
        if (bytes > this.targetBytes) bytes = this.targetBytes;
        this.memory.copy(this.targetAddress, from, bytes);
      }
      this.placed(from, bytes);
      this.start += bytes;
    }
    this.state = READ_TAIL;
    return true;
  }

  /** Padding and digest; the bytes of TAKE_INBOX stay where they are until the handler had them. */
  private parseTail(): boolean {
    const { u8 } = this.in;
    const pad = padBytes(this.segmentBytes);
    const bytes = pad + (this.hasDataDigest ? DIGEST_BYTES : 0);
    if (this.end - this.start < bytes) {
      // The room may be made anew before the rest comes: begin once more from the data.
      if (this.take === TAKE_INBOX) {
        this.start = this.dataAt;
        this.segmentDone = 0;
        this.dataCrc = 0;
        this.state = READ_DATA;
      }
      return false;
    }
    let isGood = true;
    if (this.hasDataDigest) {
      const crc = crc32cTable(u8, this.dataCrc, this.start, this.start + pad);
      isGood = crc === getDigest(u8, this.start + pad);
    }
    this.start += bytes;
    this.state = READ_HEADER;
    this.handler.pduEnd(this.dataAt, isGood);
    return true;
  }

  // --- the end -----------------------------------------------------------------------------------

  /** Ends the connection, with a negated errno for the reason. streamEnded follows. */
  // @cold
  close(reason: number): void {
    if (this.isClosing) return;
    assert(reason !== 0, "a connection ended without a reason");
    this.isClosing = true;
    this.endReason = reason;
    this.stream.close();
  }

  streamOpened(): void {
    assert(false, "an open stream was opened");
  }

  // @cold
  streamClosed(): void {
    if (!this.isClosing) {
      this.isClosing = true;
      this.endReason = -ECONNRESET;
    }
    this.free();
    this.handler.streamEnded();
  }

  // @cold
  private free(): void {
    this.memory.free(this.in);
    this.memory.free(this.out);
    this.memory.free(this.iovecs);
  }
}

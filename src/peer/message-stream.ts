// @hot
// Messages over one authenticated Stream, both ways, without an allocation per message.
//
//   inbox    | done |  message  |  message  | part of one |   free    |
//                   ^start                                ^end
//   outbox   slots of 80 bytes header + inline payload; an external payload stays where it is
//
// Everything queued since the last flush goes out with one gathered send. A message is handed on
// when its header and payload match their checksums; the handler copies what it wants to keep.
//
// Invariants:
//  - the first thing that is wrong ends the connection: there is no way back into step;
//  - memory of queued payloads is touched until messageSent(token) or streamEnded, not longer;
//  - streamEnded comes exactly once, after the last touch; nothing is handed on after close().

import { assert, ECONNRESET, SendQueue, type SendQueueOwner } from "../base/index.ts";
import {
  type Address,
  type Arena,
  type Memory,
  STREAM_IOVECS_MAX,
  type Stream,
  type StreamHandler,
} from "../ports/index.ts";
import {
  beginHeader,
  checkHeader,
  HEADER_BYTES,
  HEADER_OK,
  PAYLOAD_BAD_CRC,
  PAYLOAD_BYTES_MAX,
  sealHeader,
  W_PAYLOAD_BYTES,
  W_PAYLOAD_CRC,
} from "../wire/index.ts";
import { INBOX_BYTES, OUTBOX_SLOTS } from "./limits.ts";

export interface MessageHandler {
  /** A whole message: header at word `at` of `stream.in`, payload at byte `payloadAt`. */
  messageReceived(at: number, payloadAt: number, payloadBytes: number): void;
  /** Of a message queued with a token >= 0: its payload may change. */
  messageSent(token: number): void;
  /** See endReason. No memory given to the stream is touched any more. */
  streamEnded(): void;
}

/** Header and inline payload of a queued message. */
const OUT_STRIDE_BYTES = 320;
const INLINE_BYTES_MAX: number = OUT_STRIDE_BYTES - HEADER_BYTES;

export class MessageStream implements StreamHandler, SendQueueOwner {
  /** Received bytes. */
  readonly in: Arena;
  /** Queued headers: begin() says where. */
  readonly out: Arena;
  /** Why it ended: 0 while open; a negated errno, or one of wire's HEADER_* verdicts. */
  endReason = 0;

  private readonly memory: Memory;
  private readonly stream: Stream;
  private readonly handler: MessageHandler;
  private readonly iovecs: Arena;
  private readonly iovecAddress: Float64Array;
  private readonly queue: SendQueue = new SendQueue(OUTBOX_SLOTS, OUT_STRIDE_BYTES, 0);
  private isSending = false;
  private start = 0;
  private end = 0;
  /** The header at `start` was found good; its payload is not complete. */
  private isHeaderChecked = false;
  private isClosing = false;

  constructor(memory: Memory, stream: Stream, handler: MessageHandler) {
    this.memory = memory;
    this.stream = stream;
    this.handler = handler;
    this.in = memory.allocate(INBOX_BYTES);
    this.out = memory.allocate(OUTBOX_SLOTS * OUT_STRIDE_BYTES);
    this.iovecs = memory.allocate(this.queue.iovecBytes(STREAM_IOVECS_MAX));
    this.iovecAddress = new Float64Array([this.iovecs.address]);
    stream.setHandler(this);
  }

  /** Begins with what arrived behind the handshake. */
  // @cold
  open(leftover: Uint8Array): void {
    this.in.u8.set(leftover, 0);
    this.end = leftover.length;
    this.parse();
    this.receiveMore();
  }

  get isOpen(): boolean {
    return !this.isClosing;
  }

  /** Messages that begin() will still take. */
  get freeSlots(): number {
    return this.queue.freeSlots;
  }

  get hasQueued(): boolean {
    return !this.queue.isEmpty;
  }

  // --- sending -----------------------------------------------------------------------------------

  /** Begins a message; returns the word in `out` where its header is. There must be a free slot. */
  begin(type: number, flags: number, request: number, session: number): number {
    const at = this.queue.nextAt >>> 2;
    beginHeader(this.out.u32, at, type, flags, request, session);
    return at;
  }

  /** Byte in `out` of the inline payload of the message begun at `at`. */
  inlineAt(at: number): number {
    return at * 4 + HEADER_BYTES;
  }

  /** Ends it: `inlineBytes` behind the header, then `bytes` at `address`. Goes out with flush(). */
  finish(at: number, inlineBytes: number, address: Address, bytes: number, token: number): void {
    assert(inlineBytes <= INLINE_BYTES_MAX, "an inline payload too long");
    const total = inlineBytes + bytes;
    assert(total <= PAYLOAD_BYTES_MAX && (total & 7) === 0, "a payload of a wrong length");
    const words = this.out.u32;
    let crc = 0;
    if (inlineBytes > 0)
      crc = this.memory.crc32c(this.out.address + this.inlineAt(at), inlineBytes, 0);
    if (bytes > 0) crc = this.memory.crc32c(address, bytes, crc);
    words[at + W_PAYLOAD_BYTES] = total;
    words[at + W_PAYLOAD_CRC] = crc;
    sealHeader(words, this.out.u8, at);
    this.queue.put(HEADER_BYTES + inlineBytes, address, bytes, 0, token);
  }

  /** Sends what is queued, unless a send is under way: then it follows that. */
  flush(): void {
    if (this.isSending || this.isClosing || this.queue.isEmpty) return;
    const count = this.queue.gather(this.out.address, this.iovecs.u32);
    this.isSending = true;
    this.stream.send(this.iovecAddress[0] as number, count);
  }

  streamSent(result: number): void {
    this.isSending = false;
    if (result <= 0) {
      this.close(result === 0 ? -ECONNRESET : result);
      return;
    }
    this.queue.sent(result, this);
    this.flush();
  }

  slotSent(token: number): void {
    this.handler.messageSent(token);
  }

  // --- receiving ---------------------------------------------------------------------------------

  streamReceived(result: number): void {
    if (this.isClosing) return;
    if (result <= 0) {
      this.close(result === 0 ? -ECONNRESET : result);
      return;
    }
    this.end += result;
    this.parse();
    this.receiveMore();
  }

  private receiveMore(): void {
    if (this.isClosing) return;
    if (this.start === this.end) {
      this.start = 0;
      this.end = 0;
    } else if (this.start >= INBOX_BYTES / 2) {
      // What is left is shorter than a message: it fits below.
      this.in.u8.copyWithin(0, this.start, this.end);
      this.end -= this.start;
      this.start = 0;
    }
    assert(this.end < INBOX_BYTES, "a full inbox without a whole message");
    this.stream.receive(this.in.address + this.end, INBOX_BYTES - this.end);
  }

  private parse(): void {
    const words = this.in.u32;
    while (!this.isClosing && this.end - this.start >= HEADER_BYTES) {
      const at = this.start >>> 2;
      if (!this.isHeaderChecked) {
        const verdict = checkHeader(words, this.in.u8, at, PAYLOAD_BYTES_MAX);
        if (verdict !== HEADER_OK) {
          this.close(verdict);
          return;
        }
        this.isHeaderChecked = true;
      }
      const bytes = words[at + W_PAYLOAD_BYTES] as number;
      if (this.end - this.start < HEADER_BYTES + bytes) return;
      const payloadAt = this.start + HEADER_BYTES;
      if (bytes > 0) {
        const crc = this.memory.crc32c(this.in.address + payloadAt, bytes, 0);
        if (crc !== words[at + W_PAYLOAD_CRC]) {
          this.close(PAYLOAD_BAD_CRC);
          return;
        }
      }
      this.isHeaderChecked = false;
      this.start = payloadAt + bytes;
      this.handler.messageReceived(at, payloadAt, bytes);
    }
  }

  // --- the end -----------------------------------------------------------------------------------

  /** Ends the connection; `reason` as endReason says. streamEnded follows. */
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
    this.memory.free(this.in);
    this.memory.free(this.out);
    this.memory.free(this.iovecs);
    this.handler.streamEnded();
  }
}

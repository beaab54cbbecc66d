// One vhost-user connection as a stream of messages: header, payload and the descriptors that came
// with their bytes. Knows framing, nothing of what messages mean.
//
// Invariants:
//  - exactly one message's bytes are asked for at a time, so that descriptors received belong to
//    that message and to no other;
//  - descriptors received belong to the message until takeDescriptors(); whatever nobody took is
//    closed when the next message begins, or with the connection;
//  - a peer that sends half a message has MESSAGE_TIMEOUT_MS to send the rest; between messages it
//    may be silent for ever;
//  - replies never block: a peer that lets its socket fill up is cut off.
// Specification: vhost-user, "Message Specification".

import { assert, EAGAIN, EINTR } from "../base/index.ts";
import type { Arena, Memory } from "../ports/index.ts";
import { closeReceived, hangUp, receive, send } from "../sys/index.ts";
import {
  FLAG_KNOWN_MASK,
  FLAG_NEED_REPLY,
  FLAG_REPLY,
  FLAG_VERSION,
  FLAG_VERSION_MASK,
  HEADER,
  MEM_TABLE_REGIONS_MAX,
  PAYLOAD_BYTES_MAX,
  REPLY_FLAGS,
} from "./messages.ts";

/** How long a message may take from its first byte to its last. */
export const MESSAGE_TIMEOUT_MS = 5000;

/** receive(): no whole message yet. */
export const AGAIN = 0;
/** A message is there: request, flags, payload and descriptors are filled. */
export const MESSAGE = 1;
/** The peer closed, or broke the framing; `problem` says what, "" for an orderly close. */
export const CLOSED = 2;

const HEADER_BYTES = HEADER.BYTES;

export class Connection {
  readonly fd: number;
  request = 0;
  needReply = false;
  payloadBytes = 0;
  /** Valid until the next receive(). */
  readonly payload: DataView;
  readonly payloadU8: Uint8Array;
  /** Why receive() answered CLOSED. */
  problem = "";

  private readonly memory: Memory;
  private readonly arena: Arena;
  private readonly reply: DataView;
  private readonly received: { fds: number[]; truncated: boolean } = { fds: [], truncated: false };
  private bytes = 0;
  private complete = false;

  constructor(fd: number, memory: Memory) {
    this.fd = fd;
    this.memory = memory;
    this.arena = memory.allocate(4096);
    const { buffer, byteOffset } = this.arena.u8;
    const payloadAt = byteOffset + HEADER_BYTES;
    this.payload = new DataView(buffer as ArrayBuffer, payloadAt, PAYLOAD_BYTES_MAX);
    this.payloadU8 = new Uint8Array(buffer as ArrayBuffer, payloadAt, PAYLOAD_BYTES_MAX);
    this.reply = new DataView(buffer as ArrayBuffer, byteOffset + REPLY_AT, REPLY_BYTES_MAX);
  }

  /** True while a message has begun and not ended: the timeout runs. */
  get partial(): boolean {
    return this.bytes > 0 && !this.complete;
  }

  /** Reads on; AGAIN, MESSAGE or CLOSED. */
  receive(): number {
    if (this.complete) this.beginNext();
    for (;;) {
      const total = this.bytes < HEADER_BYTES ? HEADER_BYTES : HEADER_BYTES + this.payloadBytes;
      if (this.bytes >= HEADER_BYTES && this.bytes === total) {
        this.complete = true;
        return MESSAGE;
      }
      const at = this.arena.address + this.bytes;
      const result = receive(this.fd, at, total - this.bytes, this.received);
      if (result === -EINTR) continue;
      if (result === -EAGAIN) return AGAIN;
      if (result < 0) return this.closed("");
      if (result === 0)
        return this.closed(this.bytes > 0 ? "closed in the middle of a message" : "");
      this.bytes += result;
      // Counted as they come: many small pieces must not pile up more than a message may have.
      if (this.received.truncated || this.received.fds.length > MEM_TABLE_REGIONS_MAX) {
        return this.closed("more descriptors than a message can carry");
      }
      if (this.bytes === HEADER_BYTES && !this.header()) return CLOSED;
    }
  }

  private beginNext(): void {
    this.closeDescriptors();
    this.bytes = 0;
    this.complete = false;
  }

  private closed(problem: string): number {
    this.problem = problem;
    return CLOSED;
  }

  /** Reads the header's fields; false (and `problem`) when they break the protocol. */
  private header(): boolean {
    const words = this.arena.u32;
    this.request = words[HEADER.request >>> 2] as number;
    const flags = words[HEADER.flags >>> 2] as number;
    this.payloadBytes = words[HEADER.size >>> 2] as number;
    this.needReply = (flags & FLAG_NEED_REPLY) !== 0;
    if ((flags & FLAG_VERSION_MASK) !== FLAG_VERSION) {
      this.problem = `version ${flags & FLAG_VERSION_MASK} in the flags of request ${this.request}`;
    } else if ((flags & FLAG_REPLY) !== 0) {
      this.problem = `REPLY set on request ${this.request}`;
    } else if ((flags & ~FLAG_KNOWN_MASK) !== 0) {
      this.problem = `reserved flags 0x${flags.toString(16)} on request ${this.request}`;
    } else if (this.payloadBytes > PAYLOAD_BYTES_MAX) {
      this.problem = `a payload of ${this.payloadBytes} bytes on request ${this.request}`;
    }
    return this.problem === "";
  }

  get descriptorCount(): number {
    return this.received.fds.length;
  }

  /** The message's descriptors; the caller closes them from now on. */
  takeDescriptors(): number[] {
    return this.received.fds.splice(0);
  }

  private closeDescriptors(): void {
    for (const fd of this.received.fds.splice(0)) closeReceived(fd);
  }

  replyU64(request: number, low: number, high: number, fds: readonly number[] = []): boolean {
    this.reply.setUint32(HEADER_BYTES, low, true);
    this.reply.setUint32(HEADER_BYTES + 4, high, true);
    return this.sendReply(request, 8, fds);
  }

  /** Where a reply's payload is written before sendReply(). */
  get replyPayload(): DataView {
    return new DataView(this.reply.buffer, this.reply.byteOffset + HEADER_BYTES);
  }

  /** Sends the reply whose payload is in replyPayload. False: the peer does not read. */
  sendReply(request: number, payloadBytes: number, fds: readonly number[] = []): boolean {
    assert(payloadBytes <= PAYLOAD_BYTES_MAX, "a reply larger than any request");
    this.reply.setUint32(HEADER.request, request, true);
    this.reply.setUint32(HEADER.flags, REPLY_FLAGS, true);
    this.reply.setUint32(HEADER.size, payloadBytes, true);
    const bytes = HEADER_BYTES + payloadBytes;
    return send(this.fd, this.arena.address + REPLY_AT, bytes, fds) === bytes;
  }

  /** Closes the socket and what descriptors are left. */
  close(): void {
    this.closeDescriptors();
    hangUp(this.fd);
    this.memory.free(this.arena);
  }
}

const REPLY_AT = 2048;
const REPLY_BYTES_MAX = HEADER_BYTES + PAYLOAD_BYTES_MAX;
assert(HEADER_BYTES + PAYLOAD_BYTES_MAX <= REPLY_AT, "a message overlaps the reply");
assert(REPLY_AT + REPLY_BYTES_MAX <= 4096, "a reply does not fit its page");

// vhost-user messages on a stream socket, from the client's side: header, payload and descriptors
// out and in, with bounded waits. Knows nothing of what a message means; used for the protocol
// socket (front-end.ts) and for the back-end's own channel (backend-channel.ts).
//
// Descriptors belong to the message whose bytes they came with, so exactly one header and exactly
// one payload are read at a time.

import { EAGAIN, ECONNRESET, EPIPE } from "../base/index.ts";
import type { Arena } from "../ports/index.ts";
import * as sys from "../sys/index.ts";
import { HEADER, PAYLOAD_BYTES_MAX } from "../vhost-user/messages.ts";
import { LoadError } from "./errors.ts";

export interface Message {
  readonly request: number;
  readonly flags: number;
  readonly payload: Uint8Array;
  readonly fds: readonly number[];
}

export interface OutgoingMessage extends Message {
  /** What the header's size says, when it shall not be the truth. */
  readonly declaredBytes?: number;
}

const BUFFER_BYTES = 65536;
const RECEIVE_AT = 32768;
/** The longest message this end sends or takes: far above the protocol's, for hostile tests. */
export const STREAM_MESSAGE_BYTES_MAX = 16384;

const memory = new sys.SystemMemory();

export class MessageStream {
  readonly fd: number;
  private readonly arena: Arena;
  private readonly clock = new sys.SystemClock();
  private open = true;

  /** Takes over `fd`, a connected non-blocking stream socket. */
  constructor(fd: number) {
    this.fd = fd;
    this.arena = memory.allocate(BUFFER_BYTES);
  }

  get isOpen(): boolean {
    return this.open;
  }

  close(): void {
    if (!this.open) return;
    this.open = false;
    sys.close(this.fd);
    memory.free(this.arena);
  }

  private nowMs(): number {
    return this.clock.nowUs() / 1000;
  }

  private mustBeOpen(): void {
    if (!this.open) throw new LoadError("CLOSED", "This connection has been closed here.");
  }

  /** Sends all of `bytes`; descriptors go with the first byte. */
  sendBytes(bytes: Uint8Array, fds: readonly number[], timeoutMs: number): void {
    this.mustBeOpen();
    if (bytes.length > STREAM_MESSAGE_BYTES_MAX) {
      throw new LoadError("OPTIONS", `A message of ${bytes.length} bytes is more than this sends.`);
    }
    this.arena.u8.set(bytes, 0);
    const deadline = this.nowMs() + timeoutMs;
    let sent = 0;
    while (sent < bytes.length) {
      const attached = sent === 0 ? fds : [];
      const at = this.arena.address + sent;
      const result = sys.send(this.fd, at, bytes.length - sent, attached);
      if (result > 0) {
        sent += result;
      } else if (result === -EAGAIN) {
        const left = Math.ceil(deadline - this.nowMs());
        if (left <= 0) throw new LoadError("TIMEOUT", "The back-end does not read its socket.");
        sys.pollOne(this.fd, sys.POLLOUT, left);
      } else if (result === -EPIPE || result === -ECONNRESET) {
        throw new LoadError("CLOSED", "The back-end has closed the connection.");
      } else {
        sys.check(result, "sendmsg", "vhost-user socket");
      }
    }
  }

  sendMessage(message: OutgoingMessage, timeoutMs: number): void {
    const bytes = new Uint8Array(HEADER.BYTES + message.payload.length);
    const view = new DataView(bytes.buffer);
    view.setUint32(HEADER.request, message.request, true);
    view.setUint32(HEADER.flags, message.flags, true);
    view.setUint32(HEADER.size, message.declaredBytes ?? message.payload.length, true);
    bytes.set(message.payload, HEADER.BYTES);
    this.sendBytes(bytes, message.fds, timeoutMs);
  }

  /** Fills [at, at + bytes) of the arena from the socket. */
  private fill(
    at: number,
    bytes: number,
    received: sys.ReceivedDescriptors,
    deadlineMs: number,
    name: string,
  ): void {
    let have = 0;
    while (have < bytes) {
      const into = this.arena.address + at + have;
      const result = sys.receive(this.fd, into, bytes - have, received);
      if (result > 0) {
        have += result;
      } else if (result === 0 || result === -ECONNRESET) {
        throw new LoadError(
          "CLOSED",
          `The back-end closed the connection when it should have answered ${name}.`,
        );
      } else if (result === -EAGAIN) {
        const left = Math.ceil(deadlineMs - this.nowMs());
        if (left <= 0) {
          throw new LoadError("TIMEOUT", `The back-end did not answer ${name} in time.`);
        }
        sys.pollOne(this.fd, sys.POLLIN, left);
      } else {
        sys.check(result, "recvmsg", "vhost-user socket");
      }
    }
  }

  /** The next message. `name` says in errors what was waited for. */
  receiveMessage(timeoutMs: number, name: string): Message {
    this.mustBeOpen();
    const deadline = this.nowMs() + timeoutMs;
    const received: sys.ReceivedDescriptors = { fds: [], truncated: false };
    try {
      this.fill(RECEIVE_AT, HEADER.BYTES, received, deadline, name);
      const words = this.arena.u32;
      const request = words[(RECEIVE_AT + HEADER.request) >>> 2];
      const flags = words[(RECEIVE_AT + HEADER.flags) >>> 2];
      const bytes = words[(RECEIVE_AT + HEADER.size) >>> 2];
      if (bytes > PAYLOAD_BYTES_MAX) {
        throw new LoadError("BAD_REPLY", `The answer to ${name} claims ${bytes} bytes of payload.`);
      }
      this.fill(RECEIVE_AT, bytes, received, deadline, name);
      if (received.truncated) {
        throw new LoadError("BAD_REPLY", `The answer to ${name} has more descriptors than fit.`);
      }
      const payload = this.arena.u8.slice(RECEIVE_AT, RECEIVE_AT + bytes);
      return { request, flags, payload, fds: received.fds };
    } catch (error) {
      for (const fd of received.fds) sys.close(fd);
      throw error;
    }
  }

  /** True when bytes or a close are waiting. */
  readable(timeoutMs: number): boolean {
    return this.open && sys.pollOne(this.fd, sys.POLLIN, timeoutMs) > 0;
  }

  /**
   * True when the peer has closed the connection within `timeoutMs`. Bytes that arrive meanwhile
   * are read and dropped: after a refused message nobody cares for them.
   */
  waitClosed(timeoutMs: number): boolean {
    const deadline = this.nowMs() + timeoutMs;
    const received: sys.ReceivedDescriptors = { fds: [], truncated: false };
    for (;;) {
      const result = sys.receive(this.fd, this.arena.address, 4096, received);
      for (const fd of received.fds.splice(0)) sys.close(fd);
      if (result === 0 || result === -ECONNRESET) return true;
      if (result < 0 && result !== -EAGAIN) sys.check(result, "recvmsg", "vhost-user socket");
      const left = Math.ceil(deadline - this.nowMs());
      if (left <= 0) return false;
      if (result < 0) sys.pollOne(this.fd, sys.POLLIN, left);
    }
  }

  /** True when the peer has closed, without waiting and without taking bytes from the stream. */
  hungUp(): boolean {
    return (sys.pollOne(this.fd, 0, 0) & (sys.POLLHUP | sys.POLLERR)) !== 0;
  }
}

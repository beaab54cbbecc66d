// One TCP connection of the iSCSI load generator, on a thread that has nothing else to do: PDUs are
// put together where they are sent from, and looked at where they arrived. Nothing is allocated
// once it is connected.
//
// Invariants:
// - [outAt, outEnd) is still to be sent, [inAt, inEnd) was received and not looked at;
// - neither side waits for the other while it has something to take: what cannot be sent waits,
//   and what comes meanwhile is taken.

import { EAGAIN, EINTR } from "../base/index.ts";
import type { Arena, Memory } from "../ports/index.ts";
import {
  close,
  connectTcp,
  POLLIN,
  POLLOUT,
  pollOne,
  read,
  setNonblocking,
  type TcpAddress,
  write,
} from "../sys/index.ts";
import { LoadError } from "./errors.ts";

export class IscsiLine {
  readonly out: Uint8Array;
  readonly in: Uint8Array;
  outAt = 0;
  outEnd = 0;
  inAt = 0;
  inEnd = 0;
  private readonly memory: Memory;
  private readonly outArena: Arena;
  private readonly inArena: Arena;
  private fd = -1;

  /** Rooms for what is sent before it is flushed, and for the largest PDU that may come, twice. */
  constructor(memory: Memory, outBytes: number, inBytes: number) {
    this.memory = memory;
    this.outArena = memory.allocate(outBytes);
    this.inArena = memory.allocate(inBytes);
    this.out = this.outArena.u8;
    this.in = this.inArena.u8;
  }

  /** Throws LoadError CONNECT_FAILED. */
  connect(address: TcpAddress): void {
    const fd = connectTcp(address);
    if (fd < 0) {
      const where = `${address.host}:${address.port}`;
      throw new LoadError("CONNECT_FAILED", `Cannot connect to ${where}: errno ${-fd}.`, {
        advice: "See whether something listens there.",
      });
    }
    setNonblocking(fd);
    this.hangUp();
    this.fd = fd;
    this.outAt = 0;
    this.outEnd = 0;
    this.inAt = 0;
    this.inEnd = 0;
  }

  /** Where `bytes` more can be put, -1 when they would have to be sent first. */
  room(bytes: number): number {
    if (this.outEnd + bytes > this.out.length && this.outAt > 0) {
      this.out.copyWithin(0, this.outAt, this.outEnd);
      this.outEnd -= this.outAt;
      this.outAt = 0;
    }
    return this.outEnd + bytes > this.out.length ? -1 : this.outEnd;
  }

  /** Sends as much as is taken at once. */
  flush(): void {
    while (this.outAt < this.outEnd) {
      const address = this.outArena.address + this.outAt;
      const sent = write(this.fd, address, this.outEnd - this.outAt);
      if (sent === -EAGAIN || sent === -EINTR) return;
      if (sent <= 0) this.lost(sent);
      this.outAt += sent;
    }
    this.outAt = 0;
    this.outEnd = 0;
  }

  /** Takes what has come; false: nothing. */
  fill(): boolean {
    if (this.inAt > 0) {
      this.in.copyWithin(0, this.inAt, this.inEnd);
      this.inEnd -= this.inAt;
      this.inAt = 0;
    }
    const address = this.inArena.address + this.inEnd;
    const got = read(this.fd, address, this.in.length - this.inEnd);
    if (got === -EAGAIN || got === -EINTR) return false;
    if (got <= 0) this.lost(got);
    this.inEnd += got;
    return true;
  }

  /** Sleeps until something can be done; false: nothing could for that long. */
  wait(timeoutMs: number): boolean {
    const events = this.outAt < this.outEnd ? POLLIN | POLLOUT : POLLIN;
    return pollOne(this.fd, events, timeoutMs) !== 0;
  }

  private lost(result: number): never {
    const how = result === 0 ? "has ended the connection" : `is lost: errno ${-result}`;
    throw new LoadError("CLOSED", `The target ${how}.`);
  }

  private hangUp(): void {
    if (this.fd >= 0) close(this.fd);
    this.fd = -1;
  }

  end(): void {
    this.hangUp();
    this.memory.free(this.outArena);
    this.memory.free(this.inArena);
  }
}

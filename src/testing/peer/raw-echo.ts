// What the wire is compared with: the same bytes over the same sockets with nothing in between. The
// client sends messages of a header and 4 KiB, the server answers each with a header's bytes.

import { high32 } from "../../base/index.ts";
import type { Arena, Poller, Stream, StreamAcceptor, StreamHandler } from "../../ports/index.ts";
import type { Reactor } from "../../reactor/index.ts";
import { HEADER_BYTES } from "../../wire/index.ts";

const MESSAGE_BYTES: number = HEADER_BYTES + 4096;
const BUFFER_BYTES = 524288;

abstract class RawEnd implements StreamHandler, Poller {
  protected readonly reactor: Reactor;
  protected readonly buffer: Arena;
  protected stream: Stream | null = null;
  /** Messages to be sent. */
  protected owed = 0;
  private unsentBytes = 0;
  private isSending = false;
  private receivedBytes = 0;
  private readonly sendBytes: number;
  private readonly receiveBytes: number;

  constructor(reactor: Reactor, sendBytes: number, receiveBytes: number) {
    this.reactor = reactor;
    this.sendBytes = sendBytes;
    this.receiveBytes = receiveBytes;
    this.buffer = reactor.memory.allocate(2 * BUFFER_BYTES + 4096);
    reactor.addPoller(this);
  }

  protected abstract received(count: number): void;

  protected begin(stream: Stream): void {
    this.stream = stream;
    stream.setHandler(this);
    stream.receive(this.buffer.address, BUFFER_BYTES);
  }

  protected say(count: number): void {
    this.owed += count;
    this.reactor.requestFlush(this);
  }

  poll(): number {
    return 0;
  }
  arm(): boolean {
    return false;
  }
  disarm(): void {}

  flush(): void {
    this.unsentBytes += this.owed * this.sendBytes;
    this.owed = 0;
    if (this.isSending || this.unsentBytes === 0 || this.stream === null) return;
    const at = this.buffer.address + BUFFER_BYTES;
    const iovec = (2 * BUFFER_BYTES) >>> 2;
    this.buffer.u32[iovec] = at >>> 0;
    this.buffer.u32[iovec + 1] = high32(at);
    this.buffer.u32[iovec + 2] = Math.min(this.unsentBytes, BUFFER_BYTES);
    this.buffer.u32[iovec + 3] = 0;
    this.isSending = true;
    this.stream.send(this.buffer.address + 2 * BUFFER_BYTES, 1);
  }

  streamOpened(_result: number): void {}

  streamSent(result: number): void {
    this.isSending = false;
    if (result < 0) return;
    this.unsentBytes -= result;
    this.flush();
  }

  streamReceived(result: number): void {
    if (result <= 0) {
      this.stream?.close();
      this.stream = null;
      return;
    }
    this.receivedBytes += result;
    const count = Math.floor(this.receivedBytes / this.receiveBytes);
    this.receivedBytes -= count * this.receiveBytes;
    this.stream?.receive(this.buffer.address, BUFFER_BYTES);
    if (count > 0) this.received(count);
  }

  streamClosed(): void {}
}

export class RawServer extends RawEnd implements StreamAcceptor {
  constructor(reactor: Reactor) {
    super(reactor, HEADER_BYTES, MESSAGE_BYTES);
  }

  streamAccepted(stream: Stream): void {
    this.begin(stream);
  }

  protected received(count: number): void {
    this.say(count);
  }
}

export class RawClient extends RawEnd {
  completedCount = 0;
  inflightCount = 0;
  isRunning = false;
  isOpen = false;

  constructor(reactor: Reactor) {
    super(reactor, MESSAGE_BYTES, HEADER_BYTES);
  }

  override streamOpened(result: number): void {
    this.isOpen = result === 0;
    if (this.isOpen && this.stream !== null) this.begin(this.stream);
  }

  /** The stream that was dialled with this as its handler. */
  dialled(stream: Stream): void {
    this.stream = stream;
  }

  start(depth: number): void {
    this.isRunning = true;
    this.inflightCount += depth;
    this.say(depth);
  }

  protected received(count: number): void {
    this.completedCount += count;
    if (this.isRunning) this.say(count);
    else this.inflightCount -= count;
  }
}

// @hot
// Streams over sockets, through the ring: one receive and one gathered send at a time, connect and
// accept. The kernel waits for the socket; nothing here polls.
//
// Plain sends and receives are what pays: a receive into memory of the caller's own choice needs no
// buffer ring, and zero-copy sends cost two completions and page pinning, which 4 KiB do not repay
// (on loopback the kernel copies anyway).
//
// Invariants:
//  - close() shuts the socket down and cancels what is under way; streamClosed comes when the last
//    completion has: until then the kernel may touch the caller's memory;
//  - the descriptor is closed before streamClosed, and by nobody else.
// Specification: io_uring_enter(2), recv(2), sendmsg(2).

import { assert, ENOTCONN, TWO_32 } from "../base/index.ts";
import type {
  Address,
  Arena,
  Memory,
  Stream,
  StreamAcceptor,
  StreamDialer,
  StreamHandler,
} from "../ports/index.ts";
import {
  close,
  MSG_NOSIGNAL,
  peerHost,
  putTcpAddress,
  SOCK_CLOEXEC,
  setNoDelay,
  shutdown,
  type TcpAddress,
  tcpSocket,
} from "../sys/index.ts";
import type { CompletionHandler, Ring, RingFile } from "./ring.ts";

const TAG_CONNECT = 0;
const TAG_RECEIVE = 1;
const TAG_SEND = 2;
const TAG_CANCEL = 3;
const TAG_NOP = 4;
const TAG_ACCEPT = 5;

/** struct msghdr: name 0, namelen 8, iov 16, iovlen 24, control 32, controllen 40, flags 48. */
const MSGHDR_IOV_WORD = 4;
const MSGHDR_COUNT_WORD = 6;
const ADDRESS_AT = 256;

export class UringStream implements Stream, CompletionHandler {
  private readonly ring: Ring;
  private readonly memory: Memory;
  private readonly fd: number;
  private readonly file: RingFile;
  private readonly handlerIndex: number;
  private readonly page: Arena;
  private handler: StreamHandler | null = null;
  /** Completions that are still to come. */
  private owedCount = 0;
  private isConnecting = false;
  private isReceiving = false;
  private isSending = false;
  private isClosing = false;

  /** Takes the descriptor over: a connected stream socket, or one to be connected. */
  constructor(ring: Ring, memory: Memory, fd: number) {
    this.ring = ring;
    this.memory = memory;
    this.fd = fd;
    this.file = ring.registerFile(fd);
    this.handlerIndex = ring.addHandler(this);
    this.page = memory.allocate(4096);
  }

  setHandler(handler: StreamHandler): void {
    assert(!this.isReceiving && !this.isSending, "a stream's handler changed in mid-air");
    this.handler = handler;
  }

  /** Connects; the handler hears streamOpened. A bad address fails like one that is not there. */
  // @cold
  connect(address: TcpAddress): void {
    // No address has no length: the kernel refuses it, from the loop like any other failure.
    const bytes = Math.max(0, putTcpAddress(this.page.u8, ADDRESS_AT, address));
    const at = this.page.address + ADDRESS_AT;
    this.owedCount += 1;
    this.isConnecting = true;
    this.ring.connect(this.file, at, bytes, this.handlerIndex, TAG_CONNECT);
  }

  receive(address: Address, bytes: number): void {
    assert(!this.isReceiving && !this.isClosing, "two receives, or one of a closed stream");
    this.isReceiving = true;
    this.owedCount += 1;
    this.ring.recv(this.file, address, bytes, this.handlerIndex, TAG_RECEIVE);
  }

  send(iovecs: Address, count: number): void {
    assert(!this.isSending && !this.isClosing, "two sends, or one of a closed stream");
    const words = this.page.u32;
    words[MSGHDR_IOV_WORD] = iovecs >>> 0;
    words[MSGHDR_IOV_WORD + 1] = Math.floor(iovecs / TWO_32);
    words[MSGHDR_COUNT_WORD] = count;
    this.isSending = true;
    this.owedCount += 1;
    this.ring.sendmsg(this.file, this.page.address, MSG_NOSIGNAL, this.handlerIndex, TAG_SEND);
  }

  // @cold
  close(): void {
    if (this.isClosing) return;
    this.isClosing = true;
    shutdown(this.fd);
    if (this.isConnecting) this.cancel(TAG_CONNECT);
    if (this.isReceiving) this.cancel(TAG_RECEIVE);
    if (this.isSending) this.cancel(TAG_SEND);
    if (this.owedCount > 0) return;
    this.owedCount += 1;
    this.ring.nop(this.handlerIndex, TAG_NOP);
  }

  // @cold
  private cancel(tag: number): void {
    this.owedCount += 1;
    this.ring.cancel(this.handlerIndex, tag, this.handlerIndex, TAG_CANCEL);
  }

  completed(tag: number, result: number, _flags: number): void {
    assert(this.owedCount > 0, "a stream's completion that was not owed");
    this.owedCount -= 1;
    const handler = this.handler as StreamHandler;
    if (tag === TAG_RECEIVE) {
      this.isReceiving = false;
      handler.streamReceived(result);
    } else if (tag === TAG_SEND) {
      this.isSending = false;
      handler.streamSent(result === 0 ? -ENOTCONN : result);
    } else if (tag === TAG_CONNECT) {
      this.isConnecting = false;
      handler.streamOpened(result);
    }
    if (this.isClosing && this.owedCount === 0) this.finish();
  }

  // @cold
  private finish(): void {
    this.ring.unregisterFile(this.file);
    this.ring.removeHandler(this.handlerIndex);
    close(this.fd);
    this.memory.free(this.page);
    const { handler } = this;
    this.handler = null;
    handler?.streamClosed();
  }
}

/** Dials one address again and again. */
export class UringDialer implements StreamDialer {
  readonly target: string;
  private readonly ring: Ring;
  private readonly memory: Memory;
  private readonly address: TcpAddress;

  constructor(ring: Ring, memory: Memory, address: TcpAddress) {
    this.ring = ring;
    this.memory = memory;
    this.address = address;
    this.target = `${address.host} port ${address.port}`;
  }

  // @cold
  dial(handler: StreamHandler): Stream {
    // Without a descriptor the ring itself says -EBADF, from the loop.
    const stream = new UringStream(this.ring, this.memory, tcpSocket(this.address.host));
    stream.setHandler(handler);
    stream.connect(this.address);
    return stream;
  }
}

/** Takes connections from a listening socket, one accept after the other. */
export class UringListener implements CompletionHandler {
  acceptedCount = 0;
  /** Why the last accept failed: descriptors may be used up. See retry(). */
  lastError = 0;
  private readonly ring: Ring;
  private readonly memory: Memory;
  private readonly fd: number;
  private readonly acceptor: StreamAcceptor;
  private readonly handlerIndex: number;
  private owedCount = 0;
  private isAccepting = false;
  private isClosing = false;
  private closed: () => void = () => {};

  /** Takes the listening descriptor over. */
  constructor(ring: Ring, memory: Memory, fd: number, acceptor: StreamAcceptor) {
    this.ring = ring;
    this.memory = memory;
    this.fd = fd;
    this.acceptor = acceptor;
    this.handlerIndex = ring.addHandler(this);
    this.retry();
  }

  /** Accepts again after a failure; call it now and then. Nothing where it is accepting. */
  // @cold
  retry(): void {
    if (this.isAccepting || this.isClosing) return;
    this.isAccepting = true;
    this.owedCount += 1;
    this.ring.accept(this.fd, SOCK_CLOEXEC, this.handlerIndex, TAG_ACCEPT);
  }

  // @cold
  completed(tag: number, result: number, _flags: number): void {
    this.owedCount -= 1;
    if (tag === TAG_ACCEPT) {
      this.isAccepting = false;
      if (result >= 0) {
        this.take(result);
        this.retry();
      } else {
        this.lastError = result;
      }
    }
    if (this.isClosing && this.owedCount === 0) this.finish();
  }

  // @cold
  private take(fd: number): void {
    if (this.isClosing) {
      close(fd);
      return;
    }
    this.acceptedCount += 1;
    setNoDelay(fd);
    const from = peerHost(fd);
    this.acceptor.streamAccepted(new UringStream(this.ring, this.memory, fd), from);
  }

  /** Takes no more connections; those taken go on. */
  // @cold
  close(closed: () => void): void {
    assert(!this.isClosing, "a listener closed twice");
    this.isClosing = true;
    this.closed = closed;
    this.owedCount += 1;
    this.ring.cancel(this.handlerIndex, TAG_ACCEPT, this.handlerIndex, TAG_CANCEL);
  }

  // @cold
  private finish(): void {
    close(this.fd);
    this.ring.removeHandler(this.handlerIndex);
    this.closed();
  }
}

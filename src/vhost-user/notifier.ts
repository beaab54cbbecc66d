// @hot
// Tells the driver: the call and err descriptors of a ring. The front-end chose them, so nothing
// here may block or trust them.
//
// A write to an eventfd can block when its count is full and the descriptor is blocking. Whether it
// is blocking can change at any moment: flags belong to the open file description, which the
// front-end shares. Hence:
//  - an anonymous inode (eventfd): signalled by the kernel itself, which never blocks
//    (signalReceived); where that is not to be had, written by a kernel thread as below;
//  - a pipe or a socket: written by a kernel thread through the ring, at most one write at a time
//    per notifier; a signal that comes meanwhile is sent when it ends;
//  - anything else: accepted, never signalled.

import type { ReactorPort } from "../ports/index.ts";
import {
  canSignalReceived,
  closeReceived,
  fstatNoWait,
  S_IFIFO,
  S_IFMT,
  S_IFSOCK,
  signalReceived,
} from "../sys/index.ts";

const MUTE = 0;
const DIRECT = 1;
const ASYNC = 2;

export class Notifier {
  /** Signals sent and signals for which there was nobody to tell. */
  sentCount = 0;
  droppedCount = 0;
  private readonly reactor: ReactorPort;
  private fd = -1;
  private mode = MUTE;

  constructor(reactor: ReactorPort) {
    this.reactor = reactor;
  }

  get hasDescriptor(): boolean {
    return this.fd >= 0;
  }

  /** Takes ownership of `fd`; -1 = none. */
  // @cold
  set(fd: number): void {
    this.clear();
    if (fd < 0) return;
    this.fd = fd;
    const status = fstatNoWait(fd);
    if (typeof status === "number") return;
    const kind = status.mode & S_IFMT;
    if (kind === 0 && canSignalReceived()) this.mode = DIRECT;
    else if (kind === 0 || kind === S_IFIFO || kind === S_IFSOCK) this.mode = ASYNC;
  }

  // @cold
  clear(): void {
    if (this.fd >= 0) {
      if (this.mode === ASYNC) this.reactor.closeAfterSignals(this.fd);
      else closeReceived(this.fd);
    }
    this.fd = -1;
    this.mode = MUTE;
  }

  signal(): void {
    if (this.mode === DIRECT) {
      // A full eventfd has woken its reader already, a closed one has none.
      signalReceived(this.fd);
      this.sentCount += 1;
    } else if (this.mode === ASYNC) {
      this.reactor.signalAsync(this.fd);
      this.sentCount += 1;
    } else {
      this.droppedCount += 1;
    }
  }
}

/** Can a kick descriptor be watched without trusting its owner? Eventfds, pipes and sockets. */
export function isWatchable(fd: number): boolean {
  const status = fstatNoWait(fd);
  if (typeof status === "number") return false;
  const kind = status.mode & S_IFMT;
  return kind === 0 || kind === S_IFIFO || kind === S_IFSOCK;
}

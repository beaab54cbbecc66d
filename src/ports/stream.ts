// A Stream is one bidirectional connection of bytes, driven asynchronously: TCP or a Unix socket
// in `uring/`, two queues with faults in the simulator. A submit returns at once; its completion
// arrives later from the reactor's loop, never inside the call.
//
// Invariants:
//  - at most one receive and one send are under way; a send gathers what one turn has queued;
//  - a send may take fewer bytes than given, and a receive bring fewer: the caller goes on;
//  - memory given to a submit is touched until its completion, and by nobody after streamClosed:
//    only then may it be freed or given to others;
//  - close() may be called at any time and any number of times; streamClosed comes exactly once,
//    and nothing after it.

import type { Address } from "./memory.ts";

export interface StreamHandler {
  /** Of a dialled stream, before anything else: 0, or a negated errno. Not of an accepted one. */
  streamOpened(result: number): void;
  /** Bytes, 0 = the peer sends no more, or a negated errno. */
  streamReceived(result: number): void;
  /** Bytes taken, at least 1, or a negated errno. */
  streamSent(result: number): void;
  streamClosed(): void;
}

export interface Stream {
  /** Who hears of completions. May be changed while nothing is under way. */
  setHandler(handler: StreamHandler): void;
  receive(address: Address, bytes: number): void;
  /** `iovecs` is the address of `count` struct iovec; both they and the data stay as they are. */
  send(iovecs: Address, count: number): void;
  /** Ends both directions at once; what is under way completes with an error, or as it would. */
  close(): void;
}

/** Opens connections to one address. */
export interface StreamDialer {
  /** For logs: where it leads. */
  readonly target: string;
  /** Returns at once; the handler hears streamOpened, or streamOpened and streamClosed. */
  dial(handler: StreamHandler): Stream;
}

/** Is given each connection that a listener takes. Sets its handler, or closes it. */
export interface StreamAcceptor {
  /** `from` = the address of the other end, where there is one: for limits and logs. */
  streamAccepted(stream: Stream, from?: string): void;
}

/** `IOVECS_MAX` of the kernel: more are refused. */
export const STREAM_IOVECS_MAX = 1024;

// Unix sockets with descriptor passing (SCM_RIGHTS). Every function returns `>= 0` or a negated
// errno. Received descriptors are close-on-exec and belong to the caller, also when the message
// was truncated: receive() reports that, and the caller closes what came.

import { assert, EINTR, EINVAL } from "../base/index.ts";
import type { Address } from "../ports/index.ts";
import {
  AF_UNIX,
  MSG_CMSG_CLOEXEC,
  MSG_CTRUNC,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  SCM_RIGHTS,
  SHUT_RDWR,
  SO_LINGER,
  SO_PEERCRED,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
} from "./constants.ts";
import { close } from "./files.ts";
import {
  cAccept4,
  cBind,
  cConnect,
  cGetsockopt,
  cListen,
  cRecvmsg,
  cSendmsg,
  cSetsockopt,
  cShutdown,
  cSocket,
  cSocketpair,
  ret,
} from "./libc.ts";
import { putU64, scratch } from "./scratch.ts";

/** sun_path holds 108 bytes with its terminating NUL. */
export const UNIX_PATH_BYTES_MAX = 107;
/** The kernel passes at most this many descriptors in one message (SCM_MAX_FD). */
export const DESCRIPTORS_MAX = 253;

// Places in the scratch page: address at 0, msghdr at 256, iovec at 320, control at 512.
const MSGHDR = 256;
const IOVEC = 320;
const CONTROL = 512;
/** The second half takes bytes that nobody wants. */
const REST: number = scratch.bytes / 2;
const CMSG_HEADER_BYTES = 16;

function putAddress(path: string): number {
  // A leading "@" means the abstract namespace, as systemd writes it (NOTIFY_SOCKET).
  const abstract = path.startsWith("@");
  const bytes = new TextEncoder().encode(abstract ? path.slice(1) : path);
  if (bytes.length === 0 || bytes.length > UNIX_PATH_BYTES_MAX) return -EINVAL;
  scratch.u8.fill(0, 0, 112);
  scratch.u16[0] = AF_UNIX;
  scratch.u8.set(bytes, abstract ? 3 : 2);
  return 3 + bytes.length;
}

/** A stream socket listening on `path`, non-blocking. The path must not exist. */
export function listenUnix(path: string, backlog: number): number {
  const fd = ret(cSocket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (fd < 0) return fd;
  const addressBytes = putAddress(path);
  if (addressBytes < 0) return closeAnd(fd, addressBytes);
  const bound = ret(cBind(fd, scratch.address, addressBytes));
  if (bound < 0) return closeAnd(fd, bound);
  const listening = ret(cListen(fd, backlog));
  return listening < 0 ? closeAnd(fd, listening) : fd;
}

/** A stream socket connected to `path`; blocking unless `nonblocking`. */
export function connectUnix(path: string, nonblocking: boolean): number {
  const type = SOCK_STREAM | SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0);
  const fd = ret(cSocket(AF_UNIX, type, 0));
  if (fd < 0) return fd;
  const addressBytes = putAddress(path);
  if (addressBytes < 0) return closeAnd(fd, addressBytes);
  const connected = ret(cConnect(fd, scratch.address, addressBytes));
  return connected < 0 ? closeAnd(fd, connected) : fd;
}

/** Sends one datagram to `path` (sd_notify). Never blocks. Bytes sent or a negated errno. */
export function sendDatagram(path: string, text: string): number {
  const fd = ret(cSocket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (fd < 0) return fd;
  const addressBytes = putAddress(path);
  if (addressBytes < 0) return closeAnd(fd, addressBytes);
  const connected = ret(cConnect(fd, scratch.address, addressBytes));
  if (connected < 0) return closeAnd(fd, connected);
  const bytes = new TextEncoder().encode(text);
  if (bytes.length > 4096) return closeAnd(fd, -EINVAL);
  scratch.u8.set(bytes, 4096);
  return closeAnd(fd, send(fd, scratch.address + 4096, bytes.length, []));
}

/** A non-blocking connection accepted from `listenFd`, or a negated errno (-EAGAIN: none). */
export function accept(listenFd: number): number {
  return ret(cAccept4(listenFd, 0, 0, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

/** A connected pair of stream sockets; `nonblocking` for both. */
export function socketPair(nonblocking: boolean): readonly [number, number] {
  const type = SOCK_STREAM | SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0);
  const result = ret(cSocketpair(AF_UNIX, type, 0, scratch.address));
  if (result < 0) return [result, result];
  return [scratch.u32[0] as number, scratch.u32[1] as number];
}

export function shutdown(fd: number): number {
  return ret(cShutdown(fd, SHUT_RDWR));
}

const UCRED_BYTES = 12;

/**
 * Process id of the peer of a connected Unix socket, as of its connect() or listen(); 0 when it
 * lies outside our pid namespace. Or a negated errno.
 */
export function peerPid(fd: number): number {
  // struct ucred at 0: pid, uid, gid; its length at 16.
  scratch.u32[4] = UCRED_BYTES;
  const result = ret(
    cGetsockopt(fd, SOL_SOCKET, SO_PEERCRED, scratch.address, scratch.address + 16),
  );
  return result < 0 ? result : (scratch.u32[0] as number) | 0;
}

function putMessage(address: Address, bytes: number, controlBytes: number): void {
  const words = scratch.u32;
  // struct msghdr: name 0, namelen 8, iov 16, iovlen 24, control 32, controllen 40, flags 48.
  scratch.u8.fill(0, MSGHDR, MSGHDR + 56);
  putU64(words, MSGHDR + 16, scratch.address + IOVEC);
  putU64(words, MSGHDR + 24, 1);
  if (controlBytes > 0) {
    putU64(words, MSGHDR + 32, scratch.address + CONTROL);
    putU64(words, MSGHDR + 40, controlBytes);
  }
  putU64(words, IOVEC, address);
  putU64(words, IOVEC + 8, bytes);
}

/**
 * Sends `bytes` from `address` with descriptors attached to the first byte. Never blocks, never
 * raises SIGPIPE. Returns the bytes taken (may be fewer) or a negated errno.
 */
export function send(fd: number, address: Address, bytes: number, fds: readonly number[]): number {
  assert(fds.length <= DESCRIPTORS_MAX, "too many descriptors in one message");
  const controlBytes = fds.length === 0 ? 0 : CMSG_HEADER_BYTES + ((fds.length * 4 + 7) & ~7);
  putMessage(address, bytes, controlBytes);
  if (fds.length > 0) {
    putU64(scratch.u32, CONTROL, CMSG_HEADER_BYTES + fds.length * 4);
    scratch.u32[(CONTROL + 8) >>> 2] = SOL_SOCKET;
    scratch.u32[(CONTROL + 12) >>> 2] = SCM_RIGHTS;
    for (let index = 0; index < fds.length; index++) {
      scratch.u32[(CONTROL + CMSG_HEADER_BYTES + index * 4) >>> 2] = fds[index] as number;
    }
  }
  return ret(cSendmsg(fd, scratch.address + MSGHDR, MSG_NOSIGNAL | MSG_DONTWAIT));
}

/** What receive() filled besides the bytes. */
export interface ReceivedDescriptors {
  /** Descriptors that came with the bytes: the receiver owns and closes them. */
  readonly fds: number[];
  /** More came than fit (MSG_CTRUNC): the peer broke the protocol. */
  truncated: boolean;
}

/**
 * Receives up to `bytes` into `address`; descriptors are appended to `received.fds`. Never blocks.
 * Returns the bytes read (0 = the peer closed) or a negated errno.
 */
export function receive(
  fd: number,
  address: Address,
  bytes: number,
  received: ReceivedDescriptors,
): number {
  const room = CMSG_HEADER_BYTES + ((DESCRIPTORS_MAX * 4 + 7) & ~7);
  putMessage(address, bytes, room);
  const result = ret(cRecvmsg(fd, scratch.address + MSGHDR, MSG_DONTWAIT | MSG_CMSG_CLOEXEC));
  if (result < 0) return result;
  const words = scratch.u32;
  if (((words[(MSGHDR + 48) >>> 2] as number) & MSG_CTRUNC) !== 0) received.truncated = true;
  const controlBytes = words[(MSGHDR + 40) >>> 2] as number;
  let at = CONTROL;
  while (at + CMSG_HEADER_BYTES <= CONTROL + controlBytes) {
    const messageBytes = words[at >>> 2] as number;
    if (messageBytes < CMSG_HEADER_BYTES) break;
    const level = words[(at + 8) >>> 2];
    const kind = words[(at + 12) >>> 2];
    if (level === SOL_SOCKET && kind === SCM_RIGHTS) {
      const count = (messageBytes - CMSG_HEADER_BYTES) >>> 2;
      for (let index = 0; index < count; index++) {
        received.fds.push(words[(at + CMSG_HEADER_BYTES + index * 4) >>> 2] as number);
      }
    }
    at += (messageBytes + 7) & ~7;
  }
  return result;
}

/**
 * Closes a descriptor that somebody else sent. A socket of theirs must not make us wait: with
 * SO_LINGER set, the last close of one blocks until its peer has taken everything.
 */
export function closeReceived(fd: number): number {
  // struct linger { 0, 0 }; no socket, no effect.
  scratch.u32[0] = 0;
  scratch.u32[1] = 0;
  cSetsockopt(fd, SOL_SOCKET, SO_LINGER, scratch.address, 8);
  return close(fd);
}

/**
 * Ends a connection. Descriptors that its peer has sent and nobody has taken are closed here, by
 * closeReceived: left to the kernel, the last close of one could make us wait.
 */
export function hangUp(fd: number): void {
  // The peer sends no more from here on, so that what is left to read has an end.
  shutdown(fd);
  const received: ReceivedDescriptors = { fds: [], truncated: false };
  for (;;) {
    const result = receive(fd, scratch.address + REST, REST, received);
    for (const left of received.fds.splice(0)) closeReceived(left);
    if (result <= 0 && result !== -EINTR) break;
  }
  close(fd);
}

/** Closes `fd` and passes `result` on: the end of a set-up that failed half way. */
function closeAnd(fd: number, result: number): number {
  close(fd);
  return result;
}

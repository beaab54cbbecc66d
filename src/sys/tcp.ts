// TCP sockets by address: for the links between nodes. Addresses are literals; names are resolved
// before. Functions return `>= 0` or a negated errno. The sockets block: io_uring waits for them in
// the kernel, and would give up at once on those that do not.

import { BlockList, isIPv4, isIPv6 } from "node:net";
import { EINVAL } from "../base/index.ts";
import type { Address } from "../ports/index.ts";
import {
  AF_INET,
  AF_INET6,
  IPPROTO_TCP,
  SO_REUSEADDR,
  SOCK_CLOEXEC,
  SOCK_STREAM,
  SOL_SOCKET,
  TCP_CONGESTION,
  TCP_NODELAY,
} from "./constants.ts";
import { check } from "./error.ts";
import { close } from "./files.ts";
import {
  cBind,
  cConnect,
  cGetpeername,
  cGetsockname,
  cGetsockopt,
  cListen,
  cSetsockopt,
  cSocket,
  ret,
} from "./libc.ts";
import { scratch } from "./scratch.ts";

export interface TcpAddress {
  /** An IPv4 or IPv6 address, not a name. */
  readonly host: string;
  readonly port: number;
}

/** Bytes that putTcpAddress may write. */
export const TCP_ADDRESS_BYTES_MAX = 28;

/** Parts of an IPv6 address as eight numbers; "::" stands for the zeroes that are missing. */
function ipv6Groups(host: string): number[] {
  let text = host;
  const dotted = /:(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(text);
  if (dotted !== null) {
    const [a, b, c, d] = dotted.slice(1).map(Number) as [number, number, number, number];
    const low = `${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`;
    text = text.slice(0, dotted.index + 1) + low;
  }
  const [head = "", tail] = text.split("::");
  const parse = (part: string): number[] =>
    part === "" ? [] : part.split(":").map((group) => Number.parseInt(group, 16));
  const before = parse(head);
  const after = tail === undefined ? [] : parse(tail);
  const missing = tail === undefined ? 0 : 8 - before.length - after.length;
  return [...before, ...new Array<number>(missing).fill(0), ...after];
}

/** Writes a struct sockaddr at `at`; returns its length, or -EINVAL for what is no address. */
export function putTcpAddress(u8: Uint8Array, at: number, address: TcpAddress): number {
  const { host, port } = address;
  if (!Number.isInteger(port) || port < 0 || port > 65535) return -EINVAL;
  u8.fill(0, at, at + TCP_ADDRESS_BYTES_MAX);
  u8[at + 2] = port >>> 8;
  u8[at + 3] = port & 0xff;
  if (isIPv4(host)) {
    u8[at] = AF_INET;
    const parts = host.split(".");
    for (let index = 0; index < 4; index++) u8[at + 4 + index] = Number(parts[index]);
    return 16;
  }
  if (!isIPv6(host) || host.includes("%")) return -EINVAL;
  u8[at] = AF_INET6;
  const groups = ipv6Groups(host);
  for (let index = 0; index < 8; index++) {
    u8[at + 8 + index * 2] = (groups[index] as number) >>> 8;
    u8[at + 9 + index * 2] = (groups[index] as number) & 0xff;
  }
  return TCP_ADDRESS_BYTES_MAX;
}

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet("127.0.0.0", 8, "ipv4");
LOOPBACK.addAddress("::1", "ipv6");
/** Built into every kernel. */
const RENO = "reno";
const CONGESTION_BYTES_MAX = 16;

/**
 * Within one machine there is no path to probe: an algorithm that paces what it sends (BBR, where
 * that is the default) only costs time. What a listening socket accepts has what it has.
 */
function setCongestion(fd: number, host: string): void {
  if (!LOOPBACK.check(host, isIPv6(host) ? "ipv6" : "ipv4")) return;
  for (let at = 0; at < RENO.length; at++) scratch.u8[at] = RENO.charCodeAt(at);
  // A kernel that refuses has another one, which is as correct.
  ret(cSetsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, scratch.address, RENO.length));
}

/** Name of the congestion control of a TCP socket; empty where it has none. */
export function congestionOf(fd: number): string {
  scratch.u32[16] = CONGESTION_BYTES_MAX;
  const lengthAt: Address = scratch.address + 64;
  const result = ret(cGetsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, scratch.address, lengthAt));
  if (result < 0) return "";
  const bytes = scratch.u8.subarray(0, scratch.u32[16]);
  return Buffer.from(bytes).toString("latin1").replaceAll("\0", "");
}

function setFlag(fd: number, level: number, option: number): number {
  scratch.u32[0] = 1;
  return ret(cSetsockopt(fd, level, option, scratch.address, 4));
}

/** What is sent goes out at once: batching is ours. */
export function setNoDelay(fd: number): number {
  return setFlag(fd, IPPROTO_TCP, TCP_NODELAY);
}

/** A socket of the address's family, to be connected. */
export function tcpSocket(host: string): number {
  const family = isIPv6(host) ? AF_INET6 : AF_INET;
  const fd = ret(cSocket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (fd >= 0) {
    setNoDelay(fd);
    setCongestion(fd, host);
  }
  return fd;
}

/** A socket connected to `address`, once it is. */
export function connectTcp(address: TcpAddress): number {
  const fd = tcpSocket(address.host);
  if (fd < 0) return fd;
  const bytes = putTcpAddress(scratch.u8, 0, address);
  const result = bytes < 0 ? bytes : ret(cConnect(fd, scratch.address, bytes));
  if (result >= 0) return fd;
  close(fd);
  return result;
}

/** A socket listening on `address`; port 0 takes a free one, see boundPort. */
export function listenTcp(address: TcpAddress, backlog: number): number {
  const fd = tcpSocket(address.host);
  if (fd < 0) return fd;
  setFlag(fd, SOL_SOCKET, SO_REUSEADDR);
  const bytes = putTcpAddress(scratch.u8, 0, address);
  const result = bytes < 0 ? bytes : ret(cBind(fd, scratch.address, bytes));
  const listening = result < 0 ? result : ret(cListen(fd, backlog));
  if (listening >= 0) return fd;
  close(fd);
  return listening;
}

/** The port a socket is bound to. */
export function boundPort(fd: number): number {
  const lengthAt: Address = scratch.address + 64;
  scratch.u32[16] = TCP_ADDRESS_BYTES_MAX;
  const result = ret(cGetsockname(fd, scratch.address, lengthAt));
  if (result < 0) return result;
  return ((scratch.u8[2] as number) << 8) | (scratch.u8[3] as number);
}

/** The address of the other end, without its port; empty where there is none. */
export function peerHost(fd: number): string {
  const lengthAt: Address = scratch.address + 64;
  scratch.u32[16] = TCP_ADDRESS_BYTES_MAX;
  if (ret(cGetpeername(fd, scratch.address, lengthAt)) < 0) return "";
  const { u8 } = scratch;
  if (u8[0] === AF_INET) return `${u8[4]}.${u8[5]}.${u8[6]}.${u8[7]}`;
  if (u8[0] !== AF_INET6) return "";
  const groups: string[] = [];
  for (let at = 8; at < 24; at += 2) {
    groups.push((((u8[at] as number) << 8) | (u8[at + 1] as number)).toString(16));
  }
  return groups.join(":");
}

/** The kernel may name a port again as soon as it is closed. */
const namedPorts: Set<number> = new Set();
const NAMES_MAX = 100;

/**
 * A port of `host` that nobody had a moment ago, another one each time: for whoever must name it
 * before it listens.
 */
export function freePort(host: string): number {
  for (let attempt = 1; ; attempt += 1) {
    const fd = check(listenTcp({ host, port: 0 }, 1), "listen", host);
    const port = check(boundPort(fd), "getsockname", host);
    close(fd);
    if (namedPorts.has(port) && attempt < NAMES_MAX) continue;
    namedPorts.add(port);
    return port;
  }
}

// A TCP socket whose last close takes long: it lingers for data that its peer never reads. Whoever
// closes it last waits, unless it takes precautions. Raw system calls: nothing else of the project
// needs TCP.

import assert from "node:assert/strict";
import * as sys from "../../sys/index.ts";

const isArm = process.arch === "arm64";
const SYS_SOCKET = isArm ? 198 : 41;
const SYS_CONNECT = isArm ? 203 : 42;
const SYS_BIND = isArm ? 200 : 49;
const SYS_LISTEN = isArm ? 201 : 50;
const SYS_GETSOCKNAME = isArm ? 204 : 51;
const SYS_SETSOCKOPT = isArm ? 208 : 54;
const AF_INET = 2;
const SO_SNDBUF = 7;
const LINGER_SECONDS = 30;
const SOCKADDR_BYTES = 16;

function call(number: number, what: string, ...args: number[]): number {
  const [a = 0, b = 0, c = 0, d = 0, e = 0] = args;
  const result = sys.syscall6(number, a, b, c, d, e, 0);
  assert.ok(result >= 0, `${what} failed`);
  return result;
}

/** The socket, and the listener that never accepts it. The caller closes both. */
export function lingeringSocket(): { readonly fd: number; readonly listener: number } {
  const memory = new sys.SystemMemory();
  const arena = memory.allocate(65536);
  const { address, u8, u32 } = arena;
  const listener = call(SYS_SOCKET, "socket", AF_INET, sys.SOCK_STREAM);
  // 127.0.0.1, any port.
  u8.set([AF_INET, 0, 0, 0, 127, 0, 0, 1]);
  call(SYS_BIND, "bind", listener, address, SOCKADDR_BYTES);
  call(SYS_LISTEN, "listen", listener, 1);
  u32[16] = SOCKADDR_BYTES;
  call(SYS_GETSOCKNAME, "getsockname", listener, address, address + 64);
  const fd = call(SYS_SOCKET, "socket", AF_INET, sys.SOCK_STREAM);
  u32[20] = 4096;
  call(SYS_SETSOCKOPT, "SO_SNDBUF", fd, sys.SOL_SOCKET, SO_SNDBUF, address + 80, 4);
  call(SYS_CONNECT, "connect", fd, address, SOCKADDR_BYTES);
  // Until it takes no more although what was sent has long arrived: the peer's window is closed.
  for (let round = 0; round < 5; round++) {
    while (sys.writeNoWait(fd, address + 4096, 32768) > 0);
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50);
  }
  u32[24] = 1;
  u32[25] = LINGER_SECONDS;
  call(SYS_SETSOCKOPT, "SO_LINGER", fd, sys.SOL_SOCKET, sys.SO_LINGER, address + 96, 8);
  memory.free(arena);
  return { fd, listener };
}

// What systemd is told, read from a real notification socket: ready, alive, reloading, stopping.

import assert from "node:assert/strict";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { AF_UNIX, check, close, SOCK_DGRAM, SystemMemory, syscall6 } from "../sys/index.ts";
import { Scene } from "../testing/control/daemon-process.ts";
import { ServiceManager } from "./service-manager.ts";

const SYS_SOCKET = 41;
const SYS_BIND = 49;
const SYS_RECVFROM = 45;
const MSG_DONTWAIT = 0x40;

/** The numbers above are those of x86-64. */
const ARCH = process.arch !== "x64";

const arena = new SystemMemory().allocate(8192);
let scene: Scene;
let fd = -1;
let path = "";

/** A bound datagram socket: what NOTIFY_SOCKET names. */
beforeEach(() => {
  scene = new Scene();
  path = join(scene.root, "notify");
  if (ARCH) return;
  fd = check(Number(syscall6(SYS_SOCKET, AF_UNIX, SOCK_DGRAM, 0, 0, 0, 0)), "socket");
  const name = new TextEncoder().encode(path);
  arena.u8.fill(0);
  arena.u16[0] = AF_UNIX;
  arena.u8.set(name, 2);
  check(Number(syscall6(SYS_BIND, fd, arena.address, 3 + name.length, 0, 0, 0)), "bind");
});

afterEach(async () => {
  if (fd >= 0) close(fd);
  await scene.end();
});

function receive(): string | null {
  const bytes = Number(syscall6(SYS_RECVFROM, fd, arena.address, 8192, MSG_DONTWAIT, 0, 0));
  return bytes < 0 ? null : Buffer.from(arena.u8.slice(0, bytes)).toString();
}

async function expectMessage(pattern: RegExp): Promise<void> {
  const seen: string[] = [];
  for (const deadline = Date.now() + 60_000; Date.now() < deadline; ) {
    const message = receive();
    if (message === null) await new Promise((resolve) => setTimeout(resolve, 10));
    else if (pattern.test(message)) return;
    else seen.push(message);
  }
  assert.fail(`no message like ${pattern} among ${JSON.stringify(seen)}`);
}

test("ready, watchdog, reload, stop", { skip: ARCH }, async () => {
  const daemon = scene.daemon([], { NOTIFY_SOCKET: path, WATCHDOG_USEC: "200000" });
  await expectMessage(/^READY=1\nSTATUS=serving /);
  await expectMessage(/^WATCHDOG=1$/);
  daemon.child.kill("SIGHUP");
  await expectMessage(/^RELOADING=1\nMONOTONIC_USEC=\d+$/);
  await expectMessage(/^READY=1\n/);
  await expectMessage(/^WATCHDOG=1$/);
  const ended = daemon.end("SIGTERM");
  await expectMessage(/^STOPPING=1$/);
  assert.equal((await ended).code, 0);
});

test("the watchdog of another process is none of ours", { skip: ARCH }, async () => {
  new ServiceManager({
    NOTIFY_SOCKET: path,
    WATCHDOG_USEC: "1000",
    WATCHDOG_PID: String(process.pid + 1),
  }).ready("x");
  assert.match(receive() ?? "", /^READY=1/);
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(receive(), null);
});

test("a socket that is not there is no error", () => {
  new ServiceManager({ NOTIFY_SOCKET: "/nowhere/notify" }).ready("x");
  new ServiceManager({}).stopping();
});

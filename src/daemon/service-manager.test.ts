// What systemd is told, read from a real notification socket: ready, alive, reloading, stopping.
// Alive only while every reactor answers.

import assert from "node:assert/strict";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { AF_UNIX, check, close, SOCK_DGRAM, SystemMemory, syscall6 } from "../sys/index.ts";
import { Scene } from "../testing/control/daemon-process.ts";
import { ServiceManager } from "./service-manager.ts";

const SYS_SOCKET = 41;
const SYS_BIND = 49;
const SYS_RECVFROM = 45;
const MSG_DONTWAIT = 0x40;

const DEAF_DAEMON = fileURLToPath(new URL("./_test-deaf-daemon.js", import.meta.url));
const ALIVE = async (): Promise<boolean> => true;

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

test("no notification without a sign of life, nor after the stop", { skip: ARCH }, async () => {
  const answers: ((isAlive: boolean) => void)[] = [];
  const manager = new ServiceManager({ NOTIFY_SOCKET: path, WATCHDOG_USEC: "40000" });
  manager.ready("x", () => new Promise((resolve) => answers.push(resolve)));
  assert.match(receive() ?? "", /^READY=1/);
  const asked = async (count: number): Promise<void> => {
    while (answers.length < count) await sleep(5);
  };
  await asked(3);
  assert.equal(receive(), null, "nothing is said before an answer");
  answers[0]?.(false);
  await asked(4);
  assert.equal(receive(), null, "nor after a bad one");
  answers[1]?.(true);
  await expectMessage(/^WATCHDOG=1$/);
  manager.stopping();
  assert.equal(receive(), "STOPPING=1");
  answers[2]?.(true);
  await sleep(50);
  assert.equal(receive(), null, "a late answer is not passed on");
});

test("a stuck reactor stops the notifications, though the main thread turns", {
  skip: ARCH,
}, async () => {
  const deaf = join(scene.root, "deaf");
  const watchdogUs = 400_000;
  const environment = {
    NOTIFY_SOCKET: path,
    WATCHDOG_USEC: String(watchdogUs),
    RINGSTORE_TEST_DEAF: deaf,
  };
  const daemon = scene.daemon(["--reactors", "2"], environment, DEAF_DAEMON);
  await expectMessage(/^WATCHDOG=1$/);
  writeFileSync(deaf, "");
  // The reactors look for the file every few milliseconds, on a loaded machine a little later.
  const silenceMs = (3 * watchdogUs) / 1000;
  let silentSince = Date.now();
  for (const deadline = Date.now() + 60_000; Date.now() - silentSince < silenceMs; ) {
    assert.ok(Date.now() < deadline, "the notifications go on");
    if (receive() !== null) silentSince = Date.now();
    await sleep(10);
  }
  assert.equal((await scene.cli("volume list")).code, 0, "the main thread answers");
  rmSync(deaf);
  await expectMessage(/^WATCHDOG=1$/);
  assert.equal((await daemon.end("SIGTERM")).code, 0);
});

test("the watchdog of another process is none of ours", { skip: ARCH }, async () => {
  new ServiceManager({
    NOTIFY_SOCKET: path,
    WATCHDOG_USEC: "1000",
    WATCHDOG_PID: String(process.pid + 1),
  }).ready("x", ALIVE);
  assert.match(receive() ?? "", /^READY=1/);
  await sleep(50);
  assert.equal(receive(), null);
});

test("a socket that is not there is no error", () => {
  new ServiceManager({ NOTIFY_SOCKET: "/nowhere/notify" }).ready("x", ALIVE);
  new ServiceManager({}).stopping();
});

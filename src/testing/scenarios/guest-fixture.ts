// What the guest scenarios share: a daemon and guests that are gone when the test has ended, the
// files behind volumes, and how often a promise is tried.
//
// Counts: `npm test` tries each promise a few times; `npm run soak` sets RINGSTORE_ROUNDS_<NAME>
// to try it more often. Time limits grow with the count.

import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type BootOptions, bootGuest, type Guest, type VhostUserBlkDisk } from "../../vm/index.ts";
import { Daemon, type DaemonOptions } from "../daemon.ts";

/** The promises that can be tried more often, and how often `npm test` does. */
const ROUNDS = { BOOT: 4, PLUG: 8, MEMORY: 2, RESIZE: 2, KILL: 5, MIGRATE: 1, CUT: 2 } as const;

/** For scenarios that hang: emulated guests of a loaded machine take minutes. */
const LIMIT_MS = 600_000;
const LOG_SHOWN_CHARS = 4000;

export function rounds(name: keyof typeof ROUNDS): number {
  const text = process.env[`RINGSTORE_ROUNDS_${name}`];
  if (text === undefined || text === "") return ROUNDS[name];
  const count = Number(text);
  assert.ok(Number.isInteger(count) && count > 0, `RINGSTORE_ROUNDS_${name}=${text}: a count`);
  return count;
}

/** The time limit of a test that tries `name`. */
export function limit(name?: keyof typeof ROUNDS): { readonly timeout: number } {
  const factor = name === undefined ? 1 : Math.max(1, rounds(name) / ROUNDS[name]);
  return { timeout: LIMIT_MS * factor };
}

/** A test that starts daemons and guests. They are gone when it has ended; if it failed, what they
 * said last is shown. */
export function scenario(
  name: string,
  options: { readonly timeout: number },
  body: (host: GuestHost) => Promise<void>,
): void {
  test(name, options, async (t) => {
    const host = new GuestHost(t);
    t.after(() => host.end());
    try {
      await body(host);
    } catch (error) {
      host.explain();
      throw error;
    }
  });
}

export class GuestHost {
  private readonly t: TestContext;
  private readonly daemons: Daemon[] = [];
  private readonly guests: Guest[] = [];
  private readonly folders: string[] = [];
  private readonly hooks: (() => Promise<void>)[] = [];
  private hasEnded = false;

  constructor(t: TestContext) {
    this.t = t;
  }

  say(text: string): void {
    this.t.diagnostic(text);
  }

  /** Called when the guests have gone. */
  atEnd(hook: () => Promise<void>): void {
    this.hooks.push(hook);
  }

  /** A new folder, gone after the daemons. */
  folder(): string {
    const folder = mkdtempSync(join(tmpdir(), "rs-guest-"));
    this.folders.push(folder);
    return folder;
  }

  async daemon(options: DaemonOptions = {}): Promise<Daemon> {
    const daemon = await Daemon.start(options);
    this.daemons.push(daemon);
    return daemon;
  }

  async guest(options: BootOptions): Promise<Guest> {
    const guest = await bootGuest(options);
    // Booted beside another that did not: nobody waits for it any more.
    if (this.hasEnded) await guest.kill();
    this.guests.push(guest);
    if (!Number.isNaN(guest.bootMs)) {
      this.say(`${guest.accelerator}, booted in ${Math.round(guest.bootMs)} ms`);
    }
    return guest;
  }

  explain(): void {
    for (const guest of this.guests) {
      this.say(`a guest's console ends:\n${guest.console.tail}\n${guest.qemuStderr}`);
    }
    for (const daemon of this.daemons) {
      this.say(`a daemon's log ends:\n${daemon.log.slice(-LOG_SHOWN_CHARS)}`);
    }
  }

  async end(): Promise<void> {
    this.hasEnded = true;
    for (const guest of this.guests) await guest.kill();
    for (const daemon of this.daemons) await daemon.stop();
    for (const hook of this.hooks) await hook();
    for (const folder of this.folders) rmSync(folder, { recursive: true, force: true });
  }
}

export function blk(
  socket: string,
  more: Omit<VhostUserBlkDisk, "kind" | "socket"> = {},
): VhostUserBlkDisk {
  return { kind: "vhost-user-blk", socket, ...more };
}

/** The file behind a volume. */
export async function volumeFile(daemon: Daemon, name: string): Promise<string> {
  return (await daemon.json(["volume", "show", name])).backing.path;
}

/** SIGKILL, and a new daemon on the same data folder. Does not wait for its REST API. */
export async function killAndRestart(daemon: Daemon): Promise<void> {
  daemon.kill();
  await daemon.waitForExit();
  await daemon.launch();
}

const STEADY_MS = 1000;
const HOLD_TIMEOUT_MS = 60_000;

/** What must not grow: descriptors, and mappings shared with front-ends. */
export interface Holdings {
  readonly fds: number;
  readonly sharedMaps: number;
}

export function holdings(pid: number): Holdings {
  const maps = readFileSync(`/proc/${pid}/maps`, "latin1");
  return {
    fds: readdirSync(`/proc/${pid}/fd`).length,
    sharedMaps: maps.match(/^\S+ ...s /gm)?.length ?? 0,
  };
}

/**
 * A session ends a moment after QEMU has closed its socket, and on a full machine a moment can be
 * long: what the daemon holds once that has not changed for a while.
 */
export async function steady(pid: number): Promise<Holdings> {
  let last = holdings(pid);
  let since = performance.now();
  const deadline = since + HOLD_TIMEOUT_MS;
  while (performance.now() < deadline && performance.now() - since < STEADY_MS) {
    await sleep(20);
    const now = holdings(pid);
    if (JSON.stringify(now) !== JSON.stringify(last)) since = performance.now();
    last = now;
  }
  return last;
}

/** Waits until the daemon holds no more than `before`. */
export async function assertNoMore(pid: number, before: Holdings, what: string): Promise<void> {
  const isNoMore = (now: Holdings): boolean =>
    now.fds <= before.fds && now.sharedMaps <= before.sharedMaps;
  const wanted = `as before, ${JSON.stringify(before)}: ${what}`;
  await until(async () => holdings(pid), isNoMore, wanted, HOLD_TIMEOUT_MS);
}

export function allocatedBytes(path: string): number {
  return statSync(path).blocks * 512;
}

/** Asks until `wanted` is true of the answer; the last answer is in the error. */
export async function until<T>(
  ask: () => Promise<T>,
  wanted: (answer: T) => boolean,
  what: string,
  timeoutMs = 240_000,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const answer = await ask();
    if (wanted(answer)) return answer;
    assert.ok(
      performance.now() < deadline,
      `not ${what} in ${timeoutMs} ms: ${JSON.stringify(answer)}`,
    );
    await sleep(50);
  }
}

export interface FioOptions {
  readonly device: string;
  /** Default: `randwrite` and verification behind it. */
  readonly rw?: string;
  readonly size?: string;
  readonly offset?: string;
  readonly blockSize?: string;
  readonly depth?: number;
  /** Goes on until then, over and over. */
  readonly seconds?: number;
  readonly more?: string;
}

/**
 * fio in the guest, which writes blocks with checksums and sequence numbers and reads them back
 * while it goes on; any error or wrong byte ends it with a non-zero status.
 */
export function verifiedFio(options: FioOptions): string {
  const { rw = "randwrite", size = "16M", blockSize = "4k", depth = 16, seconds } = options;
  const words = [
    `fio --name=verified --filename=${options.device} --rw=${rw} --bs=${blockSize} --size=${size}`,
    `--direct=1 --ioengine=libaio --iodepth=${depth} --verify=crc32c --verify_backlog=256`,
    "--verify_fatal=1 --verify_dump=0 --eta=never",
  ];
  if (options.offset !== undefined) words.push(`--offset=${options.offset}`);
  if (seconds !== undefined) words.push(`--time_based --runtime=${seconds}`);
  if (options.more !== undefined) words.push(options.more);
  return words.join(" ");
}

/** Ends what {@link untilStopped} runs. */
export const STOP_FILE = "/tmp/stop";

/**
 * A run that ends by itself, again and again until STOP_FILE is there. A fio that is ended by a
 * signal may hang: the last run comes to its end.
 */
export function untilStopped(run: string): string {
  return `until [ -e ${STOP_FILE} ]; do ${run} || exit 1; done`;
}

/**
 * No request of the guest failed, as its kernel and its file systems see it. That a task had to wait
 * long (khungtaskd says so after two minutes) is the machine's load, as is a target's late answer to
 * the ping of the kernel's iSCSI initiator, which then logs in again: a request that is never answered
 * ends a scenario by its limit.
 */
export async function assertNoErrors(guest: Guest): Promise<void> {
  const complaints = await guest.must(
    "dmesg | grep -v -e hung_task_timeout_secs -e 'ping timeout of' | " +
      "grep -i -E 'I/O error|critical .* error|EXT4-fs (error|warning)|timeout' || true",
  );
  assert.equal(complaints, "");
}

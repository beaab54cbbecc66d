// What `npm start` runs after set-up and build: a daemon, a volume, a real Linux guest on it; then
// a cluster of three, a volume with two copies, a guest on it, and a node that dies:
// replicated.ts.
//
//   1. the daemon: started in the background, or found running from an earlier npm start
//   2. the volume `demo`, 1 GiB, and its socket
//   3. a guest (Debian's kernel, our initramfs): fio, then a pattern written and read back
//   4. the same bytes read on the host, from the volume's file
//   5. a table
//   6. the cluster; and what to try next; everything stays up
//
// `--seconds N` is the length of each fio job (default 3), `--mib N` the size of the volume with
// two copies, all of which is written once and read twice (default 256).
//
// Can be run again at once. Keeps everything in .ringstore/ of the checkout, or in the folder that
// RINGSTORE_STATE names.

import { mkdirSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { bootGuest, type Guest } from "../../vm/index.ts";
import { daemonOptions, ensureProcess, logPath } from "./background.ts";
import { type FioResult, fioJobs, fioTable, parseFio } from "./fio.ts";
import { ShowCluster } from "./nodes.ts";
import { hashOnHost, PATTERN_MIB, writePattern } from "./pattern.ts";
import { ReplicatedShow } from "./replicated.ts";
import { askTool, runTool } from "./tool.ts";

/** dist/daemon/show/ is three folders below the checkout. */
const ROOT: string = resolve(dirname(fileURLToPath(import.meta.url)), "../../..");
const STATE: string = resolve(process.env["RINGSTORE_STATE"] || join(ROOT, ".ringstore"));
const DATA: string = join(STATE, "data");
const DAEMON = daemonOptions(STATE, "ringstored", DATA);
const VOLUME = "demo";
const VOLUME_SIZE = "1G";
const QUEUE_COUNT = 2;
const SECONDS = 3;
const SECONDS_MAX = 600;
const REPLICATED_MIB = 256;
/** The nodes' disks are 1 GiB. */
const REPLICATED_MIB_MAX = 512;
/** For what surrounds a job on a slow machine. */
const FIO_SPARE_MS = 180_000;

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

interface AttachReply {
  readonly socket: string;
}

interface VolumeReply {
  readonly backing: { readonly kind: string; readonly path?: string };
}

const tool = (args: readonly string[]): Promise<unknown> => askTool(DATA, args);

async function ensureVolume(): Promise<{ readonly socket: string; readonly path: string }> {
  const shown = await runTool(DATA, ["volume", "show", VOLUME]);
  if (shown.exitCode !== 0) await tool(["volume", "create", VOLUME, "--size", VOLUME_SIZE]);
  const { socket } = (await tool(["volume", "attach", VOLUME])) as AttachReply;
  const { backing } = (await tool(["volume", "show", VOLUME])) as VolumeReply;
  if (backing.path === undefined) {
    const advice = `delete it and try again: ringstore volume delete ${VOLUME}`;
    throw new Error(
      `the volume ${VOLUME} has no file behind it, so the host cannot check it\n  ${advice}`,
    );
  }
  return { socket, path: backing.path };
}

function sayAccelerator(guest: Guest): void {
  const { accelerator } = guest;
  const meaning =
    accelerator === "kvm"
      ? "at the speed of this machine"
      : "emulated: many times slower than with KVM, and so are its figures";
  say(`It runs under ${accelerator.toUpperCase()}, ${meaning}.`);
}

interface Options {
  readonly seconds: number;
  readonly mib: number;
}

function readOptions(): Options {
  const { values } = parseArgs({
    options: { seconds: { type: "string" }, mib: { type: "string" } },
  });
  return {
    seconds: wholeNumber("--seconds", values.seconds, SECONDS, SECONDS_MAX),
    mib: wholeNumber("--mib", values.mib, REPLICATED_MIB, REPLICATED_MIB_MAX),
  };
}

function wholeNumber(
  name: string,
  text: string | undefined,
  otherwise: number,
  max: number,
): number {
  if (text === undefined) return otherwise;
  const value = Number(text);
  if (Number.isInteger(value) && value >= 1 && value <= max) return value;
  throw new Error(`${name} is a whole number from 1 to ${max}, not ${text}`);
}

async function runGuest(
  socket: string,
  seconds: number,
): Promise<{ results: FioResult[]; hash: string }> {
  const guest = await bootGuest({
    log: say,
    cpuCount: QUEUE_COUNT,
    disks: [{ kind: "vhost-user-blk", socket, queueCount: QUEUE_COUNT }],
  });
  try {
    const kernel = (await guest.must("uname -r")).trim();
    say(`Linux ${kernel} is up after ${(guest.bootMs / 1000).toFixed(1)} s.`);
    sayAccelerator(guest);
    const results: FioResult[] = [];
    const timeoutMs = seconds * 1000 + FIO_SPARE_MS;
    for (const { name, command } of fioJobs("/dev/vda", seconds)) {
      say(`In the guest: fio, ${name}`);
      results.push(parseFio(name, await guest.must(command, { timeoutMs })));
    }
    say("In the guest: writing random bytes, reading them back");
    const hash = await writePattern(guest);
    await guest.shutdown();
    return { results, hash };
  } finally {
    await guest.kill();
  }
}

/** A path as short as it can be typed in the checkout. */
function shown(path: string): string {
  const inside = relative(ROOT, path);
  return inside.startsWith("..") ? path : inside;
}

function nextSteps(socket: string): string {
  const command = `bin/ringstore --data ${shown(DATA)}`;
  return [
    "The daemons go on running. Try next:",
    `  ${command} status`,
    `  ${command} volume list`,
    `  ${command} volume attach ${VOLUME}    # QEMU and libvirt lines for a VM of your own`,
    `  ${command} node list`,
    `  ${command} volume show vm1`,
    `  ${command} volume create db1 --size 512M --replicas 2`,
    `  ${command} volume top`,
    `  bin/ringstore bench --socket ${shown(socket)} --depth 32`,
    "  npm stop    # ends the daemons; volumes and their data stay",
  ].join("\n");
}

async function main(): Promise<void> {
  const { seconds, mib } = readOptions();
  mkdirSync(DATA, { recursive: true, mode: 0o700 });
  const daemon = await ensureProcess(DAEMON);
  const pid = daemon.pid === 0 ? "" : ` (pid ${daemon.pid})`;
  say(`ringstored${pid}: ${daemon.how}.`);
  const { socket, path } = await ensureVolume();
  say(`Volume ${VOLUME}, ${VOLUME_SIZE}, is served on ${shown(socket)}.`);
  const { results, hash } = await runGuest(socket, seconds);
  const onHost = hashOnHost(path);
  say("");
  say(fioTable(results));
  say("");
  say(`Written and read back in the guest   ${PATTERN_MIB} MiB   sha256 ${hash.slice(0, 16)}…`);
  say(`Read on the host, in the volume      ${PATTERN_MIB} MiB   sha256 ${onHost.slice(0, 16)}…`);
  if (onHost !== hash) throw new Error("the host reads other bytes than the guest wrote");
  say("The same bytes.");
  say("");
  say("Three nodes of a cluster on this machine, a volume with two copies:");
  const cluster = await ShowCluster.start(STATE, DATA, say);
  await new ReplicatedShow(cluster, mib, say).run();
  say("");
  say(nextSteps(socket));
}

// The guest ends with us in any case; this also removes its folder.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => process.exit(1));
}
try {
  await main();
} catch (error) {
  const { message, advice } = error as Error & { readonly advice?: string };
  process.stderr.write(`\nnpm start: ${message}\n`);
  if (advice !== undefined) process.stderr.write(`  ${advice}\n`);
  process.stderr.write(`The daemon's log is ${shown(logPath(DAEMON))}.\n`);
  process.exitCode = 1;
}

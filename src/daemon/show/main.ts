// What `npm start` runs after set-up and build: a daemon, a volume, a real Linux guest on it.
//
//   1. the daemon: started in the background, or found running from an earlier npm start
//   2. the volume `demo`, 1 GiB, and its socket
//   3. a guest (Debian's kernel, our initramfs): fio, then a pattern written and read back
//   4. the same bytes read on the host, from the volume's file
//   5. a table, and what to try next; the daemon stays up
//
// Can be run again at once. Keeps everything in .ringstore/ of the checkout.

import { createHash } from "node:crypto";
import { closeSync, mkdirSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import { formatBytes, MIB } from "../../base/index.ts";
import { bootGuest, type Guest } from "../../vm/index.ts";
import { ensureDaemon } from "./background.ts";
import { type FioResult, fioJob, parseFio } from "./fio.ts";
import { runTool } from "./tool.ts";

const ROOT = process.cwd();
const STATE = join(ROOT, ".ringstore");
const DATA = join(STATE, "data");
const VOLUME = "demo";
const VOLUME_SIZE = "1G";
/** The pattern lies behind what fio uses. */
const PATTERN_OFFSET_MIB = 512;
const PATTERN_MIB = 16;
const GUEST_COMMAND_MS = 180_000;

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

interface AttachReply {
  readonly socket: string;
}

interface VolumeReply {
  readonly state: string;
  readonly backing: { readonly kind: string; readonly path?: string };
}

async function ensureVolume(): Promise<{ readonly socket: string; readonly path: string }> {
  const shown = await runTool(DATA, ["volume", "show", VOLUME, "-o", "json"]);
  if (shown.exitCode !== 0) {
    const created = await runTool(DATA, ["volume", "create", VOLUME, "--size", VOLUME_SIZE]);
    if (created.exitCode !== 0) throw new Error(`volume create: ${created.stderr}`);
  }
  const attached = await runTool(DATA, ["volume", "attach", VOLUME, "-o", "json"]);
  if (attached.exitCode !== 0) throw new Error(`volume attach: ${attached.stderr}`);
  const { socket } = JSON.parse(attached.stdout) as AttachReply;
  const volume = await runTool(DATA, ["volume", "show", VOLUME, "-o", "json"]);
  const { backing } = JSON.parse(volume.stdout) as VolumeReply;
  if (backing.path === undefined) throw new Error(`the volume ${VOLUME} has no file behind it`);
  return { socket, path: backing.path };
}

/** Writes random bytes in the guest, drops its caches, reads them back; returns their SHA-256. */
async function writePattern(guest: Guest): Promise<string> {
  const range = `bs=1M count=${PATTERN_MIB}`;
  const at = PATTERN_OFFSET_MIB;
  const commands = [
    `dd if=/dev/urandom of=/tmp/pattern ${range} 2>/dev/null`,
    `dd if=/tmp/pattern of=/dev/vda ${range} seek=${at} conv=fsync 2>/dev/null`,
    "echo 3 > /proc/sys/vm/drop_caches",
    `dd if=/dev/vda of=/tmp/back ${range} skip=${at} 2>/dev/null`,
    "cmp /tmp/pattern /tmp/back && sha256sum /tmp/pattern",
  ];
  const text = await guest.must(commands.join(" && "), { timeoutMs: GUEST_COMMAND_MS });
  return (text.trim().split(/\s+/)[0] as string).toLowerCase();
}

/** SHA-256 of the same bytes as the host sees them in the volume's file. */
function hashOnHost(path: string): string {
  const bytes = Buffer.alloc(PATTERN_MIB * MIB);
  const fd = openSync(path, "r");
  try {
    let done = 0;
    while (done < bytes.length) {
      const at = PATTERN_OFFSET_MIB * MIB + done;
      const count = readSync(fd, bytes, done, bytes.length - done, at);
      if (count === 0) throw new Error(`${path} ends at ${at}`);
      done += count;
    }
  } finally {
    closeSync(fd);
  }
  return createHash("sha256").update(bytes).digest("hex");
}

function row(cells: readonly string[]): string {
  const widths = [34, 12, 14, 14, 14];
  return cells.map((cell, index) => cell.padEnd(widths[index] as number)).join("");
}

function table(results: readonly FioResult[]): string {
  const lines = [row(["in the guest", "IOPS", "bandwidth", "mean", "p99"])];
  for (const result of results) {
    lines.push(
      row([
        result.name,
        result.iops.toFixed(0),
        `${formatBytes(Math.round(result.bytesPerSecond / 1024) * 1024)}/s`,
        `${result.meanUs.toFixed(0)} us`,
        `${result.p99Us.toFixed(0)} us`,
      ]),
    );
  }
  return lines.join("\n");
}

async function runGuest(socket: string): Promise<{ results: FioResult[]; hash: string }> {
  const guest = await bootGuest({
    cacheDirectory: join(ROOT, ".cache"),
    log: say,
    cpuCount: 2,
    disks: [{ kind: "vhost-user-blk", socket, queueCount: 2 }],
  });
  try {
    say(`The guest is up after ${(guest.bootMs / 1000).toFixed(1)} s; its disk is the volume.`);
    const results: FioResult[] = [];
    for (const [name, job] of Object.entries(fioJob)) {
      const text = await guest.must(job, { timeoutMs: GUEST_COMMAND_MS });
      results.push(parseFio(name, text));
    }
    const hash = await writePattern(guest);
    await guest.shutdown();
    return { results, hash };
  } finally {
    await guest.kill();
  }
}

function nextSteps(socket: string): string {
  const tool = `bin/ringstore --data ${DATA.slice(ROOT.length + 1)}`;
  return [
    "The daemon goes on running. Try next:",
    `  ${tool} status`,
    `  ${tool} volume list`,
    `  ${tool} volume attach ${VOLUME}        the QEMU and libvirt lines for your own VM`,
    `  ${tool} volume create db1 --size 20G`,
    `  ${tool} volume top`,
    `  ${tool} bench --socket ${socket.replace(`${ROOT}/`, "")} --depth 32`,
    "  npm stop                              ends the daemon; volumes stay",
  ].join("\n");
}

async function main(): Promise<void> {
  mkdirSync(DATA, { recursive: true, mode: 0o700 });
  const daemon = await ensureDaemon({ root: ROOT, stateDirectory: STATE, dataDirectory: DATA });
  say(daemon.started ? `Started ringstored (pid ${daemon.pid}).` : `ringstored runs already.`);
  const { socket, path } = await ensureVolume();
  say(`Volume ${VOLUME}, ${VOLUME_SIZE}, served on ${socket.replace(`${ROOT}/`, "")}.`);
  const { results, hash } = await runGuest(socket);
  const onHost = hashOnHost(path);
  const same = onHost === hash;
  say("");
  say(table(results));
  say("");
  say(`Written and read back in the guest: ${PATTERN_MIB} MiB, sha256 ${hash.slice(0, 16)}…`);
  say(`Read on the host from the volume:   ${PATTERN_MIB} MiB, sha256 ${onHost.slice(0, 16)}…`);
  if (!same) throw new Error("the host reads other bytes than the guest wrote");
  say("The same bytes. ✔");
  say("");
  say(nextSteps(socket));
}

try {
  await main();
} catch (error) {
  const text = error instanceof Error ? error.message : String(error);
  process.stderr.write(`npm start: ${text}\n`);
  process.stderr.write(`The daemon's log: ${join(STATE, "run", "ringstored.log")}\n`);
  process.exitCode = 1;
}

// What the daemon adds to a support bundle: its settings, the end of its log, facts of the machine.
//
// Invariant: no secret. Settings name files with secrets, and are never followed into them; the log
// has none (it is redacted all the same where the bundle is made).

import { readFileSync } from "node:fs";
import { cpus, loadavg, release, totalmem, uptime, version } from "node:os";
import type { SupportReply } from "../model/support-types.ts";

export interface SupportSources {
  readonly config: Readonly<Record<string, unknown>>;
  readonly logTail: () => readonly string[];
}

export const NO_SUPPORT: SupportSources = { config: {}, logTail: () => [] };

/** Small files that say how the kernel is set up; one that is missing is left out. */
const KERNEL_FILES: readonly string[] = [
  "/proc/version",
  "/proc/cmdline",
  "/proc/meminfo",
  "/proc/self/limits",
  "/proc/self/status",
  "/proc/sys/kernel/io_uring_disabled",
  "/proc/sys/vm/nr_hugepages",
  "/proc/sys/fs/file-nr",
  "/proc/mdstat",
  "/proc/partitions",
];
const FILE_CHARS_MAX = 16_384;

export function supportReply({ config, logTail }: SupportSources, now: Date): SupportReply {
  return { at: now.toISOString(), config, log: logTail(), machine: machineFacts() };
}

function machineFacts(): Record<string, string> {
  const all = cpus();
  const facts: Record<string, string> = {
    kernel: `${release()} ${version()}`,
    node: process.version,
    cpus: `${all.length} × ${all[0]?.model ?? "unknown"}`,
    memoryBytes: String(totalmem()),
    uptimeSeconds: String(Math.floor(uptime())),
    load: loadavg()
      .map((one) => one.toFixed(2))
      .join(" "),
  };
  for (const path of KERNEL_FILES) {
    try {
      facts[path] = readFileSync(path, "utf8").slice(0, FILE_CHARS_MAX);
    } catch {
      // This kernel has no such file, or does not show it to us.
    }
  }
  return facts;
}

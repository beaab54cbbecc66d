// ringstored --role: the tools on disks, each a process of its own.
//
//   --role disk-check --path PATH    prints what is wrong; exit code 0 nothing, 1 errors, 2 could
//                                    not be carried out
//   --role disk-format --job JSON    for the daemon
//
// With --report json every line is a JSON object (disk-role-lines.ts). A tool that was started by a
// daemon ends when that daemon is gone.

import { randomBytes } from "node:crypto";
import { writeSync } from "node:fs";
import { parseArgs } from "node:util";
import { formatBytes, RingstoreError } from "../base/index.ts";
import { checkDisk } from "../chunk/index.ts";
import type { FormatJob } from "../ports/store-disk.ts";
import { close, SystemMemory } from "../sys/index.ts";
import { makeDisk } from "./disk-file.ts";
import { blockIo, lockDisk } from "./disk-io.ts";
import type { ReportCounts, RoleLine } from "./disk-role-lines.ts";
import { diskFactsOf } from "./disk-stats.ts";

const EXIT_CLEAN = 0;
const EXIT_ERRORS = 1;
const EXIT_NOT_RUN = 2;
const PROGRESS_PERIOD_MS = 200;
const STDOUT = 1;
const STDERR = 2;

/** Says things either to people or to the daemon. */
interface Reporter {
  line(line: RoleLine): void;
}

/** The whole process: its exit code. */
export function runRole(argv: readonly string[]): number {
  const startedBy = process.ppid;
  let reporter: Reporter = new TextReporter();
  try {
    const { role, path, job, report } = readWords(argv);
    if (report === "json") reporter = new JsonReporter();
    const tell = throttled(reporter, () => report === "json" && process.ppid !== startedBy);
    if (role === "disk-check" && path !== undefined) return check(path, reporter, tell);
    if (role === "disk-format" && job !== undefined) return format(job, reporter, tell);
    throw new RingstoreError("INVALID_REQUEST", `--role ${role} needs more, or does not exist`, {
      advice: "Use: ringstored --role disk-check --path PATH",
    });
  } catch (error) {
    if (!(error instanceof RingstoreError)) throw error;
    const { code, message, advice } = error;
    reporter.line({ kind: "error", code, message, ...(advice === undefined ? {} : { advice }) });
    return EXIT_NOT_RUN;
  }
}

interface Words {
  readonly role: string;
  readonly path?: string;
  readonly job?: string;
  readonly report?: string;
}

function readWords(argv: readonly string[]): Words {
  try {
    const text = { type: "string" } as const;
    const options = { role: text, path: text, job: text, report: text };
    return parseArgs({ args: [...argv], options, allowPositionals: false }).values as Words;
  } catch (error) {
    throw new RingstoreError("INVALID_REQUEST", (error as Error).message, {
      advice: "Use: ringstored --role disk-check --path PATH",
    });
  }
}

type Tell = (step: string, doneBytes: number, totalBytes: number) => void;

function throttled(reporter: Reporter, isOrphan: () => boolean): Tell {
  let nextMs = 0;
  return (step, doneBytes, totalBytes) => {
    const nowMs = performance.now();
    if (nowMs < nextMs && doneBytes < totalBytes) return;
    nextMs = nowMs + PROGRESS_PERIOD_MS;
    if (isOrphan()) process.exit(EXIT_NOT_RUN);
    reporter.line({ kind: "progress", progress: { step, doneBytes, totalBytes } });
  };
}

function format(text: string, reporter: Reporter, tell: Tell): number {
  const job = JSON.parse(text) as FormatJob;
  let isAccepted = false;
  const random = { journalId: randomBytes(4).readUInt32LE(), nowMs: Date.now() };
  const facts = makeDisk(job, random, (doneBytes, totalBytes) => {
    if (!isAccepted) reporter.line({ kind: "accepted" });
    isAccepted = true;
    tell("write", doneBytes, totalBytes);
  });
  reporter.line({ kind: "done", facts: diskFactsOf(facts) });
  return EXIT_CLEAN;
}

function check(path: string, reporter: Reporter, tell: Tell): number {
  const disk = lockDisk(path, false);
  const report = checkDisk(blockIo(disk.fd, disk.sizeBytes), new SystemMemory(), {
    finding: (finding) => reporter.line({ kind: "finding", finding }),
    progress: (doneBytes, totalBytes) => tell("verify", doneBytes, totalBytes),
  });
  close(disk.fd);
  const { errorCount, warningCount, blocksVerified, pagesVerified } = report;
  const { ringGroups: groupsVerified } = report;
  const counts = { errorCount, warningCount, blocksVerified, pagesVerified, groupsVerified };
  reporter.line({ kind: "report", counts });
  return errorCount > 0 ? EXIT_ERRORS : EXIT_CLEAN;
}

class JsonReporter implements Reporter {
  line(line: RoleLine): void {
    writeAll(STDOUT, `${JSON.stringify(line)}\n`);
  }
}

/** Findings to stdout, progress and errors to stderr. */
class TextReporter implements Reporter {
  line(line: RoleLine): void {
    switch (line.kind) {
      case "finding": {
        const { severity, where, message } = line.finding;
        writeAll(STDOUT, `${severity.padEnd(8)}${where}: ${message}\n`);
        return;
      }
      case "report":
        writeAll(STDOUT, `${summaryOf(line.counts)}\n`);
        return;
      case "progress": {
        const { step, doneBytes, totalBytes } = line.progress;
        if (process.stderr.isTTY !== true) return;
        writeAll(STDERR, `\r${step} ${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}   `);
        return;
      }
      case "error": {
        const advice = line.advice === undefined ? "" : `  ${line.advice}\n`;
        writeAll(STDERR, `ringstored: ${line.message}\n${advice}`);
        return;
      }
      default:
        return;
    }
  }
}

function summaryOf(counts: ReportCounts): string {
  const { errorCount, warningCount, blocksVerified, pagesVerified, groupsVerified } = counts;
  const verified = `${blocksVerified} blocks, ${pagesVerified} pages, ${groupsVerified} groups`;
  return `${errorCount} errors, ${warningCount} warnings; ${verified} verified`;
}

/** A pipe may take less than all of it. */
function writeAll(fd: number, text: string): void {
  const bytes = Buffer.from(text);
  for (let done = 0; done < bytes.length; ) {
    try {
      done += writeSync(fd, bytes, done);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      // Whoever reads has gone: there is nobody left to tell.
      if (code === "EPIPE") process.exit(EXIT_NOT_RUN);
      if (code !== "EAGAIN") throw error;
    }
  }
}

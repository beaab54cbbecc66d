// The tools that work on a disk nobody has open, each in a process of its own (disk-role.ts): a
// terabyte that is written or verified must not hold up a guest, nor this process's API.
//
//   here --job, as JSON--> ringstored --role disk-format|disk-check --report json
//        <--one JSON object per line--  accepted, progress, finding, report, done, error

import { type ChildProcessByStdio, spawn } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { unlink } from "node:fs/promises";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import { RingstoreError } from "../base/error.ts";
import { DISK_FINDINGS_MAX } from "../model/limits.ts";
import type {
  DiskFinding,
  DiskProgress,
  DiskReport,
  DiskTools,
  FormatJob,
  Formatting,
  StoreDiskFacts,
} from "../ports/store-disk.ts";
import { deviceNumbers } from "./backing.ts";
import { type DetectedDurability, durabilityOf } from "./disk-durability.ts";
import { temporaryPathOf } from "./disk-file.ts";
import type { RoleLine } from "./disk-role-lines.ts";

const ENTRY = fileURLToPath(new URL("./main.js", import.meta.url));

type Tool = ChildProcessByStdio<null, Readable, Readable>;

export class ProcessDiskTools implements DiskTools {
  readonly #running = new Set<Tool>();

  detectDurability(path: string): DetectedDurability {
    const stats = statSync(path);
    const [major, minor] = deviceNumbers(stats.isBlockDevice() ? stats.rdev : stats.dev);
    const readFile = (file: string): string | null => {
      try {
        return readFileSync(file, "latin1").trim();
      } catch {
        return null;
      }
    };
    return durabilityOf({ major, minor, isFile: !stats.isBlockDevice() }, readFile);
  }

  format(job: FormatJob, progress: (progress: DiskProgress) => void): Formatting {
    let accept: () => void = () => undefined;
    let refuse: (error: unknown) => void = () => undefined;
    const accepted = new Promise<void>((resolve, reject) => {
      accept = resolve;
      refuse = reject;
    });
    // Whoever waits for it hears of it.
    accepted.catch(() => undefined);
    let facts: StoreDiskFacts | null = null;
    const ended = this.#run(["disk-format", "--job", JSON.stringify(job)], (line) => {
      if (line.kind === "accepted") accept();
      else if (line.kind === "progress") progress(line.progress);
      else if (line.kind === "done") facts = line.facts;
    });
    const done = ended.then(() => {
      if (facts !== null) return facts;
      throw new RingstoreError("DISK_FAILED", `formatting ${job.path} ended without a result`);
    });
    done.then(accept, refuse);
    return { accepted, done };
  }

  async check(path: string, progress: (progress: DiskProgress) => void): Promise<DiskReport> {
    const findings: DiskFinding[] = [];
    let findingCount = 0;
    let counts: Omit<DiskReport, "findings" | "findingCount"> | null = null;
    await this.#run(["disk-check", "--path", path], (line) => {
      if (line.kind === "progress") progress(line.progress);
      else if (line.kind === "report") counts = line.counts;
      else if (line.kind === "finding") {
        findingCount += 1;
        if (findings.length < DISK_FINDINGS_MAX) findings.push(line.finding);
      }
    });
    if (counts !== null) {
      return { ...(counts as DiskReport), findings, findingCount };
    }
    throw new RingstoreError("DISK_FAILED", `checking ${path} ended without a result`);
  }

  async takeBack(job: { readonly id: string; readonly path: string }): Promise<void> {
    try {
      await unlink(temporaryPathOf(job));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
  }

  async stop(): Promise<void> {
    const ended = [...this.#running].map((tool) => {
      tool.kill("SIGKILL");
      return new Promise((resolve) => tool.once("close", resolve));
    });
    await Promise.all(ended);
  }

  /** Resolves when the tool has ended well; rejects with the error that it told. */
  async #run(words: readonly string[], received: (line: RoleLine) => void): Promise<void> {
    const args = [ENTRY, "--role", ...words, "--report", "json"];
    const tool = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
    this.#running.add(tool);
    let error: RingstoreError | null = null;
    let complaint = "";
    tool.stderr.setEncoding("utf8").on("data", (text: string) => {
      complaint = `${complaint}${text}`.slice(-2000);
    });
    createInterface({ input: tool.stdout }).on("line", (text) => {
      const line = JSON.parse(text) as RoleLine;
      if (line.kind !== "error") {
        received(line);
        return;
      }
      const { code, message, advice } = line;
      error = new RingstoreError(code, message, advice === undefined ? {} : { advice });
    });
    const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>(
      (resolve, reject) => {
        tool.on("error", reject);
        tool.on("close", (...ended) => resolve(ended));
      },
    ).finally(() => this.#running.delete(tool));
    if (error !== null) throw error;
    if (signal === null && (code === 0 || code === 1)) return;
    const how = signal === null ? `with exit code ${code}` : `by ${signal}`;
    throw new RingstoreError("DISK_FAILED", `the disk tool ended ${how}: ${complaint.trim()}`);
  }
}

// docs/soak.md: one line per suite and run, newest last. What the README claims with large counts
// cites a line here; so a line says what was done, not what was asked for.

import { execFileSync } from "node:child_process";
import { appendFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { PROJECT_FOLDER } from "../daemon.ts";

export interface Entry {
  readonly suite: string;
  readonly seed: number;
  /** What was done, with its counts. */
  readonly counts: string;
  readonly durationMs: number;
  /** "kept", or what was broken. */
  readonly result: string;
}

const HEAD = `# Soak log

\`npm run soak\` adds a line per suite: what was done, on which commit, with which seed, for how
long, and whether every promise was kept. A \`+\` behind the commit: the tree had changes that were
not committed.

| date (UTC) | commit | machine | suite | seed | done | duration | result |
| --- | --- | --- | --- | --- | --- | --- | --- |
`;

export const KEPT = "kept";

export function journalPath(asked: string): string {
  return asked === "" ? join(PROJECT_FOLDER, "docs", "soak.md") : asked;
}

function git(args: readonly string[]): string {
  return execFileSync("git", [...args], { cwd: PROJECT_FOLDER, encoding: "utf8" }).trim();
}

/** The commit that is checked out; "unknown" where there is no repository. */
export function currentCommit(): string {
  try {
    const changed = git(["status", "--porcelain", "--untracked-files=no", "--", "src"]) !== "";
    return `${git(["rev-parse", "--short=10", "HEAD"])}${changed ? "+" : ""}`;
  } catch {
    return "unknown";
  }
}

function formatDuration(durationMs: number): string {
  const seconds = Math.round(durationMs / 1000);
  const hours = Math.floor(seconds / 3600);
  const minutes = Math.floor(seconds / 60) % 60;
  const parts = [
    hours > 0 ? `${hours} h` : "",
    hours + minutes > 0 ? `${minutes} min` : "",
    `${seconds % 60} s`,
  ];
  return parts.filter((part) => part !== "").join(" ");
}

/** A cell of a Markdown table is one line, without the separator. */
function cell(text: string): string {
  return text.replace(/\s+/g, " ").replaceAll("|", "\\|");
}

export function formatEntry(entry: Entry, commit: string, date: Date): string {
  const when = date.toISOString().slice(0, 16).replace("T", " ");
  const cpuList = cpus();
  const machine = `${cpuList.length} × ${cpuList[0]?.model.trim() ?? "CPU"}`;
  const duration = formatDuration(entry.durationMs);
  const { suite, seed, counts, result } = entry;
  const cells = [when, commit, machine, suite, String(seed), counts, duration, result];
  return `| ${cells.map(cell).join(" | ")} |\n`;
}

export function appendEntry(path: string, line: string): void {
  if (!existsSync(path)) writeFileSync(path, HEAD);
  const text = readFileSync(path, "utf8");
  appendFileSync(path, text.endsWith("\n") ? line : `\n${line}`);
}

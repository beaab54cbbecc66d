// The tree that the rules look at: every text file of the project, the emitted JavaScript beside
// each source file, and the findings that rules report about them.
//
// Invariants:
// - Paths are relative to the project's root, with forward slashes.
// - Rules are functions from a Project to findings, so their own tests hand them a tree in memory.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { type LexedText, lex } from "./lexer.ts";
import { IDENTITY_LINES, type LineMap, parseSourceMap } from "./source-map.ts";

export interface TextFile {
  readonly path: string;
  readonly text: string;
}

export interface SourceFile extends TextFile {
  /** `virtio` for `src/virtio/split-queue.ts`; "" for a file that is in no room. */
  readonly room: string;
  /** The path inside the room: `split-queue.ts`. */
  readonly fileName: string;
  readonly isTest: boolean;
  readonly lexed: LexedText;
  /** What the compiler emitted; null where it has not. */
  readonly emitted: string | null;
  readonly lines: LineMap;
}

export interface Project {
  /** The TypeScript files under src/. */
  readonly sources: readonly SourceFile[];
  /** The scripts that run before anything is built: plain JavaScript. */
  readonly scripts: readonly SourceFile[];
  /** Every text file of the project, those above too. */
  readonly texts: readonly TextFile[];
}

export interface Finding {
  readonly path: string;
  /** One-based; 0 when the finding is about the whole file. */
  readonly line: number;
  readonly message: string;
}

export function formatFinding(finding: Finding): string {
  const place = finding.line > 0 ? `${finding.path}:${finding.line}` : finding.path;
  return `${place}: ${finding.message}`;
}

/** Tests, fuzzers, benchmarks beside their source, and what only those use (`_fake-disk.ts`). */
const TEST_FILE = /\.(?:test|fuzz|bench)\.(?:ts|mjs)$|\/_(?:fake|test|bench)(?:-[^/]*)?\.ts$/;

export function isTestPath(path: string): boolean {
  return TEST_FILE.test(path);
}

/** A source file from its parts; `emitted` defaults to the text itself, which suits plain JS. */
export function sourceFile(
  path: string,
  text: string,
  emitted: string | null = text,
  lines: LineMap = IDENTITY_LINES,
): SourceFile {
  const parts = path.split("/");
  const inRoom = parts[0] === "src" && parts.length > 2;
  return {
    path,
    text,
    room: inRoom ? (parts[1] as string) : "",
    fileName: inRoom ? parts.slice(2).join("/") : parts.slice(1).join("/"),
    isTest: isTestPath(path),
    lexed: lex(text),
    emitted,
    lines,
  };
}

/** A tree in memory, for the rules' own tests. */
export function projectOf(files: Readonly<Record<string, string>>): Project {
  const texts = Object.entries(files).map(([path, text]) => ({ path, text }));
  return {
    texts,
    sources: texts
      .filter((file) => isSource(file.path))
      .map((file) => sourceFile(file.path, file.text)),
    scripts: texts
      .filter((file) => isScript(file.path))
      .map((file) => sourceFile(file.path, file.text)),
  };
}

/** The project this file belongs to, with the output it was itself emitted into. */
export function loadProject(): Project {
  const here = dirname(fileURLToPath(import.meta.url));
  const root = findRoot(here);
  const outDir = dirname(here);
  const texts = listFiles(root, "")
    .filter(isText)
    .map((path) => ({ path, text: readFileSync(join(root, path), "utf8") }));
  return {
    texts,
    sources: texts.filter((file) => isSource(file.path)).map((file) => withEmitted(file, outDir)),
    scripts: texts
      .filter((file) => isScript(file.path))
      .map((file) => sourceFile(file.path, file.text)),
  };
}

function withEmitted(file: TextFile, outDir: string): SourceFile {
  const emittedPath = join(outDir, file.path.replace(/^src\//, "").replace(/\.ts$/, ".js"));
  if (!existsSync(emittedPath)) return sourceFile(file.path, file.text, null);
  const mapPath = `${emittedPath}.map`;
  const lines = existsSync(mapPath)
    ? parseSourceMap(readFileSync(mapPath, "utf8"))
    : IDENTITY_LINES;
  return sourceFile(file.path, file.text, readFileSync(emittedPath, "utf8"), lines);
}

function findRoot(start: string): string {
  for (let folder = start; ; folder = dirname(folder)) {
    if (existsSync(join(folder, "package-lock.json")) && existsSync(join(folder, "src"))) {
      return folder;
    }
    if (folder === dirname(folder)) throw new Error(`no package-lock.json above ${start}`);
  }
}

const SKIPPED_FOLDERS = new Set([
  "node_modules",
  "dist",
  ".build",
  ".cache",
  ".ringstore",
  ".git",
  ".vscode",
  ".idea",
]);

function listFiles(root: string, folder: string): string[] {
  const found: string[] = [];
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
    const path = folder === "" ? entry.name : `${folder}/${entry.name}`;
    if (entry.isDirectory() && !SKIPPED_FOLDERS.has(entry.name))
      found.push(...listFiles(root, path));
    if (entry.isFile()) found.push(path.split(sep).join("/"));
  }
  return found.sort();
}

const TEXT_FILE = /\.(?:ts|mjs|js|json|md|service|conf|fio|xml|yaml|yml|sh|c|txt)$/;

function isText(path: string): boolean {
  return TEXT_FILE.test(path) || /^(?:bin|\.ci)\//.test(path) || /^\.[a-z]+rc$/.test(path);
}

function isSource(path: string): boolean {
  return path.startsWith("src/") && path.endsWith(".ts") && !path.endsWith(".d.ts");
}

function isScript(path: string): boolean {
  return path.startsWith("scripts/") && path.endsWith(".mjs");
}

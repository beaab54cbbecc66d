// Debian packages without installing them: the candidate version is looked up in the lists that
// `apt-get update` left, fetched with `apt-get download` (which checks its signature chain) and
// unpacked into the cache with `dpkg-deb -x`. None of this needs root.
//
// apt's answers are kept beside the packages until its lists change.
//
// Invariants: a package's folder is named after package and version and never changes; an older
// version in the cache is used only when the candidate cannot be had, and that is said.

import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import {
  type CacheOptions,
  defaultCacheDirectory,
  publishDirectory,
  publishFile,
} from "./cache.ts";
import { VmError } from "./error.ts";
import { requireOnSystem, runHostProgram } from "./host-program.ts";

export interface DebianPackage {
  readonly name: string;
  readonly version: string;
  /** The unpacked tree: `<directory>/usr/bin/…`. */
  readonly directory: string;
  /** Names of the packages it depends on, alternatives flattened. */
  readonly depends: readonly string[];
}

interface Candidate {
  readonly version: string;
  readonly depends: readonly string[];
}

/** An answer of apt's, and the state of its lists when it was given. */
interface CandidateRecord {
  readonly lists: string;
  readonly candidate: Candidate;
}

/** Their times tell whether apt would answer differently now. */
const APT_STATE = ["/var/lib/apt/lists", "/etc/apt", "/var/lib/dpkg/status"];
const PACKAGE_NAME = /^[a-z0-9][a-z0-9+.-]+$/;
/** A kernel of 30 MB over a slow line. */
const DOWNLOAD_TIMEOUT_MS = 10 * 60 * 1000;
/** What `dpkg-deb -f` printed, kept beside the unpacked files. */
const CONTROL_FILE = ".control";
const UPDATE_ADVICE = "As root run: apt-get update";

/** The unpacked package `name`, from the cache or fetched into it. */
export async function fetchPackage(
  name: string,
  options: CacheOptions = {},
): Promise<DebianPackage> {
  if (!PACKAGE_NAME.test(name)) {
    throw new VmError("option", `"${name}" is not the name of a Debian package.`);
  }
  requireDebian();
  const parent = join(options.cacheDirectory ?? defaultCacheDirectory(), "packages");
  const candidate = await findCandidate(name, options);
  try {
    if (candidate === undefined) {
      throw new VmError("package", `apt knows no package ${name}.`, { advice: UPDATE_ADVICE });
    }
    const directory = join(parent, directoryName(name, candidate.version));
    await publishDirectory(directory, (target) => unpack(name, candidate.version, target, options));
    return await readUnpacked(name, directory);
  } catch (error) {
    const cached = await newestCached(parent, name);
    if (cached === undefined) throw error;
    const why = error instanceof Error ? error.message.split("\n")[0] : String(error);
    options.log?.(`Using ${name} ${cached.version} from the cache: ${why}`);
    return cached;
  }
}

/** What `name` depends on, by apt's lists. Undefined when apt does not know the package. */
export async function packageDepends(
  name: string,
  options: CacheOptions = {},
): Promise<readonly string[] | undefined> {
  requireDebian();
  return (await findCandidate(name, options))?.depends;
}

/** `libc6 (>= 2.34), libaio1 | libaio1t64` -> `["libc6", "libaio1", "libaio1t64"]`. */
export function parseDepends(field: string): string[] {
  return field
    .split(/[,|]/)
    .map((entry) => entry.replace(/[(:[].*$/, "").trim())
    .filter((entry) => entry !== "");
}

/** Essential packages name their libraries in Pre-Depends. */
function dependsOf(fields: ReadonlyMap<string, string>): string[] {
  return ["Pre-Depends", "Depends"].flatMap((name) => parseDepends(fields.get(name) ?? ""));
}

/** `Name: value` lines up to the first empty line; folded lines are not needed here. */
export function parseControl(text: string): Map<string, string> {
  const fields = new Map<string, string>();
  for (const line of text.split("\n")) {
    if (line === "") break;
    const match = /^([A-Za-z0-9-]+): (.*)$/.exec(line);
    if (match !== null) fields.set(match[1]!, match[2]!);
  }
  return fields;
}

/** apt needs seconds for an answer, and every process that boots a guest asks the same: kept. */
async function findCandidate(name: string, options: CacheOptions): Promise<Candidate | undefined> {
  const parent = join(options.cacheDirectory ?? defaultCacheDirectory(), "candidates");
  const path = join(parent, `${name}.json`);
  const lists = await listsState();
  if (lists !== undefined && existsSync(path)) {
    const record = await readRecord(path);
    if (record?.lists === lists) return record.candidate;
  }
  const candidate = await askCandidate(name);
  if (lists !== undefined && candidate !== undefined) {
    await publishFile(path, `${JSON.stringify({ lists, candidate })}\n`);
  }
  return candidate;
}

/** Changes with what apt answers: with its lists, its sources and what is installed. */
async function listsState(): Promise<string | undefined> {
  const times: string[] = [];
  for (const path of APT_STATE) {
    const status = await stat(path).catch(() => undefined);
    if (status === undefined) return undefined;
    times.push(`${status.mtimeMs}`);
  }
  return times.join(" ");
}

async function readRecord(path: string): Promise<CandidateRecord | undefined> {
  try {
    const record = JSON.parse(await readFile(path, "utf8")) as Partial<CandidateRecord>;
    const { lists, candidate } = record;
    const isWhole = typeof candidate?.version === "string" && Array.isArray(candidate.depends);
    return isWhole && typeof lists === "string" ? { lists, candidate } : undefined;
  } catch {
    return undefined; // A cache file that does not parse is no answer.
  }
}

async function askCandidate(name: string): Promise<Candidate | undefined> {
  const shown = await runHostProgram("apt-cache", ["show", "--no-all-versions", name], {
    acceptExitCodes: [100],
  });
  const fields = parseControl(shown.stdout);
  const version = fields.get("Version");
  // A package without a file to fetch is one that was installed by hand.
  if (version === undefined || !fields.has("Filename")) return undefined;
  return { version, depends: dependsOf(fields) };
}

async function unpack(
  name: string,
  version: string,
  target: string,
  options: CacheOptions,
): Promise<void> {
  options.log?.(`Fetching the Debian package ${name} ${version}`);
  const download = join(target, ".download");
  await mkdir(download);
  try {
    await runHostProgram("apt-get", ["download", "--quiet", `${name}=${version}`], {
      cwd: download,
      timeoutMs: DOWNLOAD_TIMEOUT_MS,
    });
  } catch (cause) {
    // Seen when the lists are old: a security update replaced the file on the servers.
    throw new VmError("package", `Cannot fetch the package ${name} ${version}.`, {
      advice: `${UPDATE_ADVICE}. If it persists, check the network and apt's sources.`,
      cause,
    });
  }
  const archive = (await readdir(download)).find((file) => file.endsWith(".deb"));
  if (archive === undefined) {
    throw new VmError("package", `apt-get download ${name}=${version} left no .deb file.`);
  }
  await runHostProgram("dpkg-deb", ["-x", join(download, archive), target]);
  const control = await runHostProgram("dpkg-deb", ["-f", join(download, archive)]);
  await writeFile(join(target, CONTROL_FILE), control.stdout);
  await rm(download, { recursive: true });
}

async function readUnpacked(name: string, directory: string): Promise<DebianPackage> {
  const control = parseControl(await readFile(join(directory, CONTROL_FILE), "utf8"));
  const version = control.get("Version");
  if (version === undefined) {
    throw new VmError("format", `${join(directory, CONTROL_FILE)} names no version.`, {
      advice: `Delete ${directory}; it is a cache.`,
    });
  }
  return { name, version, directory, depends: dependsOf(control) };
}

async function newestCached(parent: string, name: string): Promise<DebianPackage | undefined> {
  if (!existsSync(parent)) return undefined;
  let best: { directory: string; mtimeMs: number } | undefined;
  for (const entry of await readdir(parent)) {
    if (!entry.startsWith(`${name}_`)) continue;
    const directory = join(parent, entry);
    // The control file's time is the time of the download; the folder's is the package's own.
    const { mtimeMs } = await stat(join(directory, CONTROL_FILE));
    if (best === undefined || mtimeMs > best.mtimeMs) best = { directory, mtimeMs };
  }
  return best === undefined ? undefined : readUnpacked(name, best.directory);
}

/** Epochs (`3:6.04`) and the like are escaped as apt escapes them in file names. */
function directoryName(name: string, version: string): string {
  return `${name}_${encodeURIComponent(version)}`;
}

function requireDebian(): void {
  if (process.arch !== "x64") {
    throw new VmError("unsupported", `Guests are x86-64 only; this machine is ${process.arch}.`);
  }
  for (const program of ["apt-cache", "apt-get", "dpkg-deb"]) {
    requireOnSystem(program, program === "dpkg-deb" ? "dpkg" : "apt");
  }
}

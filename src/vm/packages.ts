// Makes sure that programs are at hand: on the system where they are installed, otherwise from
// their Debian packages, unpacked in the cache together with the shared libraries they miss.
// Programs from the cache run with `env`, which points the loader at those libraries.
//
// Libraries are found as the loader would find them (the ELF file's NEEDED list, recursively)
// and, where missing, in the packages their package depends on, matched by name: Debian names
// `libaio.so.1`'s package libaio1 (or libaio1t64).

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import type { CacheOptions } from "./cache.ts";
import { type DebianPackage, fetchPackage } from "./debian.ts";
import { readElf } from "./elf.ts";
import { VmError } from "./error.ts";
import { findOnSystem } from "./host-program.ts";

export interface ProgramSource {
  readonly program: string;
  readonly debianPackage: string;
  /** Libraries (by NEEDED name) that need not be there. Default: none. */
  readonly withoutLibrary?: (soname: string) => boolean;
  /** Libraries that it loads while it runs, and does not say so. */
  readonly loads?: readonly string[];
}

export interface EnsureOptions extends CacheOptions {
  /** Take everything but libc from packages, whatever is installed. For tests. */
  ignoreSystem?: boolean;
}

export interface Program {
  readonly path: string;
  /** Everything the loader maps for it, by NEEDED name; stubs-to-be are not in it. */
  readonly libraries: ReadonlyMap<string, string>;
  /** Names for which `withoutLibrary` said yes. */
  readonly skippedLibraries: readonly string[];
  /** Undefined when the program is the system's own. */
  readonly fromPackage: DebianPackage | undefined;
}

export interface ProgramSet {
  /** Absolute path of a program that was asked for. */
  path(program: string): string;
  get(program: string): Program;
  /** The environment to start any of them with. */
  readonly env: NodeJS.ProcessEnv;
}

const SYSTEM_LIBRARY_DIRECTORIES = [
  "/lib/x86_64-linux-gnu",
  "/usr/lib/x86_64-linux-gnu",
  "/lib64",
  "/usr/lib64",
  "/lib",
  "/usr/lib",
];
const PACKAGE_LIBRARY_DIRECTORIES = [
  "lib/x86_64-linux-gnu",
  "usr/lib/x86_64-linux-gnu",
  "usr/lib",
  "lib",
];
const PACKAGE_PROGRAM_DIRECTORIES = [
  "usr/bin",
  "usr/sbin",
  "bin",
  "sbin",
  "usr/local/bin",
  "lib/udev",
  "usr/lib/udev",
];
/** glibc belongs to the kernel and the loader that run here; it is never taken from a package. */
const GLIBC =
  /^(ld-linux-x86-64|libc|libm|libdl|libpthread|librt|libresolv|libutil|libanl|libmvec)\.so\./;
/** Names that Debian's scheme does not produce. */
const LIBRARY_PACKAGES: Readonly<Record<string, string>> = {
  "libz.so.1": "zlib1g",
  "libe2p.so.2": "libext2fs2",
  "libcrypto.so.3": "libssl3",
  "libopeniscsiusr.so.0.2.0": "libopeniscsiusr",
};
/** No program here comes near; a cycle of packages must end. */
const LIBRARY_PACKAGES_MAX = 200;

/** Finds or fetches every program of `sources`. */
export async function ensurePrograms(
  sources: readonly ProgramSource[],
  options: EnsureOptions = {},
): Promise<ProgramSet> {
  const programs = new Map<string, Program>();
  const directories = new Set<string>();
  for (const source of sources) {
    const program = await ensureProgram(source, options);
    programs.set(source.program, program);
    for (const path of program.libraries.values()) {
      const directory = path.slice(0, path.lastIndexOf("/"));
      if (!SYSTEM_LIBRARY_DIRECTORIES.includes(directory)) directories.add(directory);
    }
  }
  const get = (name: string): Program => {
    const program = programs.get(name);
    if (program === undefined) throw new VmError("option", `${name} was not asked for.`);
    return program;
  };
  return { get, path: (name) => get(name).path, env: environment([...directories]) };
}

function environment(libraryDirectories: readonly string[]): NodeJS.ProcessEnv {
  if (libraryDirectories.length === 0) return process.env;
  const existing = process.env["LD_LIBRARY_PATH"];
  const path = existing ? [...libraryDirectories, existing] : libraryDirectories;
  return { ...process.env, LD_LIBRARY_PATH: path.join(delimiter) };
}

async function ensureProgram(source: ProgramSource, options: EnsureOptions): Promise<Program> {
  const installed = options.ignoreSystem === true ? undefined : findOnSystem(source.program);
  if (installed !== undefined) {
    try {
      return await examine(source, installed, undefined, options);
    } catch (error) {
      // Not a program but a wrapper, or one whose libraries are gone: the package has a whole one.
      if (!(error instanceof VmError)) throw error;
      options.log?.(`Not using ${installed}: ${error.message}`);
    }
  }
  const fromPackage = await fetchPackage(source.debianPackage, options);
  const path = programInPackage(source.program, fromPackage);
  return examine(source, path, fromPackage, options);
}

async function examine(
  source: ProgramSource,
  path: string,
  fromPackage: DebianPackage | undefined,
  options: EnsureOptions,
): Promise<Program> {
  const finder = new LibraryFinder(source, fromPackage, options);
  await finder.follow(path, source.loads);
  return {
    path,
    libraries: finder.found,
    skippedLibraries: [...finder.skipped],
    fromPackage,
  };
}

function programInPackage(program: string, unpacked: DebianPackage): string {
  for (const directory of PACKAGE_PROGRAM_DIRECTORIES) {
    const path = join(unpacked.directory, directory, program);
    if (existsSync(path)) return path;
  }
  throw new VmError("package", `The Debian package ${unpacked.name} has no program ${program}.`);
}

/** Follows NEEDED entries, fetching packages for what is nowhere. */
class LibraryFinder {
  readonly found = new Map<string, string>();
  readonly skipped = new Set<string>();
  readonly #source: ProgramSource;
  readonly #options: EnsureOptions;
  readonly #packages: DebianPackage[] = [];
  readonly #tried = new Set<string>();

  constructor(
    source: ProgramSource,
    fromPackage: DebianPackage | undefined,
    options: EnsureOptions,
  ) {
    this.#source = source;
    this.#options = options;
    if (fromPackage !== undefined) this.#packages.push(fromPackage);
  }

  async follow(path: string, loads: readonly string[] = []): Promise<void> {
    const file = readFileSync(path);
    // A script brings its own interpreter question; nothing here is one.
    const elf = readElf(file, path);
    for (const soname of [...elf.needed, ...loads]) {
      if (this.found.has(soname) || this.skipped.has(soname)) continue;
      if (this.#source.withoutLibrary?.(soname) === true) {
        this.skipped.add(soname);
        continue;
      }
      const library = this.#lookUp(soname) ?? (await this.#fetch(soname));
      this.found.set(soname, library);
      await this.follow(library);
    }
    if (elf.interpreter !== undefined) this.found.set(basename(elf.interpreter), elf.interpreter);
  }

  #lookUp(soname: string): string | undefined {
    for (const unpacked of this.#packages) {
      for (const directory of PACKAGE_LIBRARY_DIRECTORIES) {
        const path = join(unpacked.directory, directory, soname);
        if (existsSync(path)) return path;
      }
    }
    if (this.#options.ignoreSystem === true && !GLIBC.test(soname)) return undefined;
    return SYSTEM_LIBRARY_DIRECTORIES.map((directory) => join(directory, soname)).find(existsSync);
  }

  async #fetch(soname: string): Promise<string> {
    const wanted = packageNameOf(soname);
    // A library's own dependencies are searched as well, so the list may grow while we walk it.
    for (let index = 0; index < this.#packages.length; index++) {
      for (const candidate of this.#packages[index]!.depends) {
        if (!candidate.startsWith(wanted) || this.#tried.has(candidate)) continue;
        this.#tried.add(candidate);
        if (this.#tried.size > LIBRARY_PACKAGES_MAX) break;
        this.#packages.push(await fetchPackage(candidate, this.#options));
        const path = this.#lookUp(soname);
        if (path !== undefined) return path;
      }
    }
    throw new VmError("package", `${this.#source.program} needs ${soname}, which is missing.`, {
      advice: `As root run: apt-get install ${this.#source.debianPackage}`,
    });
  }
}

/** `libext2fs.so.2` -> `libext2fs2`, by Debian's library package naming. */
export function packageNameOf(soname: string): string {
  const special = LIBRARY_PACKAGES[soname];
  if (special !== undefined) return special;
  const match = /^(.+?)\.so(?:\.(\d+))?/.exec(soname);
  if (match === null) return soname;
  const base = match[1]!.replaceAll("_", "-").toLowerCase();
  const joint = /\d$/.test(base) && match[2] !== undefined ? "-" : "";
  return `${base}${joint}${match[2] ?? ""}`;
}

function basename(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

/** The one file or folder in `directory` whose name matches, for versioned names. */
export function findEntry(directory: string, pattern: RegExp): string | undefined {
  if (!existsSync(directory)) return undefined;
  const name = readdirSync(directory)
    .filter((entry) => pattern.test(entry))
    .sort()
    .pop();
  return name === undefined ? undefined : join(directory, name);
}

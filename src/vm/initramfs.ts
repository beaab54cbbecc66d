// Builds the guest's initramfs: busybox for a shell, fio and the ext4 tools for tests, the virtio
// drivers, /init and the agent. It is the guest's whole system; there is no root disk.
//
// Everything comes from Debian packages (the system's files where installed), so the result
// depends on this machine; it is cached under the hash of all its content. Kept small, because
// an emulated CPU unpacks it at every boot: see stub-library.ts for how fio fits.

import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { gzip } from "node:zlib";
import {
  type CacheOptions,
  defaultCacheDirectory,
  keepNewest,
  publishFile,
  touch,
} from "./cache.ts";
import { CpioArchive } from "./cpio.ts";
import { type Elf, isElf, readElf } from "./elf.ts";
import { VmError } from "./error.ts";
import { AGENT_SCRIPT, INIT_SCRIPT, PROGRAMS_FILE } from "./guest-scripts.ts";
import { runHostProgram } from "./host-program.ts";
import type { Kernel } from "./kernel.ts";
import { modulesDep, resolveModules } from "./kernel-modules.ts";
import { ensurePrograms, type Program, type ProgramSource } from "./packages.ts";
import { buildStubLibrary, planStubs } from "./stub-library.ts";

export interface InitramfsOptions extends CacheOptions {
  kernel: Kernel;
  /** Loaded by /init. Default {@link BOOT_MODULES}. */
  bootModules?: readonly string[];
  /** There for `modprobe`. Default {@link EXTRA_MODULES}. */
  extraModules?: readonly string[];
  /** Programs beside busybox. Default {@link GUEST_PROGRAMS}; empty for the fastest boot. */
  programs?: readonly GuestProgram[];
  /** Further files, by path in the guest. */
  files?: Readonly<Record<string, { content: string | Uint8Array; mode?: number }>>;
  /** gzip: smaller to load for a boot loader, slower to unpack. Default false. */
  compress?: boolean;
  /** Take all programs from packages, whatever is installed. For tests. */
  ignoreSystem?: boolean;
}

export interface GuestProgram extends ProgramSource {
  /** Where it goes in the guest, first the file, then links to it. */
  readonly paths: readonly [string, ...string[]];
  /** Configuration that comes with it, copied when it exists on the system or in the package. */
  readonly configuration?: readonly string[];
}

export const BOOT_MODULES: readonly string[] = ["virtio_pci", "virtio_blk"];
export const EXTRA_MODULES: readonly string[] = [
  "virtio_scsi",
  "sd_mod",
  "sg",
  "virtio_balloon",
  "virtio_net",
  "crc32c_intel",
];

/** fio without the engines that need a network or special hardware. */
const FIO_LIBRARIES = /^(ld-linux-x86-64|libc|libm|libz|libaio)\.so\./;

export const FIO: GuestProgram = {
  program: "fio",
  debianPackage: "fio",
  paths: ["/bin/fio"],
  withoutLibrary: (soname) => !FIO_LIBRARIES.test(soname),
};

export const EXT4_TOOLS: readonly GuestProgram[] = [
  {
    program: "mke2fs",
    debianPackage: "e2fsprogs",
    paths: ["/sbin/mke2fs", "/sbin/mkfs.ext4"],
    configuration: ["/etc/mke2fs.conf"],
  },
  {
    program: "e2fsck",
    debianPackage: "e2fsprogs",
    paths: ["/sbin/e2fsck", "/sbin/fsck.ext4"],
  },
  { program: "resize2fs", debianPackage: "e2fsprogs", paths: ["/sbin/resize2fs"] },
  { program: "blkdiscard", debianPackage: "util-linux", paths: ["/sbin/blkdiscard"] },
  { program: "fstrim", debianPackage: "util-linux", paths: ["/sbin/fstrim"] },
];

export const GUEST_PROGRAMS: readonly GuestProgram[] = [FIO, ...EXT4_TOOLS];

/** For those who ask: with its libraries, 2 MB that every other guest's boot does without. */
export const SQLITE: GuestProgram = {
  program: "sqlite3",
  debianPackage: "sqlite3",
  paths: ["/bin/sqlite3"],
};

/** For those who ask: SCSI commands from the command line. */
export const SG3_UTILS: readonly GuestProgram[] = [
  "sg_inq",
  "sg_vpd",
  "sg_luns",
  "sg_readcap",
  "sg_persist",
  "sg_unmap",
  "sg_compare_and_write",
  "sg_get_lba_status",
  "sg_reset",
].map((program) => ({ program, debianPackage: "sg3-utils", paths: [`/bin/${program}`] }));

const BUSYBOX: ProgramSource = { program: "busybox", debianPackage: "busybox-static" };
/** Searched by the loader without configuration, and where Debian's programs expect them. */
const LIBRARY_DIRECTORY = "/lib/x86_64-linux-gnu";
/** Images kept in the cache. Each variant of options is one. */
const IMAGES_KEPT = 12;
const EMPTY_DIRECTORIES = ["dev", "proc", "sys", "run", "tmp", "mnt", "root", "etc"];

/** Builds the initramfs, or finds it in the cache; returns its path. */
export async function ensureInitramfs(options: InitramfsOptions): Promise<string> {
  const archive = new CpioArchive();
  addBase(archive);
  const applets = await addBusybox(archive, options);
  const programs = options.programs ?? GUEST_PROGRAMS;
  for (const wanted of programs) await addProgram(archive, wanted, options);
  archive.file(PROGRAMS_FILE, preferPrograms(programs, applets));
  addModules(archive, options);
  for (const [path, file] of Object.entries(options.files ?? {})) {
    archive.file(path, file.content, file.mode ?? 0o644);
  }
  return store(archive.toBuffer(), options);
}

async function store(content: Buffer, options: InitramfsOptions): Promise<string> {
  const directory = join(options.cacheDirectory ?? defaultCacheDirectory(), "initramfs");
  await mkdir(directory, { recursive: true });
  const hash = createHash("sha256").update(content).digest("hex").slice(0, 32);
  const path = join(directory, options.compress === true ? `${hash}.cpio.gz` : `${hash}.cpio`);
  if (existsSync(path)) {
    await touch(path);
    return path;
  }
  const stored = options.compress === true ? await promisify(gzip)(content) : content;
  await publishFile(path, stored);
  await keepNewest(directory, IMAGES_KEPT);
  return path;
}

function addBase(archive: CpioArchive): void {
  for (const directory of EMPTY_DIRECTORIES) {
    archive.set(directory, { kind: "directory", mode: directory === "tmp" ? 0o1777 : 0o755 });
  }
  // Process 1's standard streams, opened before /init mounts /dev.
  archive.set("/dev/console", { kind: "character-device", mode: 0o600, major: 5, minor: 1 });
  archive.symlink("/etc/mtab", "/proc/mounts");
  archive.file("/etc/passwd", "root::0:0:root:/root:/bin/sh\n");
  archive.file("/etc/group", "root:x:0:\n");
  archive.file("/init", INIT_SCRIPT, 0o755);
  archive.file("/sbin/agent", AGENT_SCRIPT, 0o755);
}

/** Adds busybox and links for its applets; returns their names. */
async function addBusybox(
  archive: CpioArchive,
  options: InitramfsOptions,
): Promise<ReadonlySet<string>> {
  let programs = await ensurePrograms([BUSYBOX], options);
  if (programs.get("busybox").libraries.size > 0) {
    // The system's busybox is the dynamic one, without base64 and other applets used here.
    programs = await ensurePrograms([BUSYBOX], { ...options, ignoreSystem: true });
  }
  const path = programs.path("busybox");
  archive.file("/bin/busybox", readFileSync(path), 0o755);
  const listed = await runHostProgram(path, ["--list"]);
  const applets = listed.stdout.split("\n").filter((name) => name !== "" && name !== "busybox");
  for (const applet of applets) archive.symlink(`/bin/${applet}`, "busybox");
  return new Set(applets);
}

/** See {@link PROGRAMS_FILE}. */
function preferPrograms(programs: readonly GuestProgram[], applets: ReadonlySet<string>): string {
  const lines: string[] = [];
  for (const path of programs.flatMap((program) => program.paths)) {
    const name = path.slice(path.lastIndexOf("/") + 1);
    if (applets.has(name)) lines.push(`${name}() { ${path} "$@"; }\n`);
  }
  return lines.join("");
}

async function addProgram(
  archive: CpioArchive,
  wanted: GuestProgram,
  options: InitramfsOptions,
): Promise<void> {
  const program = (await ensurePrograms([wanted], options)).get(wanted.program);
  const [target, ...links] = wanted.paths;
  const content = readFileSync(program.path);
  archive.file(target, content, 0o755);
  for (const link of links) archive.symlink(link, target);
  for (const [soname, path] of program.libraries) {
    if (soname.startsWith("ld-linux")) archive.file(`/lib64/${soname}`, readFileSync(path), 0o755);
    else archive.file(`${LIBRARY_DIRECTORY}/${soname}`, readFileSync(path));
  }
  if (isElf(content)) addStubs(archive, readElf(content, program.path), program);
  for (const path of wanted.configuration ?? []) {
    const inPackage = join(program.fromPackage?.directory ?? "/", path);
    if (existsSync(inPackage)) archive.file(path, readFileSync(inPackage));
  }
}

function addStubs(archive: CpioArchive, elf: Elf, program: Program): void {
  if (program.skippedLibraries.length === 0) return;
  const provided = new Set<string>();
  for (const path of program.libraries.values()) {
    for (const name of readElf(readFileSync(path), path).exports) provided.add(name);
  }
  for (const stub of planStubs(elf, program.skippedLibraries, provided)) {
    const path = `${LIBRARY_DIRECTORY}/${stub.soname}`;
    // Another program may have brought the real library.
    if (!archive.has(path)) archive.file(path, buildStubLibrary(stub));
  }
}

function addModules(archive: CpioArchive, options: InitramfsOptions): void {
  const boot = options.bootModules ?? BOOT_MODULES;
  const extra = options.extraModules ?? EXTRA_MODULES;
  const modules = resolveModules(options.kernel, [...boot, ...extra]);
  const directory = `/lib/modules/${options.kernel.release}`;
  for (const module of modules) {
    archive.file(`${directory}/${module.relativePath}`, readFileSync(module.path));
  }
  archive.file(`${directory}/modules.dep`, modulesDep(modules));
  if (boot.length === 0) throw new VmError("option", "A guest needs at least one boot module.");
  archive.file("/etc/boot-modules", `${boot.join(" ")}\n`);
}

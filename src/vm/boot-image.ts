// Makes a disk image that a PC firmware boots by itself: what a test writes into a volume to
// boot a guest from it with no kernel on QEMU's command line. SeaBIOS reads the first sector,
// that loads syslinux, that loads kernel and initramfs.
//
//   sector 0 …    FAT: ldlinux.sys, ldlinux.c32, syslinux.cfg, vmlinuz, initrd.gz
//
// There is no partition: its boot sector would be read over the first one, which has been executed
// at the same address. A vhost-user back-end writes guest memory behind QEMU's back, and TCG goes
// on executing what it had translated there: under emulation such a guest hangs.
//
// No root and no loop device: the FAT is written by mtools, syslinux installs itself through
// them. All from Debian packages, in the cache where they are not installed.

import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync } from "node:fs";
import { copyFile, mkdir, open, rename, rm, truncate, writeFile } from "node:fs/promises";
import { basename, delimiter, dirname, join } from "node:path";
import { alignUp, MIB, SECTOR_BYTES } from "../base/index.ts";
import {
  type CacheOptions,
  defaultCacheDirectory,
  keepNewest,
  temporaryBeside,
  touch,
} from "./cache.ts";
import { VmError } from "./error.ts";
import { runHostProgram } from "./host-program.ts";
import { ensureInitramfs, type InitramfsOptions } from "./initramfs.ts";
import { ensureKernel } from "./kernel.ts";
import { kernelLine } from "./kernel-line.ts";
import { ensurePrograms } from "./packages.ts";
import { AGENT_PORT } from "./qemu-command.ts";

export interface BootImageOptions extends CacheOptions {
  readonly initramfs?: Omit<InitramfsOptions, "kernel" | "cacheDirectory" | "log" | "compress">;
  /** Further kernel parameters. */
  readonly append?: string;
  /** Shell text /init runs before the agent starts. */
  readonly script?: string;
  /** As in BootOptions: whether a panic stops the guest or restarts it. Default true. */
  readonly allowReboot?: boolean;
  /** Take syslinux and mtools from packages, whatever is installed. For tests. */
  readonly ignoreSystem?: boolean;
}

export interface BootImage {
  /** In the cache: copy it, never write to it. */
  readonly path: string;
  readonly sizeBytes: number;
}

/** FAT tables, directories and syslinux' own files. */
const SPARE_BYTES: number = 4 * MIB;
/** Below this mformat would choose FAT12, above 100 MiB nobody wants a test image. */
const IMAGE_BYTES_MIN: number = 20 * MIB;
const IMAGE_BYTES_MAX: number = 100 * MIB;
const IMAGES_KEPT = 4;
/** Changes when the layout here does, so that old images in caches are not used. */
const LAYOUT_VERSION = 2;

/** Makes the image, or finds it in the cache. */
export async function ensureBootImage(options: BootImageOptions = {}): Promise<BootImage> {
  const cacheDirectory = options.cacheDirectory ?? defaultCacheDirectory();
  const cache = { cacheDirectory, ...(options.log === undefined ? {} : { log: options.log }) };
  const kernel = await ensureKernel(cache);
  const initramfs = await ensureInitramfs({
    kernel,
    compress: true,
    ...options.initramfs,
    ...cache,
  });
  const config = syslinuxConfig(options);
  const parts = [LAYOUT_VERSION, kernel.release, kernel.version, basename(initramfs), config];
  const hash = createHash("sha256").update(parts.join("\n")).digest("hex").slice(0, 32);
  const path = join(cacheDirectory, "images", `${hash}.img`);
  if (existsSync(path)) {
    await touch(path);
    return { path, sizeBytes: statSync(path).size };
  }
  await mkdir(dirname(path), { recursive: true });
  const temporary = temporaryBeside(path);
  try {
    const files = { vmlinuz: kernel.vmlinuzPath, "initrd.gz": initramfs };
    await build(temporary, files, config, options, cache);
    await rename(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
  await keepNewest(dirname(path), IMAGES_KEPT);
  return { path, sizeBytes: statSync(path).size };
}

/** Copies the image to the start of `target`, an existing file or block device. */
export async function writeBootImage(image: BootImage, target: string): Promise<void> {
  const content = readFileSync(image.path);
  const file = await open(target, "r+");
  try {
    for (let at = 0; at < content.length; ) {
      at += (await file.write(content, at, content.length - at, at)).bytesWritten;
    }
    await file.sync();
  } finally {
    await file.close();
  }
}

/** A copy of the image at `target`, extended to `sizeBytes`. */
export async function copyBootImage(
  image: BootImage,
  target: string,
  sizeBytes: number = image.sizeBytes,
): Promise<void> {
  if (sizeBytes < image.sizeBytes) {
    throw new VmError("option", `The boot image needs ${image.sizeBytes} bytes, not ${sizeBytes}.`);
  }
  await copyFile(image.path, target);
  await truncate(target, sizeBytes);
}

function syslinuxConfig(options: BootImageOptions): string {
  const line = kernelLine({
    agentPort: AGENT_PORT,
    script: options.script,
    allowReboot: options.allowReboot ?? true,
    append: options.append,
  });
  return [
    "SERIAL 0 115200",
    "DEFAULT guest",
    "PROMPT 0",
    "LABEL guest",
    "  LINUX /vmlinuz",
    "  INITRD /initrd.gz",
    `  APPEND ${line}`,
    "",
  ].join("\n");
}

async function build(
  image: string,
  files: Readonly<Record<string, string>>,
  config: string,
  options: BootImageOptions,
  cache: CacheOptions,
): Promise<void> {
  const mtools = ["mformat", "mcopy", "mattrib", "mmove"].map((program) => {
    return { program, debianPackage: "mtools" };
  });
  const sources = [...mtools, { program: "syslinux", debianPackage: "syslinux" }];
  const programs = await ensurePrograms(sources, {
    ...cache,
    ...(options.ignoreSystem === undefined ? {} : { ignoreSystem: options.ignoreSystem }),
  });
  // syslinux starts mtools by name, and mtools ask about geometry unless told to be silent.
  const path = [dirname(programs.path("mcopy")), process.env["PATH"] ?? ""].join(delimiter);
  const env = { ...programs.env, PATH: path, MTOOLS_SKIP_CHECK: "1", MTOOLS_NO_VFAT: "0" };
  const bytes = imageBytes(Object.values(files));
  await writeFile(image, "");
  await truncate(image, bytes);
  const format = ["-i", image, "-T", `${bytes / SECTOR_BYTES}`, "-h", "255", "-s", "63"];
  await runHostProgram(programs.path("mformat"), [...format, "-v", "RINGSTORE", "::"], { env });
  for (const [name, source] of Object.entries(files)) {
    await runHostProgram(programs.path("mcopy"), ["-i", image, source, `::/${name}`], { env });
  }
  const configFile = `${image}.cfg`;
  try {
    await writeFile(configFile, config);
    const target = "::/syslinux.cfg";
    await runHostProgram(programs.path("mcopy"), ["-i", image, configFile, target], { env });
  } finally {
    await rm(configFile, { force: true });
  }
  await runHostProgram(programs.path("syslinux"), ["--install", image], { env });
}

function imageBytes(sources: readonly string[]): number {
  const content = sources.reduce((sum, source) => sum + statSync(source).size, 0);
  const wanted = alignUp(content + SPARE_BYTES, MIB);
  if (wanted > IMAGE_BYTES_MAX) {
    throw new VmError("option", `The boot image would have ${wanted} bytes, above 100 MiB.`, {
      advice: "Leave programs out of its initramfs.",
    });
  }
  return Math.max(wanted, IMAGE_BYTES_MIN);
}

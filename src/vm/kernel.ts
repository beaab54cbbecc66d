// The guest's kernel: Debian's cloud kernel, unpacked from its package into the cache. It is
// small, has ext4, serial ports and NVMe built in, and virtio as modules. Guests that need what it
// leaves out, such as ALUA, ask for Debian's usual one, which takes 400 MB of the cache.
//
// `linux-image-cloud-amd64` holds no files: it depends on the package of the current version,
// whose name changes with every ABI. So does `linux-image-amd64`.

import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { type CacheOptions, defaultCacheDirectory } from "./cache.ts";
import { fetchPackage, packageDepends } from "./debian.ts";
import { VmError } from "./error.ts";
import { findEntry } from "./packages.ts";

export interface Kernel {
  /** E.g. `6.1.0-56-cloud-amd64`: the name of the modules folder and what `uname -r` prints. */
  readonly release: string;
  /** Debian's version, which changes also when the release does not. */
  readonly version: string;
  readonly vmlinuzPath: string;
  /** `…/lib/modules/<release>`; holds `kernel/`, no `modules.dep` (that is made at install). */
  readonly modulesDirectory: string;
}

/** Which of Debian's kernels: `cloud` is the small one. */
export type KernelFlavour = "cloud" | "usual";

export interface KernelOptions extends CacheOptions {
  /** Default `cloud`. */
  readonly flavour?: KernelFlavour;
}

interface Flavour {
  readonly metaPackage: string;
  readonly packageName: RegExp;
}

const FLAVOURS: Readonly<Record<KernelFlavour, Flavour>> = {
  cloud: {
    metaPackage: "linux-image-cloud-amd64",
    packageName: /^linux-image-[0-9][0-9a-z.+-]*-cloud-amd64$/,
  },
  usual: {
    metaPackage: "linux-image-amd64",
    // Before the architecture others have a word: -cloud, -rt.
    packageName: /^linux-image-[0-9][0-9a-z.+-]*[0-9]-amd64$/,
  },
};

/** Fetches the kernel unless it is in the cache. Needs `apt-get update` to have run, no root. */
export async function ensureKernel(options: KernelOptions = {}): Promise<Kernel> {
  const unpacked = await fetchPackage(await kernelPackageName(options), options);
  const vmlinuzPath = findEntry(join(unpacked.directory, "boot"), /^vmlinuz-/);
  const modulesDirectory = findModules(unpacked.directory);
  if (vmlinuzPath === undefined || modulesDirectory === undefined) {
    throw new VmError("package", `${unpacked.name} ${unpacked.version} holds no kernel.`, {
      advice: `Delete ${unpacked.directory} and try again; it is a cache.`,
    });
  }
  const release = modulesDirectory.slice(modulesDirectory.lastIndexOf("/") + 1);
  return { release, version: unpacked.version, vmlinuzPath, modulesDirectory };
}

async function kernelPackageName(options: KernelOptions): Promise<string> {
  const { metaPackage, packageName } = FLAVOURS[options.flavour ?? "cloud"];
  const depends = await packageDepends(metaPackage, options);
  const name = depends?.find((dependency) => packageName.test(dependency));
  if (name !== undefined) return name;
  const cached = await newestCachedName(packageName, options);
  if (cached !== undefined) return cached;
  throw new VmError("package", `apt does not know ${metaPackage}, so there is no guest kernel.`, {
    advice: "As root run: apt-get update",
  });
}

async function newestCachedName(
  packageName: RegExp,
  options: CacheOptions,
): Promise<string | undefined> {
  const parent = join(options.cacheDirectory ?? defaultCacheDirectory(), "packages");
  if (!existsSync(parent)) return undefined;
  const names = (await readdir(parent)).map((entry) => entry.slice(0, entry.indexOf("_")));
  const kernels = names.filter((name) => packageName.test(name));
  // Numeric comparison, so that 6.1.0-100 comes after 6.1.0-56.
  return kernels.sort((a, b) => a.localeCompare(b, "en", { numeric: true })).pop();
}

function findModules(directory: string): string | undefined {
  for (const prefix of ["lib/modules", "usr/lib/modules"]) {
    const found = findEntry(join(directory, prefix), /-amd64$/);
    if (found !== undefined) return found;
  }
  return undefined;
}

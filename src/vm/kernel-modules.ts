// Which kernel modules a guest needs, in which order. The package brings no `modules.dep`
// (depmod makes it at installation), so the order is computed from what each module says about
// itself: its `.modinfo` section has `depends=a,b`.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { readElf } from "./elf.ts";
import { VmError } from "./error.ts";
import type { Kernel } from "./kernel.ts";

export interface KernelModule {
  /** With underscores, as the kernel names it. */
  readonly name: string;
  readonly path: string;
  /** Relative to the modules folder, e.g. `kernel/drivers/block/virtio_blk.ko`. */
  readonly relativePath: string;
  readonly depends: readonly string[];
}

/**
 * The modules `names` and all they depend on, dependencies first. Names of drivers that are
 * built into this kernel yield nothing.
 */
export function resolveModules(kernel: Kernel, names: readonly string[]): KernelModule[] {
  const files = listModules(kernel.modulesDirectory);
  const builtin = listBuiltin(kernel.modulesDirectory);
  const ordered = new Map<string, KernelModule>();
  const visit = (wanted: string, asker: string): void => {
    const name = moduleName(wanted);
    if (ordered.has(name) || builtin.has(name)) return;
    const path = files.get(name);
    if (path === undefined) {
      throw new VmError("package", `The kernel ${kernel.release} has no module ${name}${asker}.`);
    }
    const depends = readDepends(path);
    // The kernel's modules have no dependency cycles; a damaged tree ends in a stack overflow.
    for (const dependency of depends) visit(dependency, ` (needed by ${name})`);
    const relativePath = relative(kernel.modulesDirectory, path);
    ordered.set(name, { name, path, relativePath, depends });
  };
  for (const name of names) visit(name, "");
  return [...ordered.values()];
}

/**
 * The text of `modules.dep` for exactly these modules (dependencies first, as
 * {@link resolveModules} returns them). modprobe loads a line from its end to its start.
 */
export function modulesDep(modules: readonly KernelModule[]): string {
  const byName = new Map(modules.map((module) => [module.name, module]));
  const collect = (module: KernelModule, into: Set<KernelModule>): Set<KernelModule> => {
    for (const name of module.depends) {
      const dependency = byName.get(moduleName(name));
      if (dependency === undefined || into.has(dependency)) continue;
      into.add(dependency);
      collect(dependency, into);
    }
    return into;
  };
  return modules
    .map((module) => {
      const needed = collect(module, new Set());
      const lastLoadedFirst = modules.filter((other) => needed.has(other)).reverse();
      const paths = lastLoadedFirst.map((other) => ` ${other.relativePath}`).join("");
      return `${module.relativePath}:${paths}\n`;
    })
    .join("");
}

/** `kernel/lib/crc-itu-t.ko.xz` -> `crc_itu_t`. */
function moduleName(path: string): string {
  const file = path.slice(path.lastIndexOf("/") + 1);
  return file.replace(/\.ko(\.[a-z]+)?$/, "").replaceAll("-", "_");
}

function readDepends(path: string): string[] {
  if (!path.endsWith(".ko")) {
    // Debian 12 and 13 differ in this; busybox's insmod and readElf want plain files.
    throw new VmError("format", `${path} is a compressed kernel module.`, {
      advice: "Use the kernel of Debian 12, whose modules are not compressed.",
    });
  }
  const info = readElf(readFileSync(path), path).moduleInfo.get("depends") ?? [];
  return info.flatMap((value) => value.split(",")).filter((name) => name !== "");
}

function listModules(directory: string): Map<string, string> {
  const files = new Map<string, string>();
  const walk = (folder: string): void => {
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) walk(path);
      else if (/\.ko(\.[a-z]+)?$/.test(entry.name)) files.set(moduleName(entry.name), path);
    }
  };
  walk(join(directory, "kernel"));
  return files;
}

function listBuiltin(directory: string): Set<string> {
  const file = join(directory, "modules.builtin");
  if (!existsSync(file)) return new Set();
  const lines = readFileSync(file, "utf8").split("\n");
  return new Set(lines.filter((line) => line !== "").map(moduleName));
}

// The backing a request names, checked before anything is declared: does it exist, is it a file or
// a block device, how large is it, may this caller name it, does another volume use it.

import { readFileSync, realpathSync, type Stats, statSync } from "node:fs";
import { isAbsolute, normalize, relative } from "node:path";
import type { Caller } from "../api/control-plane.ts";
import { ApiError } from "../model/errors.ts";
import type { BackingKind, VolumeCreate } from "../model/types.ts";
import { quote } from "../model/volume-rules.ts";

export interface ExistingBacking {
  /** As given: a name such as /dev/disk/by-id/... stays right when devices are renumbered. */
  readonly path: string;
  readonly sizeBytes: number;
}

/**
 * The kind of a new volume. Without a word about it: what a path names, otherwise the store where
 * this node has a disk for it, otherwise a file. Throws when other fields contradict it.
 */
export function chooseKind(request: VolumeCreate, hasDisk: boolean): BackingKind {
  const byDefault = request.path === undefined && (hasDisk || request.disk !== undefined);
  const kind = request.backing ?? (byDefault ? "store" : "file");
  const refused = { file: ["disk"], store: ["path", "direct"] } as const;
  const fields = kind === "file" || kind === "store" ? refused[kind] : ALL_BACKING_FIELDS;
  for (const field of fields) {
    if (request[field] === undefined) continue;
    const other = field === "disk" ? "store" : "file";
    throw new ApiError("invalid_request", `${field} does not go with backing ${kind}`, {
      advice: `leave ${field} out, or use backing ${other}`,
    });
  }
  return kind;
}

const ALL_BACKING_FIELDS = ["path", "direct", "disk"] as const;

export function checkPathAllowed(
  path: string,
  caller: Caller,
  allowedDirectories: readonly string[],
): void {
  if (caller.transport === "unix") return;
  const inside = allowedDirectories.some((directory) => {
    const rest = relative(realOrSelf(directory), realOrSelf(path));
    return rest !== "" && !rest.startsWith("..") && !isAbsolute(rest);
  });
  if (inside) return;
  throw new ApiError("path_not_allowed", `callers over TCP may not name the path ${quote(path)}`, {
    advice: "create the volume over the unix socket, or start ringstored with --allow-path DIR",
  });
}

function realOrSelf(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

/** Throws ApiError unless `path` names an existing regular file or block device. */
export function inspectBacking(path: string): ExistingBacking {
  if (!isAbsolute(path) || path.includes("\0")) {
    throw new ApiError("invalid_request", `the path ${quote(path)} is not absolute`, {
      advice: "give the whole path, beginning with /",
    });
  }
  let stats: Stats;
  try {
    stats = statSync(path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "";
    throw new ApiError("backing_not_found", `${quote(path)} cannot be used: ${code}`, {
      advice: "make the file or device first, or leave path out to have a file made",
      cause: error,
    });
  }
  if (stats.isFile()) return { path: normalize(path), sizeBytes: stats.size };
  if (stats.isBlockDevice()) {
    return { path: normalize(path), sizeBytes: blockDeviceBytes(stats.rdev) };
  }
  throw new ApiError("invalid_request", `${quote(path)} is neither a file nor a block device`, {
    advice: "give a regular file or a block device such as /dev/vg0/db1",
  });
}

/** sysfs counts in sectors of 512 bytes whatever the device's own block is. */
function blockDeviceBytes(rdev: number): number {
  const [major, minor] = deviceNumbers(rdev);
  const sectors = readFileSync(`/sys/dev/block/${major}:${minor}/size`, "utf8").trim();
  return Number(sectors) * 512;
}

/** makedev(3) as the kernel and glibc pack it: 12 bits of major, 20 of minor, interleaved. */
export function deviceNumbers(rdev: number): readonly [major: number, minor: number] {
  const high = Math.floor(rdev / 2 ** 32);
  const low = rdev % 2 ** 32;
  const major = ((low >>> 8) & 0xfff) | (high & 0xfffff000);
  const minor = (low & 0xff) | ((low >>> 12) & 0xfff00);
  return [major, minor];
}

/**
 * Two volumes on one file would destroy each other's data. `used` is every volume with the path of
 * its file, managed ones too; or every disk of the store with its path.
 */
export function checkNotUsed(
  path: string,
  used: Iterable<readonly [name: string, path: string]>,
  by: "volume" | "disk" = "volume",
): void {
  const wanted = identityOf(path);
  for (const [name, usedPath] of used) {
    if (usedPath !== path && identityOf(usedPath) !== wanted) continue;
    const what = by === "volume" ? `the backing of volume ${name}` : `disk ${name} of the store`;
    const verb = by === "volume" ? "delete" : "remove";
    throw new ApiError("backing_in_use", `${quote(path)} is ${what}`, {
      advice: `use another file, or ${verb} ${by} ${name} first`,
    });
  }
}

export function isBlockDevicePath(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isBlockDevice() === true;
}

/** The same file under two names, or one device under two nodes, has one identity. */
function identityOf(path: string): string {
  try {
    const stats = statSync(path);
    return stats.isBlockDevice() ? `device ${stats.rdev}` : `file ${stats.dev} ${stats.ino}`;
  } catch {
    return `path ${path}`;
  }
}

// Stamps: a file that holds the hash of what something was made from, so that it is not made again.
// Contents count, not times: a checkout, a clone and a copy of the same files are up to date alike.

import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { ROOT } from "./project.mjs";

/** The hash of files (paths, and contents), of this Node's version, and of more text. */
export function hashFiles(paths, more = "") {
  const hash = createHash("sha256").update(`${process.version} ${process.arch}\n${more}\n`);
  for (const path of paths) {
    const content = readFileSync(path);
    hash.update(`${relative(ROOT, path)} ${content.length}\n`).update(content);
  }
  return hash.digest("hex");
}

export function isStamped(stampPath, hash) {
  try {
    return readFileSync(stampPath, "utf8").trim() === hash;
  } catch {
    return false;
  }
}

export function writeStamp(stampPath, hash) {
  mkdirSync(dirname(stampPath), { recursive: true });
  writeFileSync(stampPath, `${hash}\n`);
}

export function removeStamp(stampPath) {
  rmSync(stampPath, { force: true });
}

/** Every file below a folder, in one order everywhere. */
export function listFiles(folder) {
  let entries;
  try {
    entries = readdirSync(folder, { withFileTypes: true });
  } catch (error) {
    if (error.code === "ENOENT") return [];
    throw error;
  }
  return entries
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const path = join(folder, entry.name);
      return entry.isDirectory() ? listFiles(path) : [path];
    });
}

// A file system of its own on a loop device, for tests that want to freeze it or let it die. Needs
// root, loop devices and mkfs.ext4: false = they are not there.

import { spawnSync } from "node:child_process";
import { sparseFile } from "./places.ts";

/** True when it ended well. */
export function runs(program: string, ...args: readonly string[]): boolean {
  return spawnSync(program, args, { stdio: "ignore" }).status === 0;
}

/** An empty ext4 in a file of that size. */
export function formatImage(image: string, bytes: number): boolean {
  return runs("mkfs.ext4", "-q", sparseFile(image, bytes));
}

export function mountImage(image: string, folder: string): boolean {
  return runs("mount", "-o", "loop", image, folder);
}

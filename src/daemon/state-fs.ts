// The few file operations that declared state needs, as a port: the crash tests stop the world
// between any two of them.

import { readdirSync, readFileSync } from "node:fs";
import { open, rename, unlink } from "node:fs/promises";

export interface StateFs {
  /** Names in a directory. Synchronous, like read: the start path reads before it serves. */
  list(directory: string): readonly string[];
  read(path: string): string;
  /** Creates or truncates, writes, and makes the contents durable. */
  writeDurably(path: string, text: string): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  /** Missing is fine. */
  remove(path: string): Promise<void>;
  /** Makes renames and removals in the directory durable. */
  syncDirectory(path: string): Promise<void>;
}

export const nodeStateFs: StateFs = {
  list: (directory) => readdirSync(directory),
  read: (path) => readFileSync(path, "utf8"),
  async writeDurably(path, text) {
    const file = await open(path, "w", 0o600);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
  },
  rename: (from, to) => rename(from, to),
  async remove(path) {
    try {
      await unlink(path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
  },
  async syncDirectory(path) {
    const directory = await open(path, "r");
    try {
      await directory.sync();
    } finally {
      await directory.close();
    }
  },
};

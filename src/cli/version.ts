// The version of this build, from package.json: the CLI's own copy of four lines, because it
// shares no room with the daemon that could read a file.

import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export function readVersion(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  for (let depth = 0; depth < 5; depth++) {
    try {
      const text = readFileSync(join(folder, "package.json"), "utf8");
      const { name, version } = JSON.parse(text) as { name?: string; version?: string };
      if (name === "ringstore" && version !== undefined) return version;
    } catch {
      // Not in this folder.
    }
    folder = dirname(folder);
  }
  return "unknown";
}

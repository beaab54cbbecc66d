// What proves that the guest's disk is the volume: random bytes that the guest writes and reads
// back, and that the host then finds in the volume's file.

import { createHash } from "node:crypto";
import { closeSync, openSync, readSync } from "node:fs";
import { MIB } from "../../base/index.ts";
import type { Guest } from "../../vm/index.ts";

/** Behind what fio uses. */
const OFFSET_MIB = 512;
export const PATTERN_MIB = 16;
const TIMEOUT_MS = 180_000;

/** Writes random bytes in the guest, drops its cache, reads them back; returns their SHA-256. */
export async function writePattern(guest: Guest): Promise<string> {
  const range = `bs=1M count=${PATTERN_MIB}`;
  const commands = [
    `dd if=/dev/urandom of=/tmp/pattern ${range} 2>/dev/null`,
    `dd if=/tmp/pattern of=/dev/vda ${range} seek=${OFFSET_MIB} conv=fsync 2>/dev/null`,
    "echo 3 >/proc/sys/vm/drop_caches",
    `dd if=/dev/vda of=/tmp/back ${range} skip=${OFFSET_MIB} 2>/dev/null`,
    "cmp /tmp/pattern /tmp/back && sha256sum </tmp/pattern",
  ];
  const text = await guest.must(commands.join(" && "), { timeoutMs: TIMEOUT_MS });
  return text.slice(0, 64);
}

/** SHA-256 of the same bytes in the volume's file. */
export function hashOnHost(path: string): string {
  const bytes = Buffer.alloc(PATTERN_MIB * MIB);
  const fd = openSync(path, "r");
  try {
    for (let done = 0; done < bytes.length; ) {
      const at = OFFSET_MIB * MIB + done;
      const count = readSync(fd, bytes, done, bytes.length - done, at);
      if (count === 0) throw new Error(`${path} ends at ${at}`);
      done += count;
    }
  } finally {
    closeSync(fd);
  }
  return createHash("sha256").update(bytes).digest("hex");
}

// What the process is told once, before the first guest: limits, and no guest memory in core dumps.
// (SIGPIPE is ignored and the soft limit on descriptors raised to the hard one by Node itself.)

import { writeFileSync } from "node:fs";
import { RLIMIT_CORE, RLIMIT_NOFILE, resourceLimit, setResourceLimit } from "../sys/index.ts";

/** A volume with four queues takes about twelve descriptors. */
const DESCRIPTORS_WANTED = 1_048_576;

/**
 * Which memory a core dump would hold: private anonymous memory and ELF headers. Without shared
 * memory, where guests live: their data must not lie about in files.
 */
const COREDUMP_FILTER = "0x11";

/** Does what it may; nothing here is worth refusing to start. */
export function prepareProcess(): void {
  const core = resourceLimit(RLIMIT_CORE);
  if (typeof core === "object") setResourceLimit(RLIMIT_CORE, 0, 0);
  const files = resourceLimit(RLIMIT_NOFILE);
  if (typeof files === "object" && files.hard < DESCRIPTORS_WANTED) {
    // Needs CAP_SYS_RESOURCE; otherwise the limit stays what the system's manager set.
    setResourceLimit(RLIMIT_NOFILE, DESCRIPTORS_WANTED, DESCRIPTORS_WANTED);
  }
  try {
    writeFileSync("/proc/self/coredump_filter", COREDUMP_FILTER);
  } catch {
    // No /proc: the limit above does for it.
  }
}

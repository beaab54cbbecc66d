// What a process takes from its machine, as the kernel counts it.

import { readdirSync, readFileSync } from "node:fs";

const KIB_BYTES = 1024;

/** VmRSS: everything resident, shared pages included. */
export function residentBytes(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const found = /^VmRSS:\s+(\d+) kB$/m.exec(status);
  if (found === null) throw new Error(`process ${pid} has no VmRSS: has it ended?`);
  return Number(found[1]) * KIB_BYTES;
}

/** Descriptors, mappings shared with others, threads: what sessions must not leave behind. */
export function kernelHoldings(pid: number): Readonly<Record<string, number>> {
  const maps = readFileSync(`/proc/${pid}/maps`, "latin1");
  return {
    fdCount: readdirSync(`/proc/${pid}/fd`).length,
    sharedMapCount: maps.match(/^\S+ ...s /gm)?.length ?? 0,
    threadCount: readdirSync(`/proc/${pid}/task`).length,
  };
}

// What the figures were measured on: enough to judge them, nothing that names a host.

import { execFileSync } from "node:child_process";
import { cpus, loadavg, release, totalmem } from "node:os";
import { formatBytes } from "../base/index.ts";

export interface Machine {
  readonly cpu: string;
  readonly cpuCount: number;
  readonly memory: string;
  readonly kernel: string;
  readonly node: string;
  readonly qemu: string;
  readonly commit: string;
  readonly date: string;
}

function output(program: string, args: readonly string[]): string {
  try {
    return execFileSync(program, [...args], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
  } catch {
    return "";
  }
}

export function describeMachine(): Machine {
  const version = /version (\S+)/.exec(output("qemu-storage-daemon", ["--version"]));
  const dirty = output("git", ["status", "--porcelain", "--", "src"]) === "" ? "" : "+changes";
  return {
    cpu: cpus()[0]?.model ?? "unknown",
    cpuCount: cpus().length,
    memory: formatBytes(totalmem()),
    kernel: release(),
    node: process.version,
    qemu: version?.[1] ?? "not installed",
    commit: output("git", ["rev-parse", "--short", "HEAD"]).trim() + dirty,
    date: new Date().toISOString().slice(0, 10),
  };
}

/** How busy the machine is by itself: asked before a run begins. */
export function loadText(): string {
  return `Load average of the machine before the run (1 and 5 minutes): ${loadavg()
    .slice(0, 2)
    .map((load) => load.toFixed(2))
    .join(" and ")}.`;
}

/** A paragraph for the head of a report. */
export function machineText(machine: Machine): string {
  return (
    `${machine.cpuCount} CPUs (${machine.cpu}), ${machine.memory}, Linux ${machine.kernel}, ` +
    `Node ${machine.node}, qemu-storage-daemon ${machine.qemu}, commit ${machine.commit}, ` +
    `${machine.date}.`
  );
}

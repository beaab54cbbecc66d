// What a machine must be before anything can be installed on it.

import { readFileSync } from "node:fs";
import { SetupError } from "./project.mjs";

const NODE_MAJOR_MIN = 20;

export function checkMachine() {
  if (process.platform !== "linux") {
    throw new SetupError(
      `This is ${process.platform}; Ringstore needs Linux (io_uring, memfd, vhost-user).`,
    );
  }
  if (process.arch !== "x64" && process.arch !== "arm64") {
    throw new SetupError(`This is ${process.arch}; Ringstore runs on x86-64 and arm64.`);
  }
  if (Number.parseInt(process.versions.node, 10) < NODE_MAJOR_MIN) {
    throw new SetupError(
      `This is Node ${process.versions.node}; Ringstore needs Node ${NODE_MAJOR_MIN} or later.`,
    );
  }
}

/** "debian" and kin have apt; elsewhere the programs must be there already. */
export function isDebian() {
  try {
    const release = readFileSync("/etc/os-release", "utf8");
    return /^(?:ID|ID_LIKE)=.*\bdebian\b/m.test(release);
  } catch {
    return false;
  }
}

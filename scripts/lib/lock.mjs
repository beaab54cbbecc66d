// One set-up or build at a time in one checkout.
//
// The lock is the kernel's (flock) on a file we hold open: it ends with this process however that
// ends, so there is nothing stale to clean up. Node cannot take it, but flock(1) can take it for
// us: the lock belongs to the open file that it inherits, and stays when flock(1) has gone.

import { spawnSync } from "node:child_process";
import { closeSync, mkdirSync, openSync } from "node:fs";
import { join } from "node:path";
import { CACHE, SetupError, say } from "./project.mjs";

/** A first set-up on a slow line; whoever waits longer has found something stuck. */
const LOCK_WAIT_SECONDS = 1800;
/** What flock(1) exits with when the lock is taken. */
const TAKEN = 1;

export async function withLock(what, action, folder = CACHE) {
  mkdirSync(folder, { recursive: true });
  const path = join(folder, "setup.lock");
  const file = openSync(path, "a");
  try {
    if (!lock(file, ["--nonblock"])) {
      say(`Another ${what} is running in this checkout; waiting for it.`);
      if (!lock(file, ["--timeout", String(LOCK_WAIT_SECONDS)])) {
        throw new SetupError(
          `Another ${what} has held ${path} for ${LOCK_WAIT_SECONDS / 60} minutes.\n` +
            `See which with: fuser -v ${path}`,
        );
      }
    }
    return await action();
  } finally {
    closeSync(file);
  }
}

function lock(file, options) {
  const { status, error } = spawnSync("flock", [...options, "3"], {
    stdio: ["ignore", "ignore", "inherit", file],
  });
  if (error?.code === "ENOENT") {
    throw new SetupError("flock(1) is missing: install the package util-linux.");
  }
  if (error !== undefined || (status !== 0 && status !== TAKEN)) {
    throw new SetupError(`flock(1) failed: ${error?.message ?? `exit code ${status}`}`);
  }
  return status === 0;
}

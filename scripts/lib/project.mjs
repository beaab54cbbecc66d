// Where things are, and how scripts speak: progress on stderr, one clear error and exit code 1.
//
// These scripts run before `npm ci`, so they import nothing but Node and each other.

import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

export const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
export const DIST = join(ROOT, "dist");
export const CACHE = join(ROOT, ".cache");
/** Programs taken from Debian packages without installing those. */
export const CACHE_BIN = join(CACHE, "bin");
/** What `npm start` keeps, or where RINGSTORE_STATE puts it; `run/` in it names its processes. */
export const STATE = resolve(process.env.RINGSTORE_STATE || join(ROOT, ".ringstore"));
export const RUN = join(STATE, "run");

/** An error for a person: its message says what is wrong and what to do, and needs no stack. */
export class SetupError extends Error {}

export function say(text) {
  process.stderr.write(`${text}\n`);
}

/** Runs a script's main function; ends the process with its exit code. */
export async function main(run) {
  try {
    process.exitCode = (await run()) ?? 0;
  } catch (error) {
    say(error instanceof SetupError ? `\n${error.message}` : (error.stack ?? String(error)));
    process.exitCode = 1;
  }
}

/** The environment of everything that scripts start: programs in the cache come last. */
export function childEnvironment() {
  const path = process.env.PATH ?? "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
  return {
    ...process.env,
    PATH: path.split(":").includes(CACHE_BIN) ? path : `${path}:${CACHE_BIN}`,
  };
}

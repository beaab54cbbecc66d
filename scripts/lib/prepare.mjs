// From a fresh checkout to a built one: what every other script does first. Doing it again costs
// a fraction of a second.

import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { ensureDebianPackages } from "./apt.mjs";
import { build } from "./build.mjs";
import { withLock } from "./lock.mjs";
import { checkMachine, isDebian } from "./machine.mjs";
import { ensureNpmPackages } from "./npm.mjs";
import { DEBIAN_PACKAGES } from "./packages.mjs";
import { childEnvironment, DIST, SetupError, say } from "./project.mjs";
import { become } from "./run.mjs";

/** `peers`: packages beside those that everything needs. */
export async function prepare(peers = []) {
  const packages = [...DEBIAN_PACKAGES, ...peers];
  checkMachine();
  await withLock("set-up", async () => {
    if (isDebian()) ensureDebianPackages(packages);
    else warnOfMissingPrograms(packages);
    ensureNpmPackages();
    await build();
  });
}

/** Build alone, for whoever has everything: no package is looked for but npm's. */
export async function prepareBuild() {
  checkMachine();
  await withLock("build", async () => {
    ensureNpmPackages();
    await build();
  });
}

/** Runs a built entry point with this script's arguments, after the set-up. */
export async function prepareAndRun(entry, nodeOptions = [], peers = []) {
  await prepare(peers);
  const path = join(DIST, entry);
  if (!existsSync(path)) {
    throw new SetupError(
      `${entry.replace(/\.js$/, ".ts")} is not in src/: this part is not there.`,
    );
  }
  return become(process.execPath, [...nodeOptions, path, ...process.argv.slice(2)]);
}

function warnOfMissingPrograms(packages) {
  const folders = childEnvironment().PATH.split(delimiter);
  for (const { program, why } of packages) {
    if (program === undefined) continue;
    if (folders.some((folder) => existsSync(join(folder, program)))) continue;
    say(`Warning: this is not Debian, and ${program} is not on the PATH (${why}).`);
  }
}

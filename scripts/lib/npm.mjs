// The npm packages: `npm ci` when the lock file has changed since it last ran here.
//
// Install scripts are not run. None of our packages needs one: koffi's only picks the prebuilt
// binary that npm has already brought, and the check below would see it fail.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { ROOT, SetupError, say } from "./project.mjs";
import { run } from "./run.mjs";
import { hashFiles, isStamped, removeStamp, writeStamp } from "./stamp.mjs";

const STAMP = join(ROOT, "node_modules", ".ringstore-stamp");

export function ensureNpmPackages() {
  const { dependencies, devDependencies, overrides } = JSON.parse(
    readFileSync(join(ROOT, "package.json"), "utf8"),
  );
  const wanted = JSON.stringify([dependencies, devDependencies, overrides]);
  const hash = hashFiles([join(ROOT, "package-lock.json")], wanted);
  if (isStamped(STAMP, hash)) return;
  say("Installing npm packages.");
  removeStamp(STAMP);
  if (run("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"]) !== 0) {
    throw new SetupError(
      "npm ci failed; its words are above.\n" +
        "If package.json was changed by hand, run: npm install --package-lock-only",
    );
  }
  try {
    createRequire(join(ROOT, "package.json"))("koffi");
  } catch (error) {
    throw new SetupError(`koffi has no binary for this machine: ${error.message}`);
  }
  writeStamp(STAMP, hash);
}

// Runs the fuzzers after the set-up; arguments are theirs (`npm run fuzz -- --help`).

import { prepareAndRun } from "./lib/prepare.mjs";
import { main } from "./lib/project.mjs";

await main(() => prepareAndRun("testing/fuzz/main.js", ["--enable-source-maps"]));

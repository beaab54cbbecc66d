// Runs simulated clusters after the set-up; arguments are the hunt's own (`npm run sim -- --help`).

import { prepareAndRun } from "./lib/prepare.mjs";
import { main } from "./lib/project.mjs";

await main(() => prepareAndRun("testing/cluster/main.js", ["--enable-source-maps"]));

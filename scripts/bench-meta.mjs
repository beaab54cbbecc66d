// Runs the measurement of the metadata servers after the set-up.

import { prepareAndRun } from "./lib/prepare.mjs";
import { main } from "./lib/project.mjs";

await main(() => prepareAndRun("bench/meta.js"));

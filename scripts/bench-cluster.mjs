// Runs the cluster's paired benchmark after the set-up. No Node option is set: what is measured is
// what users get.

import { prepareAndRun } from "./lib/prepare.mjs";
import { main } from "./lib/project.mjs";

await main(() => prepareAndRun("bench/cluster.js"));

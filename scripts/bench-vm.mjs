// Runs the comparison of Boost and the classic path after the set-up. No Node option is set: what
// is measured is what users get.

import { prepareAndRun } from "./lib/prepare.mjs";
import { main } from "./lib/project.mjs";

await main(() => prepareAndRun("bench/vm.js"));

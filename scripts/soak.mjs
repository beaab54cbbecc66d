// Runs the promises at their full counts after the set-up; arguments are the soak's own
// (`npm run soak -- --help`).

import { prepareAndRun } from "./lib/prepare.mjs";
import { main } from "./lib/project.mjs";

await main(() => prepareAndRun("testing/soak/main.js", ["--enable-source-maps"]));

// Runs the classic path against tgt after the set-up, which fetches tgt too. No Node option is set:
// what is measured is what users get.

import { PEER_PACKAGES } from "./lib/packages.mjs";
import { prepareAndRun } from "./lib/prepare.mjs";
import { main } from "./lib/project.mjs";

await main(() => prepareAndRun("bench/classic.js", [], PEER_PACKAGES));

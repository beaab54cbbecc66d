// From a fresh machine to a running daemon with a Linux guest on one of its volumes. `npm stop`
// ends exactly what this started.

import { prepareAndRun } from "./lib/prepare.mjs";
import { main } from "./lib/project.mjs";

await main(() => prepareAndRun("daemon/show/main.js", ["--enable-source-maps"]));

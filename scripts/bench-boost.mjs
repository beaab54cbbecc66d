// Runs the paired benchmarks against qemu-storage-daemon after the set-up; with --guests those
// inside a guest. No Node option is set: what is measured is what users get.

import { prepareAndRun } from "./lib/prepare.mjs";
import { main } from "./lib/project.mjs";

const entry = process.argv.includes("--guests") ? "bench/guests.js" : "bench/boost.js";
await main(() => prepareAndRun(entry));

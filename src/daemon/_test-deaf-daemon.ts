// ringstored with reactors that can be made deaf (_test-slow-reactor.ts), for the watchdog's test.

import { createDataPlane } from "./data-plane.ts";
import { ProcessDiskTools } from "./disk-tools.ts";
import { runDaemonProcess } from "./process.ts";

const workerEntry = new URL("./_test-slow-reactor.js", import.meta.url);

await runDaemonProcess(
  process.argv.slice(2),
  (options) => createDataPlane(options, { workerEntry }),
  new ProcessDiskTools(),
);

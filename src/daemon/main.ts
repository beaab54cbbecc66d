// ringstored: the entry point. Everything it does is in process.ts and run.ts; here the control
// plane meets the data plane.

import { createDataPlane } from "./data-plane.ts";
import { runDaemonProcess } from "./process.ts";

await runDaemonProcess(process.argv.slice(2), createDataPlane);

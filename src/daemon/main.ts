// ringstored: the entry point. Everything it does is in process.ts and run.ts; here the control
// plane meets the data plane, whose first thread is started before anything else is loaded. With
// --role it is a tool instead (disk-role.ts), or the embedded metadata server (meta-role.ts).

import "./engine-flags.ts";
import { startReactorEarly } from "./reactor-early.ts";

const argv = process.argv.slice(2);

if (
  argv.some((word, at) => word === "--role=meta" || (word === "meta" && argv[at - 1] === "--role"))
) {
  const { runMetaRole } = await import("./meta-role.ts");
  await runMetaRole(argv);
} else if (argv.some((word) => word === "--role" || word.startsWith("--role="))) {
  const { runRole } = await import("./disk-role.ts");
  process.exitCode = runRole(argv);
} else {
  // Whoever only asks for words needs no thread.
  if (!argv.some((word) => ["-h", "--help", "--version"].includes(word))) startReactorEarly();
  const { createDataPlane } = await import("./data-plane.ts");
  const { ProcessDiskTools } = await import("./disk-tools.ts");
  const { runDaemonProcess } = await import("./process.ts");
  await runDaemonProcess(argv, createDataPlane, new ProcessDiskTools());
}

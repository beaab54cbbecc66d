// ringstored over the fake data plane, as a process: what the CLI's and the daemon's tests start.
//
// RINGSTORE_FAKE_FAULTS holds one `method name errno-code message` per line: those calls fail.
// `hang` instead of a code: they never answer.

import { RingstoreError } from "../../base/error.ts";
import { runDaemonProcess } from "../../daemon/process.ts";
import { FakeDataPlane } from "./fake-data-plane.ts";
import { FakeDiskTools } from "./fake-disk-file.ts";

const faults = (process.env["RINGSTORE_FAKE_FAULTS"] ?? "").split("\n").filter(Boolean);

await runDaemonProcess(
  process.argv.slice(2),
  async (options) => {
    const dataPlane = new FakeDataPlane();
    let firstAttach = true;
    dataPlane.intercept = (method, name) => {
      if (method === "attach" && firstAttach) {
        firstAttach = false;
        const atMs = Math.round(performance.now());
        options.log.log("info", "fake.first-attach", { volume: name, atMs });
      }
      for (const fault of faults) {
        const [faultyMethod, faultyName, code = "", ...words] = fault.split(" ");
        if (faultyMethod !== method || faultyName !== name) continue;
        if (code === "hang") return new Promise(() => undefined);
        if (code === "defect") setImmediate(() => options.fatal(new Error(words.join(" "))));
        throw new RingstoreError(code, words.join(" "));
      }
      return undefined;
    };
    return dataPlane;
  },
  new FakeDiskTools(),
);

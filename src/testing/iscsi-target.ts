// Starts iscsi-target-main.ts, an iSCSI target without a daemon, in a process of its own.
//
// Invariant: the process ends with the test, or with this process, however that ends.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { TestScope } from "./target.ts";

const ENTRY = fileURLToPath(new URL("./iscsi-target-main.js", import.meta.url));
const TARGET_NAME = "iqn.2024-01.io.ringstore:special";

/** The URL of a unit that can be ejected and writes atomically. */
export async function startIscsiTarget(scope: TestScope): Promise<{ readonly url: string }> {
  const child = spawn(process.execPath, [ENTRY, TARGET_NAME], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = once(child, "exit");
  scope.after(async () => {
    child.kill("SIGKILL");
    await ended;
  });
  for await (const port of createInterface({ input: child.stdout })) {
    return { url: `iscsi://127.0.0.1:${port}/${TARGET_NAME}/0` };
  }
  throw new Error("the target ended without naming its port");
}

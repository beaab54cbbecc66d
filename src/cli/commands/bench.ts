// bench: the load generator is a program of its own (load/main.js), because it is the other side
// of the socket and shares nothing with this one. All words are passed on as they are.

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { ClientError } from "../../client/index.ts";
import type { RawRun } from "../command-spec.ts";

const PASSED_SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

export const bench: RawRun = (words) => runBench(words);

/** The exit code of the load generator. */
export async function runBench(
  words: readonly string[],
  program: string = fileURLToPath(new URL("../../load/main.js", import.meta.url)),
): Promise<number> {
  if (!existsSync(program)) {
    throw new ClientError("unsupported", "this build has no load generator", {
      advice: "build it: npm run build",
    });
  }
  const child = spawn(process.execPath, [program, ...words], { stdio: "inherit" });
  const pass = (signal: NodeJS.Signals): void => void child.kill(signal);
  for (const signal of PASSED_SIGNALS) process.on(signal, pass);
  return await new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("exit", (code, signal) => {
      for (const one of PASSED_SIGNALS) process.off(one, pass);
      resolve(code ?? 128 + (signal === "SIGINT" ? 2 : 15));
    });
  });
}

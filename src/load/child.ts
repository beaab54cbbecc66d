// A load run in a process of its own, for tests and benchmarks that have other things to do
// meanwhile: serving the socket in this very process, or killing the target now and then.

import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { LoadError, type LoadErrorCode } from "./errors.ts";
import { type IscsiLoadOptions, type IscsiLoadReport, runIscsiLoadSync } from "./iscsi-run.ts";
import type { LoadOptions } from "./options.ts";
import type { LoadReport } from "./report.ts";
import { runLoadSync } from "./run.ts";

type ChildMessage =
  | { readonly type: "started" }
  | { readonly type: "progress"; readonly line: string }
  | { readonly type: "report"; readonly report: LoadReport | IscsiLoadReport }
  | { readonly type: "error"; readonly code: LoadErrorCode | null; readonly message: string };

export interface LoadProcess<Report = LoadReport> {
  readonly pid: number;
  /** The report; rejects with LoadError, or when the process ended without one. */
  readonly report: Promise<Report>;
  /** SIGKILL, for runs that nobody waits for any more. */
  kill(): void;
}

const CHILD_MARK = "RINGSTORE_LOAD_CHILD";
const ENTRY: string = fileURLToPath(import.meta.url);

/**
 * Calls `ended` once when the process is gone and its last message was heard: Node may tell of the
 * exit before that, and the channel's end comes behind it.
 */
export function onceEnded(child: ChildProcess, ended: (how: string) => void): void {
  child.once("exit", (code, signal) => {
    const how = signal ?? `code ${code}`;
    if (child.connected) child.once("disconnect", () => setImmediate(ended, how));
    else setImmediate(ended, how);
  });
}

/** Starts a load run in a child process. */
export function startLoad(options: LoadOptions): LoadProcess {
  const { progress, ...plain } = options;
  return start<LoadReport>(plain, progress);
}

function start<Report extends LoadReport | IscsiLoadReport>(
  plain: LoadOptions | IscsiLoadOptions,
  progress?: (line: string) => void,
): LoadProcess<Report> {
  const child: ChildProcess = fork(ENTRY, [], {
    env: { ...process.env, [CHILD_MARK]: "1" },
    stdio: ["ignore", "inherit", "inherit", "ipc"],
    execArgv: [],
  });
  const report = new Promise<Report>((resolve, reject) => {
    child.once("error", reject);
    onceEnded(child, (how) => {
      reject(new Error(`the load process ended without a report (${how})`));
    });
    child.on("message", (message: ChildMessage) => {
      if (message.type === "started") child.send(plain);
      else if (message.type === "progress") progress?.(message.line);
      else if (message.type === "report") resolve(message.report as Report);
      else if (message.code !== null) reject(new LoadError(message.code, message.message));
      else reject(new Error(message.message));
    });
  });
  return { pid: child.pid ?? 0, report, kill: () => void child.kill("SIGKILL") };
}

/** As runLoad, in a child process: this thread stays free. */
export async function runLoadInChild(options: LoadOptions): Promise<LoadReport> {
  return startLoad(options).report;
}

/** runIscsiLoadSync() in a child process. */
export async function runIscsiLoadInChild(options: IscsiLoadOptions): Promise<IscsiLoadReport> {
  return start<IscsiLoadReport>(options).report;
}

function serveParent(send: (message: ChildMessage) => void): void {
  process.once("message", (options: LoadOptions | IscsiLoadOptions) => {
    try {
      const progress = (line: string): void => send({ type: "progress", line });
      const report =
        "url" in options ? runIscsiLoadSync(options) : runLoadSync({ ...options, progress });
      send({ type: "report", report });
    } catch (error) {
      const known = error instanceof LoadError;
      const text = error instanceof Error ? error : new Error(String(error));
      const message = known ? text.message : (text.stack ?? text.message);
      send({ type: "error", code: known ? error.code : null, message });
    }
    process.disconnect();
  });
  send({ type: "started" });
}

if (process.env[CHILD_MARK] === "1" && process.argv[1] === ENTRY && process.send !== undefined) {
  const send = process.send.bind(process);
  serveParent((message) => void send(message));
}

// ringstored --role meta: the embedded metadata server as a process of its own.
//
//   ringstored --role meta --data DIR [--listen HOST:PORT] [--user-file FILE]
//                          [--tls-cert FILE --tls-key FILE]
//
// Prints one line of JSON to stdout when it serves: {"kind":"ready","address":"HOST:PORT"}. SIGTERM
// and SIGINT stop it cleanly: what was answered is on the disk in any case. Exit codes: 0 stopped
// cleanly, 1 cannot start or failed, 2 wrong usage.

import { readFileSync, writeSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { RingstoreError } from "../base/index.ts";
import { MetaServer, type MetaServerOptions } from "../meta/server/server.ts";
import { DaemonLog } from "./log.ts";
import { openModeOf } from "./secret-mode.ts";

const LISTEN_DEFAULT = "127.0.0.1:2389";
const LOOPBACK = /^(?:127\.\d+\.\d+\.\d+|\[::1\]|localhost):\d+$/;
const EXIT_STOPPED = 0;
const EXIT_FAILED = 1;
const EXIT_USAGE = 2;
const STDOUT = 1;
const STDERR = 2;

type Settings = Pick<MetaServerOptions, "directory" | "listen" | "user" | "tls">;

export async function runMetaRole(argv: readonly string[]): Promise<void> {
  const log = new DaemonLog("info");
  log.flush();
  const fatal = (error: unknown): never => {
    log.log("error", "The metadata server has failed and ends.", { error: describe(error) });
    process.exit(EXIT_FAILED);
  };
  process.on("uncaughtException", fatal);
  process.on("unhandledRejection", fatal);
  let stop = (): void => process.exit(EXIT_STOPPED);
  process.on("SIGTERM", () => stop());
  process.on("SIGINT", () => stop());
  try {
    const settings = readSettings(argv);
    const server = await MetaServer.start({ ...settings, log, fatal });
    let isStopping = false;
    stop = () => {
      if (isStopping) return;
      isStopping = true;
      void server.stop().then(() => process.exit(EXIT_STOPPED), fatal);
    };
    writeSync(STDOUT, `${JSON.stringify({ kind: "ready", address: server.address })}\n`);
    const { revision } = server.mvcc;
    log.log("info", "The metadata server serves.", { address: server.address, revision });
  } catch (error) {
    if (!(error instanceof RingstoreError)) throw error;
    const advice = error.advice === undefined ? "" : `  ${error.advice}\n`;
    writeSync(STDERR, `ringstored: ${error.message}\n${advice}`);
    process.exit(error.code === "INVALID_REQUEST" ? EXIT_USAGE : EXIT_FAILED);
  }
}

function readSettings(argv: readonly string[]): Settings {
  const words = parseWords(argv);
  const data = words["data"];
  if (data === undefined) throw usage("--role meta needs --data DIR.");
  const listen = words["listen"] ?? LISTEN_DEFAULT;
  if (!/^[^:\s]+:\d{1,5}$|^\[[0-9a-f:]+\]:\d{1,5}$/i.test(listen)) {
    throw usage(`--listen is ${JSON.stringify(listen)}, but must be HOST:PORT.`);
  }
  const user = words["user-file"] === undefined ? undefined : readUser(words["user-file"]);
  const tls = readTls(words["tls-cert"], words["tls-key"]);
  if (!LOOPBACK.test(listen) && (user === undefined || tls === undefined)) {
    throw usage(
      `--listen ${listen} can be reached from other machines: ` +
        "it needs --user-file, --tls-cert and --tls-key.",
    );
  }
  return {
    directory: join(resolve(data), "meta"),
    listen,
    ...(user === undefined ? {} : { user }),
    ...(tls === undefined ? {} : { tls }),
  };
}

function parseWords(argv: readonly string[]): Partial<Record<string, string>> {
  const text = { type: "string" } as const;
  const options = {
    role: text,
    data: text,
    listen: text,
    "user-file": text,
    "tls-cert": text,
    "tls-key": text,
  };
  try {
    return parseArgs({ args: [...argv], options, allowPositionals: false }).values;
  } catch (error) {
    throw usage((error as Error).message);
  }
}

/** One line, `name:password`; nobody else may read it. */
function readUser(path: string): { name: string; password: string } {
  const line = readFile(path, "--user-file").toString("utf8").split("\n")[0] ?? "";
  const at = line.indexOf(":");
  if (at < 1 || at === line.length - 1) throw usage(`${path} must hold one line name:password.`);
  if (openModeOf(path) !== null) throw usage(`${path} can be read by others: chmod 600 ${path}`);
  return { name: line.slice(0, at), password: line.slice(at + 1) };
}

function readTls(
  certificate: string | undefined,
  key: string | undefined,
): { certificate: Buffer; key: Buffer } | undefined {
  if (certificate === undefined && key === undefined) return undefined;
  if (certificate === undefined || key === undefined) {
    throw usage("--tls-cert and --tls-key are given together.");
  }
  return { certificate: readFile(certificate, "--tls-cert"), key: readFile(key, "--tls-key") };
}

function readFile(path: string, flag: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw usage(`${flag}: cannot read ${path}: ${(error as NodeJS.ErrnoException).code}`);
  }
}

function usage(message: string): RingstoreError {
  const advice = "Use: ringstored --role meta --data DIR [--listen HOST:PORT]";
  return new RingstoreError("INVALID_REQUEST", message, { advice });
}

function describe(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

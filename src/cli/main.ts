// ringstore: the command line over the REST API. Parses, runs one command, prints its result, and
// ends with the exit code that the error stands for (model/errors.ts).

import { RingstoreError } from "../base/error.ts";
import { ClientError } from "../client/index.ts";
import { EXIT_DONE, exitCodeOf } from "../model/errors.ts";
import { DATA_DIRECTORY_DEFAULT } from "../model/limits.ts";
import type { CommandRun, OptionValues, RawRun } from "./command-spec.ts";
import { COMMAND_TABLE } from "./command-table.ts";
import { Context, type GlobalOptions, type Streams } from "./context.ts";
import { CurlPrinted, CurlTransport } from "./curl.ts";
import { parseForm, render } from "./output.ts";
import { findRaw, parseCommand } from "./program.ts";
import { HttpTransport, type Target } from "./transport.ts";
import { readVersion } from "./version.ts";

const TIMEOUT_DEFAULT_SECONDS = 30;

const streams: Streams = {
  out: (text) => void process.stdout.write(text),
  err: (text) => void process.stderr.write(text),
  isTerminal: process.stdout.isTTY === true,
  canAsk: process.stdin.isTTY === true && process.stderr.isTTY === true,
};

async function main(words: readonly string[]): Promise<number> {
  const raw = findRaw(COMMAND_TABLE, words);
  if (raw !== null) return await ((await raw.spec.load()) as RawRun)(raw.words);
  const parsed = await parseCommand(COMMAND_TABLE, words, {
    version: readVersion(),
    out: streams.out,
    err: streams.err,
    columns: Math.min(process.stdout.columns ?? 100, 120),
  });
  if (parsed === null) return EXIT_DONE;
  const { spec, invocation, global } = parsed;
  const options = globalOptions(global);
  const context = new Context(options, streams, COMMAND_TABLE, () => makeTransport(global));
  const run = (await spec.load()) as CommandRun;
  const result = await run(context, invocation);
  if (result === null) return EXIT_DONE;
  streams.out(await render(result, options));
  return result.exitCode ?? EXIT_DONE;
}

function globalOptions(values: OptionValues): GlobalOptions {
  const form = values["json"] === true ? "json" : parseForm(String(values["output"] ?? "table"));
  return {
    form,
    headers: values["noHeaders"] !== true,
    colour: values["noColor"] !== true && !process.env["NO_COLOR"] && streams.isTerminal,
    yes: values["yes"] === true,
  };
}

function makeTransport(values: OptionValues): CurlTransport | HttpTransport {
  const target = targetOf(values);
  if (values["curl"] === true) return new CurlTransport(target, streams.out);
  return new HttpTransport(target, Number(values["timeout"] ?? TIMEOUT_DEFAULT_SECONDS) * 1000);
}

/** What was typed goes before the environment; of the environment, the URL goes first. */
function targetOf(values: OptionValues): Target {
  const { data, url } = values as { data?: string; url?: string };
  if (data !== undefined && url !== undefined) {
    throw new ClientError("usage", "--data and --url name two daemons", { advice: "give one" });
  }
  const environment = process.env;
  const chosenUrl = url ?? (data === undefined ? environment["RINGSTORE_URL"] : undefined);
  if (chosenUrl) {
    const tokenFile = String(values["tokenFile"] ?? environment["RINGSTORE_TOKEN_FILE"] ?? "");
    const caFile = String(values["caFile"] ?? environment["RINGSTORE_CA_FILE"] ?? "");
    return { kind: "tcp", url: chosenUrl, tokenFile, caFile };
  }
  const dataDirectory = data ?? (environment["RINGSTORE_DATA"] || DATA_DIRECTORY_DEFAULT);
  return { kind: "unix", dataDirectory };
}

function reportError(error: unknown): number {
  if (error instanceof CurlPrinted) return EXIT_DONE;
  if (!(error instanceof RingstoreError)) {
    const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
    streams.err(`ringstore: a defect in this program\n${stack}\n`);
    return exitCodeOf("internal");
  }
  const { message, advice, code } = error;
  // A message that is empty was written already.
  if (message !== "") {
    streams.err(`ringstore: ${message}\n${advice === undefined ? "" : `  ${advice}\n`}`);
  }
  return exitCodeOf(code);
}

// A reader that has seen enough (`| head`) is no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(EXIT_DONE);
  throw error;
});

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  process.exitCode = reportError(error);
}

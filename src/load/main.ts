// `ringstore bench`: the load generator's command line. The figures go to stdout, progress to
// stderr; the exit code says whether they can be believed.

import { writeSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { parseBytes, RingstoreError } from "../base/index.ts";
import { LoadError } from "./errors.ts";
import { type IscsiLoadOptions, runIscsiLoadSync } from "./iscsi-run.ts";
import type { AccessPattern, LoadOptions } from "./options.ts";
import { formatIscsiReport, formatReport } from "./report.ts";
import { runLoadSync } from "./run.ts";
import { formatSelfCheck, runSelfCheck } from "./self-check.ts";

const EXIT_OK = 0;
/** Requests failed, data was wrong, or something unexpected happened. */
const EXIT_FAILED = 1;
const EXIT_USAGE = 2;
const EXIT_UNSUPPORTED = 4;
const EXIT_CANNOT_CONNECT = 20;
const EXIT_TIMED_OUT = 21;
const EXIT_NOT_UNDERSTOOD = 22;

const HELP = `Usage: ringstore bench --socket PATH [options]

       ringstore bench --url iscsi://HOST:PORT/TARGET/LUN [options]

Drives a vhost-user-blk socket as a guest would, or a logical unit over iSCSI as a hypervisor's
initiator does, and prints what it saw.

  --socket PATH          the back-end's socket
  --url URL              a logical unit, HOST as an address. Of the options below it knows those
                         with a *, and one request size
Work
* --rw WORDS             randread (default), randwrite, randrw, read, write, rw
* --mix PERCENT          share of reads in randrw and rw (default 50)
* --zipf THETA           random places with this skew, 0 to 0.99
* --bs SIZE[-SIZE]       request size, or a range of sizes (default 4K)
* --align SIZE           offsets are multiples of this (default: the request size)
* --area SIZE            use only the first part of the device
  --discard PERCENT      share of discards
  --write-zeroes PERCENT share of write-zeroes
  --flush-every N        a flush after every N writes
* --seed N               same seed, same requests (default 1)
Queues
* --depth N              requests in flight per queue (default 32)
  --queues N             queues (default 1)
  --queue-size N         descriptors per queue
  --packed               packed rings instead of split ones
  --direct               no indirect descriptors
  --no-event-idx         without event indexes
  --segment SIZE         describe data in pieces of this size
  --header-stride N      distance of request headers (default 128; 99 puts them at odd addresses)
  --poll                 look at the rings without rest instead of sleeping
  --no-kick              give the back-end no kick descriptor: it has to poll
  --no-inflight          no inflight region, although the back-end has one
  --style NAME           order of messages: qemu (default) or libblkio
  --cpus LIST            pin the generator to these CPUs, e.g. 0 or 0,2; with --self-check: the
                         generator to the first, its device to the second
Length
* --runtime SECONDS      measured time (default 5)
* --count N              requests instead of time
* --warmup SECONDS       before measuring (default 0.5)
Checks
  --verify               stamp and check every block; the area's contents are lost
  --no-prefill           with --verify: do not write the whole area first
  --no-read-back         with --verify: do not read everything at the end
  --reconnect            go on when the back-end dies and another listens on the socket
* --timeout SECONDS      longest wait for an answer (default 5)
Output
* --json                 the whole report as JSON
* --quiet                no progress on stderr
  --self-check           measure the generator itself, without a target
  --help                 this text

Exit codes: 0 all good; 1 requests failed or data was wrong; 2 wrong options; 4 the back-end lacks
a feature; 20 cannot connect; 21 timed out; 22 the back-end broke the protocol.
`;

const OPTIONS = {
  socket: { type: "string" },
  url: { type: "string" },
  rw: { type: "string" },
  mix: { type: "string" },
  zipf: { type: "string" },
  bs: { type: "string" },
  align: { type: "string" },
  area: { type: "string" },
  discard: { type: "string" },
  "write-zeroes": { type: "string" },
  "flush-every": { type: "string" },
  seed: { type: "string" },
  depth: { type: "string" },
  queues: { type: "string" },
  "queue-size": { type: "string" },
  packed: { type: "boolean" },
  direct: { type: "boolean" },
  "no-event-idx": { type: "boolean" },
  segment: { type: "string" },
  "header-stride": { type: "string" },
  poll: { type: "boolean" },
  "no-kick": { type: "boolean" },
  "no-inflight": { type: "boolean" },
  style: { type: "string" },
  cpus: { type: "string" },
  runtime: { type: "string" },
  count: { type: "string" },
  warmup: { type: "string" },
  verify: { type: "boolean" },
  "no-prefill": { type: "boolean" },
  "no-read-back": { type: "boolean" },
  reconnect: { type: "boolean" },
  timeout: { type: "string" },
  json: { type: "boolean" },
  quiet: { type: "boolean" },
  "self-check": { type: "boolean" },
  help: { type: "boolean", short: "h" },
} as const;

/** What there is to choose over iSCSI. */
const ISCSI_OPTIONS: ReadonlySet<string> = new Set([
  "url",
  "rw",
  "mix",
  "zipf",
  "bs",
  "align",
  "area",
  "seed",
  "depth",
  "runtime",
  "count",
  "warmup",
  "timeout",
  "json",
  "quiet",
]);

type Values = { [key in keyof typeof OPTIONS]?: string | boolean };

function usage(message: string): never {
  throw new LoadError("OPTIONS", message, { advice: "See ringstore bench --help." });
}

/** Pattern and read share of fio's words for them. */
function accessOf(word: string, mix: number): { pattern: AccessPattern; readPercent: number } {
  const pattern = word.startsWith("rand") ? "random" : "sequential";
  const kind = word.startsWith("rand") ? word.slice(4) : word;
  if (kind === "read") return { pattern, readPercent: 100 };
  if (kind === "write") return { pattern, readPercent: 0 };
  if (kind === "rw") return { pattern, readPercent: mix };
  usage(`--rw ${word} is not one of randread, randwrite, randrw, read, write, rw.`);
}

class Reader {
  private readonly values: Values;

  constructor(values: Values) {
    this.values = values;
  }

  text(name: keyof Values): string | undefined {
    const value = this.values[name];
    return typeof value === "string" ? value : undefined;
  }

  flag(name: keyof Values): boolean {
    return this.values[name] === true;
  }

  number(name: keyof Values): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const value = Number(text);
    if (text.trim() === "" || !Number.isFinite(value)) usage(`--${name} ${text} is not a number.`);
    return value;
  }

  size(name: keyof Values, text: string | undefined = this.text(name)): number | undefined {
    if (text === undefined) return undefined;
    const value = parseBytes(text);
    if (value < 0) usage(`--${name} ${text} is not a size such as 4K or 1G.`);
    return value;
  }

  seconds(name: keyof Values): number | undefined {
    const value = this.number(name);
    return value === undefined ? undefined : Math.round(value * 1000);
  }
}

/** Removes what is undefined: options keep their defaults. */
function given<T extends object>(options: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  const entries = Object.entries(options).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as { [K in keyof T]: Exclude<T[K], undefined> };
}

function cpuList(text: string | undefined): number[] | undefined {
  if (text === undefined) return undefined;
  return text.split(",").map((part) => {
    const cpu = Number(part);
    if (part === "" || !Number.isInteger(cpu) || cpu < 0) {
      usage(`--cpus ${text} is not a list of CPU numbers.`);
    }
    return cpu;
  });
}

function readOptions(values: Values): LoadOptions {
  const read = new Reader(values);
  const access = accessOf(read.text("rw") ?? "randread", read.number("mix") ?? 50);
  const zipfTheta = read.number("zipf");
  const [smallest, largest] = (read.text("bs") ?? "4K").split("-", 2);
  const blockBytes = read.size("bs", smallest);
  const blockBytesMax = read.size("bs", largest);
  const style = read.text("style");
  if (style !== undefined && style !== "qemu" && style !== "libblkio") {
    usage(`--style ${style} is not qemu or libblkio.`);
  }
  const isRange = blockBytesMax !== undefined && blockBytesMax !== blockBytes;
  const timeoutMs = read.seconds("timeout");
  return given({
    socketPath: read.text("socket") ?? "",
    pattern: zipfTheta === undefined ? access.pattern : "zipf",
    zipfTheta,
    readPercent: access.readPercent,
    discardPercent: read.number("discard"),
    writeZeroesPercent: read.number("write-zeroes"),
    flushEvery: read.number("flush-every"),
    blockBytes,
    blockBytesMax,
    // With sizes from a range, offsets are as fine as the smallest.
    alignBytes: read.size("align") ?? (isRange ? blockBytes : undefined),
    areaBytes: read.size("area"),
    depth: read.number("depth"),
    queueCount: read.number("queues"),
    queueSize: read.number("queue-size"),
    packed: read.flag("packed"),
    indirect: !read.flag("direct"),
    eventIndex: !read.flag("no-event-idx"),
    segmentBytes: read.size("segment"),
    headerStrideBytes: read.number("header-stride"),
    polling: read.flag("poll"),
    noKick: read.flag("no-kick"),
    inflight: !read.flag("no-inflight"),
    runtimeMs: read.seconds("runtime"),
    requestCount: read.number("count"),
    warmupMs: read.seconds("warmup"),
    seed: read.number("seed"),
    verify: read.flag("verify"),
    prefill: read.flag("no-prefill") ? false : undefined,
    readBack: read.flag("no-read-back") ? false : undefined,
    reconnect: read.flag("reconnect"),
    style,
    cpus: cpuList(read.text("cpus")),
    timeoutMs,
  }) as LoadOptions;
}

/** The same words for a logical unit; options that only virtio-blk knows are refused by name. */
function readIscsiOptions(values: Values, url: string): IscsiLoadOptions {
  const other = Object.keys(values).find((name) => !ISCSI_OPTIONS.has(name));
  if (other !== undefined) usage(`--${other} is not for a logical unit (--url).`);
  const all = readOptions(values);
  if (all.blockBytesMax !== undefined && all.blockBytesMax !== all.blockBytes) {
    usage(`--bs ${values.bs} is a range; with --url requests have one size.`);
  }
  const { pattern, zipfTheta, readPercent, blockBytes, alignBytes, areaBytes, depth, seed } = all;
  const { runtimeMs, requestCount, warmupMs, timeoutMs: stallTimeoutMs } = all;
  const work = { pattern, zipfTheta, readPercent, blockBytes, alignBytes, areaBytes, depth, seed };
  const length = { runtimeMs, requestCount, warmupMs, stallTimeoutMs };
  return given({ url, ...work, ...length }) as IscsiLoadOptions;
}

function exitCodeOf(error: LoadError): number {
  switch (error.code) {
    case "OPTIONS":
      return EXIT_USAGE;
    case "UNSUPPORTED":
    case "UNAVAILABLE":
      return EXIT_UNSUPPORTED;
    case "CONNECT_FAILED":
      return EXIT_CANNOT_CONNECT;
    case "TIMEOUT":
      return EXIT_TIMED_OUT;
    case "BAD_REPLY":
    case "BAD_COMPLETION":
      return EXIT_NOT_UNDERSTOOD;
    default:
      return EXIT_FAILED;
  }
}

function parse(argv: readonly string[]): Values {
  try {
    return parseArgs({ args: [...argv], options: OPTIONS, strict: true }).values as Values;
  } catch (error) {
    usage(error instanceof Error ? error.message : String(error));
  }
}

async function bench(argv: readonly string[]): Promise<number> {
  const values = parse(argv);
  if (values.help === true) {
    process.stdout.write(HELP);
    return EXIT_OK;
  }
  if (typeof values.url === "string") {
    const report = runIscsiLoadSync(readIscsiOptions(values, values.url));
    const text = values.json ? JSON.stringify(report) : formatIscsiReport(values.url, report);
    process.stdout.write(values.json ? `${text}\n` : text);
    return report.ok ? EXIT_OK : EXIT_FAILED;
  }
  const options = readOptions(values);
  if (values["self-check"] === true) {
    const report = await runSelfCheck(options);
    process.stdout.write(values.json ? `${JSON.stringify(report)}\n` : formatSelfCheck(report));
    return EXIT_OK;
  }
  if (options.socketPath === "") usage("--socket PATH or --url URL is missing.");
  // Written at once: this thread does not come back to the event loop before the run is over.
  const progress = (line: string): void => void writeSync(2, `${line}\n`);
  const report = runLoadSync(values.quiet === true ? options : { ...options, progress });
  process.stdout.write(values.json ? `${JSON.stringify(report)}\n` : formatReport(report));
  return report.ok ? EXIT_OK : EXIT_FAILED;
}

/** Runs the command line `argv` (without program and script); returns the exit code. */
async function benchMain(argv: readonly string[]): Promise<number> {
  try {
    return await bench(argv);
  } catch (error) {
    if (!(error instanceof RingstoreError)) throw error;
    const advice = error.advice === undefined ? "" : ` ${error.advice}`;
    process.stderr.write(`ringstore bench: ${error.message}${advice}\n`);
    return error instanceof LoadError ? exitCodeOf(error) : EXIT_FAILED;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  process.exitCode = await benchMain(process.argv.slice(2));
}

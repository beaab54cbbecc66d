// What a load run does: its options with their defaults and limits. Everything that can be wrong
// with them, without having asked the device, is found here and named.

import { isPowerOfTwo, KIB, MIB } from "../base/index.ts";
import { LoadError } from "./errors.ts";

export type AccessPattern = "random" | "sequential" | "zipf";

export interface LoadOptions {
  readonly socketPath: string;
  /** Default "random". */
  readonly pattern?: AccessPattern;
  /** Skew of "zipf": 0 is uniform, 0.99 a usual web cache. Default 0.99. */
  readonly zipfTheta?: number;
  /** Share of reads among reads and writes, 0 to 100. Default 100. */
  readonly readPercent?: number;
  /** Share of all requests that discard or write zeroes. Default 0. */
  readonly discardPercent?: number;
  readonly writeZeroesPercent?: number;
  /** A FLUSH after every so many writes; 0 never. Default 0. */
  readonly flushEvery?: number;
  /** Bytes of a request. Default 4096. */
  readonly blockBytes?: number;
  /** Sizes are drawn from [blockBytes, blockBytesMax] in steps of the alignment. */
  readonly blockBytesMax?: number;
  /** Offsets are multiples of this; default: blockBytes. */
  readonly alignBytes?: number;
  /** Part of the device that is used, from its start. Default: all of it. */
  readonly areaBytes?: number;
  /** Requests in flight per queue. Default 32. */
  readonly depth?: number;
  readonly queueCount?: number;
  /** Descriptors per ring; default: what the depth needs, at least 128. */
  readonly queueSize?: number;
  readonly packed?: boolean;
  /** Default true. */
  readonly indirect?: boolean;
  /** Default true. */
  readonly eventIndex?: boolean;
  /** Data buffers are described in pieces of this size; default: in one. */
  readonly segmentBytes?: number;
  readonly headerStrideBytes?: number;
  /** Look at the rings without rest (true), or sleep until the call eventfd (default). */
  readonly polling?: boolean;
  /** Give the back-end no kick descriptor: it has to poll. */
  readonly noKick?: boolean;
  /** Measured time. Default 5 s, or unbounded when `requestCount` is given. */
  readonly runtimeMs?: number;
  /** Requests to do after the warm-up. */
  readonly requestCount?: number;
  /** The measured time also ends, within a second, when there is a file of this name. */
  readonly stopFile?: string;
  /** Time before measuring. Default 500. */
  readonly warmupMs?: number;
  readonly seed?: number;
  /** Stamp what is written, check what is read, read all back at the end. */
  readonly verify?: boolean;
  /** Write the whole area first. Default: as `verify`. */
  readonly prefill?: boolean;
  /** Read all back at the end. Default: as `verify`. */
  readonly readBack?: boolean;
  /** The device reads as zeroes where this run has not written. */
  readonly initialZeroes?: boolean;
  /** Set up an inflight region where the back-end has one, as QEMU does. Default true. */
  readonly inflight?: boolean;
  /** Survive the death of the back-end: inflight region, reconnect, late-DMA canary. */
  readonly reconnect?: boolean;
  /** Check that nothing writes read buffers after completion. Default: as `reconnect`. */
  readonly canary?: boolean;
  /** Give up reconnecting after this. Default 30000. */
  readonly reconnectTimeoutMs?: number;
  /** Longest wait for an answer on the socket. Default 5000. */
  readonly timeoutMs?: number;
  /** Longest time without any completion. Default 30000. */
  readonly stallTimeoutMs?: number;
  readonly style?: "qemu" | "libblkio";
  readonly anyUsedLength?: boolean;
  /** Pin the generator's thread to these CPUs. */
  readonly cpus?: readonly number[];
  /** A line about twice a second to this function. */
  readonly progress?: (line: string) => void;
}

/** The same with every default filled in. */
export interface ResolvedOptions {
  readonly socketPath: string;
  readonly pattern: AccessPattern;
  readonly zipfTheta: number;
  readonly readPercent: number;
  readonly discardPercent: number;
  readonly writeZeroesPercent: number;
  readonly flushEvery: number;
  readonly blockBytes: number;
  readonly blockBytesMax: number;
  readonly alignBytes: number;
  /** 0: the whole device. */
  readonly areaBytes: number;
  readonly depth: number;
  readonly queueCount: number;
  readonly queueSize: number;
  readonly packed: boolean;
  readonly indirect: boolean;
  readonly eventIndex: boolean;
  readonly segmentBytes: number;
  readonly headerStrideBytes: number;
  readonly polling: boolean;
  readonly noKick: boolean;
  readonly runtimeMs: number;
  readonly requestCount: number;
  /** "": none. */
  readonly stopFile: string;
  readonly warmupMs: number;
  readonly seed: number;
  readonly verify: boolean;
  readonly prefill: boolean;
  readonly readBack: boolean;
  readonly initialZeroes: boolean;
  readonly inflight: boolean;
  readonly reconnect: boolean;
  readonly canary: boolean;
  readonly reconnectTimeoutMs: number;
  readonly timeoutMs: number;
  readonly stallTimeoutMs: number;
  readonly style: "qemu" | "libblkio";
  readonly anyUsedLength: boolean;
  readonly cpus: readonly number[];
  readonly progress: ((line: string) => void) | null;
}

export const DEPTH_MAX = 1024;
export const QUEUE_COUNT_MAX = 128;
export const QUEUE_SIZE_LIMIT = 32768;
export const BLOCK_BYTES_MAX: number = 16 * MIB;
const SECTOR_BYTES = 512;
const QUEUE_SIZE_DEFAULT = 128;
const PERIOD_MS_MAX = 30 * 24 * 3600 * 1000;

function reject(name: string, value: unknown, rule: string): never {
  throw new LoadError("OPTIONS", `${name} is ${String(value)}; it must be ${rule}.`);
}

function checkInteger(name: string, value: number, low: number, high: number): void {
  if (!Number.isInteger(value) || value < low || value > high) {
    reject(name, value, `a whole number from ${low} to ${high}`);
  }
}

function checkSectors(name: string, value: number, low: number, high: number): void {
  checkInteger(name, value, low, high);
  if (value % SECTOR_BYTES !== 0) reject(name, value, "a multiple of 512");
}

function checkNumbers(options: ResolvedOptions): void {
  checkSectors("block size", options.blockBytes, SECTOR_BYTES, BLOCK_BYTES_MAX);
  checkSectors("largest block size", options.blockBytesMax, options.blockBytes, BLOCK_BYTES_MAX);
  checkSectors("alignment", options.alignBytes, SECTOR_BYTES, BLOCK_BYTES_MAX);
  checkSectors("area", options.areaBytes, 0, Number.MAX_SAFE_INTEGER);
  if (options.blockBytesMax !== options.blockBytes && options.blockBytes % options.alignBytes) {
    reject("block size", options.blockBytes, `a multiple of the alignment ${options.alignBytes}`);
  }
  checkInteger("depth", options.depth, 1, DEPTH_MAX);
  checkInteger("queues", options.queueCount, 1, QUEUE_COUNT_MAX);
  checkInteger("queue size", options.queueSize, 1, QUEUE_SIZE_LIMIT);
  checkInteger("segment size", options.segmentBytes, 1, BLOCK_BYTES_MAX);
  checkInteger("header stride", options.headerStrideBytes, 17, 4096);
  checkInteger("seed", options.seed, 0, 0xffffffff);
  checkInteger("flush interval", options.flushEvery, 0, 1e9);
  checkInteger("runtime (ms)", options.runtimeMs, 0, PERIOD_MS_MAX);
  checkInteger("warm-up (ms)", options.warmupMs, 0, PERIOD_MS_MAX);
  checkInteger("request count", options.requestCount, 0, Number.MAX_SAFE_INTEGER);
  for (const [name, value] of [
    ["read share", options.readPercent],
    ["discard share", options.discardPercent],
    ["write-zeroes share", options.writeZeroesPercent],
    ["discard and write-zeroes shares", options.discardPercent + options.writeZeroesPercent],
  ] as const) {
    if (!(value >= 0 && value <= 100)) reject(name, value, "from 0 to 100");
  }
  if (!(options.zipfTheta >= 0 && options.zipfTheta < 1)) {
    reject("zipf skew", options.zipfTheta, "from 0 to less than 1");
  }
}

function checkRing(options: ResolvedOptions): void {
  if (!options.packed && !isPowerOfTwo(options.queueSize)) {
    reject("queue size", options.queueSize, "a power of two for split rings");
  }
  const needed = descriptorsNeeded(options);
  if (needed > options.queueSize) {
    reject("queue size", options.queueSize, `at least ${needed} for this depth and layout`);
  }
  if (options.polling && options.noKick && options.reconnect) {
    reject("--no-kick", true, "left out with --reconnect");
  }
}

function descriptorsNeeded(options: {
  depth: number;
  indirect: boolean;
  blockBytesMax: number;
  segmentBytes: number;
}): number {
  const segments = Math.ceil(options.blockBytesMax / options.segmentBytes);
  return options.depth * (options.indirect ? 1 : segments + 2);
}

/** Fills in the defaults and checks; throws LoadError OPTIONS. */
export function resolveOptions(options: LoadOptions): ResolvedOptions {
  const blockBytes = options.blockBytes ?? 4 * KIB;
  const blockBytesMax = options.blockBytesMax ?? blockBytes;
  const verify = options.verify ?? false;
  const reconnect = options.reconnect ?? false;
  const depth = options.depth ?? 32;
  const indirect = options.indirect ?? true;
  const segmentBytes = options.segmentBytes ?? blockBytesMax;
  let queueSize = options.queueSize ?? QUEUE_SIZE_DEFAULT;
  if (options.queueSize === undefined) {
    const needed = descriptorsNeeded({ depth, indirect, blockBytesMax, segmentBytes });
    while (queueSize < needed && queueSize < QUEUE_SIZE_LIMIT) queueSize *= 2;
  }
  const requestCount = options.requestCount ?? 0;
  const resolved: ResolvedOptions = {
    socketPath: options.socketPath,
    pattern: options.pattern ?? "random",
    zipfTheta: options.zipfTheta ?? 0.99,
    readPercent: options.readPercent ?? 100,
    discardPercent: options.discardPercent ?? 0,
    writeZeroesPercent: options.writeZeroesPercent ?? 0,
    flushEvery: options.flushEvery ?? 0,
    blockBytes,
    blockBytesMax,
    alignBytes: options.alignBytes ?? blockBytes,
    areaBytes: options.areaBytes ?? 0,
    depth,
    queueCount: options.queueCount ?? 1,
    queueSize,
    packed: options.packed ?? false,
    indirect,
    eventIndex: options.eventIndex ?? true,
    segmentBytes,
    headerStrideBytes: options.headerStrideBytes ?? 128,
    polling: options.polling ?? false,
    noKick: options.noKick ?? false,
    runtimeMs: options.runtimeMs ?? (requestCount > 0 ? PERIOD_MS_MAX : 5000),
    requestCount,
    stopFile: options.stopFile ?? "",
    warmupMs: options.warmupMs ?? 500,
    seed: options.seed ?? 1,
    verify,
    prefill: options.prefill ?? verify,
    readBack: options.readBack ?? verify,
    initialZeroes: options.initialZeroes ?? false,
    inflight: options.inflight ?? true,
    reconnect,
    canary: options.canary ?? reconnect,
    reconnectTimeoutMs: options.reconnectTimeoutMs ?? 30000,
    timeoutMs: options.timeoutMs ?? 5000,
    stallTimeoutMs: options.stallTimeoutMs ?? 30000,
    style: options.style ?? "qemu",
    anyUsedLength: options.anyUsedLength ?? false,
    cpus: options.cpus ?? [],
    progress: options.progress ?? null,
  };
  checkNumbers(resolved);
  checkRing(resolved);
  return resolved;
}

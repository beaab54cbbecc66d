// One load run: connects, builds queues in guest memory, goes through the phases, reports.
//
//   connect -> [fill] -> warm-up -> measure -> drain -> [read back] -> stop -> report
//
// With `reconnect` a lost connection at any point is answered as QEMU answers it: the inflight
// region and the rings stay as they are, a new session is opened as soon as somebody listens, and
// everything is sent again.
//
// runLoad() does not return to the event loop until it is finished: it belongs into a process
// (child.ts) or worker of its own wherever something else must go on.

import { alignUp, assert, GIB, MIB, Prng } from "../base/index.ts";
import type { Clock } from "../ports/index.ts";
import * as sys from "../sys/index.ts";
import { BLK_F_DISCARD, BLK_F_WRITE_ZEROES } from "../virtio/index.ts";
import { BlkQueue } from "./blk-queue.ts";
import { Canary, canaryBytes } from "./canary.ts";
import { LoadError } from "./errors.ts";
import type { InflightRegion } from "./front-end.ts";
import { END_DONE, END_LOST, END_STALLED, Generator } from "./generator.ts";
import { LoadGuestMemory } from "./guest-memory.ts";
import { Histogram } from "./histogram.ts";
import { type LoadOptions, type ResolvedOptions, resolveOptions } from "./options.ts";
import { processCpuUs, threadCpuUs } from "./process-cpu.ts";
import type { KindReport, LoadReport } from "./report.ts";
import { BlkSession, type SessionOptions, type SessionRing } from "./session.ts";
import { Verifier } from "./verify.ts";
import {
  KIND_COUNT,
  KIND_NAMES,
  MODE_FILL,
  MODE_MIX,
  MODE_READ_BACK,
  Workload,
} from "./workload.ts";

/** Where guest memory begins: above 4 GiB, so that both halves of every address count. */
export const GUEST_BASE = 0x100000000;
const PROGRESS_US = 500000;
const RECONNECT_RETRY_MS = 1;
const CANARY_REST_FACTOR = 4;
/** A killed process's I/O was seen to land up to 132 ms later. */
const CANARY_HOLD_US = 500000;
const DRAIN_TIMEOUT_US = 60000000;

/** Bytes of guest memory that the queues of this run need. */
export function guestBytesNeeded(options: ResolvedOptions): number {
  const segments = Math.ceil(options.blockBytesMax / options.segmentBytes);
  const tables = options.indirect ? alignUp((segments + 2) * 16, 64) : 0;
  const perSlot =
    alignUp(options.headerStrideBytes, 64) + tables + alignUp(options.blockBytesMax, 4096);
  const rings = 26 * options.queueSize + 4096;
  const queues = options.queueCount * (rings + options.depth * perSlot + 8192);
  const slotCount = options.depth * options.queueCount;
  const canary = options.canary
    ? canaryBytes({
        bufferBytes: options.blockBytesMax,
        slotCount,
        restCount: slotCount * CANARY_REST_FACTOR,
      })
    : 0;
  return alignUp(queues + canary, 2 * MIB);
}

/** The greatest power of two up to 4096 that every request of the run is a multiple of. */
function verifyUnit(options: ResolvedOptions): number {
  let unit = 4096;
  const sizes = [options.blockBytes, options.blockBytesMax, options.alignBytes];
  while (sizes.some((bytes) => bytes % unit !== 0)) unit /= 2;
  assert(unit >= 512, "requests are whole sectors");
  return unit;
}

interface Sample {
  readonly kickCount: number;
  readonly targetUs: number;
  readonly ownUs: number;
  readonly atUs: number;
}

/** Queues, buffers and the loop over them, without a back-end: also what --self-check drives. */
export class LoadRig {
  readonly memory: LoadGuestMemory;
  readonly queues: readonly BlkQueue[];
  readonly kickFds: readonly number[];
  readonly callFd: number;
  readonly verifier: Verifier | null;
  readonly canary: Canary | null;
  readonly workload: Workload;
  readonly generator: Generator;

  constructor(
    options: ResolvedOptions,
    areaBytes: number,
    unmapWriteZeroes: boolean,
    modules: { readonly clock: Clock } = { clock: new sys.SystemClock() },
  ) {
    const bytes = guestBytesNeeded(options);
    if (bytes > GIB) {
      throw new LoadError("OPTIONS", `This run needs ${bytes} bytes of guest memory.`, {
        advice: "Lower the depth, the block size or the number of queues: 1 GiB is the limit.",
      });
    }
    this.memory = new LoadGuestMemory([{ guestAddress: GUEST_BASE, bytes }]);
    const region = this.memory.regions[0];
    const prng = new Prng(options.seed);
    // Noise, so that no target gets by with writing zeroes.
    for (let index = 0; index < region.host.u32.length; index++) {
      region.host.u32[index] = prng.u32();
    }
    const kickFds: number[] = [];
    const queues: BlkQueue[] = [];
    this.callFd = sys.check(sys.eventfd(), "eventfd");
    for (let index = 0; index < options.queueCount; index++) {
      const kickFd = options.noKick ? -1 : sys.check(sys.eventfd(), "eventfd");
      kickFds.push(kickFd);
      queues.push(
        new BlkQueue(this.memory, {
          index,
          packed: options.packed,
          size: options.queueSize,
          slotCount: options.depth,
          indirect: options.indirect,
          eventIndex: options.eventIndex,
          dataBytes: options.blockBytesMax,
          segmentBytes: options.segmentBytes,
          headerStrideBytes: options.headerStrideBytes,
          region,
          kickFd,
          anyUsedLength: options.anyUsedLength,
        }),
      );
    }
    this.kickFds = kickFds;
    this.queues = queues;
    const memory = new sys.SystemMemory();
    this.verifier = options.verify
      ? new Verifier(memory, {
          areaBytes,
          unitBytes: verifyUnit(options),
          seed: options.seed,
          initialZeroes: options.initialZeroes,
        })
      : null;
    const slotCount = options.depth * options.queueCount;
    this.canary = options.canary
      ? new Canary(memory, this.memory, {
          region,
          bufferBytes: options.blockBytesMax,
          slotCount,
          restCount: slotCount * CANARY_REST_FACTOR,
          holdUs: CANARY_HOLD_US,
        })
      : null;
    this.workload = new Workload(options, areaBytes);
    this.generator = new Generator(
      {
        slotCount: options.depth,
        polling: options.polling,
        stallTimeoutMs: options.stallTimeoutMs,
        rewriteAfterLoss: options.reconnect,
        unmapWriteZeroes,
      },
      {
        clock: modules.clock,
        queues,
        workload: this.workload,
        verifier: this.verifier,
        canary: this.canary,
        callFd: this.callFd,
      },
    );
  }

  /** What a session needs to know of the queues. */
  rings(): SessionRing[] {
    return this.queues.map((queue) => ({
      ring: queue.split ?? (queue.packed as NonNullable<typeof queue.packed>),
      kickFd: queue.kickFd,
      callFd: this.callFd,
    }));
  }

  close(): void {
    for (const fd of this.kickFds) if (fd >= 0) sys.close(fd);
    sys.close(this.callFd);
    this.verifier?.close();
    this.canary?.close();
    this.memory.close();
  }
}

class LoadRun {
  private readonly options: ResolvedOptions;
  private readonly sessionOptions: SessionOptions;
  private readonly clock = new sys.SystemClock();
  private readonly tid = sys.gettid();
  private readonly areaBytes: number;
  private readonly rig: LoadRig;
  private session: BlkSession;
  private inflight: InflightRegion | undefined;
  private reconnectCount = 0;
  private lastProgressUs = 0;
  private lastProgressCount = 0;

  constructor(options: ResolvedOptions) {
    this.options = options;
    this.sessionOptions = {
      socketPath: options.socketPath,
      timeoutMs: options.timeoutMs,
      style: options.style,
      packed: options.packed,
      indirect: options.indirect,
      eventIndex: options.eventIndex,
      queueCount: options.queueCount,
      inflight: options.reconnect,
    };
    this.session = BlkSession.open(this.sessionOptions);
    try {
      this.areaBytes = this.checkDevice();
      const mayUnmap = this.session.config.writeZeroesMayUnmap !== 0;
      this.rig = new LoadRig(options, this.areaBytes, mayUnmap);
    } catch (error) {
      this.session.close();
      throw error;
    }
  }

  /** Checks the options against the device; returns the area in bytes. */
  private checkDevice(): number {
    const { options, session } = this;
    const { config } = session;
    const blockBytes = config.blockBytes === 0 ? 512 : config.blockBytes;
    for (const bytes of [options.blockBytes, options.blockBytesMax, options.alignBytes]) {
      if (bytes % blockBytes !== 0) {
        throw new LoadError(
          "OPTIONS",
          `Requests of ${bytes} bytes do not fit the device's blocks of ${blockBytes} bytes.`,
        );
      }
    }
    const wanted = options.areaBytes === 0 ? config.capacityBytes : options.areaBytes;
    const areaBytes = Math.floor(Math.min(wanted, config.capacityBytes) / 4096) * 4096;
    if (areaBytes < options.blockBytesMax) {
      throw new LoadError(
        "OPTIONS",
        `The device has ${config.capacityBytes} bytes, a request ${options.blockBytesMax}.`,
      );
    }
    const limits = [
      ["discard", options.discardPercent, BLK_F_DISCARD, config.maxDiscardSectors],
      [
        "write zeroes",
        options.writeZeroesPercent,
        BLK_F_WRITE_ZEROES,
        config.maxWriteZeroesSectors,
      ],
    ] as const;
    for (const [name, percent, feature, sectors] of limits) {
      if (percent === 0) continue;
      if (!session.hasFeature(feature)) {
        throw new LoadError("UNSUPPORTED", `The device cannot ${name}.`);
      }
      if (options.blockBytesMax > sectors * 512) {
        throw new LoadError(
          "OPTIONS",
          `The device can ${name} at most ${sectors} sectors at once.`,
        );
      }
    }
    return areaBytes;
  }

  private start(afterLoss: boolean): void {
    const region = this.inflight;
    this.session.start(this.rig.memory, this.rig.rings(), {
      afterLoss,
      ...(region === undefined ? {} : { inflight: region }),
    });
    this.rig.generator.peer = {
      fd: this.session.frontEnd.fd,
      hungUp: () => this.session.frontEnd.stream.hungUp(),
    };
  }

  /** The back-end is gone: find the next one and give it everything. */
  private reconnect(): void {
    this.rig.generator.peer = null;
    this.rig.generator.markSuspects();
    this.session.close();
    const deadlineUs = this.clock.nowUs() + this.options.reconnectTimeoutMs * 1000;
    const sleeper = new Int32Array(new SharedArrayBuffer(4));
    for (;;) {
      try {
        this.session = BlkSession.open(this.sessionOptions);
        this.start(true);
        this.rig.generator.reconnected();
        this.reconnectCount += 1;
        return;
      } catch (error) {
        this.session.close();
        const again =
          error instanceof LoadError && /^(CONNECT_FAILED|CLOSED|TIMEOUT)$/.test(error.code);
        if (!again || this.clock.nowUs() > deadlineUs) {
          this.rig.generator.abandonInflight();
          throw error;
        }
      }
      Atomics.wait(sleeper, 0, 0, RECONNECT_RETRY_MS);
    }
  }

  /** Runs the generator until `untilUs` or until the phase's work is done. */
  private drive(untilUs: number, phase: string): number {
    const generator = this.rig.generator;
    for (;;) {
      const nowUs = this.clock.nowUs();
      const end = generator.run(Math.min(untilUs, nowUs + PROGRESS_US));
      if (end === END_DONE) return end;
      if (end === END_LOST) {
        if (!this.options.reconnect) {
          throw new LoadError("CLOSED", "The back-end closed the connection during the run.");
        }
        this.reconnect();
      } else if (end === END_STALLED) {
        throw new LoadError(
          "TIMEOUT",
          `Nothing has completed for ${this.options.stallTimeoutMs} ms; in flight: ` +
            `${generator.describeInflight()}.`,
        );
      } else if (this.clock.nowUs() >= untilUs) {
        return end;
      }
      this.progress(phase);
    }
  }

  private progress(phase: string): void {
    const progress = this.options.progress;
    if (progress === null) return;
    const nowUs = this.clock.nowUs();
    const total = this.rig.generator.batchCount;
    let done = 0;
    for (const value of this.rig.generator.countByKind) done += value;
    const seconds = (nowUs - this.lastProgressUs) / 1e6;
    const rate = this.lastProgressUs === 0 ? 0 : (done - this.lastProgressCount) / seconds;
    this.lastProgressUs = nowUs;
    this.lastProgressCount = done;
    const speed = rate > 0 ? `${Math.round(rate)} IOPS` : `${total} batches`;
    progress(`${phase}: ${speed}, ${this.rig.generator.errorCount} errors`);
  }

  private finishInflight(phase: string): void {
    this.rig.generator.picking = false;
    const end = this.drive(this.clock.nowUs() + DRAIN_TIMEOUT_US, phase);
    if (end !== END_DONE) throw new LoadError("TIMEOUT", "Requests in flight do not complete.");
  }

  private sample(): Sample {
    const pid = this.session.frontEnd.peerPid;
    const ownUs = threadCpuUs(this.tid);
    let targetUs = pid === 0 ? Number.NaN : processCpuUs(pid);
    // A target inside this process: everything but this thread.
    if (pid === process.pid) targetUs -= ownUs;
    const kickCount = this.rig.queues.reduce((sum, queue) => sum + queue.kickCount, 0);
    return { kickCount, targetUs, ownUs, atUs: this.clock.nowUs() };
  }

  private sweep(mode: number, phase: string): void {
    const { generator, workload } = this.rig;
    workload.setMode(mode);
    generator.counting = false;
    generator.requestsLeft = Number.POSITIVE_INFINITY;
    generator.restart();
    this.drive(Number.POSITIVE_INFINITY, phase);
  }

  /** Warm-up and measurement; returns the samples around the latter. */
  private measure(): readonly [Sample, Sample] {
    const { generator, workload } = this.rig;
    const { options } = this;
    workload.setMode(MODE_MIX);
    generator.counting = false;
    generator.restart();
    if (options.warmupMs > 0) {
      this.drive(this.clock.nowUs() + options.warmupMs * 1000, "warm-up");
    }
    if (options.requestCount > 0) generator.requestsLeft = options.requestCount;
    generator.resetCounters();
    this.lastProgressCount = 0;
    generator.counting = true;
    const before = this.sample();
    const end = this.drive(before.atUs + options.runtimeMs * 1000, "run");
    const after = this.sample();
    // Requests in flight at the end of the time belong to nobody's figure.
    if (end !== END_DONE) generator.counting = false;
    return [before, after];
  }

  run(): LoadReport {
    const { options, rig } = this;
    if (options.reconnect) {
      this.inflight = this.session.inflightRegion(options.queueSize);
    }
    this.start(false);
    if (options.prefill) this.sweep(MODE_FILL, "fill");
    const [before, after] = this.measure();
    const { generator } = rig;
    const longestPauseUs = generator.longestPauseUs;
    const batchCount = generator.batchCount;
    const wakeCount = generator.wakeCount;
    this.finishInflight("drain");
    if (options.readBack) this.sweep(MODE_READ_BACK, "read back");
    this.checkCanary();
    this.checkBases();
    return this.report(before, after, {
      longestPauseUs: Math.max(longestPauseUs, generator.longestPauseUs),
      batchCount,
      wakeCount,
    });
  }

  /** Waits until nothing that died can still write, then looks at every buffer. */
  private checkCanary(): void {
    const { canary } = this.rig;
    if (canary === null) return;
    const leftUs = canary.heldUntil() - this.clock.nowUs();
    if (leftUs > 0) {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, leftUs / 1000);
    }
    canary.checkAll();
  }

  /** A stopped split ring's base is the next avail index; nothing may be missing. */
  private checkBases(): void {
    const bases = this.session.stop();
    for (const [index, base] of bases.entries()) {
      const { split } = this.rig.queues[index] as BlkQueue;
      if (split !== null && base !== split.availableIndex) {
        throw new LoadError(
          "BAD_REPLY",
          `GET_VRING_BASE of ring ${index} is ${base}; ${split.availableIndex} were offered.`,
        );
      }
    }
  }

  private kindReports(seconds: number): Record<string, KindReport> {
    const { generator } = this.rig;
    const kinds: Record<string, KindReport> = {};
    for (let kind = 0; kind < KIND_COUNT; kind++) {
      const count = generator.countByKind[kind];
      const bytes = generator.bytesByKind[kind];
      if (count === 0) continue;
      kinds[KIND_NAMES[kind] as string] = {
        count,
        bytes,
        iops: count / seconds,
        bytesPerSecond: bytes / seconds,
        latency: (generator.histograms[kind] as Histogram).report(),
      };
    }
    return kinds;
  }

  private report(
    before: Sample,
    after: Sample,
    counted: { longestPauseUs: number; batchCount: number; wakeCount: number },
  ): LoadReport {
    const { options, rig, session } = this;
    const { generator, verifier, canary, queues } = rig;
    const durationUs = after.atUs - before.atUs;
    const kinds = this.kindReports(durationUs / 1e6);
    const all = new Histogram();
    for (const histogram of generator.histograms) all.add(histogram);
    let bytes = 0;
    for (const kind of Object.values(kinds)) bytes += kind.bytes;
    const targetUs = after.targetUs - before.targetUs;
    // After a reconnect the process is another one.
    const knowsTarget = this.reconnectCount === 0 && Number.isFinite(targetUs);
    const ownUs = after.ownUs - before.ownUs;
    const failures = [
      ...generator.failures,
      ...(verifier?.failures ?? []),
      ...(canary?.failures ?? []),
    ];
    return {
      work: {
        pattern: options.pattern,
        readPercent: options.readPercent,
        blockBytes: options.blockBytes,
        blockBytesMax: options.blockBytesMax,
        depth: options.depth,
        queueCount: options.queueCount,
        queueSize: options.queueSize,
        ring: options.packed ? "packed" : "split",
        indirect: options.indirect,
        eventIndex: options.eventIndex,
        polling: options.polling,
        areaBytes: this.areaBytes,
        seed: options.seed,
      },
      target: {
        socketPath: options.socketPath,
        pid: this.pid,
        capacityBytes: session.config.capacityBytes,
        features: session.features.toString(16),
        protocolFeatures: session.frontEnd.protocolFeatures.toString(16),
      },
      durationMs: durationUs / 1000,
      requestCount: all.count,
      iops: all.count / (durationUs / 1e6),
      bytesPerSecond: bytes / (durationUs / 1e6),
      latency: all.report(),
      kinds,
      targetCpuUsPerRequest: knowsTarget && all.count > 0 ? targetUs / all.count : null,
      targetCpuShare: knowsTarget ? targetUs / durationUs : null,
      ownCpuUsPerRequest: all.count === 0 ? 0 : ownUs / all.count,
      ownCpuShare: ownUs / durationUs,
      kickCount: after.kickCount - before.kickCount,
      wakeCount: counted.wakeCount,
      completionsPerBatch: counted.batchCount === 0 ? 0 : all.count / counted.batchCount,
      longestPauseMs: counted.longestPauseUs / 1000,
      reconnectCount: this.reconnectCount,
      errorCount: generator.errorCount,
      wrongLengthCount: queues.reduce((sum, queue) => sum + queue.wrongLengthCount, 0),
      verify:
        verifier === null
          ? null
          : {
              checkedBlocks: verifier.checkedCount,
              uncheckedBlocks: verifier.uncheckedCount,
              failureCount: verifier.failureCount,
            },
      canary:
        canary === null
          ? null
          : { checkedBuffers: canary.checkedCount, lateWriteCount: canary.lateWriteCount },
      failures,
      ok:
        generator.errorCount === 0 &&
        (verifier?.failureCount ?? 0) === 0 &&
        (canary?.lateWriteCount ?? 0) === 0,
    };
  }

  private get pid(): number {
    return this.session.frontEnd.stream.isOpen ? this.session.frontEnd.peerPid : 0;
  }

  close(): void {
    this.session.close();
    if (this.inflight !== undefined) sys.close(this.inflight.fd);
    this.rig.close();
  }
}

/** Runs a load against a vhost-user-blk socket, on this thread, and reports. */
export function runLoadSync(options: LoadOptions): LoadReport {
  const resolved = resolveOptions(options);
  const affinity = resolved.cpus.length === 0 ? null : sys.affinity();
  if (affinity !== null) sys.check(sys.setAffinity(resolved.cpus), "sched_setaffinity");
  try {
    const run = new LoadRun(resolved);
    try {
      return run.run();
    } finally {
      run.close();
    }
  } finally {
    if (affinity !== null) sys.setAffinity(affinity);
  }
}

/** As runLoadSync, as a promise; the thread is busy all the same until it is settled. */
export async function runLoad(options: LoadOptions): Promise<LoadReport> {
  return runLoadSync(options);
}

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

import { existsSync } from "node:fs";
import * as sys from "../sys/index.ts";
import { BLK_F_DISCARD, BLK_F_RO, BLK_F_WRITE_ZEROES } from "../virtio/index.ts";
import type { BlkQueue } from "./blk-queue.ts";
import { LoadError } from "./errors.ts";
import type { InflightRegion } from "./front-end.ts";
import {
  describeInflight,
  END_DONE,
  END_LOST,
  END_STALLED,
  type Recorder,
} from "./generator-parts.ts";
import { type LoadOptions, type ResolvedOptions, resolveOptions } from "./options.ts";
import { processCpuUs, threadCpuUs } from "./process-cpu.ts";
import type { LoadReport } from "./report.ts";
import { LoadRig } from "./rig.ts";
import { makeReport, type Sample } from "./run-report.ts";
import { BlkSession, type SessionOptions } from "./session.ts";
import { MODE_FILL, MODE_MIX, MODE_READ_BACK } from "./workload.ts";

const PROGRESS_US = 500000;
const PHASE_MEASURED = "run";
const RECONNECT_RETRY_MS = 1;
const DRAIN_TIMEOUT_US = 60000000;

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

  constructor(options: ResolvedOptions, recorder: Recorder | null) {
    this.options = options;
    this.sessionOptions = {
      socketPath: options.socketPath,
      timeoutMs: options.timeoutMs,
      style: options.style,
      packed: options.packed,
      indirect: options.indirect,
      eventIndex: options.eventIndex,
      queueCount: options.queueCount,
      inflight: options.reconnect ? true : options.inflight ? "offered" : false,
    };
    this.session = BlkSession.open(this.sessionOptions);
    try {
      this.areaBytes = this.checkDevice();
      const mayUnmap = this.session.config.writeZeroesMayUnmap !== 0;
      this.rig = new LoadRig(options, this.areaBytes, mayUnmap, { recorder });
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
    const onlyReads = options.readPercent === 100 && !options.prefill;
    const noRanges = options.discardPercent + options.writeZeroesPercent === 0;
    if (session.hasFeature(BLK_F_RO) && !(onlyReads && noRanges)) {
      throw new LoadError("OPTIONS", "The device is read-only; this run would write to it.", {
        advice: "Run reads only, without --verify.",
      });
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
    const measured = phase === PHASE_MEASURED;
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
            `${describeInflight(this.rig.queues)}.`,
        );
      } else if (this.clock.nowUs() >= untilUs || (measured && this.stopAsked())) {
        return end;
      }
      this.progress(phase);
    }
  }

  private stopAsked(): boolean {
    const { stopFile } = this.options;
    return stopFile !== "" && existsSync(stopFile);
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
    const { generator, queues } = this.rig;
    return {
      pid,
      targetUs,
      ownUs,
      atUs: this.clock.nowUs(),
      kickCount: queues.reduce((sum, queue) => sum + queue.kickCount, 0),
      batchCount: generator.batchCount,
      wakeCount: generator.wakeCount,
    };
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
    const end = this.drive(before.atUs + options.runtimeMs * 1000, PHASE_MEASURED);
    const after = this.sample();
    // Requests in flight at the end of the time belong to nobody's figure.
    if (end !== END_DONE) generator.counting = false;
    return [before, after];
  }

  run(): LoadReport {
    const { options, rig } = this;
    if (this.session.usesInflight) {
      this.inflight = this.session.inflightRegion(options.queueSize);
    }
    this.start(false);
    if (options.prefill) this.sweep(MODE_FILL, "fill");
    const [before, after] = this.measure();
    this.finishInflight("drain");
    if (options.readBack) this.sweep(MODE_READ_BACK, "read back");
    this.checkCanary();
    this.checkBases();
    return makeReport({
      options,
      rig,
      session: this.session,
      areaBytes: this.areaBytes,
      before,
      after,
      reconnectCount: this.reconnectCount,
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

  /** A stopped ring's base is where the driver stands; nothing may be missing. */
  private checkBases(): void {
    const bases = this.session.stop();
    for (const [index, base] of bases.entries()) {
      const wanted = (this.rig.queues[index] as BlkQueue).baseNow();
      if (base === wanted) continue;
      throw new LoadError(
        "BAD_REPLY",
        `GET_VRING_BASE of ring ${index} is ${base}; the driver stands at ${wanted}.`,
      );
    }
  }

  close(): void {
    this.session.close();
    if (this.inflight !== undefined) sys.close(this.inflight.fd);
    this.rig.close();
  }
}

/** Runs a load against a vhost-user-blk socket, on this thread, and reports. */
export function runLoadSync(options: LoadOptions, recorder: Recorder | null = null): LoadReport {
  const resolved = resolveOptions(options);
  const affinity = resolved.cpus.length === 0 ? null : sys.affinity();
  if (affinity !== null) sys.check(sys.setAffinity(resolved.cpus), "sched_setaffinity");
  try {
    const run = new LoadRun(resolved, recorder);
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

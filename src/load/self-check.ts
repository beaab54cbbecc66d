// --self-check: how fast is the generator when the target costs next to nothing? Two answers:
//
//  - two threads: a thread of this process plays the device (trivial-device.ts) on the same rings
//    and buffers, without a socket or a system call, and the generator drives it as it drives a
//    real one. That is the most the generator can measure; it needs two idle CPUs.
//  - one thread: the device takes its turn inside the generator's thread, whenever the generator
//    asks for the time. The CPU time of both together bounds what one request costs the generator,
//    whatever else the machine is doing.

import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { assert } from "../base/index.ts";
import type { Clock } from "../ports/index.ts";
import * as sys from "../sys/index.ts";
import { LoadError } from "./errors.ts";
import { END_DONE, END_STALLED } from "./generator-parts.ts";
import { Histogram, type LatencyReport } from "./histogram.ts";
import { type LoadOptions, type ResolvedOptions, resolveOptions } from "./options.ts";
import { threadCpuUs } from "./process-cpu.ts";
import { LoadRig } from "./rig.ts";
import { TrivialDevice, type TrivialRing } from "./trivial-device.ts";
import { MODE_MIX } from "./workload.ts";

export interface SelfCheckReport {
  readonly ring: "split" | "packed";
  readonly indirect: boolean;
  readonly depth: number;
  readonly queueCount: number;
  /** CPU time per request of generator and trivial device in one thread, in nanoseconds. */
  readonly oneThreadNsPerRequest: number;
  /** From here on: two threads. */
  readonly iops: number;
  readonly latency: LatencyReport;
  /** CPU of the generator's thread per request: an upper bound, it includes fruitless looks. */
  readonly ownCpuUsPerRequest: number;
  /** Looks at the rings that found nothing, per request: near 0 the generator is the limit. */
  readonly emptyPassesPerRequest: number;
  readonly completionsPerBatch: number;
  /** Share of a CPU the two threads had: below 1 the machine was busy with something else. */
  readonly ownCpuShare: number;
}

interface DeviceThreadData {
  readonly kind: "trivial-device";
  readonly address: number;
  readonly bytes: number;
  readonly guestAddress: number;
  readonly rings: readonly TrivialRing[];
  /** Word 0: 1 = stop, word 1: 1 = running, 2 = ended. */
  readonly control: SharedArrayBuffer;
  /** CPU to stay on, or -1. */
  readonly cpu: number;
}

const STEPS_PER_LOOK = 64;
const START_TIMEOUT_MS = 10000;
const DEVICE_BYTES = 1024 * 1024 * 1024;

function runDevice(data: DeviceThreadData): void {
  const control = new Int32Array(data.control);
  if (data.cpu >= 0) sys.check(sys.setAffinity([data.cpu]), "sched_setaffinity", data.cpu);
  const host = sys.arenaOver(data.address, data.bytes);
  const devices = data.rings.map((ring) => new TrivialDevice(host, data.guestAddress, ring));
  Atomics.store(control, 1, 1);
  Atomics.notify(control, 1);
  while (Atomics.load(control, 0) === 0) {
    for (let step = 0; step < STEPS_PER_LOOK; step++) {
      for (let index = 0; index < devices.length; index++) devices[index].step();
    }
  }
  Atomics.store(control, 1, 2);
  Atomics.notify(control, 1);
}

function trivialRings(options: ResolvedOptions, rig: LoadRig): TrivialRing[] {
  return rig.rings().map(({ ring }) => ({
    packed: options.packed,
    size: ring.size,
    eventIndex: ring.eventIndex,
    descriptorGpa: ring.descriptorGpa,
    availableGpa: ring.availableGpa,
    usedGpa: ring.usedGpa,
  }));
}

/** A clock that lets devices work whenever it is asked: with one, a rig needs no second thread. */
export class SteppingClock implements Clock {
  readonly devices: TrivialDevice[] = [];
  private readonly clock = new sys.SystemClock();

  private work(): void {
    for (let index = 0; index < this.devices.length; index++) {
      while (this.devices[index].step());
    }
  }

  nowUs(): number {
    this.work();
    return this.clock.nowUs();
  }

  storeNowUs(cell: Float64Array): void {
    this.work();
    this.clock.storeNowUs(cell);
  }
}

/** Nanoseconds of CPU that one request costs generator and trivial device together. */
function measureOneThread(options: ResolvedOptions): number {
  const clock = new SteppingClock();
  // Event-driven, because that loop asks for the time as soon as it has nothing to do. It never
  // sleeps: the device has always finished by then.
  const rig = new LoadRig({ ...options, polling: false }, DEVICE_BYTES, false, { clock });
  const { generator, workload } = rig;
  const region = rig.memory.regions[0];
  for (const ring of trivialRings(options, rig)) {
    clock.devices.push(new TrivialDevice(region.host, region.guestAddress, ring));
  }
  workload.setMode(MODE_MIX);
  generator.restart();
  generator.run(clock.nowUs() + options.warmupMs * 1000);
  generator.resetCounters();
  const tid = sys.gettid();
  const startUs = threadCpuUs(tid);
  generator.run(clock.nowUs() + options.runtimeMs * 1000);
  const usedUs = threadCpuUs(tid) - startUs;
  let count = 0;
  for (const value of generator.countByKind) count += value;
  generator.picking = false;
  assert(generator.run(clock.nowUs() + 5e6) === END_DONE, "the self-check does not drain");
  rig.close();
  return (usedUs * 1000) / count;
}

function measure(
  options: ResolvedOptions,
  rig: LoadRig,
): Omit<SelfCheckReport, "oneThreadNsPerRequest"> {
  const { generator, workload, queues } = rig;
  const clock = new sys.SystemClock();
  const tid = sys.gettid();
  const drive = (untilUs: number): void => {
    const end = generator.run(untilUs);
    if (end === END_STALLED) throw new LoadError("TIMEOUT", "The self-check's device is stuck.");
  };
  workload.setMode(MODE_MIX);
  generator.counting = false;
  generator.restart();
  drive(clock.nowUs() + options.warmupMs * 1000);
  generator.resetCounters();
  generator.counting = true;
  const startUs = clock.nowUs();
  const cpuUs = threadCpuUs(tid);
  drive(startUs + options.runtimeMs * 1000);
  const durationUs = clock.nowUs() - startUs;
  const ownUs = threadCpuUs(tid) - cpuUs;
  generator.counting = false;
  const { batchCount, emptyPassCount } = generator;
  generator.picking = false;
  assert(generator.run(clock.nowUs() + 5e6) === END_DONE, "the self-check does not drain");
  const all = new Histogram();
  for (const histogram of generator.histograms) all.add(histogram);
  return {
    ring: options.packed ? "packed" : "split",
    indirect: options.indirect,
    depth: options.depth,
    queueCount: queues.length,
    iops: all.count / (durationUs / 1e6),
    latency: all.report(),
    ownCpuUsPerRequest: ownUs / all.count,
    emptyPassesPerRequest: emptyPassCount / all.count,
    completionsPerBatch: all.count / batchCount,
    ownCpuShare: ownUs / durationUs,
  };
}

/**
 * Measures the generator itself, first on one thread, then on two: the generator on the first of
 * `cpus`, the device on the second, where they are given.
 */
export async function runSelfCheck(
  options: Omit<LoadOptions, "socketPath">,
): Promise<SelfCheckReport> {
  const resolved = resolveOptions({ ...options, socketPath: "", polling: true, verify: false });
  const affinity = sys.affinity();
  const [cpu] = resolved.cpus;
  if (cpu !== undefined) sys.check(sys.setAffinity([cpu]), "sched_setaffinity", cpu);
  const oneThreadNsPerRequest = measureOneThread(resolved);
  const rig = new LoadRig(resolved, DEVICE_BYTES, false);
  const control = new SharedArrayBuffer(8);
  const words = new Int32Array(control);
  const region = rig.memory.regions[0];
  const data: DeviceThreadData = {
    kind: "trivial-device",
    address: region.host.address,
    bytes: region.bytes,
    guestAddress: region.guestAddress,
    rings: trivialRings(resolved, rig),
    control,
    cpu: resolved.cpus[1] ?? -1,
  };
  const file = fileURLToPath(import.meta.url);
  assert(existsSync(file), "the self-check's own file is gone");
  const worker = new Worker(file, { workerData: data });
  const ended = new Promise<void>((resolve, reject) => {
    worker.once("exit", () => resolve());
    worker.once("error", reject);
  });
  try {
    await new Promise<void>((resolve, reject) => {
      worker.once("message", () => resolve());
      worker.once("error", reject);
    });
    if (Atomics.wait(words, 1, 0, START_TIMEOUT_MS) === "timed-out") {
      throw new LoadError("TIMEOUT", "The self-check's device thread did not start.");
    }
    return { ...measure(resolved, rig), oneThreadNsPerRequest };
  } finally {
    // The device touches guest memory until it has seen this.
    Atomics.store(words, 0, 1);
    await ended;
    rig.close();
    sys.setAffinity(affinity);
  }
}

/** The report for people, with a final newline. */
export function formatSelfCheck(report: SelfCheckReport): string {
  const layout = `${report.ring}, ${report.indirect ? "indirect" : "direct"}`;
  const { latency } = report;
  const percent = (report.ownCpuShare * 100).toFixed(0);
  const lines = [
    `self-check: ${layout}, depth ${report.depth}, queues ${report.queueCount}`,
    `  one thread   ${report.oneThreadNsPerRequest.toFixed(0)} ns of CPU per request, ` +
      "device included",
    `  two threads  ${(report.iops / 1e6).toFixed(2)} M IOPS, ` +
      `p50 ${latency.p50Us.toFixed(2)} us, p99 ${latency.p99Us.toFixed(2)} us`,
    `               ${(report.ownCpuUsPerRequest * 1000).toFixed(0)} ns of CPU per request, ` +
      `${report.emptyPassesPerRequest.toFixed(1)} fruitless looks, ` +
      `${report.completionsPerBatch.toFixed(1)} completions per batch`,
    report.ownCpuShare < 0.9
      ? `  The generator had ${percent} % of a CPU: repeat on an idle machine.`
      : "  The generator had a CPU to itself.",
  ];
  return `${lines.join("\n")}\n`;
}

const threadData = workerData as DeviceThreadData | null;
if (!isMainThread && threadData !== null && threadData.kind === "trivial-device") {
  parentPort?.postMessage("started");
  runDevice(threadData);
}

// What a load run drives a device with: guest memory, queues with their buffers, and the generator
// over them. It knows nothing of a socket: a session starts its rings on a back-end (run.ts), or a
// device in this process serves them (self-check.ts, tests).

import { alignUp, assert, GIB, MIB, Prng } from "../base/index.ts";
import type { Clock } from "../ports/index.ts";
import * as sys from "../sys/index.ts";
import { BlkQueue, type BlkQueueOptions } from "./blk-queue.ts";
import { Canary, canaryBytes } from "./canary.ts";
import { LoadError } from "./errors.ts";
import { Generator } from "./generator.ts";
import type { Recorder } from "./generator-parts.ts";
import { type GuestRegion, LoadGuestMemory } from "./guest-memory.ts";
import type { ResolvedOptions } from "./options.ts";
import type { SessionRing } from "./session.ts";
import { Verifier } from "./verify.ts";
import { Workload } from "./workload.ts";

/** Where guest memory begins: above 4 GiB, so that both halves of every address count. */
export const GUEST_BASE = 0x100000000;
const CANARY_REST_FACTOR = 4;
/** A killed process's I/O was seen to land up to 132 ms later. */
const CANARY_HOLD_US = 500000;

function canarySize(options: ResolvedOptions): {
  bufferBytes: number;
  slotCount: number;
  restCount: number;
} {
  const slotCount = options.depth * options.queueCount;
  const restCount = slotCount * CANARY_REST_FACTOR;
  return { bufferBytes: options.blockBytesMax, slotCount, restCount };
}

function queueOptions(
  options: ResolvedOptions,
  index: number,
  region: GuestRegion,
  kickFd: number,
): BlkQueueOptions {
  return {
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
  };
}

/** Bytes of guest memory that the queues of this run need. */
export function guestBytesNeeded(options: ResolvedOptions): number {
  const segments = Math.ceil(options.blockBytesMax / options.segmentBytes);
  const tables = options.indirect ? alignUp((segments + 2) * 16, 64) : 0;
  const perSlot =
    alignUp(options.headerStrideBytes, 64) + tables + alignUp(options.blockBytesMax, 4096);
  const rings = 26 * options.queueSize + 4096;
  const queues = options.queueCount * (rings + options.depth * perSlot + 8192);
  const canary = options.canary ? canaryBytes(canarySize(options)) : 0;
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

/** Queues, buffers and the loop over them, without a back-end: also what --self-check drives. */
export class LoadRig {
  readonly memory: LoadGuestMemory;
  readonly queues: readonly BlkQueue[];
  readonly callFd: number;
  readonly verifier: Verifier | null;
  readonly canary: Canary | null;
  readonly workload: Workload;
  readonly generator: Generator;

  constructor(
    options: ResolvedOptions,
    areaBytes: number,
    unmapWriteZeroes: boolean,
    modules: { readonly clock?: Clock; readonly recorder?: Recorder | null } = {},
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
    this.callFd = sys.check(sys.eventfd(), "eventfd");
    const queues: BlkQueue[] = [];
    for (let index = 0; index < options.queueCount; index++) {
      const kickFd = options.noKick ? -1 : sys.check(sys.eventfd(), "eventfd");
      queues.push(new BlkQueue(this.memory, queueOptions(options, index, region, kickFd)));
    }
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
    this.canary = options.canary
      ? new Canary(memory, this.memory, { ...canarySize(options), region, holdUs: CANARY_HOLD_US })
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
        clock: modules.clock ?? new sys.SystemClock(),
        queues,
        workload: this.workload,
        verifier: this.verifier,
        canary: this.canary,
        recorder: modules.recorder ?? null,
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
    for (const { kickFd } of this.queues) if (kickFd >= 0) sys.close(kickFd);
    sys.close(this.callFd);
    this.verifier?.close();
    this.canary?.close();
    this.memory.close();
  }
}

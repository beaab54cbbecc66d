// A thread that plays a second processor of a hostile guest: it changes the shared memory while the
// target reads it, without end, until it is told to stop. What it does is one of the writers below;
// each is a loop of plain stores, as a guest's processor would do them.

import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { isMainThread, Worker, workerData } from "node:worker_threads";
import * as sys from "../../sys/index.ts";
import {
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_WRITE,
  PACKED_F_AVAIL,
  PACKED_F_USED,
} from "../../virtio/index.ts";

const ENTRY = fileURLToPath(import.meta.url);
const STOP = 0;
const ROUNDS = 1;

/** One u32 store: `address` is this process's. Alternates are stored in turn. */
export interface Flip {
  readonly address: number;
  readonly values: readonly number[];
}

/**
 * Offers the same two chains again as soon as their status bytes show that they were answered,
 * whether or not the completion was shown.
 */
export interface Refill {
  readonly packed: boolean;
  /** Of the status bytes, two of them side by side. */
  readonly statusAddress: number;
  /** Of the avail ring (split), or of the descriptors, four of them (packed). */
  readonly ringAddress: number;
  /** What a status byte holds until the device has written it. */
  readonly untouched: number;
}

interface Work {
  readonly control: SharedArrayBuffer;
  readonly kickFd: number;
  /** Rounds from one kick to the next. Default 64. */
  readonly kickEvery?: number;
  readonly flips: readonly Flip[];
  readonly refill: Refill | null;
}

/** Any work on a thread of its own. */
export class Racer {
  private readonly worker: Worker;
  private readonly control: Int32Array;
  private readonly exited: Promise<void>;

  constructor(work: Omit<Work, "control">) {
    const control = new SharedArrayBuffer(8);
    this.control = new Int32Array(control);
    this.worker = new Worker(ENTRY, { workerData: { ...work, control } satisfies Work });
    this.exited = new Promise((resolve, reject) => {
      this.worker.once("exit", () => resolve());
      this.worker.once("error", reject);
    });
    this.exited.catch(() => undefined);
  }

  get rounds(): number {
    return Atomics.load(this.control, ROUNDS);
  }

  /** Waits until the thread has begun. */
  async begun(): Promise<void> {
    while (this.rounds === 0) await Promise.race([sleep(1), this.exited]);
  }

  async stop(): Promise<void> {
    Atomics.store(this.control, STOP, 1);
    await this.exited;
  }
}

const KICK_EVERY = 64;

function race(work: Work): void {
  const control = new Int32Array(work.control);
  const flips = work.flips.map(({ address, values }) => ({
    word: new Uint32Array(sys.windowOver(address, 4)),
    values: Uint32Array.from(values),
  }));
  const refill = work.refill === null ? null : refiller(work.refill);
  const kickEvery = work.kickEvery ?? KICK_EVERY;
  let round = 0;
  while (Atomics.load(control, STOP) === 0) {
    for (const { word, values } of flips) word[0] = values[round % values.length] as number;
    refill?.();
    if (round % kickEvery === 0) sys.eventSignal(work.kickFd);
    round += 1;
    Atomics.store(control, ROUNDS, round);
  }
}

function refiller({ packed, statusAddress, ringAddress, untouched }: Refill): () => void {
  const status = new Uint8Array(sys.windowOver(statusAddress, 2));
  const halves = new Uint16Array(sys.windowOver(ringAddress, packed ? 64 : 4));
  let wrap = 1;
  return () => {
    if (Atomics.load(status, 0) === untouched) return;
    if (Atomics.load(status, 1) === untouched) return;
    status.fill(untouched);
    if (!packed) {
      Atomics.add(halves, 1, 2);
      return;
    }
    wrap ^= 1;
    for (let index = 3; index >= 0; index--) {
      const flags = index % 2 === 0 ? DESCRIPTOR_F_NEXT : DESCRIPTOR_F_WRITE;
      halves[index * 8 + 6] = index >>> 1;
      Atomics.store(halves, index * 8 + 7, flags | (wrap === 1 ? PACKED_F_AVAIL : PACKED_F_USED));
    }
  };
}

if (!isMainThread && workerData !== null && "kickFd" in (workerData as Work)) {
  race(workerData as Work);
}

// How fast the resyncs of this node's volumes go: from what the data plane tells now and then, the
// rate over the last seconds. One that stands still slows down to nothing; one that begins anew
// is measured anew.

import type { OwnerStats } from "../ports/cluster-plane.ts";

const WINDOW_MS = 10_000;
/** Points of time within the window. */
const SAMPLE_MS = 500;

interface Sample {
  readonly atMs: number;
  readonly doneBytes: number;
}

export class RebuildProgress {
  readonly #nowMs: () => number;
  /** By volume and disk, the oldest first. */
  readonly #samples = new Map<string, Sample[]>();

  /** `nowMs` is monotonic. */
  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  /** Told by the data plane. */
  told({ volumeId, resync }: Pick<OwnerStats, "volumeId" | "resync">): void {
    const key = resync === null ? null : keyOf(volumeId, resync.diskId);
    for (const other of this.#samples.keys()) {
      if (other.startsWith(`${volumeId}/`) && other !== key) this.#samples.delete(other);
    }
    if (resync === null || key === null) return;
    const { doneBytes } = resync;
    const atMs = this.#nowMs();
    const samples = this.#samples.get(key) ?? [];
    const last = samples.at(-1);
    if (last !== undefined && doneBytes < last.doneBytes) samples.length = 0;
    const before = samples.at(-2);
    if (before !== undefined && atMs - before.atMs < SAMPLE_MS) samples.pop();
    samples.push({ atMs, doneBytes });
    while (samples.length > 2 && atMs - (samples[1] as Sample).atMs > WINDOW_MS) samples.shift();
    this.#samples.set(key, samples);
  }

  bytesPerSecond(volumeId: string, diskId: string): number {
    const samples = this.#samples.get(keyOf(volumeId, diskId));
    const first = samples?.[0];
    const last = samples?.at(-1);
    if (first === undefined || last === undefined) return 0;
    const seconds = (this.#nowMs() - first.atMs) / 1000;
    return seconds > 0 ? Math.round((last.doneBytes - first.doneBytes) / seconds) : 0;
  }
}

function keyOf(volumeId: string, diskId: string): string {
  return `${volumeId}/${diskId}`;
}

// The metadata store of the simulation: one record with a revision. It may be slow, be away, apply a
// swap and lose the answer, or apply it long after its sender has given up.

import type { OwnedRecord, RecordEntry, RecordSwap, VolumeRecords } from "../../ports/index.ts";
import type { SimScheduler } from "../sim/index.ts";
import type { SimHost } from "./sim-replica.ts";

const ANSWER_US = 2000;
const TIMEOUT_US = 100_000;

export class SimRecordStore {
  entry: RecordEntry;
  isUp = true;
  /** How often an answer is lost, and how often a swap arrives late. */
  lossChance = 0;
  /** Called when the record has changed. */
  onChange: (() => void) | null = null;
  private readonly scheduler: SimScheduler;

  constructor(scheduler: SimScheduler, record: OwnedRecord) {
    this.scheduler = scheduler;
    this.entry = { record, revision: 1 };
  }

  /** The store as one process reaches it. */
  clientOf(host: SimHost): VolumeRecords {
    return {
      read: (done) => this.read(host, done),
      swap: (revision, record, done) => this.swap(host, revision, record, done),
    };
  }

  private after(delayUs: number, action: () => void): void {
    this.scheduler.after(delayUs, action, { label: "metadata" });
  }

  private read(host: SimHost, done: (entry: RecordEntry | null) => void): void {
    const delayUs = this.scheduler.prng.unit() * ANSWER_US;
    if (!this.isUp) {
      host.later(TIMEOUT_US, () => done(null));
      return;
    }
    this.after(delayUs, () => {
      const { entry } = this;
      this.after(delayUs, () => host.run(() => done(entry)));
    });
  }

  private swap(
    host: SimHost,
    revision: number,
    record: OwnedRecord,
    done: (answer: RecordSwap) => void,
  ): void {
    const { prng } = this.scheduler;
    const delayUs = prng.unit() * ANSWER_US;
    if (!this.isUp || prng.chance(this.lossChance)) {
      // It may never arrive, arrive late, or be applied at once with the answer lost.
      if (this.isUp || prng.chance(0.5)) {
        this.after(prng.unit() * TIMEOUT_US * 2, () => this.apply(revision, record));
      }
      host.later(TIMEOUT_US, () => done({ outcome: "unknown" }));
      return;
    }
    this.after(delayUs, () => {
      const answer = this.apply(revision, record);
      this.after(delayUs, () => host.run(() => done(answer)));
    });
  }

  private apply(revision: number, record: OwnedRecord): RecordSwap {
    if (revision !== this.entry.revision) return { outcome: "conflict", found: this.entry };
    this.entry = { record, revision: revision + 1 };
    this.onChange?.();
    return { outcome: "applied", revision: revision + 1 };
  }
}

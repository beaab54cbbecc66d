// The medium of a simulated disk with its write cache: what outlives a process, and of which some
// outlives a power cut. Disks (SimDisk) open it one after the other.
//
// `view` is what readers see, `history.durable` what survives anything; they differ by the writes
// that are not durable yet. What a test does to the medium itself (rot, rollback, a plain write)
// happens to both.

import { assert, type Prng } from "../../base/index.ts";
import { applyChoice, type CrashChoice } from "./crash-choice.ts";
import {
  applyFragment,
  BLOCK_BYTES,
  BlockStore,
  type Fragment,
  UNWRITTEN_GARBAGE,
  UNWRITTEN_ZERO,
} from "./sim-blocks.ts";
import { SimTrace } from "./sim-trace.ts";
import {
  type OperationKind,
  type PendingFragment,
  type Persist,
  WriteHistory,
} from "./write-history.ts";

export interface SimMediaOptions {
  readonly capacityBytes: number;
  /** A completed write is durable only after a sync, unless it was durable itself. */
  readonly volatileCache?: boolean;
  /** What a block holds that was never written: a new disk's zeroes, or a used disk's bytes. */
  readonly unwritten?: "zero" | "garbage";
}

/** A copy of everything durable, for a rollback. */
export interface MediaSnapshot {
  readonly store: BlockStore;
}

export class SimMedia {
  readonly capacityBytes: number;
  readonly volatileCache: boolean;
  view: BlockStore;
  history: WriteHistory;
  /** Records while set: see startTrace. */
  trace: SimTrace | null = null;
  private lateWrites: Fragment[] = [];
  private holder: unknown = null;
  private nextOperation = 1;

  constructor(options: SimMediaOptions, store: BlockStore | null = null) {
    const { capacityBytes, volatileCache = false, unwritten = "zero" } = options;
    assert(capacityBytes % BLOCK_BYTES === 0, "a medium is whole blocks");
    this.capacityBytes = capacityBytes;
    this.volatileCache = volatileCache;
    const isZero = unwritten === "zero";
    const durable = store ?? new BlockStore(isZero ? UNWRITTEN_ZERO : UNWRITTEN_GARBAGE);
    this.history = new WriteHistory(durable);
    this.view = durable.fork();
  }

  /** A medium with this content; takes the store over. */
  static over(
    store: BlockStore,
    like: { readonly capacityBytes: number; readonly volatileCache: boolean },
  ): SimMedia {
    const { capacityBytes, volatileCache } = like;
    return new SimMedia({ capacityBytes, volatileCache }, store);
  }

  /** Begins a trace; everything must be durable. */
  startTrace(): SimTrace {
    this.trace = new SimTrace(this);
    return this.trace;
  }

  // What a device does: for SimDisk.

  submit(
    kind: OperationKind,
    range: { readonly offsetBytes: number; readonly bytes: number },
    durable: boolean,
    isLie: boolean,
  ): number {
    const operation = this.nextOperation;
    this.nextOperation += 1;
    const honest: Persist = durable || !this.volatileCache ? "complete" : "sync";
    const persist = isLie ? "never" : honest;
    const { offsetBytes, bytes } = range;
    this.history.submit(operation, kind, persist);
    this.trace?.events.push({
      type: "submit",
      operation,
      kind,
      offsetBytes,
      bytes,
      durable,
      persist,
    });
    return operation;
  }

  data(operation: number, fragment: Fragment): void {
    this.history.data(operation, fragment);
    applyFragment(this.view, fragment);
    this.trace?.events.push({ type: "data", operation, fragment });
  }

  complete(operation: number, result: number): void {
    this.history.complete(operation, result);
    this.trace?.events.push({ type: "complete", operation, result });
  }

  // What befalls a device.

  /** Everything that is not durable meets the choice; readers see what is left. */
  powerCut(choose: (pending: readonly PendingFragment[]) => CrashChoice): CrashChoice {
    const { durable, pending } = this.history;
    const choice = choose(pending);
    applyChoice(durable, pending, choice);
    this.become(durable);
    return choice;
  }

  private become(store: BlockStore): void {
    this.history = new WriteHistory(store);
    this.view = store.fork();
    this.trace = null;
  }

  snapshot(): MediaSnapshot {
    return { store: this.history.durable.fork() };
  }

  /** The whole disk is as it was: what a restored image or a disk array may do. */
  restore(snapshot: MediaSnapshot): void {
    assert(this.history.pending.length === 0, "a rollback amid writes");
    this.become(snapshot.store.fork());
  }

  /** Turns one bit: `bit` of the byte at `offsetBytes`. */
  flipBit(offsetBytes: number, bit: number): void {
    this.damage(offsetBytes, 1, (data) => {
      data[0] ^= 1 << bit;
    });
  }

  /** Replaces the range by random bytes, no byte as it was. */
  corrupt(offsetBytes: number, bytes: number, prng: Prng): void {
    const change = Uint8Array.from({ length: bytes }, () => prng.between(1, 255));
    this.damage(offsetBytes, bytes, (data) => {
      for (let index = 0; index < bytes; index++) data[index] ^= change[index];
    });
  }

  private damage(offsetBytes: number, bytes: number, change: (data: Uint8Array) => void): void {
    assert(offsetBytes >= 0 && offsetBytes + bytes <= this.capacityBytes, "damage off the medium");
    for (const store of [this.view, this.history.durable]) {
      const data = store.read(offsetBytes, bytes);
      change(data);
      store.write(offsetBytes, data);
    }
  }

  /** What a reader would see now. */
  read(offsetBytes: number, bytes: number): Uint8Array {
    assert(offsetBytes >= 0 && offsetBytes + bytes <= this.capacityBytes, "a read off the medium");
    return this.view.read(offsetBytes, bytes);
  }

  /** Writes past all caches, durable at once, as a tool or a tamperer would. */
  write(offsetBytes: number, data: Uint8Array): void {
    this.damage(offsetBytes, data.length, (old) => old.set(data));
  }

  // The writes of a dead process that the kernel still has, and the lock that waits for them.

  get lateWritesPending(): number {
    return this.lateWrites.length;
  }

  addLateWrite(fragment: Fragment): void {
    this.lateWrites.push(fragment);
  }

  /** Lets up to `count` of them, oldest first, happen now. */
  landLateWrites(count: number = this.lateWrites.length): void {
    for (const fragment of this.lateWrites.splice(0, count)) {
      applyFragment(this.history.durable, fragment);
      applyFragment(this.view, fragment);
    }
  }

  dropLateWrites(): void {
    this.lateWrites = [];
  }

  get isHeld(): boolean {
    return this.holder !== null;
  }

  /** Takes the lock that belongs to an open file: it comes when the last late write has landed. */
  openExclusive(holder: unknown): void {
    assert(this.holder === null, "the medium is held by another disk");
    this.landLateWrites();
    this.holder = holder;
  }

  /** Does nothing when `holder` does not hold it. */
  release(holder: unknown): void {
    if (this.holder === holder) this.holder = null;
  }
}

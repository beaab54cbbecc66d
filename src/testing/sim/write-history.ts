// Which writes of a device are durable, and which may still be lost: the one account that the
// running disk, the replay of a trace and the enumeration of crash states all keep.
//
// Rules:
//  - a write's bytes reach the device in one or more fragments, in an order of their own ("data
//    order"); that is the order in which readers see them;
//  - a write becomes durable when it completes ("complete"), or when a sync completes that was
//    submitted after the write had completed ("sync"), or never (a device that lies);
//  - what a failed sync covered is never made durable by a later one: after such a failure nothing
//    is known;
//  - until then a fragment may survive a crash or not, whole or torn, and of two that overlap either
//    may win. But what completed does not come back over what is durable and was later in data
//    order; only a write that is in flight may.

import { assert } from "../../base/index.ts";
import { applyFragment, type BlockStore, type Fragment } from "./sim-blocks.ts";

export type OperationKind = "read" | "write" | "sync" | "deallocate";
export type Persist = "complete" | "sync" | "never";

interface Operation {
  readonly kind: OperationKind;
  persist: Persist;
  isComplete: boolean;
  /** Of a write: its place among completions. Of a sync: completions it covers. */
  mark: number;
}

/** A fragment that is not durable. */
export interface PendingFragment {
  readonly operation: number;
  readonly fragment: Fragment;
  /** By block: sectors that could land at a crash. */
  readonly masks: Uint8Array;
  /** Sectors that are durable in a later version, once this write has completed. */
  superseded: Uint8Array | null;
  readonly isInFlight: boolean;
}

type MutablePending = PendingFragment & { isInFlight: boolean };

export class WriteHistory {
  /** What survives any crash. */
  readonly durable: BlockStore;
  private readonly operations: Map<number, Operation> = new Map();
  /** In data order. */
  private list: MutablePending[] = [];
  private completions = 0;
  /** Grows whenever a crash could leave less than before: see crashPoints. */
  version = 0;

  constructor(durable: BlockStore) {
    this.durable = durable;
  }

  /** What may survive, in data order. */
  get pending(): readonly PendingFragment[] {
    return this.list;
  }

  /** Operations without a completion. */
  get inFlightCount(): number {
    let count = 0;
    for (const operation of this.operations.values()) if (!operation.isComplete) count += 1;
    return count;
  }

  submit(id: number, kind: OperationKind, persist: Persist): void {
    this.operations.set(id, { kind, persist, isComplete: false, mark: this.completions });
  }

  data(id: number, fragment: Fragment): void {
    assert(this.operations.get(id)?.isComplete === false, "data of no write in flight");
    const masks = fragment.masks.slice();
    this.list.push({ operation: id, fragment, masks, superseded: null, isInFlight: true });
  }

  complete(id: number, result: number): void {
    const operation = this.operations.get(id);
    assert(operation !== undefined && !operation.isComplete, "completion of nothing in flight");
    operation.isComplete = true;
    if (operation.kind === "sync") {
      this.operations.delete(id);
      // A sync that lies says 0 and does nothing.
      if (operation.persist !== "never") this.completeSync(operation.mark, result);
    } else if (operation.kind === "read") {
      this.operations.delete(id);
    } else {
      this.completions += 1;
      operation.mark = this.completions;
      this.settle(id);
      // A write that failed has left what it has left: that is on the medium all the same.
      if (operation.persist === "complete") this.persist((one) => one.operation === id);
      if (!this.list.some((one) => one.operation === id)) this.operations.delete(id);
    }
  }

  /** From now on the write's place in data order is final: no retry brings it back. */
  private settle(id: number): void {
    for (const one of this.list) {
      if (one.operation !== id) continue;
      one.isInFlight = false;
      if (one.superseded === null) continue;
      subtract(one.masks, one.superseded);
      one.superseded = null;
      this.version += 1;
    }
  }

  private completeSync(covered: number, result: number): void {
    const isCovered = (one: PendingFragment): boolean => {
      const operation = this.operations.get(one.operation) as Operation;
      return operation.isComplete && operation.mark <= covered && operation.persist === "sync";
    };
    if (result >= 0) {
      this.persist(isCovered);
      return;
    }
    const failed = this.list.filter(isCovered);
    for (const one of failed) (this.operations.get(one.operation) as Operation).persist = "never";
  }

  private persist(isChosen: (one: PendingFragment) => boolean): void {
    const kept: MutablePending[] = [];
    for (const one of this.list) {
      if (!isChosen(one)) {
        kept.push(one);
        continue;
      }
      applyFragment(this.durable, one.fragment, one.masks);
      for (const earlier of kept) supersede(earlier, one);
    }
    if (kept.length === this.list.length) return;
    this.version += 1;
    const open = new Set(kept.map((one) => one.operation));
    for (const { operation } of this.list) {
      if (!open.has(operation) && this.operations.get(operation)?.isComplete === true) {
        this.operations.delete(operation);
      }
    }
    this.list = kept;
  }
}

/** `later` is durable: what `earlier` has at the same places is history. */
function supersede(earlier: PendingFragment, later: PendingFragment): void {
  const shift = later.fragment.firstBlock - earlier.fragment.firstBlock;
  const first = Math.max(0, shift);
  const last = Math.min(earlier.masks.length, later.masks.length + shift);
  for (let index = first; index < last; index++) {
    const mask = later.masks[index - shift];
    if (earlier.isInFlight) {
      earlier.superseded ??= new Uint8Array(earlier.masks.length);
      earlier.superseded[index] |= mask;
    } else {
      earlier.masks[index] &= ~mask;
    }
  }
}

function subtract(masks: Uint8Array, taken: Uint8Array): void {
  for (let index = 0; index < masks.length; index++) masks[index] &= ~taken[index];
}

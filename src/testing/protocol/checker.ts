// An explicit-state checker: visits every state that a model can reach, breadth first, so that the
// first state it finds broken is reached by the fewest steps.
//
// A state is a fixed number of bytes. Before it is stored it is made canonical by the model (states
// that differ only in names are one). All states stay in memory, compared byte by byte: nothing is
// taken for visited because two hashes agree.
//
// A trace is found by running the model again without making states canonical, so that names stay
// the same from its first sentence to its last.

import { assert } from "../../base/index.ts";

/** Given a successor: its bytes, which are the model's to reuse, and the step that led there. */
export type Visit = (next: Uint8Array, action: number) => void;

export interface CheckedModel {
  /** A multiple of 4. */
  readonly stateByteCount: number;
  initial(): Uint8Array;
  /** Visits every state that one step leads to. */
  successors(state: Uint8Array, visit: Visit): void;
  /** Rewrites the state to the one that stands for all states like it. */
  canonicalise(state: Uint8Array): void;
  /** What is wrong with the state; null = nothing. */
  violation(state: Uint8Array): string | null;
  /** Which kind of step an action is: steps are counted by it. */
  kindOf(action: number): string;
  /** The step as a sentence. */
  sentence(before: Uint8Array, action: number, after: Uint8Array): string;
}

export interface CheckResult {
  readonly stateCount: number;
  readonly stepCount: number;
  /** Steps from the first state to the farthest. */
  readonly depth: number;
  /** True when no state was left out. */
  readonly isComplete: boolean;
  readonly stepsByKind: ReadonlyMap<string, number>;
  readonly violation: string | null;
  /** The shortest way to the violation. */
  readonly trace: readonly string[];
}

const CHUNK_STATES = 1 << 14;

/** Visited states, in the order in which they were found. */
class StateStore {
  count = 0;
  private readonly byteCount: number;
  private readonly wordCount: number;
  private readonly chunks: Uint8Array[] = [];
  private readonly chunkWords: Uint32Array[] = [];
  private parents = new Int32Array(CHUNK_STATES);
  private table = new Int32Array(1 << 16).fill(-1);
  private readonly probe: Uint32Array;
  private readonly probeBytes: Uint8Array;

  constructor(byteCount: number) {
    assert(byteCount > 0 && byteCount % 4 === 0, "a state is a whole number of words");
    this.byteCount = byteCount;
    this.wordCount = byteCount / 4;
    this.probe = new Uint32Array(this.wordCount);
    this.probeBytes = new Uint8Array(this.probe.buffer);
  }

  /** The new state's index; -1 when it was there. */
  add(state: Uint8Array, parent: number): number {
    this.probeBytes.set(state);
    if (this.count * 2 >= this.table.length) this.grow();
    const mask = this.table.length - 1;
    let at = hashOf(this.probe) & mask;
    for (let index = this.table[at]; index !== -1; index = this.table[at]) {
      if (this.holds(index)) return -1;
      at = (at + 1) & mask;
    }
    const index = this.count;
    this.table[at] = index;
    this.append(parent);
    return index;
  }

  private append(parent: number): void {
    const index = this.count;
    if (index % CHUNK_STATES === 0) {
      const words = new Uint32Array(CHUNK_STATES * this.wordCount);
      this.chunkWords.push(words);
      this.chunks.push(new Uint8Array(words.buffer));
    }
    if (index === this.parents.length) {
      const longer = new Int32Array(index * 2);
      longer.set(this.parents);
      this.parents = longer;
    }
    this.parents[index] = parent;
    this.chunkWords.at(-1)?.set(this.probe, (index % CHUNK_STATES) * this.wordCount);
    this.count += 1;
  }

  private holds(index: number): boolean {
    const words = this.chunkWords[Math.floor(index / CHUNK_STATES)];
    const start = (index % CHUNK_STATES) * this.wordCount;
    for (let word = 0; word < this.wordCount; word++) {
      if (words[start + word] !== this.probe[word]) return false;
    }
    return true;
  }

  private grow(): void {
    const table = new Int32Array(this.table.length * 4).fill(-1);
    const mask = table.length - 1;
    for (let index = 0; index < this.count; index++) {
      const words = this.chunkWords[Math.floor(index / CHUNK_STATES)];
      const start = (index % CHUNK_STATES) * this.wordCount;
      let at = hashOf(words.subarray(start, start + this.wordCount)) & mask;
      while (table[at] !== -1) at = (at + 1) & mask;
      table[at] = index;
    }
    this.table = table;
  }

  read(index: number, into: Uint8Array): void {
    const start = (index % CHUNK_STATES) * this.byteCount;
    const chunk = this.chunks[Math.floor(index / CHUNK_STATES)];
    for (let at = 0; at < this.byteCount; at++) into[at] = chunk[start + at];
  }

  parentOf(index: number): number {
    return this.parents[index];
  }
}

function hashOf(words: Uint32Array): number {
  let hash = 0x811c9dc5;
  for (let at = 0; at < words.length; at++) {
    hash = Math.imul(hash ^ words[at], 0x85ebca6b);
    hash ^= hash >>> 15;
  }
  hash = Math.imul(hash, 0xc2b2ae35);
  return (hash ^ (hash >>> 13)) >>> 0;
}

export class Checker {
  private readonly model: CheckedModel;
  private readonly store: StateStore;
  private readonly stepsByKind = new Map<string, number>();
  private stepCount = 0;
  private violation: string | null = null;
  private brokenIndex = -1;

  constructor(model: CheckedModel) {
    this.model = model;
    this.store = new StateStore(model.stateByteCount);
  }

  /** Stops at the first violation, and after `statesMax` states. */
  run(statesMax = 20_000_000): CheckResult {
    const { model, store } = this;
    const canonical = new Uint8Array(model.stateByteCount);
    const state = new Uint8Array(model.stateByteCount);
    this.found(model.initial(), -1, canonical);
    const stepsByAction = new Map<number, number>();
    let from = 0;
    let depth = 0;
    let levelEnd = store.count;
    const visit: Visit = (next, action) => {
      this.stepCount += 1;
      stepsByAction.set(action, (stepsByAction.get(action) ?? 0) + 1);
      if (this.violation === null) this.found(next, from, canonical);
    };
    while (from < store.count && this.violation === null && store.count < statesMax) {
      store.read(from, state);
      model.successors(state, visit);
      from += 1;
      if (from === levelEnd && store.count > levelEnd) {
        depth += 1;
        levelEnd = store.count;
      }
    }
    for (const [action, count] of stepsByAction) {
      const kind = model.kindOf(action);
      this.stepsByKind.set(kind, (this.stepsByKind.get(kind) ?? 0) + count);
    }
    return {
      stateCount: store.count,
      stepCount: this.stepCount,
      depth,
      isComplete: from === store.count && this.violation === null,
      stepsByKind: this.stepsByKind,
      violation: this.violation,
      trace: this.violation === null ? [] : this.traceTo(this.brokenIndex),
    };
  }

  private found(state: Uint8Array, parent: number, canonical: Uint8Array): void {
    canonical.set(state);
    this.model.canonicalise(canonical);
    const index = this.store.add(canonical, parent);
    if (index === -1) return;
    this.violation = this.model.violation(canonical);
    if (this.violation !== null) this.brokenIndex = index;
  }

  private traceTo(index: number): string[] {
    const path: number[] = [];
    for (let at = index; at !== -1; at = this.store.parentOf(at)) path.push(at);
    path.reverse();
    const { model } = this;
    const wanted = new Uint8Array(model.stateByteCount);
    const canonical = new Uint8Array(model.stateByteCount);
    let state = model.initial();
    const sentences: string[] = [];
    for (const step of path.slice(1)) {
      this.store.read(step, wanted);
      let reached: Uint8Array | null = null;
      model.successors(state, (next, action) => {
        if (reached !== null) return;
        canonical.set(next);
        model.canonicalise(canonical);
        if (!canonical.every((byte, at) => byte === wanted[at])) return;
        reached = next.slice();
        sentences.push(model.sentence(state, action, reached));
      });
      assert(reached !== null, "a step of the trace can be taken again");
      state = reached;
    }
    return sentences;
  }
}

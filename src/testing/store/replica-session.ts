// An owner of one replica in the simulator: fences it, writes to it in bursts, tells it what is
// committed, writes whole slabs, hands over to a successor with writes on their way. Everything is
// told to the model.
//
// Invariant: once a successor's fence was answered, no write of the predecessor ends well.

import type { Prng } from "../../base/index.ts";
import { ENOSPC, ESTALE } from "../../base/index.ts";
import type { StoreReplica } from "../../chunk/index.ts";
import {
  type Arena,
  type FenceAnswer,
  REPLICA_WRITE,
  REPLICA_ZERO,
  type ReplicaFailure,
  type ReplicaHandler,
} from "../../ports/index.ts";
import { type ModelWrite, type ReplicaModel, stampOf } from "./replica-model.ts";
import type { SimStore } from "./sim-store.ts";

export const REPLICA_UUID = "44444444-2222-3333-4444-555555555555";
const BLOCK = 4096;
const SLAB_BLOCKS = 16;
const STATES_DATA = 0x55555555;

interface Started {
  readonly write: ModelWrite;
  readonly sequence: number;
  readonly arena: Arena | null;
}

export function isFailure(answer: FenceAnswer | ReplicaFailure): answer is ReplicaFailure {
  return "code" in answer;
}

export class ReplicaSession implements ReplicaHandler {
  readonly replica: StoreReplica;
  epoch = 0;
  /** A successor has been let in. */
  isOver = false;
  private readonly store: SimStore;
  private readonly model: ReplicaModel;
  private readonly prng: Prng;
  private readonly blockCount: number;
  private readonly changed: () => void;
  private readonly started: Map<number, Started> = new Map();
  /** Whole slabs on their way: nothing else may touch them. */
  private readonly slabs: Set<number> = new Set();
  /** What the store has told us. */
  private fencedBy = 0;
  private nextTag = 1;
  private sequence = 0;
  /** Sequences that have not ended well, oldest first. */
  private open: number[] = [];

  constructor(
    store: SimStore,
    model: ReplicaModel,
    prng: Prng,
    sizeBytes: number,
    changed: () => void,
  ) {
    this.store = store;
    this.model = model;
    this.prng = prng;
    this.blockCount = sizeBytes / BLOCK;
    this.changed = changed;
    this.replica = store.store.openReplica(REPLICA_UUID, { name: "sim", handler: this });
  }

  get inflightCount(): number {
    return this.started.size + this.slabs.size;
  }

  fence(epoch: number, done: (answer: FenceAnswer | ReplicaFailure) => void): void {
    this.model.epochAsked = Math.max(this.model.epochAsked, epoch);
    this.replica.fence(epoch, (answer) => {
      if (!isFailure(answer)) {
        this.epoch = epoch;
        this.model.epochAnswered = Math.max(this.model.epochAnswered, epoch);
        this.changed();
      }
      done(answer);
    });
  }

  /** Fences, and waits for it. */
  enter(epoch: number): FenceAnswer {
    let answer: FenceAnswer | ReplicaFailure | null = null;
    this.fence(epoch, (given) => {
      answer = given;
    });
    this.store.scheduler.runUntil(() => answer !== null, "a fence");
    const given = answer as unknown as FenceAnswer | ReplicaFailure;
    if (isFailure(given)) throw new Error(`fence by ${epoch}: ${given.code}: ${given.message}`);
    return given;
  }

  /** Starts one random thing. */
  step(): void {
    const { prng } = this;
    const kind = prng.below(100);
    if (kind < 80) this.write();
    else if (kind < 90) this.commit();
    else this.writeSlab();
  }

  private write(): void {
    const { prng, blockCount } = this;
    const shape = prng.below(10);
    let firstBlock = prng.below(blockCount);
    let count = 1;
    if (shape >= 4 && shape < 7) count = prng.between(1, 12);
    else if (shape === 7) count = prng.between(8, 30);
    else if (shape > 7) {
      firstBlock -= firstBlock % SLAB_BLOCKS;
      count = SLAB_BLOCKS * prng.between(1, 2);
    }
    count = Math.min(count, blockCount - firstBlock);
    const first = Math.floor(firstBlock / SLAB_BLOCKS);
    const last = Math.floor((firstBlock + count - 1) / SLAB_BLOCKS);
    for (let slab = first; slab <= last; slab++) if (this.slabs.has(slab)) return;
    const isZero = prng.chance(0.2);
    this.sequence += 1;
    const stamp = stampOf(this.epoch, this.sequence);
    const { write, data } = this.model.startWrite(stamp, firstBlock, count, isZero);
    const arena = data === null ? null : this.store.memory.allocate(data.length);
    if (data !== null && arena !== null) arena.u8.set(data);
    const tag = this.nextTag;
    this.nextTag += 1;
    this.started.set(tag, { write, sequence: this.sequence, arena });
    this.open.push(this.sequence);
    const op = isZero ? REPLICA_ZERO : REPLICA_WRITE;
    const address = arena?.address ?? 0;
    this.replica.write(tag, op, firstBlock, count, address, this.sequence);
  }

  replicaCompleted(tag: number, result: number): void {
    const started = this.started.get(tag);
    if (started === undefined) throw new Error(`write ${tag} ended twice, or never began`);
    this.started.delete(tag);
    if (started.arena !== null) this.store.memory.free(started.arena);
    if (this.isOver && result === 0)
      throw new Error("a write of an older epoch came after a fence");
    const isExpected = result === 0 || result === -ENOSPC || (this.isOver && result === -ESTALE);
    if (!isExpected) throw new Error(`a write ended with ${result}`);
    this.model.endWrite(started.write, result);
    if (result === 0) this.open = this.open.filter((one) => one !== started.sequence);
    this.changed();
  }

  replicaFenced(epoch: number): void {
    this.fencedBy = epoch;
  }

  /** Every member has what ended well here, up to some sequence. */
  private commit(): void {
    const known = this.open.length > 0 ? Math.min(...this.open) - 1 : this.sequence;
    const sequence = known - this.prng.below(3);
    if (sequence <= 0) return;
    this.model.committed = Math.max(this.model.committed, stampOf(this.epoch, sequence));
    this.replica.setCommitted(sequence);
  }

  /** Another replica's slab, older or newer than what is here. */
  private writeSlab(): void {
    const slab = this.prng.below(this.blockCount / SLAB_BLOCKS);
    const isFree = !this.slabs.has(slab) && !Array.from(this.started.values()).some(covers(slab));
    if (!isFree) return;
    // Those of an owner whose epoch nobody else had: no other write ever has such a stamp.
    const stamp = { epoch: this.epoch, sequence: this.prng.between(1, this.sequence + 1) };
    if (this.prng.chance(0.5)) this.sequence = Math.max(this.sequence, stamp.sequence);
    else stamp.sequence = this.sequence += 1;
    const states = this.states();
    const image = this.model.startSlab(slab, stampOf(stamp.epoch, stamp.sequence), states);
    const arena = this.store.memory.allocate(image.data.length);
    arena.u8.set(image.data);
    this.slabs.add(slab);
    const at = { extentIndex: 0, slab };
    this.replica.writeSlab(at, { ...stamp, states }, arena.address, (failure) => {
      this.store.memory.free(arena);
      this.slabs.delete(slab);
      if (this.isOver && failure === null) throw new Error("an old slab write came after a fence");
      const isExpected = failure === null || failure.code === "limit" || this.isOver;
      if (!isExpected) throw new Error(`a slab write ended: ${failure.message}`);
      this.model.endSlab(image, failure === null ? 0 : -ENOSPC);
      this.changed();
    });
  }

  /** All data, or any mixture, or nothing at all. */
  private states(): number {
    const { prng } = this;
    if (prng.chance(0.3)) return STATES_DATA;
    if (prng.chance(0.1)) return 0;
    let states = 0;
    for (let block = 0; block < SLAB_BLOCKS; block++) states |= prng.below(3) << (block * 2);
    return states >>> 0;
  }

  /** A successor fences while our writes are on their way; then nothing of ours may land. */
  handOver(): ReplicaSession {
    const { store, model, prng, blockCount, changed } = this;
    const successor = new ReplicaSession(store, model, prng, blockCount * BLOCK, changed);
    let isAnswered = false;
    const epoch = model.epochAsked + 1;
    successor.fence(epoch, (answer) => {
      if (isFailure(answer)) throw new Error(`a fence was refused: ${answer.message}`);
      if (this.fencedBy !== epoch) throw new Error("a fence was answered and its victim not told");
      this.isOver = true;
      isAnswered = true;
    });
    store.scheduler.runUntil(() => isAnswered, "a fence among writes");
    this.write();
    store.scheduler.runUntil(() => this.inflightCount === 0, "what comes too late");
    this.replica.close();
    return successor;
  }
}

function covers(slab: number): (one: Started) => boolean {
  return ({ write: { firstBlock, blockCount } }) =>
    firstBlock < (slab + 1) * SLAB_BLOCKS && firstBlock + blockCount > slab * SLAB_BLOCKS;
}

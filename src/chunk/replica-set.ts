// The replicas of a disk: opened, fenced, listed, and their slabs read and written whole. What is
// hot about them is in store-replica.ts and replica-writes.ts.
//
// A fence goes step by step; whatever it waits for, a later fence of the same replica ends it:
//
//   refuse older epochs -> writes on their way have ended -> epoch durable -> list slabs -> answer
//
// Invariants: a fence is answered only when no older write can land any more and its epoch
// survives a crash; epoch and metadata version never go back; nothing is answered within the
// call that asks; at most LIST_SLABS, or FENCE_SLABS, slabs are told at a time.

import type {
  Address,
  FenceAnswer,
  MetadataVersion,
  ReplicaFailure,
  SlabImage,
  SlabPage,
} from "../ports/index.ts";
import { RECORD_COMMIT, RECORD_HEAD_BYTES } from "./layouts.ts";
import { putHead } from "./records.ts";
import { type GateHolder, ReplicaGate } from "./replica-gate.ts";
import { ReplicaSlabs } from "./replica-slabs.ts";
import { ReplicaWrites, type ReplicaWritesClient } from "./replica-writes.ts";
import type { FlowVolume, RequestFlow } from "./request-flow.ts";
import { type ScanParts, SlabScans } from "./slab-scan.ts";
import { EPOCH_MAX, epochOf, SEQUENCE_MAX, sequenceOf, stampHigh, stampLow } from "./stamps.ts";
import {
  type ReplicaKeeper,
  type SlabPlace,
  StoreReplica,
  type StoreReplicaOptions,
} from "./store-replica.ts";
import type { VolumeEntry } from "./tables.ts";
import type { VolumeSet } from "./volume-set.ts";

export interface ReplicaSetClient {
  readonly writesFailed: boolean;
  beginWrite(op: number): void;
  takeExtent(volume: FlowVolume, index: number): number;
  /** Call turn() from the loop. */
  turnWanted(): void;
  /** Sees to it that the ring takes commits along before long. */
  commitMoved(): void;
}

interface Fence {
  readonly replica: StoreReplica;
  readonly epoch: number;
  readonly metadata: MetadataVersion | null;
  readonly done: (answer: FenceAnswer | ReplicaFailure) => void;
  /** It waits for the writes on their way. */
  isDraining: boolean;
}

/** A fence's answer fits one message between nodes; the rest is listed. */
const FENCE_SLABS_MAX = 8192;
const LIST_SLABS_MAX = 1024;

export class ReplicaSet implements ReplicaKeeper, ReplicaWritesClient {
  readonly writes: ReplicaWrites;
  readonly scans: SlabScans;
  readonly slabs: ReplicaSlabs;
  private readonly parts: ScanParts;
  private readonly flow: RequestFlow;
  private readonly volumeSet: VolumeSet;
  private readonly client: ReplicaSetClient;
  private readonly gates: Map<number, ReplicaGate> = new Map();
  private readonly fences: Map<ReplicaGate, Fence> = new Map();
  /** Their committed stamps have grown since a group took them along. */
  private readonly commits: ReplicaGate[] = [];
  private answers: (() => void)[] = [];

  constructor(parts: ScanParts, flow: RequestFlow, volumeSet: VolumeSet, client: ReplicaSetClient) {
    this.parts = parts;
    this.flow = flow;
    this.volumeSet = volumeSet;
    this.client = client;
    this.writes = new ReplicaWrites(parts.ops, this, parts.planted.commitAlone);
    this.scans = new SlabScans(parts, () => client.turnWanted());
    this.slabs = new ReplicaSlabs(parts, this, (answer) => this.later(answer));
  }

  /** Throws StoreError when the disk has no such replica. */
  open(uuid: string, options: StoreReplicaOptions): StoreReplica {
    const volume = this.volumeSet.findReplica(uuid);
    let gate = this.gates.get(volume);
    if (gate === undefined) {
      const { epoch, sizeBytes } = this.volumeSet.entryOf(volume);
      const map = this.parts.extents.mapOf(volume, sizeBytes);
      gate = new ReplicaGate({ volume, uuid, epoch, sizeBytes, map }, this.parts.volumes);
      this.gates.set(volume, gate);
    }
    gate.openCount += 1;
    return new StoreReplica(gate, options, this.flow, this.writes, this);
  }

  closed(replica: StoreReplica): void {
    replica.gate.openCount -= 1;
  }

  isOpen(volume: number): boolean {
    const gate = this.gates.get(volume);
    if (gate === undefined) return false;
    const isBusy = gate.openCount > 0 || gate.writeCount > 0 || gate.inflightCount > 0;
    if (isBusy) return true;
    // Whoever comes next finds the volume as it is then, or none.
    this.gates.delete(volume);
    const at = this.commits.indexOf(gate);
    if (at !== -1) this.commits.splice(at, 1);
    return false;
  }

  resized(volume: number, sizeBytes: number): void {
    this.gates.get(volume)?.setCapacity(sizeBytes);
  }

  /** Nothing that was asked for is still to be carried out or answered. */
  get isIdle(): boolean {
    return this.writes.inflightCount === 0 && !this.slabs.isBusy && !this.scans.isBusy;
  }

  // --- the loop --------------------------------------------------------------------------------

  get writesFailed(): boolean {
    return this.client.writesFailed;
  }

  beginWrite(op: number): void {
    this.client.beginWrite(op);
  }

  takeExtent(volume: FlowVolume, index: number): number {
    return this.client.takeExtent(volume, index);
  }

  answersWait(): void {
    this.client.turnWanted();
  }

  commitMoved(gate: ReplicaGate): void {
    this.commits.push(gate);
    this.client.commitMoved();
  }

  private later(answer: () => void): void {
    this.answers.push(answer);
    this.client.turnWanted();
  }

  /** Once per turn: answers are given, long scans go on. */
  turn(): void {
    if (this.writes.hasAnswers) this.writes.deliver();
    if (this.answers.length > 0) for (const answer of this.answers.splice(0)) answer();
    if (this.scans.isWaiting) this.scans.resume();
  }

  /** Operations or room have become free. */
  resume(): void {
    if (this.writes.hasParked) this.writes.resume();
    if (this.slabs.isWaiting) this.slabs.resume();
    if (this.scans.isWaiting) this.scans.resume();
  }

  /**
   * Puts the committed stamps that have grown into the open group. They may lag: what a crash
   * takes from them makes the next fence's list longer, never wrong.
   */
  addCommits(): void {
    const { ring, volumes } = this.parts;
    while (this.commits.length > 0) {
      if (this.writesFailed || !ring.makeRoom(RECORD_HEAD_BYTES, 0)) return;
      const gate = this.commits.pop() as ReplicaGate;
      const at = ring.addRecord(RECORD_HEAD_BYTES);
      putHead(ring.words, at, RECORD_COMMIT, 0, 0, 0, gate.volume, 0, RECORD_HEAD_BYTES);
      ring.words[at + 5] = volumes.committedLow(gate.volume);
      ring.words[at + 6] = volumes.committedHigh(gate.volume);
      gate.isCommitNew = false;
    }
  }

  // --- fences ----------------------------------------------------------------------------------

  fence(
    replica: StoreReplica,
    epoch: number,
    done: (answer: FenceAnswer | ReplicaFailure) => void,
    metadata: MetadataVersion | null,
  ): void {
    const failure = this.fenceRefusal(replica, epoch, metadata);
    if (failure !== null) {
      this.later(() => done(failure));
      return;
    }
    const { gate } = replica;
    this.endFence(gate, epoch);
    const loser = gate.holder;
    gate.epoch = epoch;
    gate.holder = replica;
    replica.epoch = epoch;
    replica.isEntered = false;
    const fence: Fence = { replica, epoch, metadata, done, isDraining: true };
    this.fences.set(gate, fence);
    if (loser !== null && loser !== replica) this.tellLoser(loser, epoch);
    if (gate.writeCount === 0 || this.parts.planted.fenceWithoutDrain) this.persist(fence);
  }

  private fenceRefusal(
    replica: StoreReplica,
    epoch: number,
    metadata: MetadataVersion | null,
  ): ReplicaFailure | null {
    const { gate } = replica;
    if (replica.isClosed) return lost();
    if (!Number.isInteger(epoch) || epoch < 1 || epoch > EPOCH_MAX) {
      return { code: "limit", message: `epoch ${epoch}: the first is 1, the last ${EPOCH_MAX}` };
    }
    if (epoch < gate.epoch) return stale(gate, epoch);
    const entry = this.volumeSet.entryOf(gate.volume);
    return metadata === null ? null : rolledBack(entry, metadata);
  }

  /** Now, not when the fence is answered: an owner in this process counts on no grant for it. */
  private tellLoser(loser: GateHolder, epoch: number): void {
    if (loser.isClosed || loser.epoch >= epoch || this.parts.planted.silentFence) return;
    loser.handler.replicaFenced?.(epoch);
  }

  /** A newer fence has come: the one under way will not be answered as it wished. */
  private endFence(gate: ReplicaGate, epoch: number): void {
    const fence = this.fences.get(gate);
    if (fence === undefined) return;
    this.fences.delete(gate);
    const failure = fence.epoch < epoch ? { ...stale(gate, fence.epoch), epoch } : lost();
    this.later(() => fence.done(failure));
  }

  /** No write to the replica is on its way any more. */
  gateDrained(gate: ReplicaGate): void {
    const fence = this.fences.get(gate);
    if (fence?.isDraining === true) this.persist(fence);
  }

  private persist(fence: Fence): void {
    fence.isDraining = false;
    const { gate } = fence.replica;
    const entry = this.volumeSet.entryOf(gate.volume);
    const change = { epoch: fence.epoch, ...newest(entry, fence.metadata) };
    const { epochInMemory } = this.parts.planted;
    this.volumeSet.update(gate.volume, change, (error) => {
      if (error === null) {
        if (!epochInMemory) this.list(fence);
        return;
      }
      this.answer(fence, { code: "disk", message: error.message });
    });
    if (epochInMemory) this.list(fence);
  }

  private list(fence: Fence): void {
    if (this.fences.get(fence.replica.gate) !== fence) return;
    const { gate } = fence.replica;
    const { volumes } = this.parts;
    const sinceLow = volumes.committedLow(gate.volume);
    const sinceHigh = volumes.committedHigh(gate.volume);
    const options = { gate, sinceLow, sinceHigh, from: 0, slabsMax: FENCE_SLABS_MAX };
    this.scans.start(options, ({ above, uncertain, next }) => {
      const high = volumes.newestHigh(gate.volume);
      this.answer(fence, {
        epoch: epochOf(high),
        sequence: sequenceOf(volumes.newestLow(gate.volume), high),
        committedEpoch: epochOf(sinceHigh),
        committedSequence: sequenceOf(sinceLow, sinceHigh),
        above,
        uncertain,
        ...(next === null ? {} : { cursor: next }),
      });
    });
  }

  private answer(fence: Fence, answer: FenceAnswer | ReplicaFailure): void {
    const { replica } = fence;
    if (this.fences.get(replica.gate) !== fence) return;
    this.fences.delete(replica.gate);
    if (replica.isClosed) {
      this.later(() => fence.done(lost()));
      return;
    }
    if (!("code" in answer)) replica.isEntered = true;
    this.later(() => fence.done(answer));
  }

  // --- lists, slabs ----------------------------------------------------------------------------

  listSlabs(
    replica: StoreReplica,
    since: { readonly epoch: number; readonly sequence: number },
    cursor: number,
    done: (page: SlabPage | ReplicaFailure) => void,
  ): void {
    const isStamp =
      since.epoch >= 0 &&
      since.epoch <= EPOCH_MAX &&
      since.sequence >= 0 &&
      since.sequence <= SEQUENCE_MAX;
    const failure = isStamp
      ? failureOf(replica)
      : ({ code: "limit", message: `stamp ${since.epoch}, ${since.sequence}` } as const);
    if (failure !== null) {
      this.later(() => done(failure));
      return;
    }
    const options = {
      gate: replica.gate,
      sinceLow: stampLow(since.sequence),
      sinceHigh: stampHigh(since.epoch, since.sequence),
      from: Math.max(cursor, 0),
      slabsMax: LIST_SLABS_MAX,
    };
    this.scans.start(options, ({ above, uncertain, next }) => {
      const failed = failureOf(replica);
      if (failed !== null) {
        this.later(() => done(failed));
        return;
      }
      const isAbove = new Set(above.map(({ extentIndex, slab }) => `${extentIndex} ${slab}`));
      const others = uncertain.filter((one) => !isAbove.has(`${one.extentIndex} ${one.slab}`));
      this.later(() => done({ slabs: [...above, ...others], cursor: next }));
    });
  }

  readSlab(
    replica: StoreReplica,
    at: SlabPlace,
    address: Address,
    done: (image: SlabImage | ReplicaFailure) => void,
  ): void {
    const failure = failureOf(replica);
    if (failure !== null) this.later(() => done(failure));
    else this.slabs.read(replica.gate, at, address, (image) => done(failureOf(replica) ?? image));
  }

  writeSlab(
    replica: StoreReplica,
    at: SlabPlace,
    image: SlabImage,
    address: Address,
    done: (failure: ReplicaFailure | null) => void,
  ): void {
    const failure = failureOf(replica);
    if (failure !== null) {
      this.later(() => done(failure));
      return;
    }
    this.slabs.write(replica.gate, at, image, address, (result) =>
      done(replica.isClosed ? lost() : result),
    );
  }
}

function lost(): ReplicaFailure {
  return { code: "lost", message: "the replica was closed, or taken over by another session" };
}

function stale(gate: ReplicaGate, epoch: number): ReplicaFailure {
  const message = `epoch ${epoch}: the replica of ${gate.uuid} has been fenced by ${gate.epoch}`;
  return { code: "stale-epoch", message, epoch: gate.epoch };
}

/** Why nothing of this owner's is let in; null when it is. */
function failureOf(replica: StoreReplica): ReplicaFailure | null {
  const { gate, epoch } = replica;
  if (replica.refusal() === 0) return null;
  return !replica.isClosed && epoch < gate.epoch ? stale(gate, epoch) : lost();
}

function rolledBack(entry: VolumeEntry, metadata: MetadataVersion): ReplicaFailure | null {
  const { clusterGeneration, membershipVersion } = metadata;
  const isOlder =
    clusterGeneration < entry.clusterGeneration ||
    (clusterGeneration === entry.clusterGeneration && membershipVersion < entry.membershipVersion);
  if (!isOlder) return null;
  return {
    code: "rolled-back",
    message:
      `the owner's metadata has generation ${clusterGeneration}, members ${membershipVersion}; ` +
      `this disk has seen ${entry.clusterGeneration}, ${entry.membershipVersion}: ` +
      "it comes from a backup",
  };
}

function newest(
  entry: VolumeEntry,
  metadata: MetadataVersion | null,
): Pick<VolumeEntry, "clusterGeneration" | "membershipVersion"> {
  const { clusterGeneration, membershipVersion } = metadata ?? entry;
  return { clusterGeneration, membershipVersion };
}

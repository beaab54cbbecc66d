// Whole slabs of a replica, read and written as one: for equalising, resync and repair.
//
// A read holds all 16 blocks against writes, so that data, states and stamp belong together. A
// write is a redirect: the slab is as it was, or exactly the image, and whatever was lost or
// damaged in it is gone.
//
// Invariants: slabs that wait for an operation or for an extent are begun in the order they came;
// a slab write counts as a write of its replica, so that a fence waits for it.

import { EBADMSG, EIO, ENOSPC, errnoName } from "../base/index.ts";
import type { Address, ReplicaFailure, SlabImage } from "../ports/index.ts";
import { BLOCK_BYTES, EXTENT_BYTES, EXTENT_SLABS, SLAB_BLOCKS, SLAB_BYTES } from "./layouts.ts";
import { OP_KIND_IMAGE, OP_KIND_SLAB, type OpTable } from "./op-table.ts";
import type { ReplicaGate } from "./replica-gate.ts";
import type { FlowVolume } from "./request-flow.ts";
import { EPOCH_MAX, epochOf, SEQUENCE_MAX, sequenceOf, stampHigh, stampLow } from "./stamps.ts";
import type { SlabPlace } from "./store-replica.ts";
import { EXTENT_NONE } from "./tables.ts";

export interface ReplicaSlabsClient {
  readonly writesFailed: boolean;
  /** Locks first, whatever the operation's kind. */
  beginWrite(op: number): void;
  takeExtent(volume: FlowVolume, index: number): number;
  gateDrained(gate: ReplicaGate): void;
}

interface SlabParts {
  readonly ops: OpTable;
  readonly memory: { fill(to: Address, byte: number, bytes: number): void };
}

type ReadDone = (image: SlabImage | ReplicaFailure) => void;
type WriteDone = (failure: ReplicaFailure | null) => void;

interface SlabJob {
  readonly gate: ReplicaGate;
  readonly at: SlabPlace;
  readonly address: Address;
  /** Null for a read. */
  readonly image: SlabImage | null;
  readonly done: (result: number, image: SlabImage | null) => void;
}

const EMPTY: SlabImage = { epoch: 0, sequence: 0, states: 0 };
/** A state of 3 is no state. */
const STATES_HIGH = 0xaaaaaaaa;

export class ReplicaSlabs {
  private readonly parts: SlabParts;
  private readonly client: ReplicaSlabsClient;
  private readonly later: (answer: () => void) => void;
  private readonly active: Map<number, SlabJob> = new Map();
  private readonly waiting: SlabJob[] = [];
  private resuming = false;

  constructor(parts: SlabParts, client: ReplicaSlabsClient, later: (answer: () => void) => void) {
    this.parts = parts;
    this.client = client;
    this.later = later;
  }

  get isWaiting(): boolean {
    return this.waiting.length > 0;
  }

  get isBusy(): boolean {
    return this.waiting.length > 0 || this.active.size > 0;
  }

  read(gate: ReplicaGate, at: SlabPlace, address: Address, done: ReadDone): void {
    const failure = placeFailure(gate, at);
    if (failure !== null) {
      this.later(() => done(failure));
      return;
    }
    this.start({
      gate,
      at,
      address,
      image: null,
      done: (result, image) => done(image ?? slabFailure(at, result)),
    });
  }

  write(
    gate: ReplicaGate,
    at: SlabPlace,
    image: SlabImage,
    address: Address,
    done: WriteDone,
  ): void {
    const failure = placeFailure(gate, at) ?? imageFailure(image);
    if (failure !== null) {
      this.later(() => done(failure));
      return;
    }
    gate.writeCount += 1;
    const ended = (result: number): void => done(result === 0 ? null : slabFailure(at, result));
    this.start({ gate, at, address, image, done: ended });
  }

  private start(job: SlabJob): void {
    if (this.waiting.length > 0 || !this.begin(job)) this.waiting.push(job);
  }

  resume(): void {
    if (this.resuming) return;
    this.resuming = true;
    while (this.waiting.length > 0 && this.begin(this.waiting[0] as SlabJob)) this.waiting.shift();
    this.resuming = false;
  }

  /** False when the job has to wait. */
  private begin(job: SlabJob): boolean {
    const { ops } = this.parts;
    const { gate, at, image } = job;
    let extent = gate.map[at.extentIndex] as number;
    if (image !== null && this.client.writesFailed) {
      this.end(job, -EIO, null);
      return true;
    }
    if (extent === EXTENT_NONE) {
      const isNothing = image === null || (image.states === 0 && image.epoch === 0);
      if (isNothing) {
        if (image === null) this.parts.memory.fill(job.address, 0, SLAB_BYTES);
        this.end(job, 0, EMPTY);
        return true;
      }
      extent = this.client.takeExtent(gate, at.extentIndex);
      if (extent === EXTENT_NONE) return false;
      if (extent < 0) {
        this.end(job, -ENOSPC, null);
        return true;
      }
    }
    const op = ops.acquire(image === null ? OP_KIND_SLAB : OP_KIND_IMAGE, -1);
    if (op === -1) return false;
    ops.extent[op] = extent;
    ops.slab[op] = at.slab;
    ops.firstBlock[op] = 0;
    ops.blockCount[op] = SLAB_BLOCKS;
    ops.address[op] = job.address;
    if (image !== null) {
      ops.states[op] = image.states;
      ops.stampLow[op] = stampLow(image.sequence);
      ops.stampHigh[op] = stampHigh(image.epoch, image.sequence);
    }
    this.active.set(op, job);
    this.client.beginWrite(op);
    return true;
  }

  /** The operation has ended; it is not released yet. */
  slabDone(op: number, result: number): void {
    const { ops } = this.parts;
    const job = this.active.get(op) as SlabJob;
    this.active.delete(op);
    const low = ops.stampLow[op] as number;
    const high = ops.stampHigh[op] as number;
    if (job.image !== null && result === 0) job.gate.applied(low, high);
    const states = ops.states[op] as number;
    const image = { epoch: epochOf(high), sequence: sequenceOf(low, high), states };
    this.end(job, result, result === 0 ? image : null);
  }

  private end(job: SlabJob, result: number, image: SlabImage | null): void {
    this.later(() => job.done(result, image));
    if (job.image === null) return;
    job.gate.writeCount -= 1;
    if (job.gate.writeCount === 0) this.client.gateDrained(job.gate);
  }
}

function placeFailure(gate: ReplicaGate, { extentIndex, slab }: SlabPlace): ReplicaFailure | null {
  const isSlab = Number.isInteger(slab) && slab >= 0 && slab < EXTENT_SLABS;
  const isExtent = Number.isInteger(extentIndex) && extentIndex >= 0;
  const offsetBytes = extentIndex * EXTENT_BYTES + slab * SLAB_BYTES;
  if (isSlab && isExtent && offsetBytes < gate.info.capacityBytes) return null;
  const blocks = gate.info.capacityBytes / BLOCK_BYTES;
  const message = `extent ${extentIndex} slab ${slab} of a volume of ${blocks} blocks`;
  return { code: "limit", message };
}

function imageFailure({ epoch, sequence, states }: SlabImage): ReplicaFailure | null {
  const isStamp =
    Number.isInteger(epoch) &&
    epoch >= 0 &&
    epoch <= EPOCH_MAX &&
    sequence >= 0 &&
    sequence <= SEQUENCE_MAX;
  const isStates = states >>> 0 === states && (states & (states << 1) & STATES_HIGH) === 0;
  if (isStamp && isStates) return null;
  const message = `an image with stamp ${epoch}, ${sequence} and states ${states}`;
  return { code: "limit", message };
}

function slabFailure({ extentIndex, slab }: SlabPlace, result: number): ReplicaFailure {
  const code = result === -EBADMSG ? "damaged" : result === -ENOSPC ? "limit" : "disk";
  return { code, message: `extent ${extentIndex} slab ${slab}: ${errnoName(result)}` };
}

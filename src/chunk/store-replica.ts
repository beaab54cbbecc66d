// @hot
// A replica of the store as its owner has it: the Replica port on one disk. Any number may have the
// same replica open; the last one to fence may write.
//
// Invariants: nothing is answered within the call; what is begun through a closed replica is
// carried out all the same, and answered with -ENOTCONN.

import { assert, EINVAL, EIO, ENOTCONN, ESTALE } from "../base/index.ts";
import {
  type Address,
  type FenceAnswer,
  type MetadataVersion,
  REPLICA_WRITE,
  REPLICA_ZERO,
  type Replica,
  type ReplicaFailure,
  type ReplicaHandler,
  type SlabImage,
  type SlabPage,
} from "../ports/index.ts";
import { BLOCK_BYTES } from "./layouts.ts";
import type { ReplicaGate } from "./replica-gate.ts";
import type { ReplicaWriter, ReplicaWrites } from "./replica-writes.ts";
import type { RequestFlow } from "./request-flow.ts";
import { SEQUENCE_MAX, stampHigh, stampLow } from "./stamps.ts";

export interface SlabPlace {
  readonly extentIndex: number;
  readonly slab: number;
}

/** The half that is not hot: see ReplicaSet. */
export interface ReplicaKeeper {
  fence(
    replica: StoreReplica,
    epoch: number,
    done: (answer: FenceAnswer | ReplicaFailure) => void,
    metadata: MetadataVersion | null,
  ): void;
  listSlabs(
    replica: StoreReplica,
    since: { readonly epoch: number; readonly sequence: number },
    cursor: number,
    done: (page: SlabPage | ReplicaFailure) => void,
  ): void;
  readSlab(
    replica: StoreReplica,
    at: SlabPlace,
    address: Address,
    done: (image: SlabImage | ReplicaFailure) => void,
  ): void;
  writeSlab(
    replica: StoreReplica,
    at: SlabPlace,
    image: SlabImage,
    address: Address,
    done: (failure: ReplicaFailure | null) => void,
  ): void;
  closed(replica: StoreReplica): void;
  /** The committed stamp has grown: let a group of the ring take it along before long. */
  commitMoved(gate: ReplicaGate): void;
}

export interface StoreReplicaOptions {
  readonly name: string;
  readonly handler: ReplicaHandler;
}

export class StoreReplica implements Replica, ReplicaWriter {
  readonly name: string;
  readonly isLocal = true;
  readonly gate: ReplicaGate;
  readonly handler: ReplicaHandler;
  /** Of its last fence. */
  epoch = 0;
  /** Its fence was answered: writes are let in while the gate's epoch is its own. */
  isEntered = false;
  isClosed = false;
  private readonly flow: RequestFlow;
  private readonly writes: ReplicaWrites;
  private readonly keeper: ReplicaKeeper;

  constructor(
    gate: ReplicaGate,
    options: StoreReplicaOptions,
    flow: RequestFlow,
    writes: ReplicaWrites,
    keeper: ReplicaKeeper,
  ) {
    this.name = options.name;
    this.handler = options.handler;
    this.gate = gate;
    this.flow = flow;
    this.writes = writes;
    this.keeper = keeper;
  }

  /** 0, or why nothing of this owner's is let in. */
  refusal(): number {
    const { gate } = this;
    if (this.isClosed) return -ENOTCONN;
    if (this.epoch < gate.epoch || !this.isEntered) return -ESTALE;
    // Another session of the same epoch has taken over.
    return gate.holder === this ? 0 : -ENOTCONN;
  }

  write(
    tag: number,
    op: number,
    firstBlock: number,
    blockCount: number,
    address: Address,
    sequence: number,
  ): void {
    const { gate, writes } = this;
    let refused = this.refusal();
    if (refused === 0) {
      const isRange =
        firstBlock >= 0 &&
        blockCount > 0 &&
        (firstBlock + blockCount) * BLOCK_BYTES <= gate.info.capacityBytes;
      const isKnown = op === REPLICA_ZERO || (op === REPLICA_WRITE && address !== 0);
      const isStamp = sequence > 0 && sequence <= SEQUENCE_MAX;
      if (!isRange || !isKnown || !isStamp) refused = -EINVAL;
      else if (this.flow.writesFailed) refused = -EIO;
    }
    if (refused !== 0) {
      writes.refuse(this, tag, refused);
      return;
    }
    const low = stampLow(sequence);
    const high = stampHigh(this.epoch, sequence);
    writes.start(this, tag, op, firstBlock, blockCount, address, low, high);
  }

  submitRead(slot: number): void {
    const refused = this.refusal();
    if (refused !== 0) this.flow.requests.complete(slot, refused);
    else this.flow.submit(slot, this.gate);
  }

  setCommitted(sequence: number): void {
    if (this.refusal() !== 0 || sequence <= 0) return;
    const { gate } = this;
    assert(sequence <= SEQUENCE_MAX, "a sequence that cannot be");
    const isNew = gate.commit(stampLow(sequence), stampHigh(this.epoch, sequence));
    if (isNew) this.keeper.commitMoved(gate);
  }

  // @cold
  fence(
    epoch: number,
    done: (answer: FenceAnswer | ReplicaFailure) => void,
    metadata: MetadataVersion | null = null,
  ): void {
    this.keeper.fence(this, epoch, done, metadata);
  }

  // @cold
  listSlabs(
    since: { readonly epoch: number; readonly sequence: number },
    cursor: number,
    done: (page: SlabPage | ReplicaFailure) => void,
  ): void {
    this.keeper.listSlabs(this, since, cursor, done);
  }

  // @cold
  readSlab(
    at: SlabPlace,
    address: Address,
    done: (image: SlabImage | ReplicaFailure) => void,
  ): void {
    this.keeper.readSlab(this, at, address, done);
  }

  // @cold
  writeSlab(
    at: SlabPlace,
    image: SlabImage,
    address: Address,
    done: (failure: ReplicaFailure | null) => void,
  ): void {
    this.keeper.writeSlab(this, at, image, address, done);
  }

  // @cold
  close(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.keeper.closed(this);
  }
}

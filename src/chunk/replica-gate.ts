// @hot
// The gate of a replica: who may write to it. One for each replica of the disk, shared by everybody
// who has it open: the owner in this process, and those who come over the wire.
//
//   fence(epoch) --> older writes refused --> those on their way have ended --> epoch durable
//                                                                                  --> answered
//
// Invariants: `epoch` never goes down; only `holder`, the last to fence, writes, and only once its
// fence was answered; a write counts here from when it was let in until its last part has ended.

import type { ReplicaHandler } from "../ports/index.ts";
import type { FlowVolume } from "./request-flow.ts";
import { grownMap, type VolumeTable } from "./tables.ts";

/** What the gate knows of those who come through it. */
export interface GateHolder {
  readonly epoch: number;
  readonly isClosed: boolean;
  readonly handler: ReplicaHandler;
}

class GateInfo {
  capacityBytes: number;
  readonly readOnly = false;

  constructor(capacityBytes: number) {
    this.capacityBytes = capacityBytes;
  }
}

export interface GateOptions {
  readonly volume: number;
  readonly uuid: string;
  readonly epoch: number;
  readonly sizeBytes: number;
  readonly map: Int32Array;
}

export class ReplicaGate implements FlowVolume {
  readonly volume: number;
  readonly uuid: string;
  readonly info: GateInfo;
  readonly tellsDamage = true;
  map: Int32Array;
  /** The highest that has fenced, answered or not. */
  epoch: number;
  holder: GateHolder | null = null;
  openCount = 0;
  /** Reads on their way. */
  inflightCount = 0;
  /** Writes and slab writes on their way, of whatever epoch. */
  writeCount = 0;
  /** Of no use here: owners give sequences. */
  sequence = 0;
  /** The committed stamp has grown since a group of the ring took it along. */
  isCommitNew = false;
  private readonly volumes: VolumeTable;

  constructor(options: GateOptions, volumes: VolumeTable) {
    this.volume = options.volume;
    this.uuid = options.uuid;
    this.epoch = options.epoch;
    this.map = options.map;
    this.info = new GateInfo(options.sizeBytes);
    this.volumes = volumes;
  }

  /** Everything up to this stamp is durable on every member. True when the ring must hear of it. */
  commit(low: number, high: number): boolean {
    const hasGrown = this.volumes.noteCommitted(this.volume, low, high);
    if (!hasGrown || this.isCommitNew) return false;
    this.isCommitNew = true;
    return true;
  }

  /** A write with this stamp was applied. */
  applied(low: number, high: number): void {
    this.volumes.noteNewest(this.volume, low, high);
  }

  // @cold
  setCapacity(bytes: number): void {
    this.map = grownMap(this.map, bytes);
    this.info.capacityBytes = bytes;
  }
}

// A volume of the simulated cluster as everybody shares it: its record, the one model that checks the
// reads of all its owners, and who answered what when.
//
// Beside the model two promises are checked of the volume as a whole, because a few sectors meet too
// rarely: once a newer owner has answered a write, no read that begins is answered by an older one;
// and no write that begins once a newer owner serves.

import type { RecordEntry, VolumeRecords } from "../../ports/index.ts";
import { ModelVolume, type SimScheduler } from "../sim/index.ts";
import { SimRecordStore } from "../volume/sim-records.ts";
import { diskUuid, type NodeProcess, volumeUuid } from "./cluster-node.ts";

const TIMEOUT_US = 100_000;

export class ClusterFailure extends Error {
  override readonly name = "ClusterFailure";
}

export class ClusterVolume {
  readonly uuid: string;
  readonly members: readonly string[];
  readonly model: ModelVolume = new ModelVolume();
  readonly store: SimRecordStore;
  /** Nodes that do not reach the metadata. */
  readonly cutOff: Set<number>;
  /** The highest epoch that serves, and that has answered a write. */
  servingEpoch = 0;
  writtenEpoch = 0;
  /** How often a swap of a node that is cut off has got through all the same. */
  slipChance = 0.3;
  private readonly world: SimScheduler;

  constructor(
    world: SimScheduler,
    index: number,
    memberNodes: readonly number[],
    cutOff: Set<number>,
  ) {
    this.world = world;
    this.uuid = volumeUuid(index);
    this.members = memberNodes.map(diskUuid);
    this.cutOff = cutOff;
    this.store = new SimRecordStore(world, {
      epoch: 0,
      owner: null,
      state: "clean",
      members: this.members,
      out: [],
      membershipVersion: 1,
      clusterGeneration: 1,
    });
  }

  /** As who plans would: a disk is added, out, or one that is out is taken away. */
  plan(disk: string): "added" | "removed" | null {
    const { record, revision } = this.store.entry;
    const isMember = record.members.includes(disk);
    const isOut = record.out.some((one) => one.disk === disk);
    if (isMember && (!isOut || record.members.length - record.out.length < 1)) return null;
    const sinceStamp = { epoch: 0, sequence: 0 };
    const added = {
      members: [...record.members, disk],
      out: [...record.out, { disk, sinceStamp, reason: "new" }],
    };
    const removed = {
      members: record.members.filter((one) => one !== disk),
      out: record.out.filter((one) => one.disk !== disk),
    };
    const membershipVersion = record.membershipVersion + 1;
    const change = isMember ? removed : added;
    this.store.entry = {
      record: { ...record, ...change, membershipVersion },
      revision: revision + 1,
    };
    return isMember ? "removed" : "added";
  }

  get entry(): RecordEntry {
    return this.store.entry;
  }

  /** The record as one process reaches it. */
  recordsOf(process: NodeProcess): VolumeRecords {
    const { scheduler, memory, reactor } = process;
    const host = {
      name: process.name,
      memory,
      requests: reactor.requests,
      run: (action: () => void) => scheduler.soon(action),
      later: (us: number, action: () => void) =>
        void scheduler.after(us, action, { label: "metadata" }),
    };
    const client = this.store.clientOf(host);
    const isCutOff = (): boolean => this.cutOff.has(process.node);
    return {
      read: (done) => {
        if (isCutOff()) host.later(TIMEOUT_US, () => done(null));
        else client.read(done);
      },
      swap: (revision, record, done) => {
        if (!isCutOff()) {
          client.swap(revision, record, done);
          return;
        }
        // It may have got there before the way was shut.
        if (this.world.prng.chance(this.slipChance)) client.swap(revision, record, () => {});
        host.later(TIMEOUT_US, () => done({ outcome: "unknown" }));
      },
    };
  }

  serves(epoch: number): void {
    this.servingEpoch = Math.max(this.servingEpoch, epoch);
  }

  /** A request begins; the answer is checked against what was true then. */
  begins(): { readonly servingEpoch: number; readonly writtenEpoch: number } {
    const { servingEpoch, writtenEpoch } = this;
    return { servingEpoch, writtenEpoch };
  }

  answered(
    epoch: number,
    isRead: boolean,
    begun: { readonly servingEpoch: number; readonly writtenEpoch: number },
  ): void {
    if (isRead && begun.writtenEpoch > epoch) {
      throw new ClusterFailure(
        `a read of epoch ${epoch} is answered after epoch ${begun.writtenEpoch} wrote`,
      );
    }
    if (isRead) return;
    if (begun.servingEpoch > epoch) {
      throw new ClusterFailure(
        `a write of epoch ${epoch} is answered that began when ${begun.servingEpoch} served`,
      );
    }
    this.writtenEpoch = Math.max(this.writtenEpoch, epoch);
  }
}

// A ClusterPlane without data, on top of FakeDataPlane: replicas are lines in the fake disks' files,
// an owner claims its record through the real VolumeRecordsHost, as the real one does.

import { RingstoreError } from "../../base/error.ts";
import type {
  ClusterBacking,
  ClusterPeer,
  ClusterPlane,
  ClusterStart,
  FrontState,
  ListedReplica,
  OwnerStats,
  PeerStats,
  ResyncPlane,
  StoredReplica,
  VolumeMembers,
  VolumeRecordsHost,
} from "../../ports/cluster-plane.ts";
import type { VolumeSpec } from "../../ports/data-plane.ts";
import type { ReplicaFacts, ReplicaNote } from "../../ports/replica-note.ts";
import type { OwnedRecord } from "../../ports/volume-records.ts";
import { FakeDataPlane } from "./fake-data-plane.ts";
import { type FakeDiskFile, readDiskFile, writeDiskFile } from "./fake-disk-file.ts";

interface Modules {
  readonly records: VolumeRecordsHost;
  readonly ownerChanged: (stats: OwnerStats) => void;
  readonly frontChanged: (state: FrontState) => void;
}

const CLAIM_PAUSE_MS = 20;

export class FakeClusterPlane extends FakeDataPlane implements ClusterPlane {
  started: ClusterStart | null = null;
  peers: readonly ClusterPeer[] = [];
  /** Backings of the volumes that were opened, in order. */
  readonly backings: ClusterBacking[] = [];
  /** As told last, by volume. */
  readonly members: Map<string, VolumeMembers> = new Map();
  readonly owners: Map<string, OwnerStats> = new Map();
  /** Consulted before each replica is made or deleted: throw to fail it. */
  onReplica: (what: "make" | "delete", diskId: string) => void = () => undefined;
  #modules: Modules | null = null;

  get records(): VolumeRecordsHost {
    if (this.#modules === null) throw new Error("the plane is in no cluster");
    return this.#modules.records;
  }

  async startCluster(start: ClusterStart, modules: Modules): Promise<{ readonly port: number }> {
    if (this.started !== null) throw new Error("startCluster twice");
    this.started = start;
    this.#modules = modules;
    return { port: start.listen.port };
  }

  async setPeers(peers: readonly ClusterPeer[]): Promise<void> {
    this.peers = peers;
  }

  #change(
    diskId: string,
    change: (replicas: Record<string, number>, notes: Record<string, ReplicaNote>) => void,
  ): void {
    const spec = this.disks.get(diskId);
    if (spec === undefined) throw new Error(`disk ${diskId} is not open`);
    const disk = readDiskFile(spec.path) as FakeDiskFile;
    disk.replicas ??= {};
    disk.notes ??= {};
    change(disk.replicas, disk.notes);
    writeDiskFile(spec.path, disk);
  }

  async makeReplica(diskId: string, { volumeId, sizeBytes }: StoredReplica): Promise<void> {
    this.onReplica("make", diskId);
    this.#change(diskId, (replicas) => {
      replicas[volumeId] = Math.max(sizeBytes, replicas[volumeId] ?? 0);
    });
  }

  async deleteReplica(diskId: string, volumeId: string): Promise<void> {
    this.onReplica("delete", diskId);
    this.#change(diskId, (replicas, notes) => {
      delete replicas[volumeId];
      delete notes[volumeId];
    });
  }

  async listReplicas(diskId: string): Promise<readonly ListedReplica[]> {
    let all: ListedReplica[] = [];
    this.#change(diskId, (replicas, notes) => {
      all = Object.entries(replicas).map(([volumeId, sizeBytes]) => ({
        volumeId,
        sizeBytes,
        facts: factsOf(notes[volumeId] ?? null),
      }));
    });
    return all;
  }

  async setMembers(volumeId: string, members: VolumeMembers): Promise<void> {
    if (!this.open.has(volumeId)) {
      throw Object.assign(new Error("it is not open"), { code: "VOLUME_NOT_FOUND" });
    }
    this.members.set(volumeId, members);
  }

  /** What is noted stands for what owners leave there too: nobody fences here. */
  async noteReplica(diskId: string, volumeId: string, note: ReplicaNote): Promise<void> {
    this.#change(diskId, (replicas, notes) => {
      if (replicas[volumeId] === undefined) {
        throw new RingstoreError("VOLUME_UNKNOWN", `there is no volume ${volumeId} on this disk`);
      }
      const seen = notes[volumeId];
      const isOlder =
        seen !== undefined &&
        (note.clusterGeneration < seen.clusterGeneration ||
          (note.clusterGeneration === seen.clusterGeneration &&
            (note.membershipVersion < seen.membershipVersion || note.epoch < seen.epoch)));
      if (isOlder) throw new RingstoreError("ROLLED_BACK", "the disk has seen newer metadata");
      notes[volumeId] = note;
    });
  }

  ownerStats(): readonly OwnerStats[] {
    return [...this.owners.values()];
  }

  /** What resyncs may do, as it was set last. */
  resyncLimit: number | null = null;
  readonly resyncs: ResyncPlane = {
    pace: () => {
      if (this.started === null) return null;
      const { resyncLimit: limitBytesPerSecond } = this;
      return { limitBytesPerSecond, bytesPerSecond: limitBytesPerSecond ?? 1000, movedBytes: 0 };
    },
    setLimit: async (bytesPerSecond) => {
      this.resyncLimit = bytesPerSecond;
    },
  };

  peerStats(): readonly PeerStats[] {
    return this.peers.map(({ nodeId }) => ({ nodeId, state: "up", lastFailure: "" }));
  }

  protected override async openOwner(spec: VolumeSpec): Promise<void> {
    const backing = spec.backing as ClusterBacking;
    this.backings.push(backing);
    if (backing.isStandby !== true) await this.#claim(spec.id, backing);
  }

  async #claim(volumeId: string, backing: ClusterBacking): Promise<void> {
    const record = await this.#swapUntilDone(volumeId, (found) => {
      const isHanded = found.state === "handed-over" && found.owner === backing.owner;
      const epoch = found.epoch + (isHanded ? 0 : 1);
      return { ...found, epoch, owner: backing.owner, state: "open" };
    });
    this.tell(this.#statsOf(volumeId, record, backing));
  }

  async takeVolume(volumeId: string, backing: ClusterBacking): Promise<void> {
    this.calls.push(`takeVolume ${this.open.get(volumeId)?.spec.name}`);
    await this.#claim(volumeId, backing);
  }

  async handOverVolume(volumeId: string, to: string): Promise<void> {
    this.calls.push(`handOverVolume ${this.open.get(volumeId)?.spec.name}`);
    await this.#swapUntilDone(volumeId, (found) => ({
      ...found,
      epoch: found.epoch + 1,
      owner: to,
      state: "handed-over",
    }));
    const owner = this.owners.get(volumeId);
    if (owner !== undefined) this.tell({ ...owner, state: "standby" });
  }

  async cutWaiting(volumeId: string): Promise<void> {
    this.calls.push(`cutWaiting ${this.open.get(volumeId)?.spec.name}`);
  }

  /** As if a guest's front end had begun or ceased to run its rings, or waited to. */
  tellFront(state: FrontState): void {
    this.#modules?.frontChanged(state);
  }

  #statsOf(volumeId: string, record: OwnedRecord, { members }: ClusterBacking): OwnerStats {
    return {
      volumeId,
      state: "serving",
      epoch: record.epoch,
      members: members.map((place) => ({
        place,
        state: record.out.some(({ disk }) => disk === place.diskId) ? "out" : "in-sync",
        isConnected: true,
      })),
      resync: null,
      equalisedCount: 0,
      repairedCount: 0,
    };
  }

  /** What the real plane does when an owner's stats change. */
  tell(stats: OwnerStats): void {
    this.owners.set(stats.volumeId, stats);
    this.#modules?.ownerChanged(stats);
  }

  /** The owner puts a member out. */
  async putOut(volumeId: string, disk: string, reason: string): Promise<void> {
    const sinceStamp = { epoch: 1, sequence: 1 };
    const record = await this.#swapUntilDone(volumeId, (found) => ({
      ...found,
      out: [...found.out, { disk, sinceStamp, reason }],
      membershipVersion: found.membershipVersion + 1,
    }));
    const backing = this.open.get(volumeId)?.spec.backing as ClusterBacking;
    this.tell(this.#statsOf(volumeId, record, backing));
  }

  /** The owner takes a member in. */
  async takeIn(volumeId: string, disk: string): Promise<void> {
    await this.#swapUntilDone(volumeId, (found) => ({
      ...found,
      out: found.out.filter((one) => one.disk !== disk),
      membershipVersion: found.membershipVersion + 1,
    }));
  }

  async surrenderVolume(volumeId: string): Promise<void> {
    this.calls.push(`surrenderVolume ${this.open.get(volumeId)?.spec.name}`);
    await this.#swapUntilDone(volumeId, (found) => ({ ...found, state: "clean" }));
    this.owners.delete(volumeId);
  }

  override async closeVolume(volumeId: string): Promise<void> {
    await super.closeVolume(volumeId);
    this.owners.delete(volumeId);
  }

  async #swapUntilDone(
    volumeId: string,
    make: (record: OwnedRecord) => OwnedRecord,
  ): Promise<OwnedRecord> {
    for (let attempt = 0; attempt < 200; attempt += 1) {
      const entry = await this.records.read(volumeId);
      if (entry !== null) {
        const wanted = make(entry.record);
        const answer = await this.records.swap(volumeId, entry.revision, wanted);
        if (answer.outcome === "applied") return wanted;
      }
      await new Promise((resolve) => setTimeout(resolve, CLAIM_PAUSE_MS));
    }
    throw new Error(`the record of ${volumeId} cannot be swapped`);
  }
}

const NEVER = { epoch: 0, sequence: 0 };

function factsOf(note: ReplicaNote | null): ReplicaFacts {
  if (note === null) {
    const nothing = { epoch: 0, membershipVersion: 0, clusterGeneration: 0, note };
    return { ...nothing, committed: NEVER, newest: NEVER };
  }
  const { epoch, membershipVersion, clusterGeneration } = note;
  const newest = { epoch, sequence: epoch };
  const { epoch: _, clusterGeneration: __, ...stored } = note;
  const seen = { epoch, membershipVersion, clusterGeneration };
  return { ...seen, committed: NEVER, newest, note: stored };
}

// The half of the data plane that is the cluster's: asked of the part that knows the first reactor
// (plane-cluster.ts), unless the plane is stopping; where its iSCSI targets are, and the places of
// units that are still to come.

import type { ElsewhereTarget, TargetPath } from "../ports/classic-plane.ts";
import type {
  ClusterBacking,
  ClusterPeer,
  ClusterPlane,
  ClusterStart,
  ListedReplica,
  OwnerStats,
  PeerStats,
  ResyncPlane,
  StoredReplica,
  VolumeMembers,
} from "../ports/cluster-plane.ts";
import type { ReplicaNote } from "../ports/replica-note.ts";
import type { ReservationRecord } from "../ports/reservation-record.ts";
import type { HeldUnitSpec, PlacementGroup } from "../ports/scsi-plane.ts";
import type { PlaneClassic } from "./plane-classic.ts";
import type { ClusterModules, PlaneCluster } from "./plane-cluster.ts";
import type { PlaneScsi } from "./plane-scsi.ts";
import type { ReactorThread } from "./reactor-thread.ts";

export abstract class PlaneClusterHalf implements ClusterPlane {
  protected abstract readonly cluster: PlaneCluster;
  protected abstract readonly classic: PlaneClassic;
  protected abstract readonly scsi: PlaneScsi;
  /** Where a controller is, or is to begin. */
  protected abstract placeOf(controller: string): ReactorThread;
  /** Throws when the plane is stopping. */
  protected abstract requireRunning(): void;
  /** Throws when it is stopping, or the volume is not open. */
  protected abstract requireOpen(volumeId: string): void;

  private get running(): PlaneCluster {
    this.requireRunning();
    return this.cluster;
  }

  async startCluster(
    start: ClusterStart,
    modules: ClusterModules,
  ): Promise<{ readonly port: number }> {
    return await this.running.start(start, modules);
  }

  async setPeers(peers: readonly ClusterPeer[]): Promise<void> {
    await this.running.setPeers(peers);
  }

  async makeReplica(diskId: string, replica: StoredReplica): Promise<void> {
    await this.running.makeReplica(diskId, replica);
  }

  async deleteReplica(diskId: string, volumeId: string): Promise<void> {
    await this.running.deleteReplica(diskId, volumeId);
  }

  async listReplicas(diskId: string): Promise<readonly ListedReplica[]> {
    return await this.running.listReplicas(diskId);
  }

  async noteReplica(diskId: string, volumeId: string, note: ReplicaNote): Promise<void> {
    await this.running.noteReplica(diskId, volumeId, note);
  }

  async setMembers(volumeId: string, members: VolumeMembers): Promise<void> {
    await this.running.setMembers(volumeId, members);
  }

  ownerStats(): readonly OwnerStats[] {
    return this.cluster.ownerStats();
  }

  peerStats(): readonly PeerStats[] {
    return this.cluster.peerStats();
  }

  get resyncs(): ResyncPlane {
    return this.cluster;
  }

  async surrenderVolume(volumeId: string): Promise<void> {
    this.requireOpen(volumeId);
    await this.cluster.surrender(volumeId);
  }

  async takeVolume(volumeId: string, backing: ClusterBacking): Promise<void> {
    this.requireOpen(volumeId);
    await this.cluster.takeVolume(volumeId, backing);
  }

  async handOverVolume(volumeId: string, to: string): Promise<void> {
    await this.cluster.handOver(volumeId, to);
  }

  async cutWaiting(volumeId: string): Promise<void> {
    await this.cluster.cutWaiting(volumeId);
  }

  // Where iSCSI targets are -----------------------------------------------------------------------

  async openPortal(): Promise<string> {
    this.requireRunning();
    return await this.classic.openDoor();
  }

  async leadElsewhere(targets: readonly ElsewhereTarget[]): Promise<void> {
    this.requireRunning();
    await this.classic.leadElsewhere(targets);
  }

  async setPaths(volumeId: string, others: readonly TargetPath[]): Promise<void> {
    this.requireRunning();
    await this.classic.setPaths(volumeId, others);
  }

  async setReservations(volumeId: string, record: ReservationRecord): Promise<void> {
    this.requireRunning();
    await this.classic.setReservations(volumeId, record);
  }

  // Controllers, before their volumes are there ---------------------------------------------------

  placeTogether(groups: readonly PlacementGroup[]): void {
    this.scsi.placeTogether(groups);
  }

  async openController(controller: string): Promise<void> {
    this.requireRunning();
    await this.scsi.open(controller);
  }

  async holdUnit(spec: HeldUnitSpec): Promise<void> {
    this.requireRunning();
    await this.scsi.hold(this.placeOf(spec.controller), spec);
  }

  async dropUnit(volumeId: string): Promise<void> {
    this.requireRunning();
    await this.scsi.drop(volumeId);
  }

  requireNearCluster(controller: string): void {
    this.scsi.requireAtFirst(controller);
  }
}

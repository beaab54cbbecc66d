// The volumes that this reactor owns: each an OwnedVolume over its members, and what is told of
// them to the main thread.
//
//   open --> taking over --> serving --surrender--> surrendered --> forgotten
//               ^               |
//              take         hand over
//               |               v
//   open ----> standby <--------'        rings of front-ends wait meanwhile
//
// Invariants:
//  - the device is there at once; requests wait until the volume serves;
//  - what has changed is told within REPORT_MS, and nothing that is as it was: a volume at rest has
//    no timer and costs a look at a few flags once a second.

import type {
  ClusterBacking,
  FrontState,
  OwnerStats,
  ReadGrants,
  ReplicaPlace,
  ResyncPaceStats,
  ResyncStats,
  TimerHandler,
  VolumeMembers,
  VolumeRecords,
  VolumeSpec,
} from "../ports/index.ts";
import type { Reactor } from "../reactor/index.ts";
import type { VolumeMeter } from "../telemetry/index.ts";
import { FrontGate } from "../vhost-user/index.ts";
import {
  type MemberSession,
  OwnedVolume,
  OwnerBackground,
  type OwnerWorkspace,
  SectorDevice,
  type SectorWorkspace,
} from "../volume/index.ts";
import { ReactorClients } from "./reactor-clients.ts";
import { MemberReplica, type MemberSource } from "./reactor-member.ts";
import { SwitchedDevice } from "./reactor-switch.ts";
import { type MadeDevice, type OwnedDevice, refusal } from "./reactor-volume.ts";

const REPORT_MS = 100;
const TIMER_REPORT = 0;
/** Between two looks whether what a front has submitted has ended. */
const REST_CHECK_MS = 2;

export interface OwnedVolumesModules {
  readonly reactor: Reactor;
  readonly workspace: OwnerWorkspace;
  readonly sectors: () => SectorWorkspace;
  readonly recordsOf: (volumeId: string) => VolumeRecords;
  /** `changed`: whether a session with it is open may have. */
  readonly sourceOf: (volumeId: string, place: ReplicaPlace, changed: () => void) => MemberSource;
  /** The node is this one, or a connection to it is up. */
  readonly canReach: (place: ReplicaPlace) => boolean;
  readonly tell: (stats: OwnerStats) => void;
  readonly tellFront: (state: FrontState) => void;
  readonly tellPace: (pace: ResyncPaceStats) => void;
}

/** Where the members of one volume are, those that are open, and their grants. */
class OwnedMembers implements ReadGrants {
  readonly open: Map<string, MemberReplica> = new Map();
  places: readonly ReplicaPlace[];

  constructor(places: readonly ReplicaPlace[]) {
    this.places = places;
  }

  /** A member that came just now: until we are told where it is, it stays out. */
  placeOf(diskId: string): ReplicaPlace {
    return this.places.find((place) => place.diskId === diskId) ?? { diskId, nodeId: "" };
  }

  grantedUntilUs(disk: string): number {
    const member = this.open.get(disk);
    return member === undefined ? 0 : member.grantedUntilUs;
  }
}

interface Owned {
  readonly spec: VolumeSpec;
  readonly meter: VolumeMeter;
  backing: ClusterBacking;
  members: OwnedMembers;
  volume: OwnedVolume;
  readonly device: SwitchedDevice;
  readonly gate: FrontGate;
  /** Another node has it. */
  isStandby: boolean;
  /** It is being handed over. */
  isLeaving: boolean;
  /** What was told last, as text, and which members had a session then. */
  told: string;
  connectedMask: number;
}

export class OwnedVolumes implements TimerHandler {
  private readonly modules: OwnedVolumesModules;
  private readonly volumes: Map<string, Owned> = new Map();
  private readonly changed: Set<string> = new Set();
  private isReportDue = false;
  private reportedUs = 0;
  private readonly background: OwnerBackground;
  private toldPace = "";

  constructor(modules: OwnedVolumesModules) {
    this.modules = modules;
    const meters = (): VolumeMeter[] => Array.from(this.volumes.values(), ({ meter }) => meter);
    this.background = new OwnerBackground(modules.reactor, new ReactorClients(meters));
    this.tellPace();
  }

  /** Throws RingstoreError where the volume cannot be what it should be. */
  open(spec: VolumeSpec, backing: ClusterBacking, meter: VolumeMeter): MadeDevice {
    const isStandby = backing.isStandby === true;
    const made = this.make(spec, backing);
    const { id: volumeId } = spec;
    const gate = new FrontGate(isStandby, (isRunning, isWaiting) =>
      this.modules.tellFront({ volumeId, isRunning, isWaiting }),
    );
    const device = new SwitchedDevice(made.device);
    const unseen = { isLeaving: false, told: "", connectedMask: 0 };
    const owned = { spec, meter, backing, ...made, device, gate, isStandby, ...unseen };
    this.volumes.set(volumeId, owned);
    this.note(volumeId);
    if (!isStandby) owned.volume.takeOver(() => this.note(volumeId));
    return { kind: "made", device, gate };
  }

  private make(
    spec: VolumeSpec,
    backing: ClusterBacking,
  ): {
    readonly volume: OwnedVolume;
    readonly members: OwnedMembers;
    readonly device: OwnedDevice;
  } {
    const { reactor, workspace, recordsOf } = this.modules;
    const disks = backing.members.map(({ diskId }) => diskId);
    if (disks.length === 0 || disks.length > 8 || new Set(disks).size !== disks.length) {
      const names = disks.join(", ");
      throw refusal("INVALID_REQUEST", `volume ${spec.name} has members ${names}: one to eight`);
    }
    const members = new OwnedMembers(backing.members);
    const note = (): void => this.note(spec.id);
    const openReplica = (disk: string, session: MemberSession): MemberReplica => {
      const place = members.placeOf(disk);
      const source = this.modules.sourceOf(spec.id, place, note);
      const name = `${place.nodeId}/${disk}`;
      const member: MemberReplica = new MemberReplica(name, source, session, {
        reactor,
        closed: () => {
          if (members.open.get(disk) === member) members.open.delete(disk);
        },
      });
      members.open.set(disk, member);
      return member;
    };
    const { deadPredecessor } = backing;
    const volume = new OwnedVolume(
      {
        owner: backing.owner,
        volume: spec.id,
        capacityBytes: spec.sizeBytes,
        serial: spec.serial,
        readOnly: spec.readOnly,
        ...(deadPredecessor === null ? {} : { deadPredecessor }),
      },
      disks,
      {
        reactor,
        workspace,
        records: recordsOf(spec.id),
        grants: members,
        background: this.background,
        openReplica,
        canReach: (disk) => this.modules.canReach(members.placeOf(disk)),
        changed: note,
      },
    );
    const isWhole = spec.blockBytes === volume.info.blockBytes;
    const sectors = (): OwnedDevice =>
      new SectorDevice(volume, { workspace: this.modules.sectors() });
    return { volume, members, device: isWhole ? volume : sectors() };
  }

  // Given and taken -------------------------------------------------------------------------------

  /** A standby takes the volume over; its front's rings run when it serves. */
  take(volumeId: string, backing: ClusterBacking): void {
    const owned = this.find(volumeId);
    if (!owned.isStandby) {
      throw refusal("VOLUME_BUSY", `volume ${owned.spec.name} is not a standby here`);
    }
    this.replace(owned, backing);
    owned.isStandby = false;
    const { volume } = owned;
    volume.takeOver((outcome) => {
      this.note(volumeId);
      if (outcome === "serving" && owned.volume === volume) owned.gate.open();
    });
    owned.gate.taking();
  }

  /**
   * `done`: the volume is another's, or was already. The front lets nothing new through before what
   * it has submitted is waited for, and all of that has ended before the record names the next.
   */
  handOver(volumeId: string, to: string, done: () => void): void {
    const owned = this.find(volumeId);
    const { volume, spec } = owned;
    if (volume.state !== "serving" || owned.isLeaving) {
      const state = owned.isLeaving ? "being handed over" : volume.state;
      throw refusal("VOLUME_BUSY", `volume ${spec.name} is not served here: ${state}`);
    }
    if (!owned.gate.hold()) {
      throw refusal("VOLUME_BUSY", `volume ${spec.name} serves a guest`);
    }
    owned.isLeaving = true;
    // Nobody may have waited: the volume is closed, or is about to be.
    const isThere = (): boolean => this.volumes.get(volumeId) === owned && owned.volume === volume;
    const left = (): void => {
      if (!isThere()) return;
      owned.isLeaving = false;
      owned.isStandby = true;
      this.replace(owned, owned.backing);
      done();
    };
    this.whenAtRest(owned, isThere, () => {
      if (volume.state === "serving") volume.handOver(to, left);
      else volume.surrender(left);
    });
  }

  private whenAtRest(owned: Owned, isThere: () => boolean, then: () => void): void {
    if (!isThere()) return;
    if (owned.device.inflightCount === 0) {
      then();
      return;
    }
    const timerFired = (): void => this.whenAtRest(owned, isThere, then);
    this.modules.reactor.setTimer(REST_CHECK_MS, { timerFired }, 0);
  }

  private replace(owned: Owned, backing: ClusterBacking): void {
    const { volume, members, device } = this.make(owned.spec, backing);
    owned.device.exchange(device);
    owned.backing = backing;
    owned.members = members;
    owned.volume = volume;
    this.note(owned.spec.id);
  }

  cutWaiting(volumeId: string): void {
    this.find(volumeId).gate.cutWaiting();
  }

  private find(volumeId: string): Owned {
    const owned = this.volumes.get(volumeId);
    if (owned !== undefined) return owned;
    throw refusal("VOLUME_NOT_FOUND", `volume ${volumeId} is not open as one of the cluster`);
  }

  /** Its device has been closed. */
  forget(volumeId: string): void {
    this.volumes.delete(volumeId);
    this.changed.delete(volumeId);
  }

  surrender(volumeId: string, done: () => void): void {
    this.find(volumeId).volume.surrender(done);
  }

  /** The record has changed, or may have. */
  setMembers(volumeId: string, { members, leaving }: VolumeMembers): void {
    const owned = this.find(volumeId);
    owned.members.places = members;
    owned.volume.setLeaving(leaving);
    owned.volume.membersChanged();
    this.note(volumeId);
  }

  /** Of all volumes; whoever has not said "clean" when patience ends is left as a crash would. */
  surrenderAll(patienceMs: number, done: () => void): void {
    const { reactor } = this.modules;
    let waiting = this.volumes.size;
    const timer = reactor.setTimer(patienceMs, { timerFired: () => this.abandonAll() }, 0);
    const oneLess = (): void => {
      waiting -= 1;
      if (waiting > 0) return;
      reactor.cancelTimer(timer);
      done();
    };
    waiting += 1;
    for (const { volume } of [...this.volumes.values()]) volume.surrender(oneLess);
    oneLess();
  }

  private abandonAll(): void {
    for (const { volume, spec } of [...this.volumes.values()]) {
      if (volume.state === "surrendered") continue;
      this.modules.reactor.log.log("warn", "volume-not-surrendered", { volume: spec.id });
      volume.close();
    }
  }

  // Members ---------------------------------------------------------------------------------------

  /** A member of one of the volumes is open on this disk of ours. */
  hasOpen(volumeId: string, diskId: string): boolean {
    return this.volumes.get(volumeId)?.members.open.has(diskId) === true;
  }

  /** Those places can be used no more: a disk is being closed, a peer has gone. */
  letGo(isGone: (place: ReplicaPlace) => boolean): void {
    for (const { members } of this.volumes.values()) {
      for (const place of members.places) {
        if (isGone(place)) members.open.get(place.diskId)?.letGo();
      }
    }
  }

  /** It can be reached again: members there that are out are tried soon. */
  nodeIsBack(nodeId: string): void {
    for (const { volume, members } of this.volumes.values()) {
      for (const { diskId, nodeId: one } of members.places) {
        if (one === nodeId) volume.memberIsBack(diskId);
      }
    }
  }

  // What there is to tell -------------------------------------------------------------------------

  private note(volumeId: string): void {
    this.changed.add(volumeId);
    if (this.isReportDue) return;
    this.isReportDue = true;
    const { reactor } = this.modules;
    const sinceMs = (reactor.clock.nowUs() - this.reportedUs) / 1000;
    reactor.setTimer(Math.max(0, REPORT_MS - sinceMs), this, TIMER_REPORT);
  }

  timerFired(): void {
    this.isReportDue = false;
    this.reportedUs = this.modules.reactor.clock.nowUs();
    for (const volumeId of this.changed) {
      const owned = this.volumes.get(volumeId);
      if (owned !== undefined) this.tell(owned);
    }
    this.changed.clear();
  }

  private tell(owned: Owned): void {
    owned.connectedMask = connectedMask(owned);
    const stats = statsOf(owned);
    const text = JSON.stringify(stats);
    if (text === owned.told) return;
    owned.told = text;
    this.modules.tell(stats);
  }

  /** Called now and then: a link that goes down under a volume at rest tells nobody. */
  look(): void {
    for (const owned of this.volumes.values()) {
      if (connectedMask(owned) !== owned.connectedMask) this.note(owned.spec.id);
    }
    this.tellPace();
  }

  // Resyncs ---------------------------------------------------------------------------------------

  /** Of all volumes together; null = as their clients' latency allows. */
  setResyncLimit(bytesPerSecond: number | null): void {
    this.background.pace.setLimit(bytesPerSecond);
    this.tellPace();
  }

  private tellPace(): void {
    const { limit, bytesPerSecond, movedBytes } = this.background.pace;
    const pace = { limitBytesPerSecond: limit, bytesPerSecond, movedBytes };
    const text = JSON.stringify(pace);
    if (text === this.toldPace) return;
    this.toldPace = text;
    this.modules.tellPace(pace);
  }
}

function connectedMask({ volume, members }: Owned): number {
  let mask = 0;
  for (const member of volume.members) {
    if (member.isReady && members.open.get(member.disk)?.isConnected === true) mask |= member.bit;
  }
  return mask;
}

function statsOf(owned: Owned): OwnerStats {
  const { volume, members: places, connectedMask: connected } = owned;
  const { state, resyncProgress: progress } = volume;
  const present = volume.members.filter((member) => !member.isRemoved);
  return {
    volumeId: owned.spec.id,
    state: state !== "idle" ? state : owned.isStandby ? "standby" : "taking-over",
    epoch: volume.epoch,
    members: present.map((member) => ({
      place: places.placeOf(member.disk),
      state: volume.memberState(member),
      isConnected: (connected & member.bit) !== 0,
    })),
    resync: resyncOf(progress),
    equalisedCount: volume.equalisedCount,
    repairedCount: volume.repairedCount,
  };
}

/** A member that does not answer its fence is tried now and then: that is no resync to speak of. */
function resyncOf(progress: OwnedVolume["resyncProgress"]): ResyncStats | null {
  if (progress === null || progress.stage === "fencing") return null;
  const { disk, stage, copiedBytes, leftBytes, isAllKnown } = progress;
  const totalBytes = copiedBytes + leftBytes;
  return { diskId: disk, stage, doneBytes: copiedBytes, totalBytes, isTotalKnown: isAllKnown };
}

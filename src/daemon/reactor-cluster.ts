// The node's part in its cluster, on the first reactor: the server of replicas on its own disks,
// the links to other nodes, and the volumes that it owns.
//
//   peers ==TCP==> ReplicaServer --> ReplicaProvider --> stores of our disks <--+
//   owned volume --> MemberReplica --> that store, or RemoteReplica ==TCP==> peer's server
//
// Invariants:
//  - everything here runs on the reactor's thread;
//  - whoever fences a replica of ours, here or from elsewhere, makes everybody else who has it hear
//    of that before the fence is answered; grants that were given to others are waited for;
//  - sessions with a disk end before its store is closed.

import { Prng, type RingstoreError } from "../base/index.ts";
import type { Workspace } from "../local/index.ts";
import { LocalReplica, PeerGrants, type RemoteReplica, ReplicaServer } from "../peer/index.ts";
import type {
  Replica,
  ReplicaFailure,
  ReplicaPlace,
  StoredReplica,
  VolumeSpec,
} from "../ports/index.ts";
import type { Reactor } from "../reactor/index.ts";
import { HmacSecret } from "../sys/index.ts";
import { VolumeMeter } from "../telemetry/index.ts";
import { UringListener } from "../uring/index.ts";
import { type MemberSession, OwnerWorkspace } from "../volume/index.ts";
import type { ReactorDisks } from "./reactor-disks.ts";
import type { MemberSource } from "./reactor-member.ts";
import { OwnedVolumes } from "./reactor-owned.ts";
import { ReactorPeers } from "./reactor-peers.ts";
import type { ClusterCommand, ReactorMessage } from "./reactor-protocol.ts";
import { ReactorRecords } from "./reactor-records.ts";
import { type MadeDevice, refusal } from "./reactor-volume.ts";

const END_CHECK_MS = 2;
/** What a replica that is deleted still has on its way. */
const DELETE_RETRY_MS = 10;
const DELETE_ATTEMPTS = 200;

type StartCommand = ClusterCommand & { readonly op: "startCluster" };
type Done = (error: RingstoreError | null, value?: unknown) => void;

export interface ReactorClusterModules {
  readonly reactor: Reactor;
  readonly workspace: Workspace;
  readonly disks: ReactorDisks;
  readonly send: (message: ReactorMessage) => void;
}

export class ReactorCluster {
  readonly owned: OwnedVolumes;
  private readonly nodeId: string;
  private readonly reactor: Reactor;
  private readonly disks: ReactorDisks;
  private readonly send: (message: ReactorMessage) => void;
  private readonly peers: ReactorPeers;
  private readonly server: ReplicaServer;
  private readonly listener: UringListener;
  private readonly records: ReactorRecords;
  private isListening = true;
  private toldPeers = "[]";

  constructor(start: StartCommand, modules: ReactorClusterModules) {
    const { reactor, workspace, disks, send } = modules;
    const { requests, memory } = reactor;
    const { copier } = workspace;
    const secret = new HmacSecret(start.key);
    const seed = new Uint32Array(1);
    secret.fillRandom(new Uint8Array(seed.buffer));
    const identity = { ...start.identity, reactor: 0 };
    const random = new Prng(seed[0] as number);
    this.nodeId = identity.nodeId;
    this.reactor = reactor;
    this.disks = disks;
    this.send = send;
    this.records = new ReactorRecords(send);
    const cameUp = (nodeId: string): void => this.owned.nodeIsBack(nodeId);
    this.peers = new ReactorPeers(identity, { reactor, secret, random, copier, cameUp });
    this.server = new ReplicaServer(
      {
        identity,
        isKnownNode: (nodeId) => this.peers.isKnown(nodeId),
        peerConnected: (nodeId) => this.peers.link(nodeId)?.dialSoon(true),
      },
      {
        reactor,
        provider: disks,
        secret,
        grants: new PeerGrants(reactor.clock),
        log: reactor.log,
      },
    );
    this.listener = new UringListener(reactor.ring, memory, start.listenFd, this.server);
    this.owned = new OwnedVolumes({
      reactor,
      workspace: new OwnerWorkspace({}, { requests, memory, copier }),
      sectors: () => disks.sectorWorkspace(),
      recordsOf: (volumeId) => this.records.of(volumeId),
      sourceOf: (volumeId, place, changed) => this.sourceOf(volumeId, place, changed),
      canReach: ({ nodeId }) => nodeId === this.nodeId || this.peers.link(nodeId)?.state === "up",
      tell: (stats) => send({ kind: "owner", stats }),
      tellFront: (state) => send({ kind: "front", state }),
      tellPace: (pace) => send({ kind: "pace", pace }),
    });
  }

  openVolume(spec: VolumeSpec, meter: SharedArrayBuffer): MadeDevice {
    const { backing } = spec;
    if (backing.kind !== "cluster") {
      throw refusal("INVALID_REQUEST", `volume ${spec.name} is not one of the cluster`);
    }
    return this.owned.open(spec, backing, new VolumeMeter(meter));
  }

  // Commands --------------------------------------------------------------------------------------

  dispatch(command: Exclude<ClusterCommand, StartCommand>, done: Done): void {
    switch (command.op) {
      case "setPeers": {
        const gone = this.peers.set(command.peers);
        if (gone.length > 0) this.owned.letGo(({ nodeId }) => gone.includes(nodeId));
        this.server.dropStrangers();
        done(null);
        return;
      }
      case "makeReplica":
        this.disks.makeReplica(command.diskId, command.replica, done);
        return;
      case "deleteReplica":
        this.deleteReplica(command.diskId, command.volumeId, done);
        return;
      case "noteReplica":
        this.disks.noteReplica(command.diskId, command.volumeId, command.note, done);
        return;
      case "listReplicas":
        done(null, this.disks.listReplicas(command.diskId));
        return;
      case "surrender":
        this.owned.surrender(command.volumeId, () => done(null));
        return;
      case "take":
        this.owned.take(command.volumeId, command.backing);
        done(null);
        return;
      case "handOver":
        this.owned.handOver(command.volumeId, command.to, () => done(null));
        return;
      case "cutWaiting":
        this.owned.cutWaiting(command.volumeId);
        done(null);
        return;
      case "setResyncLimit":
        this.owned.setResyncLimit(command.bytesPerSecond);
        done(null);
        return;
      case "setMembers":
        this.owned.setMembers(command.volumeId, command.members);
        done(null);
        return;
      case "record":
        this.records.answered(command.askId, command.answer);
        return;
    }
  }

  private deleteReplica(diskId: string, volumeId: string, done: Done): void {
    const isThere = (one: StoredReplica): boolean => one.volumeId === volumeId;
    if (!this.disks.listReplicas(diskId).some(isThere)) {
      done(null);
      return;
    }
    if (this.owned.hasOpen(volumeId, diskId)) {
      throw refusal("VOLUME_BUSY", `volume ${volumeId} is owned here and uses disk ${diskId}`);
    }
    this.server.dropReplicas(diskId, volumeId);
    let attempts = 0;
    const attempt = (): void => {
      attempts += 1;
      this.disks.deleteVolume(diskId, volumeId, (error) => {
        const isBusy = error?.code === "VOLUME_BUSY" && attempts < DELETE_ATTEMPTS;
        if (isBusy) this.reactor.setTimer(DELETE_RETRY_MS, { timerFired: attempt }, 0);
        else done(error);
      });
    };
    attempt();
  }

  // Members ---------------------------------------------------------------------------------------

  private sourceOf(volumeId: string, place: ReplicaPlace, changed: () => void): MemberSource {
    const isLocal = place.nodeId === this.nodeId;
    return isLocal ? this.localSource(volumeId, place) : this.peerSource(volumeId, place, changed);
  }

  private localSource(volumeId: string, { diskId }: ReplicaPlace): MemberSource {
    const { clock } = this.reactor;
    const name = `${this.nodeId}/${diskId}`;
    const open = (session: MemberSession): Replica | ReplicaFailure =>
      LocalReplica.open(
        { name, volumeUuid: volumeId, diskUuid: diskId, handler: session },
        {
          clock,
          server: this.server,
          open: (handler) => this.disks.openReplica(volumeId, diskId, handler),
        },
      );
    return {
      isLocal: true,
      open,
      isUsable: () => true,
      grantedUntilUs: (replica) => (replica as LocalReplica).grantedUntilUs,
      isConnected: () => true,
      isReachable: () => true,
    };
  }

  private peerSource(volumeId: string, place: ReplicaPlace, changed: () => void): MemberSource {
    const { nodeId, diskId } = place;
    let link = this.peers.link(nodeId);
    const open = (session: MemberSession): Replica | ReplicaFailure => {
      link = this.peers.link(nodeId);
      if (link === null) return { code: "lost", message: `node ${nodeId} is not known` };
      try {
        return link.openReplica({
          name: `${nodeId}/${diskId}`,
          volumeUuid: volumeId,
          diskUuid: diskId,
          handler: session,
          events: { replicaResumed: changed, replicaLost: changed },
        });
      } catch (error) {
        if (!(error instanceof RangeError)) throw error;
        return { code: "limit", message: error.message };
      }
    };
    return {
      isLocal: false,
      open,
      isUsable: () => link !== null && link === this.peers.link(nodeId),
      grantedUntilUs: (replica) => (replica as RemoteReplica).grantedUntilUs,
      isConnected: (replica) => (replica as RemoteReplica).isReady,
      isReachable: () => link?.state === "up",
    };
  }

  /** The disk is about to be closed. */
  letGo(diskId: string): void {
    this.server.dropReplicas(diskId, null);
    this.owned.letGo((place) => place.diskId === diskId && place.nodeId === this.nodeId);
  }

  // Now and then ----------------------------------------------------------------------------------

  look(): void {
    if (this.isListening) this.listener.retry();
    this.owned.look();
    const peers = this.peers.stats();
    const text = JSON.stringify(peers);
    if (text === this.toldPeers) return;
    this.toldPeers = text;
    this.send({ kind: "peers", peers });
  }

  // The end ---------------------------------------------------------------------------------------

  /** Hangs up on everybody; `done` when nothing of a peer's is on its way any more. */
  close(done: () => void): void {
    this.listener.close(() => {
      this.isListening = false;
    });
    this.server.close();
    this.peers.closeAll();
    const check = (): void => {
      if (!this.isListening && this.server.hasEnded && this.peers.haveEnded) done();
      else this.reactor.setTimer(END_CHECK_MS, { timerFired: check }, 0);
    };
    check();
  }
}

// One owner of a volume in a process of the simulated cluster, put together as a daemon does it: the
// local replica in process, the others over links, the grants of each. Every request of its client
// is told to the volume's model before it begins and when it is answered.

import { MemberReplica, type MemberSource } from "../../daemon/reactor-member.ts";
import { LocalReplica, type RemoteReplica } from "../../peer/index.ts";
import type { Replica } from "../../ports/index.ts";
import {
  type MemberSession,
  NO_OWNER_BUGS,
  OWNER_TIMINGS,
  OwnedVolume,
  OwnerWorkspace,
} from "../../volume/index.ts";
import { type ClientRequest, SimClient } from "../sim/index.ts";
import type { ClusterBugs } from "./cluster-bugs.ts";
import { diskUuid, type NodeProcess } from "./cluster-node.ts";
import type { ClusterVolume } from "./cluster-volume.ts";

export interface ClusterOwnerOptions {
  readonly process: NodeProcess;
  readonly volume: ClusterVolume;
  readonly capacityBytes: number;
  readonly returnMs: number;
  readonly bugs: ClusterBugs;
}

export class ClusterOwner {
  readonly process: NodeProcess;
  readonly volume: ClusterVolume;
  readonly owned: OwnedVolume;
  requestCount = 0;
  private isDrained = false;
  private readonly options: ClusterOwnerOptions;
  private readonly client: SimClient;
  private readonly sources: Map<string, MemberReplica> = new Map();

  constructor(options: ClusterOwnerOptions) {
    const { process, volume, capacityBytes, returnMs, bugs } = options;
    const { reactor, memory, copier, scheduler } = process;
    this.options = options;
    this.process = process;
    this.volume = volume;
    const { requests } = reactor;
    this.owned = new OwnedVolume(
      {
        owner: process.name,
        volume: volume.uuid,
        capacityBytes,
        timings: { ...OWNER_TIMINGS, lagPenaltyMs: 1000, returnMs },
        ...this.deadPredecessor(),
        planted: { ...NO_OWNER_BUGS, ...bugs.owner },
      },
      volume.members,
      {
        reactor,
        workspace: new OwnerWorkspace({ pieceCount: 16 }, { requests, memory, copier }),
        records: volume.recordsOf(process),
        background: process.background,
        grants: { grantedUntilUs: (disk) => this.sources.get(disk)?.grantedUntilUs ?? 0 },
        openReplica: (disk, session) => this.openReplica(disk, session),
        canReach: (disk) => process.canReach(disk),
      },
    );
    process.owners.add(this.owned);
    const cutter = scheduler.fork();
    this.client = new SimClient({ reactor, memory, device: this.owned, cutter });
    this.owned.takeOver((outcome) => {
      if (outcome === "serving") volume.serves(this.owned.epoch);
    });
  }

  /** By what the daemon reads when it starts: the owner was an earlier run on this node. */
  private deadPredecessor(): { readonly deadPredecessor?: string } {
    const { owner } = this.volume.entry.record;
    const { name } = this.process;
    const node = name.slice(0, name.indexOf("/") + 1);
    if (owner === null || owner === name || !owner.startsWith(node)) return {};
    return { deadPredecessor: owner };
  }

  get isAlive(): boolean {
    return !this.process.scheduler.isGone && this.owned.state !== "surrendered";
  }

  /** It serves, and the record says that it may. */
  get isServing(): boolean {
    const { record } = this.volume.entry;
    const isNamed = record.owner === this.process.name && record.epoch === this.owned.epoch;
    return this.isAlive && isNamed && this.owned.state === "serving";
  }

  /** It has given up though the record names it, and nobody asked it to. */
  get isDeposedByNobody(): boolean {
    const { record } = this.volume.entry;
    const isNamed = record.owner === this.process.name && record.epoch === this.owned.epoch;
    const isOver = this.owned.state === "surrendered" && !this.process.scheduler.isGone;
    return isNamed && isOver && !this.isDrained;
  }

  /** As a watch of the record would say. */
  membersChanged(): void {
    if (this.isAlive && !this.process.isPaused) this.owned.membersChanged();
  }

  /** Whose copy is to go, as who tells it of plans says. */
  setLeaving(disk: string | null): void {
    if (this.isAlive && !this.process.isPaused) this.owned.setLeaving(disk);
  }

  drain(done: () => void): void {
    this.isDrained = true;
    this.owned.drain(done);
  }

  /** To a process by name: whoever it is takes the volume when it is told. */
  handOver(to: string, done: () => void): void {
    this.isDrained = true;
    this.owned.handOver(to, done);
  }

  get inflightCount(): number {
    return this.client.inflightCount;
  }

  /** As a daemon has it: found anew with each fence, and there may be none. */
  private openReplica(disk: string, session: MemberSession): Replica {
    const { process, volume } = this;
    const name = `${volume.uuid}/${disk}`;
    const isLocal = disk === diskUuid(process.node);
    const source = isLocal ? this.localSource(name, disk) : this.remoteSource(name, disk);
    const member: MemberReplica = new MemberReplica(name, source, session, {
      reactor: process.reactor,
      closed: () => {
        if (this.sources.get(disk) === member) this.sources.delete(disk);
      },
    });
    this.sources.set(disk, member);
    return member;
  }

  private localSource(name: string, disk: string): MemberSource {
    const { process, volume } = this;
    const { isLocalFenceSilent, isLocalFenceAlone } = this.options.bugs;
    const volumeUuid = volume.uuid;
    return {
      isLocal: true,
      open: (session) => {
        const deaf = {
          replicaCompleted: (tag: number, result: number) => session.replicaCompleted(tag, result),
        };
        const handler = isLocalFenceSilent === true ? deaf : session;
        return LocalReplica.open(
          { name, volumeUuid, diskUuid: disk, handler },
          {
            clock: process.reactor.clock,
            server: isLocalFenceAlone === true ? { fenceLocally: () => 0 } : process.server,
            open: (own) => process.openReplica(volumeUuid, disk, own),
          },
        );
      },
      isUsable: () => true,
      grantedUntilUs: (replica) => (replica as LocalReplica).grantedUntilUs,
      isConnected: () => true,
      isReachable: () => true,
    };
  }

  private remoteSource(name: string, disk: string): MemberSource {
    const { process, volume } = this;
    return {
      isLocal: false,
      open: (handler) =>
        process.openRemote(disk, { name, volumeUuid: volume.uuid, diskUuid: disk, handler }),
      isUsable: () => true,
      grantedUntilUs: (replica) => (replica as RemoteReplica).grantedUntilUs,
      isConnected: (replica) => (replica as RemoteReplica).isReady,
      isReachable: () => process.canReach(disk),
    };
  }

  // Requests --------------------------------------------------------------------------------------

  read(offsetBytes: number, bytes: number): void {
    const { model } = this.volume;
    const begun = this.begin();
    const id = model.startRead(offsetBytes, bytes);
    this.client.read(offsetBytes, bytes, (request) => {
      model.endRead(id, request.result as number, request.data);
      this.answered(request, true, begun);
    });
  }

  write(offsetBytes: number, bytes: number): void {
    const begun = this.begin();
    const { id, data } = this.volume.model.startWrite(offsetBytes, bytes);
    this.client.write(offsetBytes, data, (request) => this.wrote(request, id, begun));
  }

  zero(offsetBytes: number, bytes: number, isDiscard: boolean): void {
    const { model } = this.volume;
    const begun = this.begin();
    if (isDiscard) {
      const id = model.startDiscard(offsetBytes, bytes);
      this.client.discard(offsetBytes, bytes, (request) => this.wrote(request, id, begun));
    } else {
      const id = model.startWriteZeroes(offsetBytes, bytes);
      this.client.writeZeroes(offsetBytes, bytes, (request) => this.wrote(request, id, begun));
    }
  }

  private begin(): ReturnType<ClusterVolume["begins"]> {
    this.requestCount += 1;
    return this.volume.begins();
  }

  private wrote(
    request: ClientRequest,
    id: number,
    begun: ReturnType<ClusterVolume["begins"]>,
  ): void {
    this.volume.model.endWrite(id, request.result as number);
    this.answered(request, false, begun);
  }

  private answered(
    request: ClientRequest,
    isRead: boolean,
    begun: ReturnType<ClusterVolume["begins"]>,
  ): void {
    if (request.result === 0) this.volume.answered(this.owned.epoch, isRead, begun);
  }
}

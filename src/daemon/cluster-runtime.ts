// A node that is in a cluster, running: its data plane takes part, its metadata is watched, and
// what the records say is done: peers, disks, copies, attachments.
//
// Everything is done by looking: a look compares what is with what should be, and can be repeated
// at any time. What has changed is a reason to look; so is time. Nothing here waits for metadata
// while a guest waits for us, but the start of a volume's service.

import { MetaKeys } from "../meta/keys.ts";
import type { ClusterPeer, OwnerStats } from "../ports/cluster-plane.ts";
import type { MetaStore, MetaWatch } from "../ports/meta-store.ts";
import { parseAddress } from "./cluster-address.ts";
import { ClusterAttaching } from "./cluster-attach.ts";
import type { ClusterContext, TrustedMetadata } from "./cluster-context.ts";
import { ClusterDisks } from "./cluster-disks.ts";
import type { NodeTroubles } from "./cluster-health.ts";
import { ClusterInventory } from "./cluster-inventory.ts";
import { MetaLink } from "./cluster-link.ts";
import { Liveness } from "./cluster-liveness.ts";
import type { MemberPlane } from "./cluster-member-plane.ts";
import { tellMembers } from "./cluster-members.ts";
import { ClusterNotes } from "./cluster-notes.ts";
import { ClusterPortals } from "./cluster-portals.ts";
import { ClusterRecords } from "./cluster-records.ts";
import { ClusterRepair } from "./cluster-repair.ts";
import { ClusterReplicas } from "./cluster-replicas.ts";
import { ClusterReports } from "./cluster-reports.ts";
import { ClusterReservations } from "./cluster-reservations.ts";
import { type AttachmentStore, ClusterServing, roleOf } from "./cluster-serve.ts";
import type { ServedVolume } from "./cluster-served.ts";
import { ClusterStandbys } from "./cluster-standby.ts";
import type { ClusterTimings } from "./cluster-timings.ts";
import { ClusterViews } from "./cluster-view.ts";
import { ClusterWorkers } from "./cluster-workers.ts";
import { type ClusterUnit, clusterUnitOf } from "./scsi-attach.ts";
import type { VolumeHost } from "./volume-host.ts";

export interface RuntimeModules {
  readonly memberPlane: MemberPlane;
  readonly host: VolumeHost;
  readonly store: MetaStore;
  readonly attachments: AttachmentStore;
  readonly timings: ClusterTimings;
  /** The metadata is another, and nothing on this node contradicts it: durable. */
  readonly trustMetadata: (trusted: TrustedMetadata) => Promise<void>;
}

/** Changes that come together are looked at once. */
const LOOK_PAUSE_MS = 20;

export class ClusterRuntime {
  readonly context: ClusterContext;
  readonly views: ClusterViews;
  readonly attaching: ClusterAttaching;
  readonly repair: ClusterRepair;
  readonly reports: ClusterReports;
  readonly #modules: RuntimeModules;
  readonly #liveness: Liveness;
  readonly #disks: ClusterDisks;
  readonly #replicas: ClusterReplicas;
  readonly #portals: ClusterPortals;
  readonly #serving: ClusterServing;
  readonly #standbys: ClusterStandbys;
  readonly #workers: ClusterWorkers;
  /** Volumes whose owner here has lost its epoch. */
  readonly #deposed = new Set<string>();
  #watch: MetaWatch | null = null;
  #wasReached = false;
  #peers = "";
  #lookProblem = "";
  #pauseMs: number;
  #isDue = false;
  #isLooking = false;
  #isStopped = false;
  #timer: NodeJS.Timeout | null = null;
  #lookAtMs = Number.POSITIVE_INFINITY;

  constructor(modules: RuntimeModules) {
    const { store, timings, host, memberPlane } = modules;
    const { member, incarnation, plane } = memberPlane.parts;
    this.#modules = modules;
    this.#pauseMs = timings.retryFirstMs;
    const keys = new MetaKeys();
    const look = (): void => this.look();
    this.context = {
      member,
      incarnation,
      plane,
      host,
      link: new MetaLink(store, member.endpoints),
      keys,
      inventory: new ClusterInventory(keys, () => {
        look();
        this.#standbys.notice();
      }),
      timings,
      trusted: { metaBirth: member.metaBirth, generation: member.generation },
      served: new Map(),
      look,
      get notes() {
        return notes;
      },
      get reservations() {
        return reservations;
      },
    };
    const notes = new ClusterNotes(this.context);
    const reservations = new ClusterReservations(this.context);
    this.reports = new ClusterReports(this.context);
    const { log, now, fatal } = host.modules;
    const { link } = this.context;
    const changed = (): void => {
      if (link.isReachable) this.#reached();
      this.context.inventory.recheck();
      look();
    };
    const parts = { link, keys, timings, log, now, changed, fatal };
    this.#liveness = new Liveness(member.nodeId, incarnation, parts);
    this.#disks = new ClusterDisks(this.context);
    this.#replicas = new ClusterReplicas(this.context);
    this.#portals = new ClusterPortals(this.context);
    this.#serving = new ClusterServing(this.context, modules.attachments);
    this.#workers = new ClusterWorkers(this.context, this.#serving);
    this.repair = new ClusterRepair(this.context, this.#liveness);
    this.#standbys = new ClusterStandbys(this.context, this.#serving, (entry) => {
      void this.#align(entry);
    });
    this.views = new ClusterViews(this.context, (id) => this.repair.blocked.get(id));
    const attachParts = { serving: this.#serving, standbys: this.#standbys };
    this.attaching = new ClusterAttaching(this.context, attachParts, (record) =>
      this.views.volume(this.context.inventory.volumes.get(record.id)?.record ?? record),
    );
  }

  async start(): Promise<void> {
    await this.#serving.load();
    const { log, now } = this.context.host.modules;
    const { store, memberPlane } = this.#modules;
    const keyOf = (volumeId: string): string => this.context.keys.volumeRecord(volumeId);
    const { inventory } = this.context;
    const isInMaintenance = (diskId: string): boolean => inventory.isInMaintenance(diskId);
    const isWorker = (id: string): boolean => this.context.served.get(id)?.working === true;
    const parts = { store, keyOf, log, now, isInMaintenance, isWorker };
    memberPlane.records = new ClusterRecords(parts);
    memberPlane.ownerChanged = (stats) => this.#ownerChanged(stats);
    memberPlane.frontChanged = (state) => this.#standbys.frontChanged(state);
    this.#liveness.start();
    this.#watch = store.watch(this.context.keys.root, this.context.inventory);
    this.#lookAgainIn(this.context.timings.lookMs);
  }

  /** Again: it may have been put back from a backup, so that changes alone say nothing. */
  #reached(): void {
    const { keys, inventory } = this.context;
    if (this.#wasReached) {
      this.#watch?.close();
      this.#watch = this.#modules.store.watch(keys.root, inventory);
    }
    this.#wasReached = true;
  }

  #ownerChanged(stats: OwnerStats): void {
    this.views.ownerChanged(stats);
    this.repair.ownerChanged();
    this.#standbys.notice();
    const entry = this.context.served.get(stats.volumeId);
    if (stats.state !== "surrendered" || entry === undefined) return;
    if (entry.serving) this.#deposed.add(stats.volumeId);
    const { isReachable } = this.context.link;
    // No look comes so far then.
    if (entry.serving && entry.portal !== null && !isReachable) void this.#align(entry);
    if (entry.serving || entry.working) this.look();
  }

  /** Volumes that are units of controllers here, or are about to be. */
  units(): readonly ClusterUnit[] {
    return [...this.context.served.values()].flatMap(({ id, name, declared, planned }) => {
      const known = declared === null ? [] : clusterUnitOf(declared);
      if (planned === null) return known;
      return [...known, { ...planned, volumeId: id, name, readOnly: false, isLeaving: false }];
    });
  }

  get troubles(): NodeTroubles {
    return {
      plane: this.#modules.memberPlane.problem,
      reconcile: this.#lookProblem,
      orphanCount: this.#replicas.orphanCount,
      olderVolumes: this.context.notes.olderVolumes,
    };
  }

  /** A disk of this node has been opened. */
  diskBecameReady(): void {
    this.#replicas.expectOrphans();
    for (const entry of this.context.served.values()) entry.retryAtMs = 0;
    this.look();
  }

  look(): void {
    this.#isDue = true;
    if (!this.#isLooking) this.#lookAgainIn(LOOK_PAUSE_MS);
  }

  #lookAgainIn(delayMs: number): void {
    const atMs = performance.now() + delayMs;
    const isStopped = this.#isStopped || this.context.host.stopping;
    if (isStopped || (this.#timer !== null && this.#lookAtMs <= atMs)) return;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#lookAtMs = atMs;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      void this.#lookNow().catch(this.context.host.modules.fatal);
    }, delayMs);
  }

  async #lookNow(): Promise<void> {
    if (this.#isLooking) return;
    this.#isLooking = true;
    this.#isDue = false;
    const { timings, host } = this.context;
    let nextMs = timings.lookMs;
    try {
      await this.#reconcile();
      this.#lookProblem = "";
      this.#pauseMs = timings.retryFirstMs;
    } catch (error) {
      const message = (error as Error).message;
      if (message !== this.#lookProblem)
        host.modules.log.log("warn", "cluster.behind", { message });
      this.#lookProblem = message;
      nextMs = this.#pauseMs;
      this.#pauseMs = Math.min(this.#pauseMs * 2, timings.retryMaxMs);
    } finally {
      this.#isLooking = false;
    }
    if (this.#isDue) nextMs = Math.min(nextMs, LOOK_PAUSE_MS);
    nextMs = Math.min(nextMs, this.repair.nextDueMs);
    for (const { retryAtMs, busy } of this.context.served.values()) {
      if (retryAtMs > 0 && !busy) nextMs = Math.min(nextMs, retryAtMs - performance.now());
    }
    this.#lookAgainIn(Math.max(nextMs, LOOK_PAUSE_MS));
  }

  async #reconcile(): Promise<void> {
    const { inventory, member, host, link } = this.context;
    const { memberPlane } = this.#modules;
    await memberPlane.start();
    if (!memberPlane.isStarted) throw new Error(memberPlane.problem);
    if (inventory.revision === 0 || !link.isReachable || host.stopping) return;
    if (inventory.cluster === null) await this.reports.publish();
    else await this.reports.withdraw();
    if (inventory.cluster?.id !== member.clusterId) {
      throw new Error(`the metadata does not hold cluster ${member.clusterName}`);
    }
    if (!inventory.nodes.has(member.nodeId)) {
      throw new Error(`node ${member.nodeName} was removed from the cluster`);
    }
    await this.#setPeers();
    this.#alignAll();
    this.#workers.alignAll();
    // None keeps the others from being done.
    const steps = [
      () => this.#portals.reconcile(),
      () => this.context.reservations.settle(),
      () => tellMembers(this.context),
      () => this.#disks.reconcile(),
      () => this.#reconcileReplicas(),
      () => this.context.notes.reconcile(),
      () => this.repair.reconcile(),
    ];
    const failures: unknown[] = [];
    for (const step of steps) await step().catch((error) => failures.push(error));
    if (failures.length > 0) throw failures[0];
    if (!this.#isTrusted) await this.#trust();
  }

  async #reconcileReplicas(): Promise<void> {
    if (!this.#isTrusted) this.#replicas.expectOrphans();
    await this.#replicas.reconcile();
  }

  get #isTrusted(): boolean {
    const { inventory, trusted } = this.context;
    const { birth, cluster } = inventory;
    return birth === trusted.metaBirth && cluster?.generation === trusted.generation;
  }

  /** Once everything that this node's disks have is known there, and none of it is older. */
  async #trust(): Promise<void> {
    const { inventory, trusted, host, notes } = this.context;
    const { disks, log } = host.modules;
    const isWhole = disks.usable().length === disks.entries.size && disks.damaged.size === 0;
    const isKnown = this.#replicas.orphanCount === 0 && notes.olderVolumes.length === 0;
    if (!isWhole || !isKnown || inventory.cluster === null) return;
    trusted.metaBirth = inventory.birth;
    trusted.generation = inventory.cluster.generation;
    await this.#modules.trustMetadata(trusted);
    log.log("warn", "cluster.metadata-trusted", { ...trusted });
  }

  async #setPeers(): Promise<void> {
    const { inventory, member } = this.context;
    const peers: ClusterPeer[] = [...inventory.nodes.values()]
      .filter(({ record }) => record.id !== member.nodeId)
      .map(({ record }) => ({ nodeId: record.id, ...parseAddress(record.address, record.name) }))
      .sort((a, b) => (a.nodeId < b.nodeId ? -1 : 1));
    const text = JSON.stringify(peers);
    if (text === this.#peers) return;
    await this.#modules.memberPlane.setPeers(peers);
    this.#peers = text;
  }

  /** Side by side, and not waited for: a takeover may take long. */
  #alignAll(): void {
    const { inventory, member, served } = this.context;
    for (const { record } of inventory.volumes.values()) {
      if (roleOf(record, member.nodeId) !== null) this.#serving.entryOf(record.id, record.name);
    }
    const nowMs = performance.now();
    for (const entry of served.values()) {
      if (entry.busy || entry.retryAtMs > nowMs || !this.#isToAlign(entry)) continue;
      void this.#align(entry);
    }
    this.#standbys.notice();
  }

  #isToAlign({ id, serving, sizeBytes, isStandby, declared }: ServedVolume): boolean {
    const { inventory, member } = this.context;
    if (this.#deposed.has(id) || declared?.phase === "detaching") return true;
    const record = inventory.volumes.get(id)?.record;
    const role = record === undefined ? null : roleOf(record, member.nodeId);
    const present = !serving ? null : isStandby ? "standby" : "owner";
    if (record !== undefined && present !== null && record.sizeBytes > sizeBytes) return true;
    return role !== present || (declared !== null && role === null);
  }

  async #align(entry: ServedVolume): Promise<void> {
    const { host } = this.context;
    try {
      await entry.exclusively(async () => {
        if (host.stopping || this.context.served.get(entry.id) !== entry) return;
        this.#deposed.delete(entry.id);
        await this.#serving.align(entry, (one) => this.attaching.finishDetach(one));
      });
    } catch (error) {
      if (!host.stopping) this.#serving.noteFailure(entry, error);
    }
    this.look();
  }

  /** After the data plane, whose last words go through the metadata. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    await this.reports.withdraw();
    await this.#liveness.stop();
    this.#modules.store.close();
  }
}

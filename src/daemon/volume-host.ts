// The volumes of this daemon and the steps that operations on them are made of. A step brings the
// declared state, the data plane and the entry from one consistent state to the next; the
// operations (volume-operations.ts) and the start (volume-recovery.ts) put steps in order.
//
// Invariant: what a caller was told is declared durably first, or taken back durably.

import type { DeclaredVolume } from "../model/declared.ts";
import { ApiError } from "../model/errors.ts";
import type { Volume } from "../model/types.ts";
import { quote } from "../model/volume-rules.ts";
import type { DataPlane, VolumeStats } from "../ports/data-plane.ts";
import type { Log } from "../ports/log.ts";
import { attachFront } from "./attach-front.ts";
import type { ClassicKeeper, KeptReservations } from "./classic-keeper.ts";
import { ControllerWaits } from "./controller-waits.ts";
import type { DataDirectory } from "./data-directory.ts";
import type { DiskHost, DiskUser } from "./disk-host.ts";
import type { EventLog } from "./event-log.ts";
import { asApiError } from "./failure.ts";
import { type ClusterUnit, heldSpecOf } from "./scsi-attach.ts";
import type { DamagedFile, StateStore } from "./state-store.ts";
import { type Surroundings, specOf, staysOpen, VolumeEntry, viewOf } from "./volume-entry.ts";

export interface HostOptions {
  readonly paths: DataDirectory;
  readonly socketGroupId: number;
  readonly allowPaths: readonly string[];
}

export interface HostModules {
  readonly dataPlane: DataPlane;
  readonly store: StateStore<DeclaredVolume>;
  readonly disks: DiskHost;
  readonly classic: ClassicKeeper;
  readonly events: EventLog;
  readonly log: Log;
  readonly now: () => Date;
  readonly uuid: () => string;
  /** Called with a defect where nobody waits for a rejection. */
  readonly fatal: (error: unknown) => void;
}

export class VolumeHost {
  readonly options: HostOptions;
  readonly modules: HostModules;
  readonly entries: Map<string, VolumeEntry> = new Map();
  /** Refused declarations by volume name. */
  readonly damaged: Map<string, DamagedFile> = new Map();
  readonly controllerWaits: ControllerWaits = new ControllerWaits();
  stopping = false;
  /** Of the cluster's volumes, those with a copy on a disk of this node. */
  clusterUsersOf: (diskId: string) => readonly DiskUser[] = () => [];
  /** Of the cluster's volumes, those that are units of controllers here, or are about to be. */
  clusterUnits: () => readonly ClusterUnit[] = () => [];

  constructor(options: HostOptions, modules: HostModules) {
    this.options = options;
    this.modules = modules;
    modules.disks.usersOf = (diskId) => [...this.usersOf(diskId), ...this.clusterUsersOf(diskId)];
    modules.disks.forgetUsers = (diskId) => this.forgetOn(this.entriesOn(diskId));
  }

  get surroundings(): Surroundings {
    const { disks } = this.modules;
    return {
      paths: this.options.paths,
      diskNameOf: (diskId) => disks.nameOf(diskId),
      diskProblemOf: (diskId) => disks.problemOf(diskId),
    };
  }

  entriesOn(diskId: string): readonly VolumeEntry[] {
    return [...this.entries.values()].filter(({ declared: { backing } }) => {
      return backing.kind === "store" && backing.diskId === diskId;
    });
  }

  private usersOf(diskId: string): readonly DiskUser[] {
    return this.entriesOn(diskId).map((entry) => {
      const { name, attachment } = entry.declared;
      return { name, active: attachment !== null || entry.open || entry.busy };
    });
  }

  /** Holds one after the other, so that nothing begins on any of them before all are gone. */
  private async forgetOn(entries: readonly VolumeEntry[], held = 0): Promise<void> {
    const next = entries[held];
    if (next !== undefined) {
      await next.exclusively(() => this.forgetOn(entries, held + 1));
      return;
    }
    for (const { declared, open } of entries) {
      if (declared.attachment === null && !open) continue;
      throw new ApiError("volume_attached", `volume ${declared.name} is attached`, {
        advice: `detach it first: ringstore volume detach ${declared.name}`,
      });
    }
    for (const entry of entries) {
      const { name } = entry.declared;
      await this.modules.classic.forget(entry.declared.id);
      await this.modules.store.remove(name);
      this.entries.delete(name);
      this.modules.events.add("volume.deleted", name, "the disk that it lived on is gone");
    }
  }

  add(declared: DeclaredVolume): VolumeEntry {
    const entry = new VolumeEntry(declared);
    this.entries.set(declared.name, entry);
    return entry;
  }

  find(name: string): VolumeEntry {
    const entry = this.entries.get(name);
    if (entry !== undefined) return entry;
    const damaged = this.damaged.get(name);
    if (damaged !== undefined) {
      throw new ApiError("volume_unavailable", `${damaged.path} ${damaged.problem}`, {
        advice: "repair or move the file, then restart ringstored",
      });
    }
    throw new ApiError("volume_not_found", `volume ${quote(name)} does not exist`, {
      advice: "see: ringstore volume list",
    });
  }

  /** Runs `operation` alone on the volume, found anew when its turn comes. */
  async withVolume<T>(name: string, operation: (entry: VolumeEntry) => Promise<T>): Promise<T> {
    this.requireRunning();
    const waitedFor = this.find(name);
    return await waitedFor.exclusively(async () => {
      this.requireRunning();
      const entry = this.find(name);
      if (entry !== waitedFor) {
        throw new ApiError("volume_busy", `volume ${name} was replaced meanwhile`, {
          advice: "try again",
        });
      }
      return await operation(entry);
    });
  }

  requireRunning(): void {
    if (!this.stopping) return;
    throw new ApiError("shutting_down", "the daemon is stopping", {
      advice: "try again when it has been started",
    });
  }

  /** Makes the change durable, then takes it as true. */
  async declare(entry: VolumeEntry, changes: Partial<DeclaredVolume>): Promise<void> {
    const declared = { ...entry.declared, ...changes };
    await this.modules.store.save(declared);
    entry.declared = declared;
  }

  async openBacking(entry: VolumeEntry, create: boolean, sizeBytes?: number): Promise<void> {
    if (entry.open) return;
    const spec = specOf(this.options.paths, entry.declared, sizeBytes);
    if (spec.backing.kind === "store") await this.modules.disks.requireReady(spec.backing.diskId);
    const controller = entry.declared.attachment?.scsi?.controller;
    const options = controller === undefined ? { create } : { create, controller };
    await this.modules.dataPlane.openVolume(spec, options);
    entry.open = true;
  }

  async closeBacking(entry: VolumeEntry): Promise<void> {
    if (!entry.open) return;
    await this.modules.dataPlane.closeVolume(entry.declared.id);
    entry.open = false;
  }

  /** Memory and null have nothing on disk to be found again: they are made at every open. */
  async reopenBacking(entry: VolumeEntry): Promise<void> {
    if (entry.open) return;
    const { backing, sizeBytes, resizeToBytes } = entry.declared;
    // A resize that was cut short may have happened or not: the smaller size exists for certain.
    const certainBytes = Math.min(sizeBytes, resizeToBytes ?? sizeBytes);
    const isMade = backing.kind === "memory" || backing.kind === "null";
    await this.openBacking(entry, isMade, certainBytes);
    if (resizeToBytes === null) return;
    await this.modules.dataPlane.resizeVolume(entry.declared.id, resizeToBytes);
    await this.declare(entry, { sizeBytes: resizeToBytes, resizeToBytes: null });
  }

  /** Closes what only stays open while it is attached. */
  async restBacking(entry: VolumeEntry): Promise<void> {
    if (!staysOpen(entry.declared)) await this.closeBacking(entry);
  }

  /** Of this node alone. */
  hasVolume(volumeId: string): boolean {
    return [...this.entries.values()].some(({ declared }) => declared.id === volumeId);
  }

  /** Brings up the declared attachment. */
  async serve(entry: VolumeEntry): Promise<void> {
    if (entry.serving) return;
    const { name, attachment } = entry.declared;
    if (attachment === null) throw new Error(`volume ${name} is not declared attached`);
    await this.reopenBacking(entry);
    const { dataPlane: plane, classic: keeper } = this.modules;
    const reservationsOf = (id: string): Promise<KeptReservations> =>
      keeper.reservationsOf(id, name);
    const isAwaited = (controller: string): boolean => this.controllerWaits.isWaiting(controller);
    const parts = { options: this.options, plane, keeper, reservationsOf, isAwaited };
    try {
      entry.portal = await attachFront(parts, entry.declared, attachment);
    } catch (error) {
      await this.restBacking(entry).catch((second) =>
        this.report("close after attach", entry, second),
      );
      throw error;
    }
    entry.serving = true;
    entry.problem = null;
    entry.retryCount = 0;
  }

  /** Keeps the place of a unit whose volume cannot be served yet. */
  async holdUnit(entry: VolumeEntry): Promise<void> {
    const { declared, serving } = entry;
    const { attachment, phase } = declared;
    if (serving || phase !== "ready" || attachment?.scsi === undefined) return;
    const spec = heldSpecOf(this.options, declared, attachment, attachment.scsi);
    try {
      await this.modules.dataPlane.holdUnit(spec);
    } catch (error) {
      this.report("hold its unit's place", entry, error);
    }
  }

  report(step: string, entry: VolumeEntry, error: unknown): void {
    const failure = asApiError(error, step);
    if (!(failure instanceof ApiError)) {
      this.modules.fatal(failure);
      return;
    }
    this.modules.log.log("error", "volume.step-failed", {
      step,
      volume: entry.declared.name,
      code: failure.code,
      message: failure.message,
    });
  }

  statsById(): Map<string, VolumeStats> {
    return new Map(this.modules.dataPlane.volumeStats().map((stats) => [stats.volumeId, stats]));
  }

  /** Ids and names; whether the data plane counts for them is its to say. */
  served(): readonly (readonly [id: string, name: string])[] {
    return [...this.entries.values()].map(({ declared }) => [declared.id, declared.name]);
  }

  view(entry: VolumeEntry): Volume {
    const stats = entry.serving ? this.statsById().get(entry.declared.id) : undefined;
    return viewOf(this.surroundings, entry, stats);
  }
}

// The disks of this daemon and the steps that operations on them are made of. The operations are
// in disk-operations.ts; opening, at the start and after, is in disk-opening.ts.
//
// Invariant: what a caller was told is declared durably first, or taken back durably.

import type { DeclaredDisk } from "../model/declared.ts";
import type { Disk } from "../model/disk-types.ts";
import { ApiError } from "../model/errors.ts";
import { quote } from "../model/volume-rules.ts";
import type { DataPlane } from "../ports/data-plane.ts";
import type { Log } from "../ports/log.ts";
import type { DiskTools, StoreDiskStats } from "../ports/store-disk.ts";
import { DiskEntry, diskStateOf, viewDisk } from "./disk-entry.ts";
import type { EventLog } from "./event-log.ts";
import type { DamagedFile, StateStore } from "./state-store.ts";

export interface DiskHostModules {
  readonly dataPlane: DataPlane;
  readonly store: StateStore<DeclaredDisk>;
  readonly tools: DiskTools;
  readonly events: EventLog;
  readonly log: Log;
  readonly now: () => Date;
  readonly uuid: () => string;
  /** Called with a defect where nobody waits for a rejection. */
  readonly fatal: (error: unknown) => void;
}

/** A volume that lives on a disk. */
export interface DiskUser {
  readonly name: string;
  /** Attached, open, or in the middle of an operation. */
  readonly active: boolean;
}

export class DiskHost {
  readonly modules: DiskHostModules;
  readonly entries: Map<string, DiskEntry> = new Map();
  /** Refused declarations by disk name. */
  readonly damaged: Map<string, DamagedFile> = new Map();
  stopping = false;
  /** The volumes on a disk, and what to do when they can be served; the volume host sets these. */
  usersOf: (diskId: string) => readonly DiskUser[] = () => [];
  becameReady: (diskId: string) => void = () => undefined;
  /** Some disk has failed: its store says so in statsById(). */
  becameFailed: () => void = () => undefined;
  /** Removes the declarations of the volumes on a disk that is gone; refused, of none. */
  forgetUsers: (diskId: string) => Promise<void> = async () => undefined;

  constructor(modules: DiskHostModules) {
    this.modules = modules;
  }

  add(declared: DeclaredDisk): DiskEntry {
    const entry = new DiskEntry(declared);
    this.entries.set(declared.name, entry);
    return entry;
  }

  find(name: string): DiskEntry {
    const entry = this.entries.get(name);
    if (entry !== undefined) return entry;
    const damaged = this.damaged.get(name);
    if (damaged !== undefined) {
      throw new ApiError("disk_unavailable", `${damaged.path} ${damaged.problem}`, {
        advice: "repair or move the file, then restart ringstored",
      });
    }
    throw new ApiError("disk_not_found", `disk ${quote(name)} does not exist`, {
      advice: "see: ringstore disk list",
    });
  }

  findById(diskId: string): DiskEntry | undefined {
    for (const entry of this.entries.values()) if (entry.declared.id === diskId) return entry;
    return undefined;
  }

  nameOf(diskId: string): string {
    return this.findById(diskId)?.declared.name ?? diskId;
  }

  /** Makes the change durable, then takes it as true. */
  async declare(entry: DiskEntry, changes: Partial<DeclaredDisk>): Promise<void> {
    const declared = { ...entry.declared, ...changes };
    await this.modules.store.save(declared);
    entry.declared = declared;
  }

  /** Waits for an attempt to open it that is under way; rejects when volumes cannot use it. */
  async requireReady(diskId: string): Promise<DiskEntry> {
    const entry = this.findById(diskId);
    if (entry === undefined) {
      throw new ApiError("disk_unavailable", `disk ${diskId} is not a disk of this node`, {
        advice: "see: ringstore disk list",
      });
    }
    if (entry.state === "opening") await entry.opening;
    if (entry.state === "ready") return entry;
    throw unavailable(entry);
  }

  isReady(diskId: string): boolean {
    return this.findById(diskId)?.state === "ready";
  }

  /** Why volumes on it cannot be opened now, null when they can. */
  problemOf(diskId: string): string | null {
    const entry = this.findById(diskId);
    if (entry === undefined) return `disk ${diskId} is not a disk of this node`;
    return entry.state === "ready" ? null : unavailable(entry).message;
  }

  /** The disk for a new volume: the one that is named, or the one with most free space. */
  choose(name: string | undefined): DiskEntry {
    if (name !== undefined) {
      const entry = this.find(name);
      if (this.#isUsable(entry)) return entry;
      throw unavailable(entry);
    }
    const stats = this.statsById();
    const freeOf = (entry: DiskEntry): number => stats.get(entry.declared.id)?.usage.freeBytes ?? 0;
    const usable = this.usable();
    const first = usable[0];
    if (first === undefined) {
      throw new ApiError("disk_unavailable", "this node has no disk that is ready", {
        advice: "make one: ringstore disk init PATH, or use --backing file",
      });
    }
    return usable.reduce((best, entry) => (freeOf(entry) > freeOf(best) ? entry : best), first);
  }

  usable(): readonly DiskEntry[] {
    return [...this.entries.values()].filter((entry) => this.#isUsable(entry));
  }

  #isUsable(entry: DiskEntry): boolean {
    return diskStateOf(entry, this.statsById().get(entry.declared.id)) === "ready";
  }

  statsById(): Map<string, StoreDiskStats> {
    return new Map(this.modules.dataPlane.diskStats().map((stats) => [stats.diskId, stats]));
  }

  view(entry: DiskEntry): Disk {
    const { id } = entry.declared;
    return viewDisk(entry, this.statsById().get(id), this.usersOf(id).length);
  }

  list(): readonly Disk[] {
    return [...this.entries.values()]
      .map((entry) => this.view(entry))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** At a stop: those that the data plane closed cleanly are to be found so again. */
  async declareClean(diskIds: readonly string[]): Promise<void> {
    for (const id of diskIds) {
      const entry = this.findById(id);
      if (entry === undefined || entry.state !== "ready") continue;
      try {
        await this.declare(entry, { clean: true });
      } catch (error) {
        // Then one check less is made of it at the next start.
        const fields = { disk: entry.declared.name, message: (error as Error).message };
        this.modules.log.log("warn", "disk.clean-not-declared", fields);
      }
    }
  }

  stop(): void {
    this.stopping = true;
    for (const entry of this.entries.values()) entry.cancelRetry();
  }
}

function unavailable(entry: DiskEntry): ApiError {
  const { name } = entry.declared;
  const reason = entry.problem === null ? "" : `: ${entry.problem.message}`;
  return new ApiError("disk_unavailable", `disk ${name} is ${entry.state}${reason}`, {
    advice: `see: ringstore disk show ${name}`,
  });
}

// virtio-scsi controllers as the data plane's main thread holds them: on which reactor each is.
//
// Invariants:
//  - a controller is where its first volume is, as long as one of its volumes is open for it or
//    attached to it, or has its place held there; volumes that can be anywhere are opened there;
//  - the cluster's volumes are on the first reactor, and a controller of theirs with them;
//  - what was on one reactor because of a controller is on one reactor after a restart, too: see
//    placeTogether().

import { RingstoreError } from "../base/index.ts";
import type { HeldUnitSpec, PlacementGroup, ScsiSpec } from "../ports/scsi-plane.ts";
import type { PlaneLimits } from "./reactor-limits.ts";
import type { ReactorThread } from "./reactor-thread.ts";

interface Home {
  readonly thread: ReactorThread;
  readonly volumeIds: Set<string>;
}

/** A PlacementGroup, and where it is: null before the first of it has been placed. */
interface Group {
  readonly hasDisks: boolean;
  thread: ReactorThread | null;
}

export class PlaneScsi {
  private readonly first: ReactorThread;
  private readonly limits: PlaneLimits;
  private readonly homes: Map<string, Home> = new Map();
  private readonly groupsByController: Map<string, Group> = new Map();
  private readonly groupsByDisk: Map<string, Group> = new Map();

  /** Volumes that are units. */
  private readonly attached: Set<string> = new Set();
  /** Volumes whose places are held, and where. */
  private readonly held: Map<string, ReactorThread> = new Map();

  constructor(first: ReactorThread, limits: PlaneLimits) {
    this.first = first;
    this.limits = limits;
  }

  placeTogether(groups: readonly PlacementGroup[]): void {
    for (const { controllers, diskIds, hasCluster } of groups) {
      const thread = hasCluster ? this.first : null;
      const group: Group = { hasDisks: diskIds.length > 0, thread };
      for (const name of controllers) this.groupsByController.set(name, group);
      for (const id of diskIds) this.groupsByDisk.set(id, group);
    }
  }

  /** Where a disk has to be; `pick` where nothing says so yet. */
  threadOfDisk(diskId: string, pick: () => ReactorThread): ReactorThread {
    const group = this.groupsByDisk.get(diskId);
    if (group === undefined) return pick();
    group.thread ??= pick();
    return group.thread;
  }

  /**
   * Where a volume is to be opened that can be anywhere. `pick` chooses for a controller that is
   * nowhere yet: beside disks, or not.
   */
  threadFor(controller: string, pick: (besideDisks: boolean) => ReactorThread): ReactorThread {
    const home = this.homes.get(controller);
    if (home !== undefined) return home.thread;
    const group = this.groupsByController.get(controller);
    if (group === undefined) return pick(false);
    group.thread ??= pick(group.hasDisks);
    return group.thread;
  }

  /** Notes a volume that is on `thread`. Throws RingstoreError when the controller is elsewhere. */
  claim(controller: string, volumeId: string, thread: ReactorThread): void {
    const home = this.homes.get(controller);
    if (home === undefined) {
      this.homes.set(controller, { thread, volumeIds: new Set([volumeId]) });
      return;
    }
    if (home.thread !== thread) {
      const where = `is on reactor ${home.thread.index}, the volume on reactor ${thread.index}`;
      throw elsewhere(
        `controller ${controller} ${where}`,
        "Use a controller for each disk of the store, or start ringstored with one reactor: " +
          "volumes of a controller share one.",
      );
    }
    home.volumeIds.add(volumeId);
  }

  /** A volume of the cluster is on the first reactor. Throws RingstoreError. */
  requireAtFirst(controller: string): void {
    const { thread } = this.homes.get(controller) ?? { thread: this.first };
    if (thread === this.first) return;
    throw elsewhere(
      `controller ${controller} is on reactor ${thread.index}, ` +
        `volumes of the cluster are on reactor ${this.first.index}`,
      "Name another controller, which begins there, or restart the daemon: in a cluster " +
        "controllers are there.",
    );
  }

  /** The volume is attached to no controller any more, and not open for one. */
  release(volumeId: string): void {
    this.attached.delete(volumeId);
    if (this.held.has(volumeId)) return;
    for (const [name, { volumeIds }] of this.homes) {
      if (volumeIds.delete(volumeId) && volumeIds.size === 0) this.homes.delete(name);
    }
  }

  async attach(thread: ReactorThread, spec: ScsiSpec, onLate: () => void): Promise<void> {
    const { controller, volumeId } = spec;
    this.claim(controller, volumeId, thread);
    const { commandMs: timeoutMs } = this.limits;
    try {
      await thread.request({ op: "attachScsi", spec }, { timeoutMs, onLate });
      this.attached.add(volumeId);
      this.held.delete(volumeId);
    } catch (error) {
      this.release(volumeId);
      throw error;
    }
  }

  async open(controller: string): Promise<void> {
    const home = this.homes.get(controller);
    if (home === undefined) return;
    const { commandMs: timeoutMs } = this.limits;
    await home.thread.request({ op: "listenScsi", controller }, { timeoutMs });
  }

  /** Rejects where the number is taken, or the controller is elsewhere. */
  async hold(thread: ReactorThread, spec: HeldUnitSpec): Promise<void> {
    const { controller, volumeId } = spec;
    if (this.attached.has(volumeId) || this.held.has(volumeId)) return;
    this.claim(controller, volumeId, thread);
    this.held.set(volumeId, thread);
    const { commandMs: timeoutMs } = this.limits;
    try {
      await thread.request({ op: "holdUnit", spec }, { timeoutMs });
    } catch (error) {
      // One that is made late is taken for the volume's own all the same.
      if (this.held.delete(volumeId)) this.release(volumeId);
      throw error;
    }
  }

  async drop(volumeId: string): Promise<void> {
    const thread = this.held.get(volumeId);
    if (thread === undefined) return;
    const { detachMs: timeoutMs } = this.limits;
    await thread.request({ op: "dropUnit", volumeId }, { timeoutMs });
    if (this.held.delete(volumeId)) this.release(volumeId);
  }
}

function elsewhere(message: string, advice: string): RingstoreError {
  return new RingstoreError("CONTROLLER_ELSEWHERE", message, { advice });
}

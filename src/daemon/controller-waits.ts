// At a start, which controllers still wait for volumes. A guest that connects again is to find all
// its disks at once: to a driver, a unit that is not there yet is one that is gone for good.
//
// A controller's socket is made when each of its volumes is served, or has a unit that keeps its
// place: one that has failed and is tried again, one of the cluster that is being taken back.

import type { DeclaredVolume } from "../model/declared.ts";
import type { ClusterUnit } from "./scsi-attach.ts";

export class ControllerWaits {
  readonly #waiting = new Map<string, Set<string>>();

  /** Before anything is served. */
  expect(volumes: readonly DeclaredVolume[], clusterUnits: readonly ClusterUnit[]): void {
    for (const { id, phase, attachment } of volumes) {
      if (phase === "ready") this.#expect(attachment?.scsi?.controller, id);
    }
    for (const { scsi, volumeId } of clusterUnits) this.#expect(scsi.controller, volumeId);
  }

  #expect(controller: string | undefined, volumeId: string): void {
    if (controller === undefined) return;
    const ids = this.#waiting.get(controller) ?? new Set();
    this.#waiting.set(controller, ids.add(volumeId));
  }

  isWaiting(controller: string): boolean {
    return this.#waiting.has(controller);
  }

  /** The volume is there, or its place is held. True if its controller waits for nothing more. */
  tried(volumeId: string, controller: string): boolean {
    const ids = this.#waiting.get(controller);
    if (ids?.delete(volumeId) !== true || ids.size > 0) return false;
    this.#waiting.delete(controller);
    return true;
  }
}

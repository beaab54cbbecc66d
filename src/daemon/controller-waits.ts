// At a start, which controllers still wait for volumes. A guest that connects again is to find all
// its disks at once: to a driver, a unit that is not there yet is one that is gone for good.
//
// A controller's socket is made when each of its volumes is served or has failed. One that fails is
// tried again, and comes to the guest as a unit that is added.

import type { DeclaredVolume } from "../model/declared.ts";

export class ControllerWaits {
  readonly #waiting = new Map<string, Set<string>>();

  /** Before anything is served. */
  expect(volumes: readonly DeclaredVolume[]): void {
    for (const { id, phase, attachment } of volumes) {
      const controller = attachment?.scsi?.controller;
      if (controller === undefined || phase !== "ready") continue;
      const ids = this.#waiting.get(controller) ?? new Set();
      this.#waiting.set(controller, ids.add(id));
    }
  }

  isWaiting(controller: string): boolean {
    return this.#waiting.has(controller);
  }

  /** The volume is served, or cannot be. Returns its controller if that waits for nothing more. */
  tried({ id, attachment }: DeclaredVolume): string | null {
    const controller = attachment?.scsi?.controller ?? "";
    const ids = this.#waiting.get(controller);
    if (ids?.delete(id) !== true || ids.size > 0) return null;
    this.#waiting.delete(controller);
    return controller;
  }
}

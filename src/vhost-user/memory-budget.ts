// How much memory the sessions of one device may map together. A front-end can name any number of
// huge, empty files; this process's address space and its table of mappings are shared by all
// volumes, so that nobody may use them up.

import { assert } from "../base/index.ts";

/** Two sessions with every slot in use (a live migration on one machine), and some room. */
const REGIONS_MAX = 1100;
/** Of the 128 TiB that a process has; larger than any machine's memory. */
const BYTES_MAX = 16 * 1024 ** 4;

export class MemoryBudget {
  private regionCount = 0;
  private bytes = 0;

  /** Reserves a region; a string says why it cannot be had. */
  take(bytes: number): string | null {
    if (this.regionCount >= REGIONS_MAX) return `more than ${REGIONS_MAX} regions for one device`;
    if (this.bytes + bytes > BYTES_MAX) {
      return `more than ${BYTES_MAX} bytes of memory for one device`;
    }
    this.regionCount += 1;
    this.bytes += bytes;
    return null;
  }

  give(bytes: number): void {
    assert(this.regionCount > 0, "a region given back that was not taken");
    this.regionCount -= 1;
    this.bytes -= bytes;
  }
}

// Damage that was found: blocks that do not match their checksums, pages that are not what their
// pointers demand. Counted, remembered up to a limit, and logged, up to a limit too: a disk that
// dies has more to say than anybody reads.

import type { Log } from "../ports/index.ts";
import { EXTENT_BLOCKS } from "./layouts.ts";
import { pageName } from "./recovery.ts";

const BAD_BLOCKS_MAX = 10_000;
const LOGS_MAX = 1000;

export class Damage {
  pageCount = 0;
  private readonly blocks: Set<number> = new Set();
  private readonly log: Log;
  private logCount = 0;

  constructor(log: Log) {
    this.log = log;
  }

  get blockCount(): number {
    return this.blocks.size;
  }

  /** `slab` is where the block lies; `result` what the disk said, or -EIO for a mismatch. */
  block(volume: string, extent: number, block: number, slab: number, result: number): void {
    if (this.blocks.size < BAD_BLOCKS_MAX) this.blocks.add(extent * EXTENT_BLOCKS + block);
    this.report("store.bad-block", { volume, extent, block, slab, result });
  }

  page(kind: number, number: number, fault: string): void {
    this.pageCount += 1;
    this.report("store.bad-page", { page: pageName(kind, number), fault });
  }

  private report(event: string, fields: Readonly<Record<string, string | number>>): void {
    this.logCount += 1;
    if (this.logCount <= LOGS_MAX) this.log.log("error", event, fields);
  }
}

// Damage that was found: blocks that do not match their checksums, pages that are not what their
// pointers demand. Counted, remembered up to a limit until they are written over, and logged, up to
// a limit too: a disk that dies has more to say than anybody reads.

import type { Log } from "../ports/index.ts";
import { EXTENT_BLOCKS, PAGE_SLABS, SLAB_BLOCKS } from "./layouts.ts";
import { pageName } from "./recovery.ts";

const BAD_BLOCKS_MAX = 10_000;
const LOGS_MAX = 1000;
const PAGE_BLOCKS: number = PAGE_SLABS * SLAB_BLOCKS;

export class Damage {
  pageCount = 0;
  private readonly blocks: Set<number> = new Set();
  /** Blocks of `blocks` in each leaf page, numbered from the first extent's first. */
  private readonly inPage: Map<number, number> = new Map();
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
    const key = extent * EXTENT_BLOCKS + block;
    if (this.blocks.size < BAD_BLOCKS_MAX && !this.blocks.has(key)) {
      this.blocks.add(key);
      this.count(key, 1);
    }
    this.report("store.bad-block", { volume, extent, block, slab, result });
  }

  private count(key: number, change: number): void {
    const page = Math.floor(key / PAGE_BLOCKS);
    const count = (this.inPage.get(page) ?? 0) + change;
    if (count === 0) this.inPage.delete(page);
    else this.inPage.set(page, count);
  }

  /** New data is in these blocks. */
  overwritten(extent: number, firstBlock: number, blockCount: number): void {
    for (let block = firstBlock; block < firstBlock + blockCount; block++) {
      const key = extent * EXTENT_BLOCKS + block;
      if (this.blocks.delete(key)) this.count(key, -1);
    }
  }

  /** Is a block known to be bad in the leaf page that begins with `slab` of the extent? */
  hasInPage(extent: number, slab: number): boolean {
    const first = extent * EXTENT_BLOCKS + slab * SLAB_BLOCKS;
    return this.inPage.has(Math.floor(first / PAGE_BLOCKS));
  }

  hasInSlab(extent: number, slab: number): boolean {
    const first = extent * EXTENT_BLOCKS + slab * SLAB_BLOCKS;
    for (let block = 0; block < SLAB_BLOCKS; block++) {
      if (this.blocks.has(first + block)) return true;
    }
    return false;
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

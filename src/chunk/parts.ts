// What the modules of one open store share: the ports, the tables, and who to tell when something
// is wrong. Made by Store, in an order that follows the fields.

import type { SegmentCopier } from "../base/index.ts";
import type { Disk, Log, Memory, ReactorPort } from "../ports/index.ts";
import type { Geometry } from "./geometry.ts";
import type { OpTable } from "./op-table.ts";
import type { PageTree } from "./page-tree.ts";
import type { PlantedBugs } from "./planted.ts";

export interface StoreParts {
  readonly geometry: Geometry;
  readonly disk: Disk;
  readonly memory: Memory;
  readonly reactor: ReactorPort;
  readonly log: Log;
  readonly copier: SegmentCopier;
  readonly ops: OpTable;
  readonly tree: PageTree;
  readonly uuidWords: Uint32Array;
  readonly journalId: number;
  readonly planted: PlantedBugs;
  /** Writes that must be durable carry the flag: the device has a volatile cache. */
  readonly flushNeeded: boolean;
  /** A page is not what its pointer demands. */
  pageDamaged(kind: number, number: number, fault: string): void;
  /** The disk failed a write: nothing more is acknowledged. */
  diskFailed(what: string, result: number): void;
}

/** Disk tags: who submitted, and its index. */
export const TAG_OP = 0;
export const TAG_GROUP = 0x1000000;
export const TAG_PAGE = 0x2000000;
export const TAG_TASK = 0x3000000;
export const TAG_KIND_MASK = 0xff000000;
export const TAG_INDEX_MASK = 0x00ffffff;

// Reading an area of 4 KiB structures that a recovery has in memory whole: fields by their offset
// in the layout table, and the records that a structure carries, one after the other.
//
// Invariant: no record is handed on that does not lie within what its structure says it holds.

import { join64 } from "../base/index.ts";
import { isRecord, recordBytesOf } from "./records.ts";

export class StructureWords {
  readonly words: Uint32Array;

  constructor(words: Uint32Array) {
    this.words = words;
  }

  /** The field at byte `field` of the structure at word `at`. */
  u32(at: number, field: number): number {
    return this.words[at + (field >>> 2)] as number;
  }

  u64(at: number, field: number): number {
    return join64(this.u32(at, field), this.u32(at, field + 4));
  }

  /**
   * Calls `visit` with the word of each of `count` records in `bytes` from word `first` on. False
   * when there is one that is none, or that `visit` refuses.
   */
  walkRecords(
    first: number,
    bytes: number,
    count: number,
    visit: (at: number) => boolean,
  ): boolean {
    let at = first;
    let left = bytes;
    for (let index = 0; index < count; index++) {
      if (!isRecord(this.words, at, left) || !visit(at)) return false;
      left -= recordBytesOf(this.words, at);
      at += recordBytesOf(this.words, at) >>> 2;
    }
    return true;
  }
}

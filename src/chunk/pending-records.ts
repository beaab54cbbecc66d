// Records that a recovery found and that wait for their page: a page is brought up to date when it
// is first loaded, so that a store serves before it has touched every page.
//
// Invariant: the records of a page are applied in the order of their groups, all at once.

import { applyToPage } from "./apply.ts";
import type { PendingRecords } from "./page-cache.ts";
import { recordBytesOf } from "./records.ts";

const WORDS_FIRST = 65536;

export class PendingByPage implements PendingRecords {
  private words: Uint32Array = new Uint32Array(WORDS_FIRST);
  private used = 0;
  private readonly byPage: Map<number, number[]> = new Map();

  get pageCount(): number {
    return this.byPage.size;
  }

  has(page: number): boolean {
    return this.byPage.has(page);
  }

  /** Copies the record at word `at` of `words`. */
  add(page: number, words: Uint32Array, at: number): void {
    const count = recordBytesOf(words, at) >>> 2;
    if (this.used + count > this.words.length) {
      const grown = new Uint32Array(this.words.length * 2);
      grown.set(this.words);
      this.words = grown;
    }
    for (let word = 0; word < count; word++) {
      this.words[this.used + word] = words[at + word] as number;
    }
    const list = this.byPage.get(page);
    if (list === undefined) this.byPage.set(page, [this.used]);
    else list.push(this.used);
    this.used += count;
  }

  applyTo(page: number, words: Uint32Array, at: number): boolean {
    const list = this.byPage.get(page);
    if (list === undefined) return false;
    for (const record of list) applyToPage(this.words, record, words, at);
    this.byPage.delete(page);
    return true;
  }

  /** The page is damaged: there is nothing to apply its records to. */
  forget(page: number): void {
    this.byPage.delete(page);
  }

  *pages(): Generator<number> {
    yield* this.byPage.keys();
  }
}

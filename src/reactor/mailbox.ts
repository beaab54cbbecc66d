// @hot
// A mailbox: single producer, single consumer, u32 words in shared memory, and an eventfd to wake
// a sleeping consumer. How one thread hands slot numbers and small commands to another.
//
//   words: [0] head (consumer)  [16] tail (producer)  [32] consumer sleeps  [48...] the ring
//   (each on its own cache line; one entry is wasted so that full and empty differ)
//
// No lost wake-up: the consumer stores `sleeps`, then looks at the tail once more; the producer
// stores the tail, then looks at `sleeps`. Atomics give both the full fence. Whoever takes
// `sleeps` back signals: once per sleep, however many words are posted until the consumer runs.

import { assert } from "../base/index.ts";
import { eventSignal } from "../sys/index.ts";

const HEAD = 0;
const TAIL = 16;
const SLEEPS = 32;
const RING = 48;

export class Mailbox {
  readonly shared: SharedArrayBuffer;
  private readonly words: Int32Array;
  private readonly mask: number;
  private readonly wakeFd: number;

  /** `shared`: from allocate(), the same on both sides. `wakeFd`: the consumer's eventfd. */
  constructor(shared: SharedArrayBuffer, wakeFd: number) {
    this.shared = shared;
    this.words = new Int32Array(shared);
    const entries = this.words.length - RING;
    assert(entries > 1 && (entries & (entries - 1)) === 0, "entries must be a power of two");
    this.mask = entries - 1;
    this.wakeFd = wakeFd;
  }

  /** Memory for `entries` words, power of two. */
  // @cold
  static allocate(entries: number): SharedArrayBuffer {
    return new SharedArrayBuffer((RING + entries) * 4);
  }

  /** Producer: false when full (the consumer is behind: keep the word and try again). */
  post(word: number): boolean {
    const words = this.words;
    const tail = words[TAIL] as number;
    const next = (tail + 1) & this.mask;
    if (next === Atomics.load(words, HEAD)) return false;
    words[RING + tail] = word | 0;
    Atomics.store(words, TAIL, next);
    if (Atomics.load(words, SLEEPS) === 0) return true;
    if (Atomics.compareExchange(words, SLEEPS, 1, 0) === 1) eventSignal(this.wakeFd);
    return true;
  }

  /** Consumer: true when a word waits. */
  get hasMail(): boolean {
    return Atomics.load(this.words, TAIL) !== (this.words[HEAD] as number);
  }

  /** Consumer: takes the next word, as unsigned. Call only when hasMail. */
  take(): number {
    const words = this.words;
    const head = words[HEAD] as number;
    assert(head !== Atomics.load(words, TAIL), "mailbox is empty");
    const word = words[RING + head] as number;
    Atomics.store(words, HEAD, (head + 1) & this.mask);
    return word >>> 0;
  }

  /** Consumer: ask to be woken. Returns true when mail is there already: do not sleep. */
  arm(): boolean {
    Atomics.store(this.words, SLEEPS, 1);
    return this.hasMail;
  }

  /** Consumer: awake again, no wake-ups needed. */
  disarm(): void {
    Atomics.store(this.words, SLEEPS, 0);
  }
}

// Guest memory for tests: several regions inside one buffer, poison between them, host addresses
// that are plainly not guest addresses. Not fast where a test can look inside, but the common path
// is about as long as that of the real thing, so that benchmarks mean something.
//
// Invariant: checkPoison() finds every byte written outside the regions.

import assert from "node:assert/strict";
import type { GuestMemory, RingArea } from "../../ports/index.ts";

export const HOST_BASE = 0x7f12_0000_0000;
const GUARD_BYTES = 4096;
const POISON = 0xa5;

export interface FakeRegion {
  readonly gpa: number;
  readonly bytes: number;
  readonly faultable?: boolean;
}

interface PlacedRegion extends FakeRegion {
  readonly offset: number;
}

export class FakeMemory implements GuestMemory {
  readonly buffer: SharedArrayBuffer;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  contiguousBytes = 0;
  faultable = false;
  logging = false;
  readonly dirtyPages: Set<number> = new Set();
  /** Called before each read(): tests change memory here. */
  beforeRead: ((gpa: number, bytes: number) => void) | null = null;
  readCount = 0;

  private readonly view: DataView;
  private regions: PlacedRegion[] = [];
  // Doubles from the first value on, whatever the regions: else each test changes the class.
  private lastGpa: number = Number.NaN;
  private lastEnd: number = Number.NaN;
  private lastOffset: number = Number.NaN;
  private lastFaultable = false;
  /** The regions once more, as columns: [gpa, end, offset, faultable] each. */
  private columns: Float64Array = new Float64Array(0);

  constructor(regions: readonly FakeRegion[]) {
    let offset = GUARD_BYTES;
    for (const region of regions) {
      assert.equal(region.bytes % 4096, 0);
      this.regions.push({ ...region, offset });
      offset += region.bytes + GUARD_BYTES;
    }
    this.buffer = new SharedArrayBuffer(offset);
    this.u8 = new Uint8Array(this.buffer);
    this.u16 = new Uint16Array(this.buffer);
    this.u32 = new Uint32Array(this.buffer);
    this.view = new DataView(this.buffer);
    this.u8.fill(POISON);
    for (const region of this.regions) {
      this.u8.fill(0, region.offset, region.offset + region.bytes);
    }
    this.index();
  }

  private index(): void {
    this.columns = Float64Array.from(
      this.regions.flatMap(({ gpa, bytes, offset, faultable }) => [
        gpa,
        gpa + bytes,
        offset,
        faultable === true ? 1 : 0,
      ]),
    );
    this.lastEnd = Number.NaN;
  }

  /** Takes a region away, as REM_MEM_REG does. */
  removeRegion(gpa: number): void {
    const index = this.regions.findIndex((region) => region.gpa === gpa);
    assert.ok(index >= 0);
    this.regions.splice(index, 1);
    this.index();
  }

  checkPoison(): void {
    let at = 0;
    for (const region of [...this.regions, { offset: this.u8.length, bytes: 0 }]) {
      for (; at < region.offset; at++) {
        if (this.u8[at] !== POISON) assert.fail(`byte ${at} outside every region was written`);
      }
      at = region.offset + region.bytes;
    }
  }

  /** Offset in the buffer, for the driver side. The range must lie in one region. */
  offsetOf(gpa: number, bytes: number): number {
    const host = this.translate(gpa);
    assert.ok(host >= 0 && this.contiguousBytes >= bytes, `no guest memory at ${gpa}`);
    return host - HOST_BASE;
  }

  translate(gpa: number): number {
    if (!(gpa >= this.lastGpa && gpa < this.lastEnd)) {
      if (!this.findRegion(gpa)) return -1;
    }
    const left = this.lastEnd - gpa;
    this.contiguousBytes = left < 0x7fffffff ? left | 0 : 0x7fffffff;
    this.faultable = this.lastFaultable;
    return HOST_BASE + this.lastOffset + (gpa - this.lastGpa);
  }

  read(gpa: number, target: Uint8Array, targetOffset: number, bytes: number): boolean {
    if (this.beforeRead !== null) this.beforeRead(gpa, bytes);
    this.readCount += 1;
    let at = gpa;
    let to = targetOffset;
    let left = bytes;
    while (left > 0) {
      const host = this.translate(at);
      if (host < 0) return false;
      const piece = this.contiguousBytes < left ? this.contiguousBytes : left;
      const from = host - HOST_BASE;
      for (let index = 0; index < piece; index++) {
        target[to + index] = this.u8[from + index] as number;
      }
      at += piece;
      to += piece;
      left -= piece;
    }
    return true;
  }

  readWords(gpa: number, target: Uint32Array, targetWord: number, wordCount: number): boolean {
    if (this.beforeRead !== null) this.beforeRead(gpa, wordCount * 4);
    this.readCount += 1;
    const host = this.translate(gpa);
    if (host < 0) return false;
    if (this.contiguousBytes < wordCount * 4) {
      return this.readWordsPiecewise(gpa, target, targetWord, wordCount);
    }
    const from = host - HOST_BASE;
    const view = this.view;
    for (let index = 0; index < wordCount; index++) {
      target[targetWord + index] = view.getUint32(from + index * 4, true);
    }
    return true;
  }

  private readWordsPiecewise(
    gpa: number,
    target: Uint32Array,
    targetWord: number,
    wordCount: number,
  ): boolean {
    for (let at = 0; at < wordCount * 4; at++) {
      const host = this.translate(gpa + at);
      if (host < 0) return false;
      const shift = (at & 3) * 8;
      const word = targetWord + (at >>> 2);
      const kept = shift === 0 ? 0 : (target[word] as number);
      target[word] = kept | ((this.u8[host - HOST_BASE] as number) << shift);
    }
    return true;
  }

  write(gpa: number, source: Uint8Array, sourceOffset: number, bytes: number): boolean {
    for (let index = 0; index < bytes; index++) {
      if (!this.writeU8(gpa + index, source[sourceOffset + index] as number)) return false;
    }
    return true;
  }

  writeU8(gpa: number, value: number): boolean {
    const host = this.translate(gpa);
    if (host < 0) return false;
    this.u8[host - HOST_BASE] = value;
    if (this.logging) this.markDirty(gpa, 1);
    return true;
  }

  markDirty(gpa: number, bytes: number): void {
    for (let page = Math.floor(gpa / 4096); page * 4096 < gpa + bytes; page++) {
      this.dirtyPages.add(page);
    }
  }

  markHostDirty(address: number, bytes: number): void {
    for (let at = address; at < address + bytes; at++) {
      const offset = at - HOST_BASE;
      const region = this.regions.find((r) => offset >= r.offset && offset < r.offset + r.bytes);
      assert.ok(region !== undefined, "dirty host address outside guest memory");
      this.dirtyPages.add(Math.floor((region.gpa + offset - region.offset) / 4096));
    }
  }

  private findRegion(gpa: number): boolean {
    const columns = this.columns;
    for (let at = 0; at < columns.length; at += 4) {
      if (gpa >= (columns[at] as number) && gpa < (columns[at + 1] as number)) {
        this.lastGpa = columns[at] as number;
        this.lastEnd = columns[at + 1] as number;
        this.lastOffset = columns[at + 2] as number;
        this.lastFaultable = columns[at + 3] !== 0;
        return true;
      }
    }
    return false;
  }
}

/** Windows straight over guest memory. */
export class DirectArea implements RingArea {
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly shadow = false;

  constructor(memory: FakeMemory, gpa: number, bytes: number) {
    const offset = memory.offsetOf(gpa, bytes);
    this.u8 = new Uint8Array(memory.buffer, offset, bytes);
    this.u16 = new Uint16Array(memory.buffer, offset, bytes >>> 1);
    this.u32 = new Uint32Array(memory.buffer, offset - (offset % 4), bytes >>> 2);
  }

  pull(): boolean {
    return true;
  }

  push(): boolean {
    return true;
  }
}

/** A private copy; `hook` runs before every transfer, so that a test can act in between. */
export class ShadowArea implements RingArea {
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly shadow = true;
  /** Turns every transfer into a fault. */
  gone = false;
  hook: (() => void) | null = null;
  private readonly guest: Uint8Array;

  constructor(memory: FakeMemory, gpa: number, bytes: number) {
    const padded = Math.ceil(bytes / 4) * 4;
    this.u8 = new Uint8Array(padded).fill(POISON);
    this.u16 = new Uint16Array(this.u8.buffer);
    this.u32 = new Uint32Array(this.u8.buffer);
    this.guest = new Uint8Array(memory.buffer, memory.offsetOf(gpa, bytes), bytes);
  }

  pull(offset: number, bytes: number): boolean {
    this.hook?.();
    if (this.gone) return false;
    assert.ok(offset + bytes <= this.guest.length, "pull outside the ring area");
    this.u8.set(this.guest.subarray(offset, offset + bytes), offset);
    return true;
  }

  push(offset: number, bytes: number): boolean {
    this.hook?.();
    if (this.gone) return false;
    assert.ok(offset + bytes <= this.guest.length, "push outside the ring area");
    this.guest.set(this.u8.subarray(offset, offset + bytes), offset);
    return true;
  }
}

// The driver's side of virtqueues for hostile tests: every word of a ring can be set to anything.
// offer() builds well-formed chains; what is hostile is then written over them.

import assert from "node:assert/strict";
import {
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_WRITE,
  PACKED_F_AVAIL,
  PACKED_F_USED,
  splitAvailBytes,
  splitUsedBytes,
} from "../../virtio/index.ts";
import type { HostileMemory, HostileRegion, Range } from "./guest.ts";

export type GuestAddress = number | bigint;

/** One buffer of a chain. */
export interface Buf {
  readonly addr: GuestAddress;
  readonly len: number;
  /** The device may write it. */
  readonly write?: boolean;
}

export interface Used {
  readonly id: number;
  readonly len: number;
}

/** What both ring kinds offer a test. */
export interface HostileRing {
  readonly packed: boolean;
  readonly size: number;
  readonly descriptorGpa: number;
  readonly availGpa: number;
  readonly usedGpa: number;
  /** What the device may write of the ring itself. */
  readonly deviceRanges: readonly Range[];
  /** Puts a chain into free descriptors and offers its head; returns head or buffer id. */
  offer(chain: readonly Buf[]): number;
  /** As offer(), through an indirect table; `entries` may lie about its length in bytes. */
  offerIndirect(chain: readonly Buf[], options?: { readonly bytes?: number }): number;
  /** Offers one indirect descriptor. */
  offerTable(table: GuestAddress, bytes: number, extraFlags?: number): number;
  /** Shows the device what was offered. */
  publish(): void;
  /** Takes what the device has used since the last call. */
  takeUsed(): Used[];
  /** What SET_VRING_BASE is given at the first start. */
  readonly initialBase: number;
}

export function putDescriptor(
  memory: HostileMemory,
  gpa: number,
  fields: { addr: GuestAddress; len: number; third: number; fourth: number },
): void {
  const view = memory.window(gpa, 16);
  view.setBigUint64(0, BigInt.asUintN(64, BigInt(fields.addr)), true);
  view.setUint32(8, fields.len >>> 0, true);
  view.setUint16(12, fields.third, true);
  view.setUint16(14, fields.fourth, true);
}

export class HostileSplit implements HostileRing {
  readonly packed = false;
  readonly size: number;
  readonly descriptorGpa: number;
  readonly availGpa: number;
  readonly usedGpa: number;
  readonly initialBase = 0;
  readonly avail: Uint16Array;
  readonly used: Uint16Array;
  private readonly usedWords: Uint32Array;
  private readonly memory: HostileMemory;
  /** Next avail index to fill, and to show. */
  availIndex = 0;
  usedIndex = 0;
  private nextDescriptor = 0;

  constructor(memory: HostileMemory, size: number, region?: HostileRegion) {
    this.memory = memory;
    this.size = size;
    this.descriptorGpa = memory.allocate(16 * size, 16, region);
    this.availGpa = memory.allocate(splitAvailBytes(size), 4, region);
    this.usedGpa = memory.allocate(splitUsedBytes(size) + 2, 4, region);
    this.avail = memory.u16(this.availGpa, 3 + size);
    this.used = memory.u16(this.usedGpa, 3 + 4 * size);
    this.usedWords = memory.u32(this.usedGpa, 1 + 2 * size);
  }

  get deviceRanges(): readonly Range[] {
    return [[this.usedGpa, splitUsedBytes(this.size)]];
  }

  /** Writes descriptor `index`: every field as given. */
  put(index: number, addr: GuestAddress, len: number, flags: number, next = 0): void {
    const fields = { addr, len, third: flags, fourth: next };
    putDescriptor(this.memory, this.descriptorGpa + index * 16, fields);
  }

  /** Offers `head` without a look at it. */
  offerHead(head: number): void {
    this.avail[2 + (this.availIndex % this.size)] = head;
    this.availIndex = (this.availIndex + 1) & 0xffff;
  }

  offer(chain: readonly Buf[]): number {
    assert.ok(chain.length <= this.size, "chain longer than the ring");
    const at = (index: number): number => (this.nextDescriptor + index) % this.size;
    const head = at(0);
    for (const [index, { addr, len, write }] of chain.entries()) {
      const more = index + 1 < chain.length;
      const flags = (more ? DESCRIPTOR_F_NEXT : 0) | (write === true ? DESCRIPTOR_F_WRITE : 0);
      this.put(at(index), addr, len, flags, more ? at(index + 1) : 0);
    }
    this.nextDescriptor = at(chain.length);
    this.offerHead(head);
    return head;
  }

  offerIndirect(chain: readonly Buf[], options: { readonly bytes?: number } = {}): number {
    const table = this.memory.allocate(16 * Math.max(1, chain.length), 16);
    putTable(this.memory, table, chain, false);
    return this.offerTable(table, options.bytes ?? chain.length * 16);
  }

  /** Offers a chain of one indirect descriptor. */
  offerTable(table: GuestAddress, bytes: number, extraFlags = 0): number {
    const head = this.nextDescriptor;
    this.nextDescriptor = (head + 1) % this.size;
    this.put(head, table, bytes, DESCRIPTOR_F_INDIRECT | extraFlags);
    this.offerHead(head);
    return head;
  }

  publish(): void {
    Atomics.store(this.avail, 1, this.availIndex);
  }

  takeUsed(): Used[] {
    const taken: Used[] = [];
    while (this.usedIndex !== Atomics.load(this.used, 1)) {
      const at = 1 + 2 * (this.usedIndex % this.size);
      taken.push({ id: this.usedWords[at] as number, len: this.usedWords[at + 1] as number });
      this.usedIndex = (this.usedIndex + 1) & 0xffff;
      // used_event: call us for the next one. The fence is in the load above.
      Atomics.store(this.avail, 2 + this.size, this.usedIndex);
    }
    return taken;
  }
}

export class HostilePacked implements HostileRing {
  readonly packed = true;
  readonly size: number;
  readonly descriptorGpa: number;
  readonly availGpa: number;
  readonly usedGpa: number;
  readonly initialBase = 0x80008000;
  private readonly memory: HostileMemory;
  private readonly halves: Uint16Array;
  private readonly words: Uint32Array;
  private readonly slotsOfId = new Map<number, number>();
  position = 0;
  wrap = 1;
  private usedPosition = 0;
  private usedWrap = 1;
  private nextId = 0;
  /** First descriptor of what was offered and not yet shown, and its flags. */
  private pending: { position: number; flags: number } | null = null;

  constructor(memory: HostileMemory, size: number, region?: HostileRegion) {
    this.memory = memory;
    this.size = size;
    this.descriptorGpa = memory.allocate(16 * size, 16, region);
    this.availGpa = memory.allocate(4, 4, region);
    this.usedGpa = memory.allocate(4, 4, region);
    this.halves = memory.u16(this.descriptorGpa, 8 * size);
    this.words = memory.u32(this.descriptorGpa, 4 * size);
  }

  get deviceRanges(): readonly Range[] {
    return [
      [this.descriptorGpa, 16 * this.size],
      [this.usedGpa, 4],
    ];
  }

  /** Writes the descriptor at `index`: every field as given, wrap bits too. */
  put(index: number, addr: GuestAddress, len: number, id: number, flags: number): void {
    const fields = { addr, len, third: id, fourth: flags };
    putDescriptor(this.memory, this.descriptorGpa + index * 16, fields);
  }

  /** `flags` with the bits that make a descriptor available now. */
  available(flags: number): number {
    return flags | (this.wrap === 1 ? PACKED_F_AVAIL : PACKED_F_USED);
  }

  /** Places one descriptor; the first one since publish() stays invisible. */
  place(addr: GuestAddress, len: number, id: number, flags: number): void {
    const marked = this.available(flags);
    if (this.pending === null) {
      this.pending = { position: this.position, flags: marked };
      const old = this.halves[this.position * 8 + 7] as number;
      this.put(this.position, addr, len, id, old);
    } else {
      this.put(this.position, addr, len, id, marked);
    }
    this.position += 1;
    if (this.position === this.size) {
      this.position = 0;
      this.wrap ^= 1;
    }
  }

  takeId(slots: number): number {
    const id = this.nextId;
    this.nextId = (id + 1) % this.size;
    this.slotsOfId.set(id, slots);
    return id;
  }

  offer(chain: readonly Buf[]): number {
    const id = this.takeId(chain.length);
    for (const [index, { addr, len, write }] of chain.entries()) {
      const more = index + 1 < chain.length ? DESCRIPTOR_F_NEXT : 0;
      this.place(addr, len, id, more | (write === true ? DESCRIPTOR_F_WRITE : 0));
    }
    return id;
  }

  offerIndirect(chain: readonly Buf[], options: { readonly bytes?: number } = {}): number {
    const table = this.memory.allocate(16 * Math.max(1, chain.length), 16);
    putTable(this.memory, table, chain, true);
    return this.offerTable(table, options.bytes ?? chain.length * 16);
  }

  offerTable(table: GuestAddress, bytes: number, extraFlags = 0): number {
    const id = this.takeId(1);
    this.place(table, bytes, id, DESCRIPTOR_F_INDIRECT | extraFlags);
    return id;
  }

  publish(): void {
    if (this.pending === null) return;
    Atomics.store(this.halves, this.pending.position * 8 + 7, this.pending.flags);
    this.pending = null;
  }

  takeUsed(): Used[] {
    const taken: Used[] = [];
    while (taken.length < this.size) {
      const flags = Atomics.load(this.halves, this.usedPosition * 8 + 7);
      const state = this.usedWrap === 1 ? PACKED_F_AVAIL | PACKED_F_USED : 0;
      if ((flags & (PACKED_F_AVAIL | PACKED_F_USED)) !== state) break;
      const id = this.halves[this.usedPosition * 8 + 6] as number;
      const slots = this.slotsOfId.get(id);
      // A ring that was never used looks used to a wrap counter of 0.
      if (slots === undefined) break;
      this.slotsOfId.delete(id);
      taken.push({ id, len: this.words[this.usedPosition * 4 + 2] as number });
      this.usedPosition += slots;
      if (this.usedPosition >= this.size) {
        this.usedPosition -= this.size;
        this.usedWrap ^= 1;
      }
    }
    return taken;
  }
}

/** Writes an indirect table. */
export function putTable(
  memory: HostileMemory,
  table: number,
  chain: readonly Buf[],
  packed: boolean,
): void {
  for (const [index, { addr, len, write }] of chain.entries()) {
    const more = index + 1 < chain.length;
    const writable = write === true ? DESCRIPTOR_F_WRITE : 0;
    const fields = packed
      ? { addr, len, third: 0, fourth: writable }
      : {
          addr,
          len,
          third: writable | (more ? DESCRIPTOR_F_NEXT : 0),
          fourth: more ? index + 1 : 0,
        };
    // Tables may cross from one region into the next: never wider than a descriptor at a time.
    putDescriptor(memory, table + index * 16, fields);
  }
}

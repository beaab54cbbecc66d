// The honest half of a chain round: a driver that keeps to the rules in every way they allow. Its
// requests are cut into descriptors anywhere, direct or indirect, of any kind and size, and after
// each one everything must be exactly right: status, length, data against a model of the disk, and
// not one byte of its memory changed that the request did not name.

import assert from "node:assert/strict";
import type { Prng } from "../../base/index.ts";
import * as v from "../../virtio/index.ts";
import type { HostileRegion, Range } from "../hostile/guest.ts";
import { type Buf, putTable } from "../hostile/rings.ts";
import { type Queue, STATUS_UNTOUCHED, type Victim } from "../hostile/victim.ts";

/** The part of the disk that is the honest guest's: nobody else writes it. */
export const HONEST_BYTES: number = 4 * 1024 * 1024;
const SECTOR_BYTES = 512;
const HONEST_SECTORS = HONEST_BYTES / SECTOR_BYTES;
const DATA_SECTORS_MAX = 64;
const ID_BYTES = 20;

const KINDS = ["read", "write", "flush", "id", "discard", "zeroes"] as const;
type Kind = (typeof KINDS)[number];

interface Plan {
  readonly kind: Kind;
  readonly sector: number;
  readonly sectors: number;
}

export class HonestGuest {
  private readonly victim: Victim;
  private readonly queue: Queue;
  private readonly region: HostileRegion;
  private readonly prng: Prng;
  private readonly disk: Uint8Array = new Uint8Array(HONEST_BYTES);
  private readonly serial: string;
  private readonly patienceMs: number;
  private readonly mark: number[];

  constructor(
    victim: Victim,
    queue: Queue,
    modules: {
      readonly region: HostileRegion;
      readonly prng: Prng;
      readonly serial: string;
      readonly patienceMs: number;
    },
  ) {
    this.victim = victim;
    this.queue = queue;
    this.region = modules.region;
    this.prng = modules.prng;
    this.serial = modules.serial;
    this.patienceMs = modules.patienceMs;
    this.mark = victim.memory.mark();
    // Whoever was here before: the model begins with zeroes.
    this.perform({ kind: "zeroes", sector: 0, sectors: HONEST_SECTORS });
  }

  /** One random request; returns its kind. */
  step(): Kind {
    const { prng } = this;
    const kind = prng.pick(KINDS);
    const sectors = prng.between(1, DATA_SECTORS_MAX);
    const sector = prng.below(HONEST_SECTORS - sectors);
    this.perform({ kind, sector, sectors });
    return kind;
  }

  /** Memory full of noise: a stray byte of any value shows in it. */
  private allocate(bytes: number, alignment = 1): number {
    const { memory } = this.victim;
    const gpa = memory.allocate(bytes, alignment, this.region);
    const from = gpa - this.region.guestAddress;
    for (let at = from; at < from + bytes; at++) this.region.u8[at] = this.prng.below(256);
    return gpa;
  }

  private perform(plan: Plan): void {
    const { memory } = this.victim;
    memory.reset(this.mark);
    const header = this.allocate(16, this.prng.pick([1, 4, 16]));
    this.victim.putHeader(header, TYPES[plan.kind], hasSector(plan.kind) ? plan.sector : 0);
    const { readable, writable, data } = this.buffers(plan);
    // The status may follow the data directly: then both may be one descriptor.
    const statusGpa = this.allocate(1);
    memory.write(statusGpa, Uint8Array.of(STATUS_UNTOUCHED));
    const chain = [
      ...this.cut(header, 16, false),
      ...readable.flatMap(([gpa, bytes]) => this.cut(gpa, bytes, false)),
      ...writable.flatMap(([gpa, bytes]) => this.cut(gpa, bytes, true)),
      { addr: statusGpa, len: 1, write: true },
    ];
    const head = this.offer(chain);
    // The device sees nothing of it yet.
    const before = this.region.u8.slice();
    const used = this.finish(head);
    assert.equal(memory.read(statusGpa, 1)[0], v.BLK_S_OK, `${plan.kind} failed`);
    const written =
      plan.kind === "read" ? plan.sectors * SECTOR_BYTES : plan.kind === "id" ? ID_BYTES : 0;
    assert.equal(used, written + 1, `used length of ${plan.kind}`);
    this.check(plan, data);
    this.checkMemory(before, [...writable, [statusGpa, 1]]);
  }

  /** Where the request's data lies; what is to be written is put there. */
  private buffers(plan: Plan): { readable: Range[]; writable: Range[]; data: Range[] } {
    const bytes = plan.sectors * SECTOR_BYTES;
    if (plan.kind === "read") {
      const data = this.scatter(bytes);
      return { readable: [], writable: data, data };
    }
    if (plan.kind === "write") {
      const data = this.scatter(bytes);
      const content = new Uint8Array(bytes);
      for (let at = 0; at < bytes; at++) content[at] = this.prng.below(256);
      this.disk.set(content, plan.sector * SECTOR_BYTES);
      this.put(data, content);
      return { readable: data, writable: [], data };
    }
    if (plan.kind === "id") {
      const data: Range[] = [[this.allocate(ID_BYTES), ID_BYTES]];
      return { readable: [], writable: data, data };
    }
    if (plan.kind === "flush") return { readable: [], writable: [], data: [] };
    const segment = new DataView(new ArrayBuffer(16));
    segment.setUint32(0, plan.sector, true);
    segment.setUint32(8, plan.sectors, true);
    const data: Range[] = [[this.allocate(16), 16]];
    this.put(data, new Uint8Array(segment.buffer));
    const from = plan.sector * SECTOR_BYTES;
    this.disk.fill(0, from, from + bytes);
    return { readable: data, writable: [], data };
  }

  /** Buffers of `bytes` together, with gaps between them. */
  private scatter(bytes: number): Range[] {
    const ranges: Range[] = [];
    let left = bytes;
    while (left > 0) {
      const piece = ranges.length === 5 ? left : Math.min(left, this.prng.between(1, bytes));
      const gpa = this.allocate(piece, this.prng.pick([1, 512]));
      ranges.push([gpa, piece]);
      // A gap, that neighbours show a stray byte.
      this.allocate(this.prng.between(1, 64));
      left -= piece;
    }
    return ranges;
  }

  private put(ranges: readonly Range[], content: Uint8Array): void {
    let at = 0;
    for (const [gpa, bytes] of ranges) {
      this.victim.memory.write(gpa, content.subarray(at, at + bytes));
      at += bytes;
    }
  }

  /** Descriptors over one buffer, cut at random places. */
  private cut(gpa: number, bytes: number, write: boolean): Buf[] {
    const cuts = this.prng.chance(0.7) ? 1 : this.prng.between(1, Math.min(3, bytes));
    const buffers: Buf[] = [];
    let done = 0;
    for (let index = 1; index <= cuts; index++) {
      const end =
        index === cuts ? bytes : Math.min(bytes, done + this.prng.below(bytes - done + 1));
      buffers.push({ addr: gpa + done, len: end - done, write });
      done = end;
    }
    return buffers;
  }

  /** Offers the chain, directly or through a table; returns its head. */
  private offer(chain: readonly Buf[]): number {
    const { victim, queue } = this;
    const { ring } = queue;
    const canIndirect = ((victim.features >> BigInt(v.F_INDIRECT_DESC)) & 1n) === 1n;
    if (!canIndirect || this.prng.chance(0.5)) {
      return ring.offer(chain.length > ring.size ? joined(chain) : chain);
    }
    const table = this.allocate(chain.length * 16, 16);
    putTable(victim.memory, table, chain, ring.packed);
    return ring.offerTable(table, chain.length * 16);
  }

  /** Lets the device have it, and waits; returns the used length. */
  private finish(head: number): number {
    const { victim, queue } = this;
    victim.go(queue);
    const [used] = victim.waitUsed(1, queue, this.patienceMs);
    assert.equal(used?.id, head, "another chain was used");
    return used.len;
  }

  private check(plan: Plan, data: readonly Range[]): void {
    const { memory } = this.victim;
    const found = Buffer.concat(data.map(([gpa, bytes]) => memory.read(gpa, bytes)));
    if (plan.kind === "read") {
      const from = plan.sector * SECTOR_BYTES;
      const expected = this.disk.subarray(from, from + plan.sectors * SECTOR_BYTES);
      assert.ok(found.equals(expected), `sector ${plan.sector} holds something else`);
    } else if (plan.kind === "id") {
      assert.equal(found.toString("latin1").replace(/\0+$/, ""), this.serial);
    }
  }

  /** Nothing in the honest region may have changed but these. */
  private checkMemory(before: Uint8Array, allowed: readonly Range[]): void {
    const now = Buffer.from(this.region.u8);
    const ring = this.queue.ring;
    const ours: Range[] = [...allowed, ...ring.deviceRanges];
    ours.push([ring.availGpa, ring.packed ? 4 : 6 + 2 * ring.size]);
    for (const [gpa, bytes] of ours) {
      const from = Math.max(0, gpa - this.region.guestAddress);
      now.set(before.subarray(from, from + bytes), from);
    }
    if (now.equals(before)) return;
    const at = now.findIndex((byte, index) => byte !== before[index]);
    assert.fail(`byte ${at} of the guest's memory changed, which no request named`);
  }
}

const TYPES: Readonly<Record<Kind, number>> = {
  read: v.BLK_T_IN,
  write: v.BLK_T_OUT,
  flush: v.BLK_T_FLUSH,
  id: v.BLK_T_GET_ID,
  discard: v.BLK_T_DISCARD,
  zeroes: v.BLK_T_WRITE_ZEROES,
};

function hasSector(kind: Kind): boolean {
  return kind === "read" || kind === "write";
}

/** The same chain in as few descriptors as it can be: neighbours joined. */
function joined(chain: readonly Buf[]): Buf[] {
  const result: Buf[] = [];
  for (const buffer of chain) {
    const last = result.at(-1);
    const follows =
      last !== undefined &&
      Number(last.addr) + last.len === Number(buffer.addr) &&
      (last.write ?? false) === (buffer.write ?? false);
    if (follows) result[result.length - 1] = { ...last, len: last.len + buffer.len };
    else if (buffer.len > 0) result.push(buffer);
  }
  return result;
}

// The reference model of a volume: told of every request when it starts and ends, it throws when a
// read returned what no correct device could have. Linear in the number of sectors read or written,
// as long as few requests for one sector are in flight together.
//
// What it demands, per 512 B sector: linearizability (see register-history.ts). A write that was in
// flight at a crash, or failed, may have happened or not, once and for all: reads do not go back and
// forth. Of a write cut short by a crash each aligned block of `atomicBytes` is new or old as one.

import { assert } from "../../base/index.ts";
import { RegisterHistory } from "./register-history.ts";
import { NOBODY, readStamp, stampSectors, ZEROES } from "./sector-stamp.ts";
import { SECTOR_BYTES } from "./sim-blocks.ts";

export interface ModelVolumeOptions {
  /** False for a device whose discard may leave what was there. */
  readonly discardReadsZero?: boolean;
  /** What is old or new as one after a crash: a multiple of 512, 4096 by default. */
  readonly atomicBytes?: number;
}

export class ModelViolation extends Error {
  override readonly name = "ModelViolation";
}

interface ModelWrite {
  readonly firstSector: number;
  readonly sectorCount: number;
  readonly isOptional: boolean;
}

interface ModelRead {
  readonly firstSector: number;
  readonly sectorCount: number;
  readonly start: number;
}

/** A write that was in flight at a crash, as far as one block is concerned. */
interface Unsettled {
  readonly id: number;
  readonly firstSector: number;
  readonly lastSector: number;
  settled: "new" | "old" | null;
}

export class ModelVolume {
  private readonly discardReadsZero: boolean;
  private readonly sectorsPerAtom: number;
  private readonly registers: Map<number, RegisterHistory> = new Map();
  /** Sectors whose registers no fork shares: others are copied before they change. */
  private readonly own: Set<number> = new Set();
  private readonly writes: Map<number, ModelWrite> = new Map();
  /** In the order in which they started. */
  private readonly reads: Map<number, ModelRead> = new Map();
  private readonly unsettled: Map<number, Unsettled[]> = new Map();
  private time = 1;
  private nextId = 1;
  /** Sectors compared so far, so that a test can tell that it tested something. */
  checkedSectors = 0;

  constructor(options: ModelVolumeOptions = {}) {
    this.discardReadsZero = options.discardReadsZero ?? true;
    this.sectorsPerAtom = (options.atomicBytes ?? 4096) / SECTOR_BYTES;
  }

  /** A copy that goes its own way: one per crash state. */
  fork(): ModelVolume {
    const copy = new ModelVolume({
      discardReadsZero: this.discardReadsZero,
      atomicBytes: this.sectorsPerAtom * SECTOR_BYTES,
    });
    for (const [sector, register] of this.registers) copy.registers.set(sector, register);
    this.own.clear();
    for (const [id, write] of this.writes) copy.writes.set(id, write);
    for (const [id, read] of this.reads) copy.reads.set(id, read);
    for (const [atom, list] of this.unsettled) {
      copy.unsettled.set(
        atom,
        list.map((one) => ({ ...one })),
      );
    }
    copy.time = this.time;
    copy.nextId = this.nextId;
    copy.checkedSectors = this.checkedSectors;
    return copy;
  }

  private tick(): number {
    this.time += 1;
    return this.time;
  }

  private register(sector: number): RegisterHistory {
    const known = this.registers.get(sector);
    if (known !== undefined && this.own.has(sector)) return known;
    const register = known?.fork() ?? new RegisterHistory();
    this.registers.set(sector, register);
    this.own.add(sector);
    return register;
  }

  private oldestRead(): number {
    for (const read of this.reads.values()) return read.start;
    return Infinity;
  }

  /** A write starts; the model says what it writes. */
  startWrite(
    offsetBytes: number,
    bytes: number,
  ): { readonly id: number; readonly data: Uint8Array } {
    const id = this.start(offsetBytes, bytes, false, false);
    return { id, data: stampSectors(id, offsetBytes / SECTOR_BYTES, bytes / SECTOR_BYTES) };
  }

  startWriteZeroes(offsetBytes: number, bytes: number): number {
    return this.start(offsetBytes, bytes, true, false);
  }

  startDiscard(offsetBytes: number, bytes: number): number {
    return this.start(offsetBytes, bytes, true, !this.discardReadsZero);
  }

  private start(offsetBytes: number, bytes: number, isZero: boolean, isOptional: boolean): number {
    const firstSector = offsetBytes / SECTOR_BYTES;
    const sectorCount = bytes / SECTOR_BYTES;
    assert(Number.isInteger(firstSector) && Number.isInteger(sectorCount), "not whole sectors");
    const id = this.nextId;
    this.nextId += 1;
    const time = this.tick();
    for (let index = 0; index < sectorCount; index++) {
      this.register(firstSector + index).writeStarted(id, isZero, isOptional, time);
    }
    this.writes.set(id, { firstSector, sectorCount, isOptional });
    return id;
  }

  /** The write, discard or write-zeroes has completed: 0, or a negated errno (then it may have). */
  endWrite(id: number, result: number): void {
    const write = this.writes.get(id);
    assert(write !== undefined, "the end of a write that is not in flight");
    this.writes.delete(id);
    this.endSectors(id, write, write.isOptional || result < 0);
  }

  private endSectors(id: number, write: ModelWrite, isOptional: boolean): void {
    const time = this.tick();
    const oldestRead = this.oldestRead();
    for (let index = 0; index < write.sectorCount; index++) {
      const register = this.register(write.firstSector + index);
      register.writeEnded(id, time, isOptional, oldestRead);
    }
  }

  startRead(offsetBytes: number, bytes: number): number {
    const id = this.nextId;
    this.nextId += 1;
    const firstSector = offsetBytes / SECTOR_BYTES;
    this.reads.set(id, { firstSector, sectorCount: bytes / SECTOR_BYTES, start: this.tick() });
    return id;
  }

  /** The read has completed with `data`. Throws ModelViolation. A failed read shows nothing. */
  endRead(id: number, result: number, data: Uint8Array): void {
    const read = this.reads.get(id);
    assert(read !== undefined, "the end of a read that is not in flight");
    this.reads.delete(id);
    if (result < 0) return;
    const time = this.tick();
    assert(
      data.length === read.sectorCount * SECTOR_BYTES,
      "a read returned too much or too little",
    );
    for (let index = 0; index < read.sectorCount; index++) {
      const sector = read.firstSector + index;
      const found = readStamp(data, index * SECTOR_BYTES, sector);
      if (found === NOBODY) this.fail(sector, "holds what nobody wrote there");
      const register = this.register(sector);
      const reason = register.readEnded(found, read.start, time);
      if (reason !== null) this.fail(sector, `read as ${reason}`);
      this.settle(sector, register.resolved);
      this.checkedSectors += 1;
    }
  }

  /** What was read of one sector tells what became of the rest of its block. */
  private settle(sector: number, found: number): void {
    const list = this.unsettled.get(Math.floor(sector / this.sectorsPerAtom));
    if (list === undefined) return;
    for (const one of list) {
      if (sector < one.firstSector || sector > one.lastSector) continue;
      let shown: "new" | "old";
      if (found === one.id) shown = "new";
      else if (this.register(sector).isBefore(found, one.id)) shown = "old";
      else continue;
      one.settled ??= shown;
      if (one.settled !== shown) {
        this.fail(
          sector,
          `is ${shown}, another of its block ${one.settled}: write ${one.id} is torn`,
        );
      }
    }
  }

  /** Power or process is gone: reads in flight are void, writes in flight may settle either way. */
  crashed(): void {
    this.reads.clear();
    for (const [id, write] of this.writes) {
      this.endSectors(id, write, true);
      this.noteUnsettled(id, write);
    }
    this.writes.clear();
  }

  private noteUnsettled(id: number, { firstSector, sectorCount }: ModelWrite): void {
    const lastSector = firstSector + sectorCount - 1;
    const firstAtom = Math.floor(firstSector / this.sectorsPerAtom);
    const lastAtom = Math.floor(lastSector / this.sectorsPerAtom);
    for (let atom = firstAtom; atom <= lastAtom; atom++) {
      const list = this.unsettled.get(atom) ?? [];
      if (list.push({ id, firstSector, lastSector, settled: null }) === 1) {
        this.unsettled.set(atom, list);
      }
    }
  }

  /**
   * May a crash now leave `data` there? Answers as a read by a fork after crashed() would, and notes
   * nothing, so that one model serves any number of crash states. Blocks of `atomicBytes` that are
   * not of one write are refused, so every write so far must have been of whole ones.
   */
  checkCrashed(offsetBytes: number, data: Uint8Array): void {
    const now = this.time + 1;
    let before = NOBODY;
    for (let at = 0; at < data.length; at += SECTOR_BYTES) {
      const sector = (offsetBytes + at) / SECTOR_BYTES;
      const found = readStamp(data, at, sector);
      if (found === NOBODY) this.fail(sector, "holds what nobody wrote there");
      const register = this.registers.get(sector);
      const isAllowed = register === undefined ? found === ZEROES : register.allows(found, now);
      if (!isAllowed) this.fail(sector, `holds ${found === ZEROES ? "zeroes" : `write ${found}`}`);
      if (sector % this.sectorsPerAtom > 0 && found !== before) {
        this.fail(sector, "is of another write than the sector before it");
      }
      before = found;
    }
    this.checkedSectors += data.length / SECTOR_BYTES;
  }

  private fail(sector: number, what: string): never {
    throw new ModelViolation(`sector ${sector} (byte ${sector * SECTOR_BYTES}) ${what}`);
  }
}

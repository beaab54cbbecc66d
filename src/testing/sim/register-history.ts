// One 512 B sector as a register: may these reads have been returned, given these writes and when
// each began and ended? Linearizability, exactly, for values written once (Gibbons and Korach).
//
// A version is a write with all reads that returned it. Some operation of version A ended before
// some operation of B began: then A came before B. Two versions that each came before the other are
// a violation, and there is no other kind. Writes that may not have happened (in flight at a crash,
// failed) count only from the first read that returns them, and they must have happened by `end`.
//
// Zeroes may have been written more than once: a read of zeroes is charged to the one version that
// explains it, and to none while several do; that never accuses wrongly.
//
// Times are a counter of events, so no two are equal. A version is dropped once any further read of
// it would be a violation that the others show as well; the list stays as long as what is in flight.

import { NOBODY, ZEROES } from "./sector-stamp.ts";

export interface Version {
  /** The write; 0 is what was there first. */
  readonly id: number;
  readonly isZero: boolean;
  /** The write may not have happened, unless somebody reads it. */
  isOptional: boolean;
  isRead: boolean;
  /** The earliest end, and the latest beginning, of the write and the reads of it. */
  firstEnd: number;
  lastStart: number;
}

export class RegisterHistory {
  private versions: Version[] = [];
  /** Which write the last read returned; NOBODY when several may have been it. */
  resolved: number = NOBODY;

  constructor() {
    const first = { id: 0, isZero: true, isOptional: false, isRead: false };
    this.versions.push({ ...first, firstEnd: 0, lastStart: 0 });
  }

  fork(): RegisterHistory {
    const copy = new RegisterHistory();
    copy.versions = this.versions.map((version) => ({ ...version }));
    return copy;
  }

  get versionCount(): number {
    return this.versions.length;
  }

  writeStarted(id: number, isZero: boolean, isOptional: boolean, start: number): void {
    const version = { id, isZero, isOptional, isRead: false };
    this.versions.push({ ...version, firstEnd: Infinity, lastStart: start });
  }

  /** `oldestRead` is when the oldest read in flight began, Infinity without one. */
  writeEnded(id: number, end: number, isOptional: boolean, oldestRead: number): void {
    const version = this.versions.find((one) => one.id === id);
    if (version === undefined) return;
    version.firstEnd = Math.min(version.firstEnd, end);
    if (isOptional) version.isOptional = true;
    this.prune(Math.min(oldestRead, end + 1));
  }

  /** A read in [start, end) returned version `id`, or zeroes. Null, or what is wrong with that. */
  readEnded(id: number, start: number, end: number): string | null {
    this.resolved = NOBODY;
    const isZero = id === ZEROES;
    const candidates = this.versions.filter((one) => (isZero ? one.isZero : one.id === id));
    if (candidates.length === 0) {
      return isZero
        ? "zeroes, which were overwritten or never there"
        : `write ${id}, which was overwritten before the read began, or is not of this sector`;
    }
    const possible = candidates.filter((one) => this.rivalOf(one, start, end) === null);
    if (possible.length === 0) {
      const rival = this.rivalOf(candidates[0], start, end) as Version;
      const what = isZero ? "zeroes" : `write ${id}`;
      return `${what}, though write ${rival.id} came after it and before the read`;
    }
    if (possible.length > 1) return null;
    const [version] = possible;
    this.resolved = version.id;
    version.isRead = true;
    version.firstEnd = Math.min(version.firstEnd, end);
    version.lastStart = Math.max(version.lastStart, start);
    return null;
  }

  /** Could a read that begins now return `id`, whatever is in flight? Notes nothing. */
  allows(id: number, now: number): boolean {
    return this.versions.some((one) => {
      const isIt = id === ZEROES ? one.isZero : one.id === id;
      return isIt && this.rivalOf(one, now, now + 1) === null;
    });
  }

  /** The version that would come both before and after `version` with one more read of it. */
  private rivalOf(version: Version, start: number, end: number): Version | null {
    const firstEnd = Math.min(version.firstEnd, end);
    const lastStart = Math.max(version.lastStart, start);
    for (const other of this.versions) {
      if (other === version || (other.isOptional && !other.isRead)) continue;
      if (firstEnd < other.lastStart && other.firstEnd < lastStart) return other;
    }
    return null;
  }

  /** `earlier` certainly came before `later`, as far as is known. */
  isBefore(earlier: number, later: number): boolean {
    const first = this.versions.find((one) => one.id === earlier);
    const second = this.versions.find((one) => one.id === later);
    return first !== undefined && second !== undefined && first.firstEnd < second.lastStart;
  }

  /** What `old` still says of a third, earlier one needs no keeping: that one goes with it. */
  private prune(oldestRead: number): void {
    if (this.versions.length < 2) return;
    this.versions = this.versions.filter(
      (old) =>
        !this.versions.some(
          (one) =>
            one !== old &&
            !(one.isOptional && !one.isRead) &&
            old.firstEnd < one.lastStart &&
            one.firstEnd < oldestRead,
        ),
    );
  }
}

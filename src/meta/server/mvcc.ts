// What the embedded server keeps, in memory: every key with the versions that are still remembered,
// and the order in which they came to be. The same model as etcd's: one revision for the whole
// store, one more with each transaction that changes something; compaction forgets versions that
// were superseded before a revision. Nothing here waits or writes; database.ts makes it durable.
//
// Invariants:
// - #keys is sorted by bytes and holds exactly the keys of #versions.
// - A key's versions rise in modRevision; a tombstone (value null) is never its first.
// - #log holds all versions with modRevision >= compactRevision, in order of (modRevision, sub).
//
// Keys are strings of bytes (latin1): they compare as the bytes do.

import { assert } from "../../base/index.ts";

export interface Version {
  readonly key: string;
  readonly createRevision: number;
  readonly modRevision: number;
  /** Order among the changes of one transaction. */
  readonly sub: number;
  /** 0 for a tombstone. */
  readonly version: number;
  /** null: a tombstone, the key was deleted here. */
  readonly value: Uint8Array | null;
  readonly lease: bigint;
}

export class Mvcc {
  /** Of the last transaction that changed something. An empty store is at 1, as etcd's. */
  revision = 1;
  compactRevision = 0;
  /** Of keys and values that are remembered. */
  sizeBytes = 0;
  readonly #keys: string[] = [];
  readonly #versions = new Map<string, Version[]>();
  #log: Version[] = [];
  #logFrom = 0;
  #changes: Version[] | null = null;

  get keyCount(): number {
    return this.#keys.length;
  }

  /** Inside a transaction: the next one as soon as something has changed. */
  get openRevision(): number {
    return this.revision + (this.#changes !== null && this.#changes.length > 0 ? 1 : 0);
  }

  get historyLength(): number {
    return this.#log.length - this.#logFrom;
  }

  /** What `key` holds; null = no such key. Inside a transaction: with its changes so far. */
  get(key: string): Version | null {
    const newest = this.#versions.get(key)?.at(-1);
    return newest === undefined || newest.value === null ? null : newest;
  }

  /** Keys in [from, to), `to` null = to the end, as they were at `revision`. */
  *range(from: string, to: string | null, revision: number): Generator<Version> {
    assert(revision >= this.compactRevision, "a compacted revision is refused before");
    for (let index = this.#lowerBound(from); index < this.#keys.length; index++) {
      const key = this.#keys[index]!;
      if (to !== null && key >= to) return;
      const version = lastUntil(this.#versions.get(key)!, revision);
      if (version !== null && version.value !== null) yield version;
    }
  }

  /** Changes at and after `revision`, oldest first. */
  since(revision: number): readonly Version[] {
    let low = this.#logFrom;
    let high = this.#log.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#log[middle]!.modRevision < revision) low = middle + 1;
      else high = middle;
    }
    return this.#log.slice(low);
  }

  /** The version that `version` superseded, as far as it is remembered. */
  before(version: Version): Version | null {
    const versions = this.#versions.get(version.key) ?? [];
    const earlier = lastUntil(versions, version.modRevision - 1);
    return earlier === null || earlier.value === null ? null : earlier;
  }

  /** Everything until end() happens at revision + 1. */
  begin(): void {
    assert(this.#changes === null, "one transaction at a time");
    this.#changes = [];
  }

  put(key: string, value: Uint8Array, lease: bigint): void {
    const before = this.get(key);
    const modRevision = this.revision + 1;
    this.#change({
      key,
      createRevision: before?.createRevision ?? modRevision,
      modRevision,
      sub: this.#changes?.length ?? 0,
      version: (before?.version ?? 0) + 1,
      value,
      lease,
    });
  }

  delete(key: string): void {
    if (this.get(key) === null) return;
    const modRevision = this.revision + 1;
    const sub = this.#changes?.length ?? 0;
    this.#change({ key, createRevision: 0, modRevision, sub, version: 0, value: null, lease: 0n });
  }

  /** The changes that were made, to be written down. None: the revision stays. */
  end(): readonly Version[] {
    assert(this.#changes !== null, "a transaction was begun");
    const changes = this.#changes;
    this.#changes = null;
    if (changes.length > 0) this.revision++;
    return changes;
  }

  /** Forgets versions that were superseded before `revision`; returns them. */
  compact(revision: number): Version[] {
    assert(revision > this.compactRevision && revision <= this.revision, "a revision to come");
    const forgotten: Version[] = [];
    this.compactRevision = revision;
    let at = this.#logFrom;
    let historyFrom = at;
    for (; at < this.#log.length && this.#log[at]!.modRevision <= revision; at++) {
      const { key, modRevision } = this.#log[at]!;
      if (modRevision < revision) historyFrom = at + 1;
      this.#trim(key, revision, forgotten);
    }
    this.#logFrom = historyFrom;
    if (this.#logFrom * 2 > this.#log.length) {
      this.#log = this.#log.slice(this.#logFrom);
      this.#logFrom = 0;
    }
    for (const version of forgotten) this.sizeBytes -= bytesOf(version);
    return forgotten;
  }

  /** A version that was kept, in the order of the log. Only while loading. */
  restore(version: Version): void {
    this.#add(version);
    this.revision = Math.max(this.revision, version.modRevision);
  }

  /** After the last restore(): versions below stay for their keys, and are no history. */
  restored(compactRevision: number): void {
    this.compactRevision = compactRevision;
    this.revision = Math.max(this.revision, compactRevision);
    this.#log = this.#log.filter((version) => version.modRevision >= compactRevision);
  }

  #change(version: Version): void {
    assert(this.#changes !== null, "changes are made in a transaction");
    this.#changes.push(version);
    this.#add(version);
  }

  #add(version: Version): void {
    const versions = this.#versions.get(version.key);
    if (versions === undefined) {
      this.#versions.set(version.key, [version]);
      const last = this.#keys.at(-1);
      if (last === undefined || last < version.key) this.#keys.push(version.key);
      else this.#keys.splice(this.#lowerBound(version.key), 0, version.key);
    } else {
      versions.push(version);
    }
    this.#log.push(version);
    this.sizeBytes += bytesOf(version);
  }

  /** Keeps what `key` held at `revision`, and everything since. */
  #trim(key: string, revision: number, forgotten: Version[]): void {
    const versions = this.#versions.get(key);
    if (versions === undefined) return;
    let keep = versions.length;
    while (keep > 0 && versions[keep - 1]!.modRevision > revision) keep--;
    // The one at `revision` stays even if it is a tombstone: it is still history.
    const held = versions[keep - 1];
    const stays = held !== undefined && (held.value !== null || held.modRevision === revision);
    const count = keep - (stays ? 1 : 0);
    if (count <= 0) return;
    forgotten.push(...versions.splice(0, count));
    if (versions.length > 0) return;
    this.#versions.delete(key);
    this.#keys.splice(this.#lowerBound(key), 1);
  }

  #lowerBound(key: string): number {
    let low = 0;
    let high = this.#keys.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#keys[middle]! < key) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

function lastUntil(versions: readonly Version[], revision: number): Version | null {
  for (let index = versions.length - 1; index >= 0; index--) {
    const version = versions[index]!;
    // A key changed twice in one transaction is refused, a deletion and a put are not.
    if (version.modRevision <= revision) return version;
  }
  return null;
}

function bytesOf(version: Version): number {
  return version.key.length + (version.value?.length ?? 0);
}

// The embedded server's disk: a LevelDB (classic-level) with one record per remembered version and
// one per lease. A batch is on the disk (fdatasync of LevelDB's log) when append() has resolved.
//
//   "v" revision (8 bytes, big-endian) sub (4)   a version: KeyValue of etcd's API, or a tombstone
//   "l" lease id (8 bytes, big-endian)           its time to live in seconds
//   "m" "format"                                 JSON: format, cluster id, member id
//   "m" "compact"                                the compacted revision, in decimal
//
// LevelDB reads over damaged records of its log without a word. Revisions have no gaps above the
// compacted one, so a gap is how such a loss shows, and the folder is refused. What the tail lost
// can show no gap; only a disk that acknowledges what it has not kept does that.

import { randomBytes } from "node:crypto";
import { closeSync, fsyncSync, mkdirSync, openSync } from "node:fs";
import { dirname } from "node:path";
import { ClassicLevel } from "classic-level";
import { MetaError } from "../errors.ts";
import { KEY_VALUE, type KeyValue } from "../etcd-messages.ts";
import { flag, type MessageType, message, nested } from "../protobuf.ts";
import { Mvcc, type Version } from "./mvcc.ts";

const DATABASE_FORMAT = 1;

interface StoredVersion {
  kv: KeyValue | null;
  isTombstone: boolean;
}

const STORED_VERSION: MessageType<StoredVersion> = message("StoredVersion", {
  kv: nested(1, () => KEY_VALUE),
  isTombstone: flag(2),
});

export type Operation =
  | { readonly type: "put"; readonly key: Buffer; readonly value: Buffer }
  | { readonly type: "del"; readonly key: Buffer };

type Level = ClassicLevel<Buffer, Buffer>;

export interface Loaded {
  readonly mvcc: Mvcc;
  /** Lease id -> seconds. */
  readonly leases: ReadonlyMap<bigint, number>;
}

const FORMAT_KEY = Buffer.from("mformat");
const COMPACT_KEY = Buffer.from("mcompact");
const LOAD_KEYS = 1000;

export class Database {
  readonly clusterId: bigint;
  readonly memberId: bigint;
  readonly #level: Level;

  private constructor(level: Level, clusterId: bigint, memberId: bigint) {
    this.#level = level;
    this.clusterId = clusterId;
    this.memberId = memberId;
  }

  static async open(directory: string): Promise<Database> {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    // LevelDB syncs what is in its folder; that the folder is there is up to us.
    syncFolder(dirname(directory));
    const encoding = { keyEncoding: "buffer", valueEncoding: "buffer" } as const;
    const level: Level = new ClassicLevel<Buffer, Buffer>(directory, encoding);
    try {
      await level.open();
    } catch (error) {
      throw openingError(directory, error);
    }
    try {
      const { clusterId, memberId } = await readFormat(level, directory);
      return new Database(level, BigInt(`0x${clusterId}`), BigInt(`0x${memberId}`));
    } catch (error) {
      await level.close();
      throw error;
    }
  }

  async load(): Promise<Loaded> {
    const mvcc = new Mvcc();
    const compact = await this.#level.get(COMPACT_KEY);
    const compactRevision = compact === undefined ? 0 : Number(compact.toString());
    let newest = compactRevision;
    await this.#forEach("v", (key, value) => {
      const version = decodeVersion(key, value);
      const { modRevision } = version;
      // An empty store is at revision 1: the first change is 2.
      if (modRevision > compactRevision && modRevision > Math.max(newest, 1) + 1) {
        throw gap(newest + 1, modRevision);
      }
      newest = Math.max(newest, modRevision);
      mvcc.restore(version);
    });
    mvcc.restored(compactRevision);
    const leases = new Map<bigint, number>();
    await this.#forEach("l", (key, value) => {
      leases.set(key.readBigUInt64BE(1), value.readDoubleBE(0));
    });
    return { mvcc, leases };
  }

  /** All of it or nothing, on the disk. */
  async append(operations: Operation[]): Promise<void> {
    await this.#level.batch(operations, { sync: true });
  }

  close(): Promise<void> {
    return this.#level.close();
  }

  async #forEach(kind: string, visit: (key: Buffer, value: Buffer) => void): Promise<void> {
    const first = Buffer.from(kind);
    const last = Buffer.from([first[0]! + 1]);
    const iterator = this.#level.iterator({ gte: first, lt: last });
    try {
      for (;;) {
        const entries = await iterator.nextv(LOAD_KEYS);
        if (entries.length === 0) return;
        for (const [key, value] of entries) visit(key, value);
      }
    } finally {
      await iterator.close();
    }
  }
}

export function versionPut(version: Version): Operation {
  const { key, createRevision, modRevision, value, lease } = version;
  const kv: KeyValue = {
    key: Buffer.from(key, "latin1"),
    createRevision,
    modRevision,
    version: version.version,
    value: value ?? Buffer.alloc(0),
    lease,
  };
  const stored = STORED_VERSION.encode({ kv, isTombstone: value === null });
  return { type: "put", key: versionKey(version), value: stored };
}

export function versionDelete(version: Version): Operation {
  return { type: "del", key: versionKey(version) };
}

export function leasePut(id: bigint, ttlSeconds: number): Operation {
  const value = Buffer.alloc(8);
  value.writeDoubleBE(ttlSeconds);
  return { type: "put", key: leaseKey(id), value };
}

export function leaseDelete(id: bigint): Operation {
  return { type: "del", key: leaseKey(id) };
}

export function compactPut(revision: number): Operation {
  return { type: "put", key: COMPACT_KEY, value: Buffer.from(String(revision)) };
}

function versionKey(version: Version): Buffer {
  const key = Buffer.alloc(13);
  key.write("v", "latin1");
  key.writeBigUInt64BE(BigInt(version.modRevision), 1);
  key.writeUInt32BE(version.sub, 9);
  return key;
}

function leaseKey(id: bigint): Buffer {
  const key = Buffer.alloc(9);
  key.write("l", "latin1");
  key.writeBigUInt64BE(BigInt.asUintN(64, id), 1);
  return key;
}

function decodeVersion(key: Buffer, value: Buffer): Version {
  const stored = STORED_VERSION.decode(value);
  const kv = stored.kv;
  if (kv === null || kv.modRevision !== Number(key.readBigUInt64BE(1))) {
    throw new MetaError("database", "The metadata database has a record that is not whole.", {
      advice: ADVICE,
    });
  }
  return {
    key: Buffer.from(kv.key).toString("latin1"),
    createRevision: kv.createRevision,
    modRevision: kv.modRevision,
    sub: key.readUInt32BE(9),
    version: kv.version,
    // A copy: the buffer may be a view of a whole page of the iterator.
    value: stored.isTombstone ? null : Uint8Array.from(kv.value),
    lease: kv.lease,
  };
}

interface Format {
  readonly format: number;
  readonly clusterId: string;
  readonly memberId: string;
}

async function readFormat(level: Level, directory: string): Promise<Format> {
  const bytes = await level.get(FORMAT_KEY);
  if (bytes !== undefined) {
    const found = JSON.parse(bytes.toString()) as Format;
    if (found.format === DATABASE_FORMAT) return found;
    const message =
      `The metadata in ${directory} has format ${found.format}; ` +
      `this version reads format ${DATABASE_FORMAT}.`;
    throw new MetaError("newer-format", message, { advice: "Use the version that wrote it." });
  }
  const made: Format = {
    format: DATABASE_FORMAT,
    clusterId: randomBytes(8).toString("hex"),
    memberId: randomBytes(8).toString("hex"),
  };
  await level.put(FORMAT_KEY, Buffer.from(JSON.stringify(made)), { sync: true });
  return made;
}

const ADVICE = "Put the disk aside, and import the last archive into a new folder.";

function gap(from: number, to: number): MetaError {
  const message = `The metadata database has lost revisions ${from} to ${to - 1}.`;
  return new MetaError("database", message, { advice: ADVICE });
}

function syncFolder(path: string): void {
  const fd = openSync(path, "r");
  fsyncSync(fd);
  closeSync(fd);
}

function openingError(directory: string, error: unknown): MetaError {
  const cause = (error as { cause?: { code?: string; message?: string } }).cause;
  if (cause?.code === "LEVEL_LOCKED") {
    return new MetaError("database", `Another process has the metadata in ${directory} open.`);
  }
  const reason = cause?.message ?? String(error);
  return new MetaError("database", `The metadata in ${directory} cannot be opened: ${reason}`);
}

// The metadata as a file: JSON lines, so that a person can read it, with a checksum, so that a
// machine can trust it. The backup of a cluster with the embedded server, and the way from it to
// etcd and back.
//
//   {"kind":"ringstore-metadata","format":1,"root":…,"cluster":…,"generation":…,"revision":…}
//   {"key":…,"value":…}        keys without their root, values in base64; all of one revision
//   …
//   {"entries":…,"sha256":…}   of every byte before this line
//
// What hangs on a lease says who lives now, and is left out. An import puts the records back as
// they were, generation and all: a disk that has seen later epochs refuses them, and their records
// have to be made again from the disks. It goes into an empty root, the cluster record last; one
// that was interrupted is simply done again.

import { createHash } from "node:crypto";
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import type { MetaEntry, MetaStore } from "../ports/meta-store.ts";
import { MetaError } from "./errors.ts";
import { type Inventory, readInventory } from "./inventory.ts";
import { MetaKeys } from "./keys.ts";
import { type Swap, swapMany } from "./swap.ts";

export const ARCHIVE_FORMAT = 1;
const KIND = "ringstore-metadata";

export interface ArchiveHeader {
  readonly kind: string;
  readonly format: number;
  readonly root: string;
  readonly cluster: string;
  readonly generation: number;
  readonly revision: number;
  readonly at: string;
}

export interface Archive {
  readonly header: ArchiveHeader;
  readonly inventory: Inventory;
  /** Keys without their root. */
  readonly values: ReadonlyMap<string, Buffer>;
}

/** Writes what is below the root to `path`, whole or not at all; returns what it says. */
export async function exportMetadata(
  store: MetaStore,
  keys: MetaKeys,
  path: string,
  at: Date,
): Promise<ArchiveHeader> {
  const { entries, revision } = await store.list(keys.root);
  const lasting = entries.filter((entry) => entry.leaseId === 0n);
  const { cluster } = readInventory(keys, lasting);
  const header: ArchiveHeader = {
    kind: KIND,
    format: ARCHIVE_FORMAT,
    root: keys.root,
    cluster: cluster.id,
    generation: cluster.generation,
    revision,
    at: at.toISOString(),
  };
  const temporary = `${path}.new`;
  const fd = openSync(temporary, "w", 0o600);
  try {
    const hash = createHash("sha256");
    const line = (value: object): void => {
      const text = `${JSON.stringify(value)}\n`;
      hash.update(text);
      writeAll(fd, text);
    };
    line(header);
    for (const { key, value } of lasting) {
      line({ key: key.slice(keys.root.length), value: Buffer.from(value).toString("base64") });
    }
    writeAll(fd, `${JSON.stringify({ entries: lasting.length, sha256: hash.digest("hex") })}\n`);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(temporary, path);
  syncFolder(dirname(path));
  return header;
}

/** Reads and checks an archive: nothing of one that is not whole or does not fit is returned. */
export function readArchive(path: string): Archive {
  const refuse = (problem: string): MetaError =>
    new MetaError("archive", `${path} is no archive that can be used: ${problem}.`);
  const text = readFileSync(path, "utf8");
  const lines = text.split("\n");
  if (lines.pop() !== "" || lines.length < 2) throw refuse("it is cut short");
  const last = lines.pop()!;
  const parse = (line: string): Record<string, unknown> => {
    try {
      return JSON.parse(line) as Record<string, unknown>;
    } catch {
      throw refuse("a line is not JSON");
    }
  };
  const header = parse(lines[0]!) as unknown as ArchiveHeader;
  if (header.kind !== KIND) throw refuse("it does not begin as one");
  if (header.format !== ARCHIVE_FORMAT) {
    const message = `${path} has format ${header.format}; this version reads ${ARCHIVE_FORMAT}.`;
    throw new MetaError("newer-format", message, { advice: "Use the version that wrote it." });
  }
  const { entries, sha256 } = parse(last);
  const body = text.slice(0, text.length - last.length - 1);
  const found = createHash("sha256").update(body).digest("hex");
  if (sha256 !== found) throw refuse("its checksum is wrong");
  if (entries !== lines.length - 1)
    throw refuse(`it has ${lines.length - 1} of ${entries} entries`);
  const values = new Map<string, Buffer>();
  for (const line of lines.slice(1)) {
    const { key, value } = parse(line);
    if (typeof key !== "string" || typeof value !== "string") throw refuse("an entry is malformed");
    values.set(key, Buffer.from(value, "base64"));
  }
  if (values.size !== entries) throw refuse("a key is there twice");
  const keys = new MetaKeys(header.root);
  const inventory = readInventory(keys, entriesOf(keys, values));
  return { header, inventory, values };
}

/** Puts an archive below an empty root; returns how many keys it wrote. */
export async function importMetadata(
  store: MetaStore,
  keys: MetaKeys,
  archive: Pick<Archive, "values">,
  isGivenUp: () => boolean,
): Promise<number> {
  if ((await store.get(keys.cluster)) !== null) {
    const message = `There is a cluster below ${keys.root} already.`;
    throw new MetaError("archive", message, { advice: "Import into an empty root." });
  }
  const swaps: Swap[] = [...archive.values].map(([key, value]) => ({
    key: keys.root + key,
    modRevision: 0,
    value,
  }));
  const isLast = ({ key }: Swap): boolean => key === keys.cluster;
  for (const part of [swaps.filter((swap) => !isLast(swap)), swaps.filter(isLast)]) {
    const answers = await swapMany(store, part, isGivenUp);
    for (const [index, answer] of answers.entries()) {
      const { key, value } = part[index]!;
      if (answer.outcome === "applied") continue;
      // An earlier attempt of this import.
      if (answer.found !== null && Buffer.compare(answer.found.value, value!) === 0) continue;
      throw new MetaError("archive", `${key} is there already, and holds something else.`, {
        advice: "Import into an empty root.",
      });
    }
  }
  return swaps.length;
}

function entriesOf(keys: MetaKeys, values: ReadonlyMap<string, Buffer>): MetaEntry[] {
  const none = { createRevision: 0, modRevision: 0, version: 0, leaseId: 0n };
  return [...values].map(([key, value]) => ({ key: keys.root + key, value, ...none }));
}

function writeAll(fd: number, text: string): void {
  const bytes = Buffer.from(text);
  for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done);
}

function syncFolder(path: string): void {
  const fd = openSync(path, "r");
  fsyncSync(fd);
  closeSync(fd);
}

// A cluster's metadata read as a whole: every key decoded, and what must agree between records
// compared. For archives and for the tools that repair; a daemon reads only what it needs.

import type { MetaEntry } from "../ports/meta-store.ts";
import { MetaError } from "./errors.ts";
import type { MetaKeys } from "./keys.ts";
import { decodePage, PAGE_SEGMENTS, type PlacementPage, SEGMENT_BYTES } from "./placement-page.ts";
import {
  clusterCodec,
  copyCodec,
  diskCodec,
  nodeCodec,
  reservationsCodec,
  volumeCodec,
} from "./record-codec.ts";
import type { ClusterRecord, DiskRecord, NodeRecord, VolumeRecord } from "./records.ts";

export interface Inventory {
  readonly cluster: ClusterRecord;
  readonly nodes: ReadonlyMap<string, NodeRecord>;
  readonly disks: ReadonlyMap<string, DiskRecord>;
  readonly volumes: ReadonlyMap<string, VolumeRecord>;
  /** By volume, in the order of their numbers. */
  readonly pages: ReadonlyMap<string, readonly PlacementPage[]>;
}

interface Draft {
  cluster: ClusterRecord | null;
  readonly nodes: Map<string, NodeRecord>;
  readonly disks: Map<string, DiskRecord>;
  readonly volumes: Map<string, VolumeRecord>;
  readonly pages: Map<string, PlacementPage[]>;
  /** Volume and disk, of each copy that is told of. */
  readonly copies: (readonly [volume: string, disk: string])[];
  /** Volumes with reservations. */
  readonly reserved: string[];
  /** Disk number -> disk, volume name -> volume: as the index keys say. */
  readonly numbers: Map<string, string>;
  readonly names: Map<string, string>;
}

type Reader = (draft: Draft, key: string, rest: string, value: Uint8Array) => void;

/** By what follows the root. */
const READERS: readonly (readonly [string, Reader])[] = [
  ["cluster", (draft, key, _, value) => (draft.cluster = clusterCodec.decode(key, value))],
  ["node/", (draft, key, id, value) => keep(draft.nodes, key, id, nodeCodec.decode(key, value))],
  ["disk/", (draft, key, id, value) => keep(draft.disks, key, id, diskCodec.decode(key, value))],
  ["disk-number/", (draft, _, number, value) => draft.numbers.set(number, text(value))],
  ["volume-name/", (draft, _, name, value) => draft.names.set(name, text(value))],
  ["volume/", readVolume],
];

/** Throws, naming the key, where anything is not understood or does not agree. */
export function readInventory(keys: MetaKeys, entries: readonly MetaEntry[]): Inventory {
  const draft: Draft = {
    cluster: null,
    nodes: new Map(),
    disks: new Map(),
    volumes: new Map(),
    pages: new Map(),
    copies: [],
    reserved: [],
    numbers: new Map(),
    names: new Map(),
  };
  for (const { key, value } of entries) {
    const rest = key.slice(keys.root.length);
    const reader = READERS.find(([start]) =>
      start.endsWith("/") ? rest.startsWith(start) : rest === start,
    );
    if (reader === undefined) throw wrong(`${key} is no key that this version knows`);
    reader[1](draft, key, rest.slice(reader[0].length), value);
  }
  if (draft.cluster === null) throw wrong("there is no cluster record");
  checkDisks(draft);
  for (const volume of draft.volumes.values()) checkVolume(draft, volume);
  checkIndexes(draft);
  return { ...draft, cluster: draft.cluster };
}

function readVolume(draft: Draft, key: string, rest: string, value: Uint8Array): void {
  const [id = "", kind, page] = rest.split("/");
  if (kind === "record") {
    keep(draft.volumes, key, id, volumeCodec.decode(key, value));
    return;
  }
  if (kind === "copy") {
    const { disk } = copyCodec.decode(key, value);
    if (disk !== page) throw wrong(`${key} tells of a copy on disk ${disk}`);
    draft.copies.push([id, disk]);
    return;
  }
  if (kind === "reservations" && page === undefined) {
    reservationsCodec.decode(key, value);
    draft.reserved.push(id);
    return;
  }
  if (kind !== "map" || page === undefined) throw wrong(`${key} is no key that this version knows`);
  const decoded = decodePage(id, key, value);
  const pages = draft.pages.get(id) ?? [];
  if (decoded.page !== Number.parseInt(page, 16) || decoded.page !== pages.length) {
    throw wrong(`${key} holds page ${decoded.page}, after ${pages.length} pages`);
  }
  draft.pages.set(id, [...pages, decoded]);
}

function keep<T extends { readonly id: string }>(
  map: Map<string, T>,
  key: string,
  id: string,
  record: T,
): void {
  if (record.id !== id) throw wrong(`${key} holds the record of ${record.id}`);
  map.set(id, record);
}

function checkDisks({ disks, nodes, numbers }: Draft): void {
  for (const { id, node, number } of disks.values()) {
    if (!nodes.has(node)) throw wrong(`disk ${id} is on node ${node}, which is not there`);
    if (numbers.get(number.toString(16).padStart(4, "0")) === id) continue;
    throw wrong(`number ${number} does not lead to disk ${id}`);
  }
}

function checkVolume({ disks, pages, cluster }: Draft, volume: VolumeRecord): void {
  const { id, name, sizeBytes, members, clusterGeneration } = volume;
  if (clusterGeneration > (cluster?.generation ?? 0)) {
    throw wrong(`volume ${name} is of generation ${clusterGeneration}, the cluster is older`);
  }
  const numbers = new Set<number>();
  for (const member of members) {
    const disk = disks.get(member);
    if (disk === undefined) throw wrong(`volume ${name} has member ${member}, which is not there`);
    numbers.add(disk.number);
  }
  if (volume.phase !== "ready") return;
  const map = pages.get(id) ?? [];
  const segments = Math.ceil(sizeBytes / SEGMENT_BYTES);
  let found = 0;
  for (const [index, page] of map.entries()) {
    found += page.segments.length;
    if (index < map.length - 1 && page.segments.length < PAGE_SEGMENTS) {
      throw wrong(`page ${index} of volume ${name} is not full, and not the last`);
    }
    for (const entry of [...page.segments, ...page.exceptions]) {
      const stranger = entry.disks.find((number) => !numbers.has(number));
      if (stranger === undefined) continue;
      throw wrong(`volume ${name} lies on disk number ${stranger}, which is no member`);
    }
  }
  if (found === segments) return;
  throw wrong(`the map of volume ${name} has ${found} segments instead of ${segments}`);
}

function checkIndexes(draft: Draft): void {
  const { volumes, disks, pages, copies, reserved, names, numbers } = draft;
  for (const { id, name } of volumes.values()) {
    if (names.get(name) !== id) throw wrong(`the name ${name} does not lead to volume ${id}`);
  }
  for (const [name, id] of names) {
    if (!volumes.has(id)) throw wrong(`the name ${name} leads to volume ${id}, which is not there`);
  }
  for (const [number, id] of numbers) {
    if (!disks.has(id)) throw wrong(`number ${number} leads to disk ${id}, which is not there`);
  }
  for (const [volume, disk] of copies) {
    if (!volumes.has(volume))
      throw wrong(`there is a copy of volume ${volume}, which is not there`);
    if (!disks.has(disk)) throw wrong(`a copy is on disk ${disk}, which is not there`);
  }
  for (const id of reserved) {
    if (!volumes.has(id)) throw wrong(`there are reservations of volume ${id}, which is not there`);
  }
  for (const id of pages.keys()) {
    if (!volumes.has(id)) throw wrong(`there is a map of volume ${id}, which is not there`);
  }
}

function text(value: Uint8Array): string {
  return new TextDecoder().decode(value);
}

function wrong(problem: string): MetaError {
  return new MetaError("format", `The metadata does not fit together: ${problem}.`);
}

// The superblock: what a disk is, where its areas are, and where its last checkpoint is. Four
// copies, written two and two, the second two when the first are durable; first those that are not
// good, so that at any moment two good copies say the same.
//
//   choose   the highest sequence of which two copies are good and equal. One good copy of a higher
//            sequence is a write that never finished: nothing was allowed to depend on it, so the
//            sequence before it counts, if that has two copies; two such writes, of which the
//            later one used the sequence again, may have left a copy each. Anything else is damage.
//
// Invariant: whoever opens a disk for writing writes the superblock anew, all four copies, before
// anything else; so a sequence with a single good copy is never older than the last opening.

import { assert, high32, join64, low32, SAFE_HIGH_MAX } from "../base/index.ts";
import type { Arena, Memory } from "../ports/index.ts";
import { structureCrc } from "./checksum.ts";
import { StoreError } from "./errors.ts";
import { AREA_NAMES, type Areas } from "./geometry.ts";
import {
  BLOCK_BYTES,
  FEATURES_INCOMPATIBLE,
  FORMAT_VERSION,
  L2_POINTERS_MAX,
  STATE_CLEAN,
  STATE_OPEN,
  SUPERBLOCK,
  SUPERBLOCK_COPIES,
  SUPERBLOCK_MAGIC_HIGH,
  SUPERBLOCK_MAGIC_LOW,
} from "./layouts.ts";

export interface Superblock extends Areas {
  version: number;
  featuresIncompatible: number;
  featuresReadOnlyCompatible: number;
  featuresCompatible: number;
  uuid: Uint8Array;
  sequence: number;
  incarnation: number;
  state: number;
  durability: number;
  journalId: number;
  generation: number;
  checkpointLsn: number;
  logTailBlock: number;
  logTailPreviousCrc: number;
  logTailSequence: number;
  ringTailBlock: number;
  ringTailPreviousCrc: number;
  createdAtMs: number;
  scrubPage: number;
  scrubRounds: number;
  label: string;
  l2Pointers: Uint32Array;
  /** Copies that were found to hold exactly this; all when it is missing. Only in memory. */
  copiesFound?: readonly number[];
}

type Numeric = {
  [K in keyof Superblock]-?: Superblock[K] extends number ? K : never;
}[keyof Superblock];

/** Numeric fields as they lie: the layout says where and how wide. */
const NUMERIC: readonly Numeric[] = [
  "version",
  "featuresIncompatible",
  "featuresReadOnlyCompatible",
  "featuresCompatible",
  "sequence",
  "incarnation",
  "state",
  "durability",
  ...AREA_NAMES,
  "journalId",
  "generation",
  "checkpointLsn",
  "logTailBlock",
  "logTailPreviousCrc",
  "logTailSequence",
  "ringTailBlock",
  "ringTailPreviousCrc",
  "createdAtMs",
  "scrubPage",
  "scrubRounds",
];

/** Writes `superblock` as copy `copy` into the first 4 KiB of `arena`. */
export function encodeSuperblock(
  superblock: Superblock,
  copy: number,
  arena: Arena,
  memory: Memory,
): void {
  const words = arena.u32;
  words.fill(0, 0, BLOCK_BYTES / 4);
  words[SUPERBLOCK.magicLow >>> 2] = SUPERBLOCK_MAGIC_LOW;
  words[SUPERBLOCK.magicHigh >>> 2] = SUPERBLOCK_MAGIC_HIGH;
  for (const name of NUMERIC) {
    const value = superblock[name];
    assert(Number.isSafeInteger(value) && value >= 0, "a superblock field is no count");
    const { offset, bytes } = SUPERBLOCK.FIELDS[name] as { offset: number; bytes: number };
    words[offset >>> 2] = low32(value);
    if (bytes === 8) words[(offset >>> 2) + 1] = high32(value);
    else assert(value < 4294967296, "a superblock field does not fit");
  }
  words[SUPERBLOCK.copy >>> 2] = copy;
  words[SUPERBLOCK.l2Count >>> 2] = superblock.l2Pointers.length;
  words.set(superblock.l2Pointers, SUPERBLOCK.l2Pointers >>> 2);
  arena.u8.set(superblock.uuid, SUPERBLOCK.uuid);
  arena.u8.set(encodeLabel(superblock.label), SUPERBLOCK.label);
  words[SUPERBLOCK.crc >>> 2] = structureCrc(memory, words, arena.address, 0, SUPERBLOCK.crc);
}

const LABEL_BYTES = 64;

/** UTF-8 in at most 63 bytes, cut between characters. */
function encodeLabel(label: string): Uint8Array {
  const bytes = new Uint8Array(LABEL_BYTES);
  let at = 0;
  for (const character of label) {
    const encoded = new TextEncoder().encode(character);
    if (at + encoded.length >= LABEL_BYTES) break;
    bytes.set(encoded, at);
    at += encoded.length;
  }
  return bytes;
}

/** What was found where a copy should be. */
export type CopyFound =
  | { readonly kind: "good"; readonly copy: number; readonly superblock: Superblock }
  /** It begins as a superblock does, but its checksum or a field is wrong. */
  | { readonly kind: "damaged"; readonly reason: string }
  | { readonly kind: "other" };

/** Reads the first 4 KiB of `arena` as a superblock. */
export function decodeSuperblock(arena: Arena, memory: Memory): CopyFound {
  const words = arena.u32;
  const isMagic =
    words[SUPERBLOCK.magicLow >>> 2] === SUPERBLOCK_MAGIC_LOW &&
    words[SUPERBLOCK.magicHigh >>> 2] === SUPERBLOCK_MAGIC_HIGH;
  if (!isMagic) return { kind: "other" };
  const crc = structureCrc(memory, words, arena.address, 0, SUPERBLOCK.crc);
  if (crc !== words[SUPERBLOCK.crc >>> 2]) return { kind: "damaged", reason: "checksum" };
  const fields: Partial<Record<Numeric, number>> = {};
  for (const name of NUMERIC) {
    const { offset, bytes } = SUPERBLOCK.FIELDS[name] as { offset: number; bytes: number };
    const low = words[offset >>> 2] as number;
    const high = bytes === 8 ? (words[(offset >>> 2) + 1] as number) : 0;
    if (high > SAFE_HIGH_MAX) return { kind: "damaged", reason: name };
    fields[name] = join64(low, high);
  }
  const l2Count = words[SUPERBLOCK.l2Count >>> 2] as number;
  if (l2Count > L2_POINTERS_MAX) return { kind: "damaged", reason: "l2Count" };
  const l2At = SUPERBLOCK.l2Pointers >>> 2;
  const labelBytes = arena.u8.slice(SUPERBLOCK.label, SUPERBLOCK.label + LABEL_BYTES);
  const superblock = {
    ...fields,
    uuid: arena.u8.slice(SUPERBLOCK.uuid, SUPERBLOCK.uuid + 16),
    label: new TextDecoder().decode(labelBytes.subarray(0, labelBytes.indexOf(0) >>> 0)),
    l2Pointers: words.slice(l2At, l2At + l2Count),
  } as Superblock;
  return { kind: "good", copy: words[SUPERBLOCK.copy >>> 2] as number, superblock };
}

/** Throws StoreError where this program must not touch what the superblock describes. */
export function checkVersion(superblock: Superblock): void {
  const { version, featuresIncompatible, featuresReadOnlyCompatible } = superblock;
  const unknown = (featuresIncompatible & ~FEATURES_INCOMPATIBLE) >>> 0;
  if (version > FORMAT_VERSION || unknown !== 0 || featuresReadOnlyCompatible !== 0) {
    const features = `incompatible features 0x${unknown.toString(16)}`;
    const further = `read-only compatible 0x${featuresReadOnlyCompatible.toString(16)}`;
    throw new StoreError(
      "DISK_NEWER",
      `the disk has format version ${version} (${features}, ${further}); ` +
        `this program knows version ${FORMAT_VERSION}`,
      { advice: "Use the Ringstore release that wrote it, or a newer one." },
    );
  }
  if (superblock.state !== STATE_OPEN && superblock.state !== STATE_CLEAN) {
    throw new StoreError("DISK_DAMAGED", `the superblock has state ${superblock.state}`);
  }
}

/**
 * The superblock that counts, of what the four places hold. Null when none of them was ever a
 * superblock. Throws StoreError DISK_DAMAGED without a quorum.
 */
export function chooseSuperblock(found: readonly CopyFound[]): Superblock | null {
  assert(found.length === SUPERBLOCK_COPIES, "a superblock has four copies");
  if (found.every((one) => one.kind === "other")) return null;
  const versions: Superblock[][] = [];
  for (const one of found) {
    if (one.kind !== "good") continue;
    const same = versions.find(([first]) => isSame(first as Superblock, one.superblock));
    if (same === undefined) versions.push([one.superblock]);
    else same.push(one.superblock);
  }
  const agreed = versions.filter((copies) => copies.length >= 2).map(([first]) => first);
  agreed.sort((a, b) => (b as Superblock).sequence - (a as Superblock).sequence);
  const [chosen, other] = agreed;
  const isSound =
    chosen !== undefined &&
    chosen.sequence !== other?.sequence &&
    versions.every(([one]) => (one as Superblock).sequence <= chosen.sequence + 1);
  if (isSound) return { ...chosen, copiesFound: copiesOf(chosen, found) };
  const list = found.map((one, copy) => `copy ${copy}: ${describe(one)}`).join(", ");
  throw new StoreError("DISK_DAMAGED", `no two copies of the superblock agree (${list})`, {
    advice: "The disk itself lost or mixed up writes: restore its volumes from elsewhere.",
  });
}

/** Do two copies say the same of everything? */
function isSame(a: Superblock, b: Superblock): boolean {
  return (
    NUMERIC.every((name) => a[name] === b[name]) &&
    a.uuid.every((byte, index) => byte === b.uuid[index]) &&
    a.l2Pointers.length === b.l2Pointers.length &&
    a.l2Pointers.every((pointer, index) => pointer === b.l2Pointers[index])
  );
}

function copiesOf(chosen: Superblock, found: readonly CopyFound[]): number[] {
  return found.flatMap((one, copy) =>
    one.kind === "good" && isSame(one.superblock, chosen) ? [copy] : [],
  );
}

/**
 * The copies in the order of writing, two and two: while the first two are on their way the other
 * two are good.
 */
export function writeOrder(copiesFound: readonly number[] = [0, 1, 2, 3]): number[] {
  const kept = copiesFound.slice(-2);
  assert(kept.length === 2, "a superblock is written over without two good copies");
  return [...[0, 1, 2, 3].filter((copy) => !kept.includes(copy)), ...kept];
}

function describe(one: CopyFound): string {
  if (one.kind === "good") return `sequence ${one.superblock.sequence}`;
  return one.kind === "damaged" ? `damaged (${one.reason})` : "nothing";
}

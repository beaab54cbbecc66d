// What a superblock says to people and to the control plane.

import {
  DURABILITY_POWER_LOSS_PROTECTED,
  DURABILITY_VOLATILE,
  DURABILITY_WRITE_THROUGH,
  SLAB_BYTES,
  STATE_CLEAN,
} from "./layouts.ts";
import type { Superblock } from "./superblock.ts";

export type Durability = "volatile" | "write-through" | "plp";

const DURABILITIES: readonly (readonly [Durability, number])[] = [
  ["volatile", DURABILITY_VOLATILE],
  ["write-through", DURABILITY_WRITE_THROUGH],
  ["plp", DURABILITY_POWER_LOSS_PROTECTED],
];

export interface DiskFacts {
  /** UUID as text. */
  readonly uuid: string;
  readonly label: string;
  readonly version: number;
  readonly incarnation: number;
  /** Last LSN at the last checkpoint: with uuid and incarnation, what tells an old copy. */
  readonly checkpointLsn: number;
  /** Stopped cleanly. */
  readonly clean: boolean;
  readonly diskBytes: number;
  /** Room for data: all slabs. */
  readonly dataBytes: number;
  readonly ringBytes: number;
  readonly logBytes: number;
  readonly durability: Durability;
  readonly createdAtMs: number;
}

export function factsOf(superblock: Superblock): DiskFacts {
  return {
    uuid: uuidText(superblock.uuid),
    label: superblock.label,
    version: superblock.version,
    incarnation: superblock.incarnation,
    checkpointLsn: superblock.checkpointLsn,
    clean: superblock.state === STATE_CLEAN,
    diskBytes: superblock.diskBytes,
    dataBytes: superblock.slabCount * SLAB_BYTES,
    ringBytes: superblock.ringBytes,
    logBytes: superblock.logBytes,
    durability: DURABILITIES.find(([, code]) => code === superblock.durability)?.[0] ?? "volatile",
    createdAtMs: superblock.createdAtMs,
  };
}

export function durabilityCode(durability: Durability): number {
  return DURABILITIES.find(([name]) => name === durability)?.[1] ?? DURABILITY_VOLATILE;
}

export function uuidText(bytes: Uint8Array): string {
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** 16 bytes of a UUID's text; null when it is none. */
export function uuidBytes(text: string): Uint8Array | null {
  const hex = text.replaceAll("-", "");
  if (!/^[0-9a-f]{32}$/i.test(hex)) return null;
  return Uint8Array.from({ length: 16 }, (_, index) =>
    Number.parseInt(hex.slice(index * 2, index * 2 + 2), 16),
  );
}

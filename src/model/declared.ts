// Declared state: what the daemon promised, kept on disk so that it keeps the promise after a
// restart. One file per volume. Plain types; the schema is in declared-schema.ts.
//
// Sockets and managed data files have no path here: both follow from the data directory, the name
// and the id, so that a data directory can be moved.

import type { DirectMode } from "./types.ts";

/**
 * Newest first, numbers are never used again.
 * 1: first.
 */
export const DECLARED_FORMAT = 1;

export type DeclaredBacking =
  | {
      readonly kind: "file";
      /** null: `volumes/<id>.img` in the data directory, made and deleted by Ringstore. */
      readonly path: string | null;
      readonly direct: DirectMode;
    }
  | { readonly kind: "memory" }
  | { readonly kind: "null" };

/**
 * ```
 *            declare            backing made          declare
 *  (nothing) -------> creating -------------> ready ----------> deleting -----> (nothing)
 *                        |                                          ^  backing and file removed
 *                        +-------------- found at start ------------+
 * ```
 * A volume found "creating" at start was never promised to anybody: it is taken back.
 */
export type DeclaredPhase = "creating" | "ready" | "deleting";

export interface DeclaredAttachment {
  readonly queueCountMax: number;
  readonly packedAllowed: boolean;
  readonly readOnly: boolean;
  readonly attachedAt: string;
}

export interface DeclaredVolume {
  readonly id: string;
  readonly name: string;
  readonly sizeBytes: number;
  readonly blockBytes: 512 | 4096;
  readonly readOnly: boolean;
  readonly serial: string;
  readonly backing: DeclaredBacking;
  readonly createdAt: string;
  readonly phase: DeclaredPhase;
  /** A resize that was promised and may have happened in part; it is finished at start. */
  readonly resizeToBytes: number | null;
  /** Of the latest attachment; 0 before the first. */
  readonly generation: number;
  readonly attachment: DeclaredAttachment | null;
}

/** The daemon's own identity. */
export interface DeclaredNode {
  readonly id: string;
  readonly createdAt: string;
}

// Declared state on disk: one JSON file per volume, `state/NAME.json`, and one per disk of the
// store, `disks/NAME.json`; one per attached volume of the cluster, `attached/NAME.json`; one per
// volume with persistent reservations, `iscsi/ID.json`.
//
// Invariants:
// - A file is replaced, never changed: temporary file, fsync, rename, fsync of the directory. After
//   a crash it holds the old or the new declaration, whole.
// - It carries the SHA-256 of its content. A file whose checksum holds was written, after checks,
//   by this program: it is served at once. One without a checksum (edited by hand) is checked
//   against the schema first; one whose checksum is wrong is refused.
// - A file that is refused is kept as it is and named, with the field, until somebody repairs it.
//   Its volume's name stays taken. The other volumes are served.

import { createHash } from "node:crypto";
import { join } from "node:path";
import {
  DECLARED_FORMAT_CLASSIC,
  DECLARED_FORMAT_FIRST,
  DECLARED_FORMAT_MUTUAL,
  DECLARED_FORMAT_SCSI,
  DECLARED_FORMAT_STORE,
  DECLARED_FORMATS,
  type DeclaredClassic,
  type DeclaredClusterAttachment,
  type DeclaredDisk,
  type DeclaredReservations,
  type DeclaredVolume,
} from "../model/declared.ts";
import type { SchemaOf } from "../model/schema.ts";
import type { StateFs } from "./state-fs.ts";

const SUFFIX = ".json";
/** A declaration has some 600 bytes; anything far beyond is not one. */
const FILE_LENGTH_MAX = 64 * 1024;

export interface DamagedFile {
  readonly name: string;
  readonly path: string;
  /** What is wrong, naming the field where there is one. */
  readonly problem: string;
}

export interface Suspect {
  readonly name: string;
  readonly path: string;
  readonly content: unknown;
}

interface Named {
  readonly name: string;
}

/** What is declared: the field of the file that holds it, its schema, its format. */
export interface StateKind<T extends Named> {
  readonly field: string;
  /** Loads the schema library. */
  readonly schema: () => Promise<SchemaOf<T>>;
  readonly formatOf: (declared: T) => number;
  /** The longest file that can be one; FILE_LENGTH_MAX by default. */
  readonly lengthMax?: number;
}

function formatOfClassic({ chapTargetUser }: DeclaredClassic): number {
  return chapTargetUser === undefined ? DECLARED_FORMAT_CLASSIC : DECLARED_FORMAT_MUTUAL;
}

export const VOLUME_STATE: StateKind<DeclaredVolume> = {
  field: "volume",
  schema: async () => (await import("../model/declared-schema.ts")).DeclaredVolumeSchema,
  formatOf: ({ backing, attachment }) => {
    if (attachment?.scsi !== undefined) return DECLARED_FORMAT_SCSI;
    if (attachment?.classic !== undefined) return formatOfClassic(attachment.classic);
    return backing.kind === "store" ? DECLARED_FORMAT_STORE : DECLARED_FORMAT_FIRST;
  },
};

export const DISK_STATE: StateKind<DeclaredDisk> = {
  field: "disk",
  schema: async () => (await import("../model/declared-schema.ts")).DeclaredDiskSchema,
  formatOf: () => DECLARED_FORMAT_FIRST,
};

export const CLUSTER_ATTACHMENT_STATE: StateKind<DeclaredClusterAttachment> = {
  field: "attachment",
  schema: async () => (await import("../model/declared-schema.ts")).DeclaredClusterAttachmentSchema,
  formatOf: ({ classic, scsi }) => {
    if (scsi !== undefined) return DECLARED_FORMAT_SCSI;
    return classic === undefined ? DECLARED_FORMAT_FIRST : formatOfClassic(classic);
  },
};

export const RESERVATION_STATE: StateKind<DeclaredReservations> = {
  field: "reservations",
  schema: async () => (await import("../model/declared-schema.ts")).DeclaredReservationsSchema,
  formatOf: () => DECLARED_FORMAT_FIRST,
  // 192 registrations with the longest names.
  lengthMax: 256 * 1024,
};

export interface LoadedState<T extends Named> {
  readonly declared: readonly T[];
  /** Without a checksum: to be passed to `examine`. */
  readonly suspects: readonly Suspect[];
  readonly damaged: readonly DamagedFile[];
}

export class StateStore<T extends Named> {
  readonly #directory: string;
  readonly #fs: StateFs;
  readonly #kind: StateKind<T>;

  constructor(directory: string, fs: StateFs, kind: StateKind<T>) {
    this.#directory = directory;
    this.#fs = fs;
    this.#kind = kind;
  }

  pathOf(name: string): string {
    return join(this.#directory, `${name}${SUFFIX}`);
  }

  async save(declared: T): Promise<void> {
    const { name } = declared;
    const temporary = join(this.#directory, `.${name}.new`);
    await this.#fs.writeDurably(temporary, this.#encode(declared));
    await this.#fs.rename(temporary, this.pathOf(name));
    await this.#fs.syncDirectory(this.#directory);
  }

  async remove(name: string): Promise<void> {
    await this.#fs.remove(this.pathOf(name));
    await this.#fs.syncDirectory(this.#directory);
  }

  /** Synchronous and without the schema library: guests wait for this. */
  load(): LoadedState<T> {
    const declared: T[] = [];
    const suspects: Suspect[] = [];
    const damaged: DamagedFile[] = [];
    for (const file of [...this.#fs.list(this.#directory)].sort()) {
      // Temporary files begin with a dot: a crash left them, the next save replaces them.
      if (file.startsWith(".") || !file.endsWith(SUFFIX)) continue;
      const name = file.slice(0, -SUFFIX.length);
      const path = join(this.#directory, file);
      const found = this.#read(name, path);
      if (typeof found === "string") damaged.push({ name, path, problem: found });
      else if (isSuspect(found)) suspects.push(found);
      else declared.push(found);
    }
    return { declared, suspects, damaged };
  }

  #read(name: string, path: string): T | Suspect | string {
    let text: string;
    try {
      text = this.#fs.read(path);
    } catch (error) {
      return `cannot be read: ${(error as Error).message}`;
    }
    if (text.length > (this.#kind.lengthMax ?? FILE_LENGTH_MAX))
      return `has ${text.length} characters, which is too long`;
    let parsed: unknown;
    try {
      parsed = JSON.parse(text);
    } catch (error) {
      return `is not JSON: ${(error as Error).message}`;
    }
    if (typeof parsed !== "object" || parsed === null) return "does not hold a JSON object";
    const contents = parsed as { format?: unknown; checksum?: unknown; [field: string]: unknown };
    if (!DECLARED_FORMATS.includes(contents.format as number)) {
      const found = JSON.stringify(contents.format);
      return `field format is ${found}, but this version knows ${DECLARED_FORMATS.join(", ")}`;
    }
    const content = contents[this.#kind.field];
    if (contents.checksum === undefined) return { name, path, content };
    if (contents.checksum !== checksumOf(content)) {
      return (
        "field checksum does not match the content: the file was damaged, or edited; " +
        "after an intended edit, take the checksum line out"
      );
    }
    const declared = content as T;
    return declared.name === name ? declared : this.#wrongName(declared.name);
  }

  /** Checks a file without a checksum against the schema: what it declares, or what is wrong. */
  async examine(suspect: Suspect): Promise<T | DamagedFile> {
    const { name, path, content } = suspect;
    const [{ compileValidator }, schema] = await Promise.all([
      import("../model/validate.ts"),
      this.#kind.schema(),
    ]);
    const violation = compileValidator(schema)(content);
    if (violation !== null) {
      const top = this.#kind.field;
      const field = violation.field === "" ? top : `${top}.${violation.field}`;
      return { name, path, problem: `field ${field} ${violation.problem}` };
    }
    const declared = content as T;
    return declared.name === name
      ? declared
      : { name, path, problem: this.#wrongName(declared.name) };
  }

  #wrongName(name: string): string {
    return `field ${this.#kind.field}.name is ${JSON.stringify(name)}, but must be the file's name`;
  }

  #encode(declared: T): string {
    const format = this.#kind.formatOf(declared);
    const contents = { format, checksum: checksumOf(declared), [this.#kind.field]: declared };
    return `${JSON.stringify(contents, null, 2)}\n`;
  }
}

export function isDamaged(result: object): result is DamagedFile {
  return "problem" in result;
}

function isSuspect(found: object): found is Suspect {
  return "content" in found;
}

/** Parsing keeps the order of keys, so the text is the same when written and when read. */
function checksumOf(declared: unknown): string {
  return createHash("sha256")
    .update(JSON.stringify(declared) ?? "")
    .digest("hex");
}

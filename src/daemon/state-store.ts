// Declared state on disk: one JSON file per volume, `state/NAME.json`.
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
import { DECLARED_FORMAT, type DeclaredVolume } from "../model/declared.ts";
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
  readonly contents: { readonly format?: unknown; readonly volume?: unknown };
}

export interface LoadedState {
  readonly volumes: readonly DeclaredVolume[];
  /** Without a checksum: to be passed to `examine`. */
  readonly suspects: readonly Suspect[];
  readonly damaged: readonly DamagedFile[];
}

export class StateStore {
  readonly #directory: string;
  readonly #fs: StateFs;

  constructor(directory: string, fs: StateFs) {
    this.#directory = directory;
    this.#fs = fs;
  }

  pathOf(name: string): string {
    return join(this.#directory, `${name}${SUFFIX}`);
  }

  async save(volume: DeclaredVolume): Promise<void> {
    const temporary = join(this.#directory, `.${volume.name}.new`);
    await this.#fs.writeDurably(temporary, encode(volume));
    await this.#fs.rename(temporary, this.pathOf(volume.name));
    await this.#fs.syncDirectory(this.#directory);
  }

  async remove(name: string): Promise<void> {
    await this.#fs.remove(this.pathOf(name));
    await this.#fs.syncDirectory(this.#directory);
  }

  /** Synchronous and without the schema library: guests wait for this. */
  load(): LoadedState {
    const volumes: DeclaredVolume[] = [];
    const suspects: Suspect[] = [];
    const damaged: DamagedFile[] = [];
    for (const file of [...this.#fs.list(this.#directory)].sort()) {
      // Temporary files begin with a dot: a crash left them, the next save replaces them.
      if (file.startsWith(".") || !file.endsWith(SUFFIX)) continue;
      const name = file.slice(0, -SUFFIX.length);
      const path = join(this.#directory, file);
      const found = this.#read(name, path);
      if (typeof found === "string") damaged.push({ name, path, problem: found });
      else if ("contents" in found) suspects.push(found);
      else volumes.push(found);
    }
    return { volumes, suspects, damaged };
  }

  #read(name: string, path: string): DeclaredVolume | Suspect | string {
    let text: string;
    try {
      text = this.#fs.read(path);
    } catch (error) {
      return `cannot be read: ${(error as Error).message}`;
    }
    if (text.length > FILE_LENGTH_MAX) return `has ${text.length} characters, which is too long`;
    let parsed: unknown;
    try {
      parsed = JSON.parse(text);
    } catch (error) {
      return `is not JSON: ${(error as Error).message}`;
    }
    if (typeof parsed !== "object" || parsed === null) return "does not hold a JSON object";
    const contents = parsed as { format?: unknown; checksum?: unknown; volume?: unknown };
    if (contents.format !== DECLARED_FORMAT) {
      const found = JSON.stringify(contents.format);
      return `field format is ${found}, but this version knows ${DECLARED_FORMAT}`;
    }
    if (contents.checksum === undefined) return { name, path, contents };
    if (contents.checksum !== checksumOf(contents.volume)) {
      return (
        "field checksum does not match the content: the file was damaged, or edited; " +
        "after an intended edit, take the checksum line out"
      );
    }
    const volume = contents.volume as DeclaredVolume;
    return volume.name === name ? volume : wrongName(volume.name);
  }

  /** Checks a file without a checksum against the schema: the volume, or what is wrong. */
  async examine(suspect: Suspect): Promise<DeclaredVolume | DamagedFile> {
    const { name, path } = suspect;
    const [{ compileValidator }, { DeclaredVolumeSchema }] = await Promise.all([
      import("../model/validate.ts"),
      import("../model/declared-schema.ts"),
    ]);
    const violation = compileValidator(DeclaredVolumeSchema)(suspect.contents.volume);
    if (violation !== null) {
      const field = violation.field === "" ? "volume" : `volume.${violation.field}`;
      return { name, path, problem: `field ${field} ${violation.problem}` };
    }
    const volume = suspect.contents.volume as DeclaredVolume;
    return volume.name === name ? volume : { name, path, problem: wrongName(volume.name) };
  }
}

export function isDamaged(result: DeclaredVolume | DamagedFile): result is DamagedFile {
  return "problem" in result;
}

function wrongName(name: string): string {
  return `field volume.name is ${JSON.stringify(name)}, but must be the file's name`;
}

function encode(volume: DeclaredVolume): string {
  const contents = { format: DECLARED_FORMAT, checksum: checksumOf(volume), volume };
  return `${JSON.stringify(contents, null, 2)}\n`;
}

/** Parsing keeps the order of keys, so the text is the same when written and when read. */
function checksumOf(volume: unknown): string {
  return createHash("sha256")
    .update(JSON.stringify(volume) ?? "")
    .digest("hex");
}

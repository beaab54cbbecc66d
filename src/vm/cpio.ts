// Writes cpio archives in the "newc" format, the one the kernel unpacks as initramfs
// (Documentation/driver-api/early-userspace/buffer-format.rst).
//
//   entry = "070701", 13 fields of 8 hex digits, name, NUL, pad to 4, content, pad to 4
//   ... one per file, parents before children; the last entry is called "TRAILER!!!"
//
// Invariants: all times are 0 and all owners root, so equal content gives equal bytes; every
// parent folder of an entry is written before it, whether it was named or not.

import { alignUp, assert } from "../base/index.ts";

export type CpioEntry =
  | { readonly kind: "file"; readonly mode: number; readonly content: Uint8Array }
  | { readonly kind: "directory"; readonly mode: number }
  | { readonly kind: "symlink"; readonly target: string }
  | {
      readonly kind: "character-device";
      readonly mode: number;
      readonly major: number;
      readonly minor: number;
    };

const MAGIC = "070701";
const HEADER_BYTES = 110;
const ALIGNMENT = 4;
/** PATH_MAX of the kernel, which refuses longer names. */
const NAME_BYTES_MAX = 4096;
const FILE_BYTES_MAX = 0xffffffff;
const TRAILER = "TRAILER!!!";
const S_IFDIR = 0o040000;
const S_IFCHR = 0o020000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;

/** Collects entries by path and writes them out in one go. */
export class CpioArchive {
  readonly #entries = new Map<string, CpioEntry>();

  /** Adds or replaces `path` (`/bin/sh`, leading slash optional). */
  set(path: string, entry: CpioEntry): void {
    const name = normalise(path);
    const slash = name.lastIndexOf("/");
    if (slash > 0) this.#ensureDirectory(name.slice(0, slash));
    this.#entries.set(name, entry);
  }

  file(path: string, content: Uint8Array | string, mode = 0o644): void {
    const bytes = typeof content === "string" ? Buffer.from(content, "utf8") : content;
    this.set(path, { kind: "file", mode, content: bytes });
  }

  symlink(path: string, target: string): void {
    this.set(path, { kind: "symlink", target });
  }

  has(path: string): boolean {
    return this.#entries.has(normalise(path));
  }

  /** The whole archive. Entries keep the order of their first `set`. */
  toBuffer(): Buffer {
    const parts: Buffer[] = [];
    let inode = 1;
    for (const [name, entry] of this.#entries) parts.push(...encodeEntry(name, entry, inode++));
    parts.push(...encodeEntry(TRAILER, { kind: "file", mode: 0, content: new Uint8Array() }, 0));
    return Buffer.concat(parts);
  }

  #ensureDirectory(name: string): void {
    const existing = this.#entries.get(name);
    if (existing !== undefined) {
      assert(existing.kind === "directory", "a parent of an archive entry is a directory");
      return;
    }
    this.set(name, { kind: "directory", mode: 0o755 });
  }
}

function normalise(path: string): string {
  const name = path.replace(/^\/+/, "").replace(/\/+$/, "");
  assert(name !== "" && !name.includes("\0"), "an archive entry has a name");
  assert(name !== TRAILER, "the trailer's name is taken");
  const components = name.split("/");
  assert(!components.includes("..") && !components.includes(""), "archive paths are plain");
  return name;
}

function encodeEntry(name: string, entry: CpioEntry, inode: number): Buffer[] {
  const nameBytes = Buffer.from(`${name}\0`, "utf8");
  assert(nameBytes.length <= NAME_BYTES_MAX, "an archive path fits into PATH_MAX");
  const content = contentOf(entry);
  assert(content.length <= FILE_BYTES_MAX, "an archive file is below 4 GiB");
  const device = entry.kind === "character-device" ? entry : { major: 0, minor: 0 };
  const fields = [
    inode,
    name === TRAILER ? 0 : modeOf(entry),
    0, // owner: root
    0, // group: root
    entry.kind === "directory" ? 2 : 1, // links
    0, // modification time
    content.length,
    0, // major and minor number of the device the file came from
    0,
    device.major,
    device.minor,
    nameBytes.length,
    0, // checksum: used by the other format, "070702"
  ];
  const header = MAGIC + fields.map((field) => field.toString(16).padStart(8, "0")).join("");
  assert(header.length === HEADER_BYTES, "a newc header has its fixed length");
  const headed = Buffer.concat([Buffer.from(header, "latin1"), nameBytes]);
  return [pad(headed), pad(content)];
}

function contentOf(entry: CpioEntry): Buffer {
  if (entry.kind === "symlink") return Buffer.from(entry.target, "utf8");
  if (entry.kind !== "file") return Buffer.alloc(0);
  const { buffer, byteOffset, byteLength } = entry.content;
  return Buffer.from(buffer, byteOffset, byteLength);
}

function modeOf(entry: CpioEntry): number {
  switch (entry.kind) {
    case "file":
      return S_IFREG | entry.mode;
    case "directory":
      return S_IFDIR | entry.mode;
    case "character-device":
      return S_IFCHR | entry.mode;
    case "symlink":
      return S_IFLNK | 0o777;
  }
}

function pad(bytes: Buffer): Buffer {
  const missing = alignUp(bytes.length, ALIGNMENT) - bytes.length;
  return missing === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(missing)]);
}

// Reads what we need of ELF files without running them (ldd would): the libraries a program
// names, the symbols it expects from them, and the `.modinfo` text of a kernel module.
// Follows the System V ABI, "Object Files" and "Dynamic Linking", and the LSB's "Symbol
// Versioning". Only 64-bit little-endian files; Debian's stripped files keep section headers.
//
// Invariants: every offset read from the file is checked against the file's length by Buffer
// itself (RangeError), which openElf turns into a VmError naming the file.

import { DYN, EHDR, SHDR, SYM, VERNAUX, VERNEED } from "./_elf-layout.ts";
import { VmError } from "./error.ts";

const DT_NEEDED = 1;
export const DT_SONAME = 14;
const STB_WEAK = 2;
const STT_OBJECT = 1;
const STT_TLS = 6;
const VERSION_INDEX_MASK = 0x7fff;
const SHN_UNDEF = 0;

export interface Elf {
  readonly needed: readonly string[];
  readonly soname: string | undefined;
  /** Symbols that some library must provide. */
  readonly imports: readonly ElfImport[];
  /** Names that this file provides to others. */
  readonly exports: ReadonlySet<string>;
  /** Every (library, version) pair this file refuses to start without. */
  readonly versionsNeeded: readonly ElfVersion[];
  readonly interpreter: string | undefined;
  /** `.modinfo` of a kernel module: key -> values. Empty for anything else. */
  readonly moduleInfo: ReadonlyMap<string, readonly string[]>;
}

export interface ElfVersion {
  /** File name of the library, e.g. `librbd.so.1`. */
  readonly library: string;
  readonly version: string;
}

export interface ElfImport {
  readonly name: string;
  readonly weak: boolean;
  /** Data (also thread-local data), as opposed to a function. */
  readonly data: boolean;
  /** Undefined when the importing file asks for no version. */
  readonly version: ElfVersion | undefined;
}

interface Section {
  readonly name: string;
  readonly bytes: Buffer;
}

export function isElf(file: Buffer): boolean {
  return file.length >= EHDR.BYTES && file.readUInt32BE(0) === 0x7f454c46;
}

/** Parses `file`. `name` is for the error only. */
export function readElf(file: Buffer, name: string): Elf {
  const is64LittleEndian = isElf(file) && file[4] === 2 && file[5] === 1;
  if (!is64LittleEndian) {
    throw new VmError("format", `${name} is not a 64-bit little-endian ELF file.`);
  }
  try {
    return parse(readSections(file));
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    throw new VmError("format", `${name} is a damaged ELF file.`, { cause });
  }
}

function parse(sections: ReadonlyMap<string, Section>): Elf {
  const strings = bytesOf(sections, ".dynstr");
  const dynamic = readDynamic(bytesOf(sections, ".dynamic"), strings);
  const versions = readVersionNeeds(bytesOf(sections, ".gnu.version_r"), strings);
  const symbols = readSymbols(
    bytesOf(sections, ".dynsym"),
    strings,
    bytesOf(sections, ".gnu.version"),
    versions,
  );
  const interpreter = bytesOf(sections, ".interp");
  return {
    ...dynamic,
    ...symbols,
    versionsNeeded: [...versions.values()],
    interpreter: interpreter.length === 0 ? undefined : cString(interpreter, 0),
    moduleInfo: readModuleInfo(bytesOf(sections, ".modinfo")),
  };
}

function readSections(file: Buffer): Map<string, Section> {
  const start = u64(file, EHDR.shoff);
  const count = file.readUInt16LE(EHDR.shnum);
  const headers: { name: number; offset: number; size: number; type: number }[] = [];
  for (let index = 0; index < count; index++) {
    const at = start + index * SHDR.BYTES;
    headers.push({
      name: file.readUInt32LE(at + SHDR.name),
      type: file.readUInt32LE(at + SHDR.type),
      offset: u64(file, at + SHDR.offset),
      size: u64(file, at + SHDR.size),
    });
  }
  const names = headers[file.readUInt16LE(EHDR.shstrndx)];
  const sections = new Map<string, Section>();
  if (names === undefined) return sections;
  for (const header of headers) {
    const name = cString(file, names.offset + header.name);
    // SHT_NOBITS (8) has a size but no bytes in the file.
    const end = header.type === 8 ? header.offset : header.offset + header.size;
    sections.set(name, { name, bytes: file.subarray(header.offset, end) });
  }
  return sections;
}

function bytesOf(sections: ReadonlyMap<string, Section>, name: string): Buffer {
  return sections.get(name)?.bytes ?? Buffer.alloc(0);
}

function readDynamic(dynamic: Buffer, strings: Buffer): Pick<Elf, "needed" | "soname"> {
  const needed: string[] = [];
  let soname: string | undefined;
  for (let at = 0; at + DYN.BYTES <= dynamic.length; at += DYN.BYTES) {
    const tag = u64(dynamic, at + DYN.tag);
    if (tag === DT_NEEDED) needed.push(cString(strings, u64(dynamic, at + DYN.value)));
    if (tag === DT_SONAME) soname = cString(strings, u64(dynamic, at + DYN.value));
  }
  return { needed, soname };
}

/** Version index (as in `.gnu.version`) -> the library and version it stands for. */
function readVersionNeeds(table: Buffer, strings: Buffer): Map<number, ElfVersion> {
  const versions = new Map<number, ElfVersion>();
  let at = 0;
  while (at < table.length) {
    const library = cString(strings, table.readUInt32LE(at + VERNEED.file));
    let aux = at + table.readUInt32LE(at + VERNEED.aux);
    for (let left = table.readUInt16LE(at + VERNEED.cnt); left > 0; left--) {
      const version = cString(strings, table.readUInt32LE(aux + VERNAUX.name));
      versions.set(table.readUInt16LE(aux + VERNAUX.other), { library, version });
      aux += table.readUInt32LE(aux + VERNAUX.next);
    }
    const next = table.readUInt32LE(at + VERNEED.next);
    if (next === 0) break;
    at += next;
  }
  return versions;
}

function readSymbols(
  table: Buffer,
  strings: Buffer,
  indices: Buffer,
  versions: ReadonlyMap<number, ElfVersion>,
): Pick<Elf, "imports" | "exports"> {
  const imports: ElfImport[] = [];
  const exports = new Set<string>();
  const count = Math.floor(table.length / SYM.BYTES);
  // Symbol 0 is reserved.
  for (let index = 1; index < count; index++) {
    const at = index * SYM.BYTES;
    const name = cString(strings, table.readUInt32LE(at + SYM.name));
    const info = table.readUInt8(at + SYM.info);
    if (table.readUInt16LE(at + SYM.shndx) !== SHN_UNDEF) {
      exports.add(name);
      continue;
    }
    const type = info & 0xf;
    const versionIndex = indices.length === 0 ? 0 : indices.readUInt16LE(index * 2);
    imports.push({
      name,
      weak: info >> 4 === STB_WEAK,
      data: type === STT_OBJECT || type === STT_TLS,
      version: versions.get(versionIndex & VERSION_INDEX_MASK),
    });
  }
  return { imports, exports };
}

function readModuleInfo(section: Buffer): Map<string, string[]> {
  const info = new Map<string, string[]>();
  for (const entry of section.toString("latin1").split("\0")) {
    const equals = entry.indexOf("=");
    if (equals < 0) continue;
    const key = entry.slice(0, equals);
    const values = info.get(key) ?? [];
    values.push(entry.slice(equals + 1));
    info.set(key, values);
  }
  return info;
}

function cString(bytes: Buffer, offset: number): string {
  const end = bytes.indexOf(0, offset);
  if (offset >= bytes.length || end < 0) throw new RangeError("string outside its table");
  return bytes.toString("latin1", offset, end);
}

/** File offsets and sizes are far below 2^53; a larger one is damage and fails as a range. */
function u64(bytes: Buffer, offset: number): number {
  return Number(bytes.readBigUInt64LE(offset));
}

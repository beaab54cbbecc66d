// Writes a shared library that satisfies the dynamic linker and nothing else.
//
// Why: Debian links fio with Ceph, Gluster, RDMA, NBD and persistent memory. Their libraries and
// what those need are 80 MB; a guest that runs fio on /dev/vda calls none of them, and unpacking
// and relocating them under an emulator costs more than the whole boot. So the guest gets the
// real fio beside stand-ins that export the names fio imports. Each function is an illegal
// instruction: whoever asks for the rbd engine in such a guest is told at once (SIGILL), never
// given a made-up answer.
//
//   file offset = address
//   0      Ehdr, 4 Phdr, the trap, .dynsym, .hash, .gnu.version, .gnu.version_d, .dynstr   R X
//   page+  .dynamic (the loader may write here)                                              RW
//
// Follows the System V ABI ("Dynamic Linking"), its x86-64 supplement, and the LSB's "Symbol
// Versioning". No section headers: the loader reads none.

import { alignUp, assert } from "../base/index.ts";
import { DYN, EHDR, PHDR, SYM, VERDAUX, VERDEF } from "./_elf-layout.ts";
import { DT_SONAME, type Elf } from "./elf.ts";
import { VmError } from "./error.ts";

const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_GNU_STACK = 0x6474e551;
const FLAGS_RX = 5;
const FLAGS_RW = 6;
const PHDR_COUNT = 4;
const PAGE = 4096;
/** STB_GLOBAL << 4 | STT_FUNC. */
const INFO_GLOBAL_FUNCTION = 0x12;
const EM_X86_64 = 62;
const ET_DYN = 3;
/** VER_NDX_GLOBAL: belongs to the library itself, no version. */
const VERSION_BASE = 1;
const VER_FLG_BASE = 1;
/** `ud2`, the instruction that exists to be illegal. */
const TRAP = Buffer.from([0x0f, 0x0b]);

export interface StubSymbol {
  name: string;
  version: string | undefined;
}

export interface StubLibrary {
  soname: string;
  /** Versions that must exist even when no symbol carries them. */
  versions: readonly string[];
  symbols: readonly StubSymbol[];
}

/**
 * The stand-ins `program` needs for the libraries in `sonames`. Imports without a version do not
 * say which library they come from: those that no kept library provides go to the first stub.
 */
export function planStubs(
  program: Elf,
  sonames: readonly string[],
  providedByOthers: ReadonlySet<string>,
): StubLibrary[] {
  const stubs = new Map<string, { versions: Set<string>; symbols: StubSymbol[] }>();
  for (const soname of sonames) stubs.set(soname, { versions: new Set(), symbols: [] });
  for (const { library, version } of program.versionsNeeded) {
    stubs.get(library)?.versions.add(version);
  }
  const first = sonames[0];
  for (const symbol of program.imports) {
    const unclaimed = symbol.version === undefined && !providedByOthers.has(symbol.name);
    const owner = symbol.version?.library ?? (unclaimed ? first : undefined);
    const stub = owner === undefined ? undefined : stubs.get(owner);
    // Weak imports may stay unresolved: the linker then leaves 0, and programs test for it.
    if (stub === undefined || symbol.weak) continue;
    if (symbol.data) {
      throw new VmError("format", `Cannot stand in for the variable ${symbol.name} of ${owner}.`);
    }
    stub.symbols.push({ name: symbol.name, version: symbol.version?.version });
  }
  return [...stubs].map(([soname, { versions, symbols }]) => {
    return { soname, versions: [...versions], symbols };
  });
}

/** The bytes of the shared library described by `stub`. */
export function buildStubLibrary(stub: StubLibrary): Buffer {
  const strings = new StringTable();
  const soname = strings.add(stub.soname);
  const versionIndex = new Map<string, number>();
  // Index 1 is the library itself; versions follow.
  for (const version of stub.versions) versionIndex.set(version, versionIndex.size + 2);

  const symbolCount = stub.symbols.length + 1;
  const trapAt = EHDR.BYTES + PHDR_COUNT * PHDR.BYTES;
  const symbolsAt = alignUp(trapAt + TRAP.length, 8);
  const symbols = Buffer.alloc(symbolCount * SYM.BYTES);
  const versym = Buffer.alloc(symbolCount * 2);
  stub.symbols.forEach((symbol, position) => {
    const index = position + 1;
    const at = index * SYM.BYTES;
    symbols.writeUInt32LE(strings.add(symbol.name), at + SYM.name);
    symbols.writeUInt8(INFO_GLOBAL_FUNCTION, at + SYM.info);
    // Any defined section number will do; there are no section headers to contradict it.
    symbols.writeUInt16LE(1, at + SYM.shndx);
    writeU64(symbols, trapAt, at + SYM.value);
    writeU64(symbols, TRAP.length, at + SYM.size);
    const version = symbol.version === undefined ? VERSION_BASE : versionIndex.get(symbol.version);
    assert(version !== undefined, "a stub symbol's version is among the stub's versions");
    versym.writeUInt16LE(version, index * 2);
  });

  const verdef = versionDefinitions(stub, soname, strings);
  const hash = singleBucketHash(symbolCount);
  const hashAt = symbolsAt + symbols.length;
  const versymAt = alignUp(hashAt + hash.length, 8);
  const verdefAt = alignUp(versymAt + versym.length, 8);
  const stringsAt = verdefAt + verdef.length;
  const stringBytes = strings.bytes();
  const readOnlyEnd = stringsAt + stringBytes.length;
  const dynamicAt = alignUp(readOnlyEnd, PAGE);
  const dynamic = dynamicSection([
    [DT_SONAME, soname],
    [4 /* DT_HASH */, hashAt],
    [5 /* DT_STRTAB */, stringsAt],
    [6 /* DT_SYMTAB */, symbolsAt],
    [10 /* DT_STRSZ */, stringBytes.length],
    [11 /* DT_SYMENT */, SYM.BYTES],
    [0x6ffffff0 /* DT_VERSYM */, versymAt],
    [0x6ffffffc /* DT_VERDEF */, verdefAt],
    [0x6ffffffd /* DT_VERDEFNUM */, stub.versions.length + 1],
  ]);

  const file = Buffer.alloc(dynamicAt + dynamic.length);
  writeHeaders(file, readOnlyEnd, dynamicAt, dynamic.length);
  const parts: [Buffer, number][] = [
    [TRAP, trapAt],
    [symbols, symbolsAt],
    [hash, hashAt],
    [versym, versymAt],
    [verdef, verdefAt],
    [stringBytes, stringsAt],
    [dynamic, dynamicAt],
  ];
  for (const [bytes, at] of parts) bytes.copy(file, at);
  return file;
}

class StringTable {
  #text = "\0";

  add(text: string): number {
    const offset = this.#text.length;
    this.#text += `${text}\0`;
    return offset;
  }

  bytes(): Buffer {
    return Buffer.from(this.#text, "latin1");
  }
}

/** One bucket holding a chain of every symbol: a stub is searched once, at program start. */
function singleBucketHash(symbolCount: number): Buffer {
  const hash = Buffer.alloc((2 + 1 + symbolCount) * 4);
  hash.writeUInt32LE(1, 0);
  hash.writeUInt32LE(symbolCount, 4);
  hash.writeUInt32LE(symbolCount > 1 ? 1 : 0, 8);
  for (let index = 1; index < symbolCount - 1; index++) {
    hash.writeUInt32LE(index + 1, 12 + index * 4);
  }
  return hash;
}

function versionDefinitions(stub: StubLibrary, soname: number, strings: StringTable): Buffer {
  const names = [stub.soname, ...stub.versions];
  const entryBytes = VERDEF.BYTES + VERDAUX.BYTES;
  const table = Buffer.alloc(names.length * entryBytes);
  names.forEach((name, position) => {
    const at = position * entryBytes;
    const isBase = position === 0;
    const isLast = position === names.length - 1;
    table.writeUInt16LE(1, at + VERDEF.version);
    table.writeUInt16LE(isBase ? VER_FLG_BASE : 0, at + VERDEF.flags);
    table.writeUInt16LE(position + VERSION_BASE, at + VERDEF.ndx);
    table.writeUInt16LE(1, at + VERDEF.cnt);
    table.writeUInt32LE(elfHash(name), at + VERDEF.hash);
    table.writeUInt32LE(VERDEF.BYTES, at + VERDEF.aux);
    table.writeUInt32LE(isLast ? 0 : entryBytes, at + VERDEF.next);
    table.writeUInt32LE(isBase ? soname : strings.add(name), at + VERDEF.BYTES + VERDAUX.name);
  });
  return table;
}

/** The hash function of the System V ABI. */
export function elfHash(name: string): number {
  let hash = 0;
  for (const byte of Buffer.from(name, "latin1")) {
    hash = (hash * 16 + byte) >>> 0;
    const high = hash & 0xf0000000;
    hash = (hash ^ (high >>> 24) ^ high) >>> 0;
  }
  return hash;
}

function dynamicSection(entries: readonly (readonly [number, number])[]): Buffer {
  const section = Buffer.alloc((entries.length + 1) * DYN.BYTES); // the last entry stays DT_NULL
  entries.forEach(([tag, value], index) => {
    writeU64(section, tag, index * DYN.BYTES + DYN.tag);
    writeU64(section, value, index * DYN.BYTES + DYN.value);
  });
  return section;
}

function writeHeaders(
  file: Buffer,
  readOnlyEnd: number,
  dynamicAt: number,
  dynamicBytes: number,
): void {
  Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0]).copy(file, 0);
  file.writeUInt16LE(ET_DYN, EHDR.type);
  file.writeUInt16LE(EM_X86_64, EHDR.machine);
  file.writeUInt32LE(1, EHDR.version);
  writeU64(file, EHDR.BYTES, EHDR.phoff);
  file.writeUInt16LE(EHDR.BYTES, EHDR.ehsize);
  file.writeUInt16LE(PHDR.BYTES, EHDR.phentsize);
  file.writeUInt16LE(PHDR_COUNT, EHDR.phnum);
  const segments: [type: number, flags: number, at: number, bytes: number, align: number][] = [
    [PT_LOAD, FLAGS_RX, 0, readOnlyEnd, PAGE],
    [PT_LOAD, FLAGS_RW, dynamicAt, dynamicBytes, PAGE],
    [PT_DYNAMIC, FLAGS_RW, dynamicAt, dynamicBytes, 8],
    // Without this the loader would make the process's stack executable.
    [PT_GNU_STACK, FLAGS_RW, 0, 0, 16],
  ];
  assert(segments.length === PHDR_COUNT, "room was kept for every program header");
  segments.forEach(([type, flags, at, bytes, align], index) => {
    const header = EHDR.BYTES + index * PHDR.BYTES;
    file.writeUInt32LE(type, header + PHDR.type);
    file.writeUInt32LE(flags, header + PHDR.flags);
    writeU64(file, at, header + PHDR.offset);
    writeU64(file, at, header + PHDR.vaddr);
    writeU64(file, at, header + PHDR.paddr);
    writeU64(file, bytes, header + PHDR.filesz);
    writeU64(file, bytes, header + PHDR.memsz);
    writeU64(file, align, header + PHDR.align);
  });
}

function writeU64(bytes: Buffer, value: number, offset: number): void {
  bytes.writeBigUInt64LE(BigInt(value), offset);
}

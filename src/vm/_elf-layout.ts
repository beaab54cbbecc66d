// The ELF structures that elf.ts reads and stub-library.ts writes, 64-bit little-endian, by the
// System V ABI ("Object Files", "Dynamic Linking") and the LSB's "Symbol Versioning".

import { type Layout, layout } from "../base/index.ts";

const ehdr = {
  ident: [0, 16],
  type: [16, 2],
  machine: [18, 2],
  version: [20, 4],
  entry: [24, 8],
  phoff: [32, 8],
  shoff: [40, 8],
  flags: [48, 4],
  ehsize: [52, 2],
  phentsize: [54, 2],
  phnum: [56, 2],
  shentsize: [58, 2],
  shnum: [60, 2],
  shstrndx: [62, 2],
} as const;
export const EHDR: Layout<typeof ehdr> = layout("Elf64_Ehdr", 64, ehdr);

const shdr = {
  name: [0, 4],
  type: [4, 4],
  flags: [8, 8],
  addr: [16, 8],
  offset: [24, 8],
  size: [32, 8],
  link: [40, 4],
  info: [44, 4],
  addralign: [48, 8],
  entsize: [56, 8],
} as const;
export const SHDR: Layout<typeof shdr> = layout("Elf64_Shdr", 64, shdr);

const phdr = {
  type: [0, 4],
  flags: [4, 4],
  offset: [8, 8],
  vaddr: [16, 8],
  paddr: [24, 8],
  filesz: [32, 8],
  memsz: [40, 8],
  align: [48, 8],
} as const;
export const PHDR: Layout<typeof phdr> = layout("Elf64_Phdr", 56, phdr);

const sym = {
  name: [0, 4],
  info: [4, 1],
  other: [5, 1],
  shndx: [6, 2],
  value: [8, 8],
  size: [16, 8],
} as const;
export const SYM: Layout<typeof sym> = layout("Elf64_Sym", 24, sym);

const verneed = {
  version: [0, 2],
  cnt: [2, 2],
  file: [4, 4],
  aux: [8, 4],
  next: [12, 4],
} as const;
export const VERNEED: Layout<typeof verneed> = layout("Elf64_Verneed", 16, verneed);

const vernaux = {
  hash: [0, 4],
  flags: [4, 2],
  other: [6, 2],
  name: [8, 4],
  next: [12, 4],
} as const;
export const VERNAUX: Layout<typeof vernaux> = layout("Elf64_Vernaux", 16, vernaux);

const verdef = {
  version: [0, 2],
  flags: [2, 2],
  ndx: [4, 2],
  cnt: [6, 2],
  hash: [8, 4],
  aux: [12, 4],
  next: [16, 4],
} as const;
export const VERDEF: Layout<typeof verdef> = layout("Elf64_Verdef", 20, verdef);

const verdaux = { name: [0, 4], next: [4, 4] } as const;
export const VERDAUX: Layout<typeof verdaux> = layout("Elf64_Verdaux", 8, verdaux);

const dyn = { tag: [0, 8], value: [8, 8] } as const;
export const DYN: Layout<typeof dyn> = layout("Elf64_Dyn", 16, dyn);

// Vital product data pages (SPC-4 7.8, SBC-3 6.6).
//
// Invariant: page 00h lists the pages in ascending order and no others are answered.

import { putU16, putU32, putU64 } from "../base/index.ts";
import { putAscii } from "./bytes.ts";
import type { CommandRun } from "./command-run.ts";
import {
  COPY_BLOCKS_MAX,
  COPY_LIST_BYTES_MAX,
  COPY_SEGMENTS_MAX,
  COPY_TARGETS_MAX,
  compareBlocksMax,
  UNMAP_BLOCKS_MAX,
  UNMAP_DESCRIPTORS_MAX,
  WRITE_SAME_BLOCKS_MAX,
} from "./limits.ts";

const PAGE_SUPPORTED = 0x00;
const PAGE_SERIAL = 0x80;
const PAGE_IDENTIFICATION = 0x83;
const PAGE_EXTENDED = 0x86;
const PAGE_COPY = 0x8f;
const PAGE_BLOCK_LIMITS = 0xb0;
const PAGE_CHARACTERISTICS = 0xb1;
const PAGE_PROVISIONING = 0xb2;

const PAGES: readonly number[] = [
  PAGE_SUPPORTED,
  PAGE_SERIAL,
  PAGE_IDENTIFICATION,
  PAGE_EXTENDED,
  PAGE_COPY,
  PAGE_BLOCK_LIMITS,
  PAGE_CHARACTERISTICS,
  PAGE_PROVISIONING,
];

const HEADER_BYTES = 4;
const PAGE_BYTES_MAX = 1024;

/** Builds the page in run.page(); its bytes, or -1 for a page there is not. */
export function buildVpdPage(run: CommandRun, code: number): number {
  if (!PAGES.includes(code)) return -1;
  const page = run.page(PAGE_BYTES_MAX);
  const end = buildBody(run, page, code);
  page[1] = code;
  putU16(page, 2, end - HEADER_BYTES);
  return end;
}

function buildBody(run: CommandRun, page: Uint8Array, code: number): number {
  switch (code) {
    case PAGE_SUPPORTED:
      page.set(PAGES, HEADER_BYTES);
      return HEADER_BYTES + PAGES.length;
    case PAGE_SERIAL: {
      const { serial } = run.unit.identity;
      putAscii(page, HEADER_BYTES, serial.length, serial);
      return HEADER_BYTES + serial.length;
    }
    case PAGE_IDENTIFICATION:
      return identification(run, page);
    case PAGE_EXTENDED:
      // HEADSUP, ORDSUP, SIMPSUP; V_SUP: a volatile cache.
      page[5] = 0x07;
      page[6] = 0x01;
      return 64;
    case PAGE_COPY:
      return thirdPartyCopy(page);
    case PAGE_BLOCK_LIMITS:
      return blockLimits(run, page);
    case PAGE_CHARACTERISTICS:
      // MEDIUM ROTATION RATE 1: it does not rotate.
      putU16(page, 4, 1);
      return 64;
    default:
      // LBPU, LBPWS, LBPWS10 where the device can; LBPRZ always; thin provisioned.
      if (run.unit.info?.canDiscard === true) {
        page[5] = 0xe4;
        page[6] = 0x02;
      } else {
        page[5] = 0x04;
      }
      return 8;
  }
}

/** Associations and types of designators (SPC-4 7.8.6). */
const ASSOCIATED_UNIT = 0x00;
const ASSOCIATED_PORT = 0x10;
const PIV = 0x80;
const TYPE_VENDOR = 1;
const TYPE_NAA = 3;
const TYPE_RELATIVE_PORT = 4;
const TYPE_PORT_GROUP = 5;
const TYPE_NAME_STRING = 8;
const BINARY = 1;
const ASCII = 2;
const UTF_8 = 3;

function identification(run: CommandRun, page: Uint8Array): number {
  const { identity, groups } = run.unit;
  const { transportId, relativePort, portName } = run.link.nexus.identity;
  const protocol = (transportId[0] & 0xf) << 4;
  let at = HEADER_BYTES;
  const designator = (set: number, type: number, bytes: number): number => {
    const isPort = (type & ASSOCIATED_PORT) !== 0;
    page[at] = set | (isPort ? protocol : 0);
    page[at + 1] = type | (isPort ? PIV : 0);
    page[at + 3] = bytes;
    at += 4 + bytes;
    return at - bytes;
  };
  const { naa, vendor, serial } = identity;
  page.set(naa, designator(BINARY, ASSOCIATED_UNIT | TYPE_NAA, naa.length));
  const start = designator(ASCII, ASSOCIATED_UNIT | TYPE_VENDOR, 8 + serial.length);
  putAscii(page, start, 8, vendor);
  putAscii(page, start + 8, serial.length, serial);
  putU16(page, designator(BINARY, ASSOCIATED_PORT | TYPE_RELATIVE_PORT, 4) + 2, relativePort);
  const group = groups.find((one) => one.ports.includes(relativePort));
  if (group !== undefined) {
    putU16(page, designator(BINARY, ASSOCIATED_PORT | TYPE_PORT_GROUP, 4) + 2, group.id);
  }
  if (portName !== undefined) {
    // Ended by NUL and padded to whole words.
    const name = portName.slice(0, 223);
    const bytes = (name.length + 4) & ~3;
    const nameAt = designator(UTF_8, ASSOCIATED_PORT | TYPE_NAME_STRING, bytes);
    putAscii(page, nameAt, name.length, name);
  }
  return at;
}

function thirdPartyCopy(page: Uint8Array): number {
  let at = HEADER_BYTES;
  const descriptor = (type: number, bytes: number): number => {
    putU16(page, at, type);
    putU16(page, at + 2, bytes);
    at += 4 + bytes;
    return at - bytes;
  };
  // Commands: EXTENDED COPY(LID1); RECEIVE COPY STATUS and OPERATING PARAMETERS (LID1).
  page.set([7, 0x83, 1, 0x00, 0x84, 2, 0x00, 0x03], descriptor(0x0001, 8));
  const parameters = descriptor(0x0004, 28);
  putU16(page, parameters + 4, COPY_TARGETS_MAX);
  putU16(page, parameters + 6, COPY_SEGMENTS_MAX);
  putU32(page, parameters + 8, COPY_LIST_BYTES_MAX);
  // Descriptor types: block to block, identification.
  page.set([2, 0x02, 0xe4], descriptor(0x0008, 4));
  const general = descriptor(0x8001, 32);
  putU32(page, general, 1);
  putU32(page, general + 4, 1);
  putU32(page, general + 8, COPY_BLOCKS_MAX);
  page[general + 12] = 9;
  return at;
}

function blockLimits(run: CommandRun, page: Uint8Array): number {
  const { unit } = run;
  const { info } = unit;
  // WSNZ: WRITE SAME of 0 blocks is refused.
  page[4] = 0x01;
  if (info === null) return 64;
  const { blockBytes } = info;
  page[5] = compareBlocksMax(blockBytes);
  putU16(page, 6, info.physicalBlockBytes / blockBytes);
  const transferBlocks = Math.floor(unit.transferBytesMax / blockBytes);
  putU32(page, 8, transferBlocks);
  putU32(page, 12, Math.min(transferBlocks, Math.floor(info.optimalIoBytes / blockBytes)));
  if (info.canDiscard) {
    putU32(page, 20, UNMAP_BLOCKS_MAX);
    putU32(page, 24, UNMAP_DESCRIPTORS_MAX);
    putU32(page, 28, Math.max(1, Math.floor(info.discardGranularityBytes / blockBytes)));
    // UGAVALID, alignment 0.
    page[32] = 0x80;
  }
  putU64(page, 36, WRITE_SAME_BLOCKS_MAX);
  if (unit.atomicBytesMax > 0) {
    const atomicBlocks = Math.floor(unit.atomicBytesMax / blockBytes);
    putU32(page, 44, Math.min(atomicBlocks, transferBlocks, 65535));
    putU32(page, 48, 1);
    putU32(page, 52, 1);
  }
  return 64;
}

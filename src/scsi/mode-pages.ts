// MODE SENSE and MODE SELECT (SPC-4 6.10 to 6.13) and the pages they show: what of it can be
// changed is the write cache, the format of sense data and software write protection.
//
// Invariants:
//  - saved values do not exist: a logical unit reset brings the defaults back;
//  - MODE SELECT changes nothing before the whole list is found good.

import { getU16, getU24, getU32, getU64, putU16, putU32, putU64 } from "../base/index.ts";
import type { CommandRun, Steps } from "./command-run.ts";
import type { LogicalUnit } from "./logical-unit.ts";
import {
  SENSE_PARAMETER_LENGTH,
  SENSE_SAVING_NOT_SUPPORTED,
  UA_MODE_PARAMETERS_CHANGED,
} from "./sense.ts";

const PAGE_RECOVERY = 0x01;
const PAGE_CACHING = 0x08;
const PAGE_CONTROL = 0x0a;
const PAGE_EXCEPTIONS = 0x1c;
const PAGE_ALL = 0x3f;
const SUBPAGE_CONTROL_EXTENSION = 0x01;
const SUBPAGE_ALL = 0xff;
const SUBPAGE_FORMAT = 0x40;

const CURRENT = 0;
const CHANGEABLE = 1;
const DEFAULT = 2;
const SAVED = 3;

const WCE_BYTE = 2;
const WCE = 0x04;
const D_SENSE_BYTE = 2;
const D_SENSE = 0x04;
const SWP_BYTE = 4;
const SWP = 0x08;

interface ModePage {
  readonly code: number;
  readonly subpage: number;
  /** With its header. */
  readonly bytes: number;
}

const PAGES: readonly ModePage[] = [
  { code: PAGE_RECOVERY, subpage: 0, bytes: 12 },
  { code: PAGE_CACHING, subpage: 0, bytes: 20 },
  { code: PAGE_CONTROL, subpage: 0, bytes: 12 },
  { code: PAGE_CONTROL, subpage: SUBPAGE_CONTROL_EXTENSION, bytes: 32 },
  { code: PAGE_EXCEPTIONS, subpage: 0, bytes: 12 },
];

const HEADER_6_BYTES = 4;
const HEADER_10_BYTES = 8;
const BLOCK_DESCRIPTOR_BYTES = 8;
const LONG_BLOCK_DESCRIPTOR_BYTES = 16;
const WRITE_PROTECTED = 0x80;
const DPOFUA = 0x10;

/** The page with current, changeable or default values. */
function buildPage(page: ModePage, control: number, unit: LogicalUnit): Uint8Array {
  const data = new Uint8Array(page.bytes);
  if (page.subpage === 0) {
    data[0] = page.code;
    data[1] = page.bytes - 2;
  } else {
    data[0] = SUBPAGE_FORMAT | page.code;
    data[1] = page.subpage;
    putU16(data, 2, page.bytes - 4);
  }
  const isMask = control === CHANGEABLE;
  const flag = (value: boolean, standard: boolean): boolean =>
    isMask || (control === DEFAULT ? standard : value);
  if (page.code === PAGE_CACHING) {
    if (flag(unit.isWriteCached, true)) data[WCE_BYTE] |= WCE;
  } else if (page.code === PAGE_CONTROL && page.subpage === 0) {
    if (flag(unit.isDescriptorSense, false)) data[D_SENSE_BYTE] |= D_SENSE;
    if (flag(unit.isSoftwareProtected, false)) data[SWP_BYTE] |= SWP;
    if (!isMask) {
      // TST 001b, GLTSD; QUEUE ALGORITHM MODIFIER 0001b.
      data[2] |= 0x22;
      data[3] = 0x10;
    }
  } else if (page.code === PAGE_CONTROL && !isMask) {
    // IALUAE: access states change by themselves.
    data[4] = 0x01;
  } else if (page.code === PAGE_EXCEPTIONS && !isMask) {
    // DEXCPT: no informational exceptions.
    data[2] = 0x08;
  }
  return data;
}

export function modeSense(run: CommandRun): void {
  const isLong = run.u8(0) === 0x5a;
  const control = run.u8(2) >>> 6;
  const code = run.u8(2) & 0x3f;
  const subpage = run.u8(3);
  if (control === SAVED) {
    run.refuse(SENSE_SAVING_NOT_SUPPORTED);
    return;
  }
  const chosen = choosePages(code, subpage);
  if (chosen === null) {
    if (PAGES.some((page) => page.code === code) || code === PAGE_ALL) run.refuseField(3);
    else run.refuseField(2, 5);
    return;
  }
  const pages = chosen.map((page) => buildPage(page, control, run.unit));
  const bytes = buildModeData(run, isLong, pages);
  run.reply(bytes, isLong ? run.u16(7) : run.u8(4));
}

function choosePages(code: number, subpage: number): readonly ModePage[] | null {
  const isAll = subpage === SUBPAGE_ALL;
  if (code === PAGE_ALL) {
    if (subpage !== 0 && !isAll) return null;
    return PAGES.filter((page) => isAll || page.subpage === 0);
  }
  const chosen = PAGES.filter((page) => page.code === code && (isAll || page.subpage === subpage));
  return chosen.length === 0 ? null : chosen;
}

function buildModeData(run: CommandRun, isLong: boolean, pages: readonly Uint8Array[]): number {
  const { unit } = run;
  const hasDescriptor = (run.u8(1) & 0x08) === 0 && unit.info !== null;
  const isLongLba = isLong && (run.u8(1) & 0x10) !== 0;
  const header = isLong ? HEADER_10_BYTES : HEADER_6_BYTES;
  let descriptor = 0;
  if (hasDescriptor) descriptor = isLongLba ? LONG_BLOCK_DESCRIPTOR_BYTES : BLOCK_DESCRIPTOR_BYTES;
  const total = header + descriptor + pages.reduce((sum, page) => sum + page.length, 0);
  const data = run.page(total);
  const parameter = DPOFUA | (unit.isWriteProtected ? WRITE_PROTECTED : 0);
  if (isLong) {
    putU16(data, 0, total - 2);
    data[3] = parameter;
    data[4] = isLongLba && hasDescriptor ? 1 : 0;
    putU16(data, 6, descriptor);
  } else {
    data[0] = Math.min(255, total - 1);
    data[2] = parameter;
    data[3] = descriptor;
  }
  if (hasDescriptor && isLongLba) {
    putU64(data, header, run.blockCount);
    putU32(data, header + 12, run.blockBytes);
  } else if (hasDescriptor) {
    putU32(data, header, Math.min(0xffffffff, run.blockCount));
    putU32(data, header + 4, run.blockBytes);
  }
  let at = header + descriptor;
  for (const page of pages) {
    data.set(page, at);
    at += page.length;
  }
  return total;
}

export function* modeSelect(run: CommandRun): Steps {
  const isLong = run.u8(0) === 0x55;
  if ((run.u8(1) & 0x01) !== 0) {
    run.refuseField(1, 0);
    return;
  }
  if ((run.u8(1) & 0x10) === 0) {
    run.refuseField(1, 4);
    return;
  }
  const list = yield* run.parameters(isLong ? run.u16(7) : run.u8(4));
  if (list === null || list.length === 0) return;
  const at = checkHeader(run, list, isLong);
  if (at < 0 || !checkPages(run, list, at)) return;
  const { unit } = run;
  const before = [unit.isWriteCached, unit.isDescriptorSense, unit.isSoftwareProtected];
  applyPages(unit, list, at);
  const after = [unit.isWriteCached, unit.isDescriptorSense, unit.isSoftwareProtected];
  if (before.every((value, index) => value === after[index])) return;
  unit.attendAll(UA_MODE_PARAMETERS_CHANGED, run.link);
  if (!before[0] || unit.isWriteCached || unit.device === null) return;
  // What the cache still holds is written before it counts as off.
  if (!(yield* run.enter(0, 0, false))) return;
  const result = yield* run.flush();
  if (result < 0) run.refuseResult(result, false);
}

/** Where the pages begin; -1: refused. */
function checkHeader(run: CommandRun, list: Uint8Array, isLong: boolean): number {
  const header = isLong ? HEADER_10_BYTES : HEADER_6_BYTES;
  if (list.length < header) {
    run.refuse(SENSE_PARAMETER_LENGTH);
    return -1;
  }
  const isLongLba = isLong && (list[4] & 1) !== 0;
  const lengthAt = isLong ? 6 : 3;
  const descriptor = isLong ? getU16(list, lengthAt) : list[lengthAt];
  const expected = isLongLba ? LONG_BLOCK_DESCRIPTOR_BYTES : BLOCK_DESCRIPTOR_BYTES;
  if (descriptor !== 0 && descriptor !== expected) {
    run.refuseParameter(lengthAt);
    return -1;
  }
  if (list.length < header + descriptor) {
    run.refuse(SENSE_PARAMETER_LENGTH);
    return -1;
  }
  if (descriptor === 0 || run.unit.info === null) return header + descriptor;
  const blocks = isLongLba ? getU64(list, header) : getU32(list, header);
  const blockBytes = isLongLba ? getU32(list, header + 12) : getU24(list, header + 5);
  const max = isLongLba ? 2 ** 64 : 0xffffffff;
  if (blocks !== 0 && blocks < max && blocks !== run.blockCount) run.refuseParameter(header);
  else if (blockBytes !== run.blockBytes) run.refuseParameter(header + (isLongLba ? 12 : 5));
  else return header + descriptor;
  return -1;
}

/** Every page whole, known, and different from the current values only where it may be. */
function checkPages(run: CommandRun, list: Uint8Array, start: number): boolean {
  let at = start;
  while (at < list.length) {
    const page = pageAt(list, at);
    if (page === undefined) return run.refuseParameter(at, 5);
    if (list.length < at + page.bytes) return run.refuse(SENSE_PARAMETER_LENGTH);
    const current = buildPage(page, CURRENT, run.unit);
    const mask = buildPage(page, CHANGEABLE, run.unit);
    const head = page.subpage === 0 ? 2 : 4;
    for (let index = 0; index < page.bytes; index++) {
      const fixed = index < head ? 0xff : ~mask[index] & 0xff;
      if (((list[at + index] ^ current[index]) & fixed) !== 0) {
        return run.refuseParameter(at + index);
      }
    }
    at += page.bytes;
  }
  return true;
}

function applyPages(unit: LogicalUnit, list: Uint8Array, start: number): void {
  let at = start;
  while (at < list.length) {
    const page = pageAt(list, at) as ModePage;
    if (page.code === PAGE_CACHING) {
      unit.isWriteCached = (list[at + WCE_BYTE] & WCE) !== 0;
    } else if (page.code === PAGE_CONTROL && page.subpage === 0) {
      unit.isDescriptorSense = (list[at + D_SENSE_BYTE] & D_SENSE) !== 0;
      unit.isSoftwareProtected = (list[at + SWP_BYTE] & SWP) !== 0;
    }
    at += page.bytes;
  }
}

function pageAt(list: Uint8Array, at: number): ModePage | undefined {
  const subpage = (list[at] & SUBPAGE_FORMAT) === 0 ? 0 : list[at + 1];
  return PAGES.find((one) => one.code === (list[at] & 0x3f) && one.subpage === subpage);
}

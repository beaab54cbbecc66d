// Compares the memories of two stopped QEMUs. Guest memory is a memfd (qemu-command.ts), which the
// owner of the process can open through /proc.

import { closeSync, fstatSync, openSync, readdirSync, readlinkSync, readSync } from "node:fs";
import { PAGE_BYTES } from "../base/index.ts";
import { VmError } from "./error.ts";

const MEMFD = /^\/memfd:memory-backend-memfd/;
const WINDOW_BYTES = 1024 * PAGE_BYTES;
/** More is not a lost page here and there but another guest. */
const PAGES_REPORTED_MAX = 1000;

/**
 * Byte offsets of pages that differ, through all memory backends in the order of their making.
 * Both processes must be stopped QEMUs of the same configuration.
 */
export function compareMemory(firstPid: number, secondPid: number): number[] {
  const first = openMemory(firstPid);
  const second = openMemory(secondPid);
  try {
    const layouts = [first, second].map((files) => files.map((file) => file.sizeBytes).join("+"));
    if (layouts[0] !== layouts[1] || first.length === 0) {
      const found = `${layouts[0]} and ${layouts[1]} bytes`;
      throw new VmError("option", `These guests' memories cannot be compared: ${found}.`);
    }
    const differing: number[] = [];
    let baseBytes = 0;
    first.forEach((file, index) => {
      compareFiles(file, second[index]!, baseBytes, differing);
      baseBytes += file.sizeBytes;
    });
    return differing;
  } finally {
    for (const { descriptor } of [...first, ...second]) closeSync(descriptor);
  }
}

interface MemoryFile {
  readonly descriptor: number;
  readonly sizeBytes: number;
}

function openMemory(pid: number): MemoryFile[] {
  const directory = `/proc/${pid}/fd`;
  const numbers = readdirSync(directory).map(Number);
  const files: MemoryFile[] = [];
  for (const number of numbers.sort((a, b) => a - b)) {
    const path = `${directory}/${number}`;
    if (!MEMFD.test(linkTarget(path))) continue;
    const descriptor = openSync(path, "r");
    files.push({ descriptor, sizeBytes: fstatSync(descriptor).size });
  }
  return files;
}

function linkTarget(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return ""; // A connection that QEMU has closed since we listed it.
  }
}

function compareFiles(a: MemoryFile, b: MemoryFile, baseBytes: number, differing: number[]): void {
  const left = Buffer.alloc(WINDOW_BYTES);
  const right = Buffer.alloc(WINDOW_BYTES);
  for (let offset = 0; offset < a.sizeBytes; offset += WINDOW_BYTES) {
    const bytes = readSync(a.descriptor, left, 0, WINDOW_BYTES, offset);
    readSync(b.descriptor, right, 0, WINDOW_BYTES, offset);
    if (left.equals(right)) continue;
    for (let page = 0; page < bytes; page += PAGE_BYTES) {
      const end = page + PAGE_BYTES;
      if (left.compare(right, page, end, page, end) === 0) continue;
      differing.push(baseBytes + offset + page);
      if (differing.length > PAGES_REPORTED_MAX) {
        throw new VmError(
          "format",
          `The memories differ in more than ${PAGES_REPORTED_MAX} pages.`,
        );
      }
    }
  }
}

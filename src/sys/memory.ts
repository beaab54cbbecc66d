// Memory on real addresses: arenas from mmap with typed windows, and the C library's primitives
// for addresses of any origin. Implements the Memory port.
//
// Invariants:
//  - no window is larger than 1 GiB (koffi aborts the process beyond 4 GiB, and big external
//    buffers in the allocating thread turn minor garbage collections into full ones);
//  - an arena is only unmapped by free(), after which its windows must not be touched: nothing
//    can make that safe, so arenas live as long as their reactor unless a test says otherwise.

import { alignUp, assert, crc32cTable, EFAULT, GIB, PAGE_BYTES } from "../base/index.ts";
import type { Address, Arena, Memory } from "../ports/index.ts";
import { MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE } from "./constants.ts";
import { SysError } from "./error.ts";
import {
  cMemcmp,
  cMemcpy,
  cMemset,
  cMmap,
  cMunmap,
  cProcessVmReadv,
  lastErrno,
  loadLibrary,
  ret,
  viewBuffer,
} from "./libc.ts";

const WINDOW_BYTES_MAX = GIB;

/** mmap(2): the address, or a negated errno. */
export function mmap(
  bytes: number,
  protection: number,
  flags: number,
  fd: number,
  offsetBytes: number,
): number {
  return ret(cMmap(0, bytes, protection, flags, fd, offsetBytes));
}

export function munmap(address: Address, bytes: number): number {
  return ret(cMunmap(address, bytes));
}

/** A window over memory somebody else mapped. The caller keeps the mapping alive. */
export function windowOver(address: Address, bytes: number): ArrayBuffer {
  assert(bytes > 0, "an empty window");
  assert(bytes <= WINDOW_BYTES_MAX, "a window larger than 1 GiB");
  return viewBuffer(address, bytes);
}

/** Typed windows over [address, address + bytes); bytes is a multiple of 8. */
export function arenaOver(address: Address, bytes: number): Arena {
  assert(bytes % 8 === 0, "an arena must be a multiple of 8 bytes");
  const buffer = windowOver(address, bytes);
  return {
    address,
    bytes,
    u8: new Uint8Array(buffer),
    u16: new Uint16Array(buffer),
    u32: new Uint32Array(buffer),
    f64: new Float64Array(buffer),
  };
}

// ISA-L works without the final inversion that CRC32C prescribes; see crc32c() below.
const isalCrc = loadLibrary("libisal.so.2", "crc32_iscsi", "uint32_t", [
  "int64_t",
  "int",
  "uint32_t",
]);

export class SystemMemory implements Memory {
  /** Which CRC32C is in use, for `status` and benchmarks. */
  readonly crcImplementation: "isa-l" | "table" = isalCrc === null ? "table" : "isa-l";
  private readonly pid: number = process.pid;
  private readonly iovecs: Arena;

  constructor() {
    // process_vm_readv takes two struct iovec: local at 0, remote at 16.
    this.iovecs = this.allocate(PAGE_BYTES);
  }

  allocate(bytes: number): Arena {
    const size = alignUp(bytes, PAGE_BYTES);
    const address = mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address < 0) throw new SysError("mmap", address, `${size} bytes`);
    return arenaOver(address, size);
  }

  free(arena: Arena): void {
    const result = munmap(arena.address, arena.bytes);
    assert(result === 0, "munmap of an arena failed");
  }

  copy(to: Address, from: Address, bytes: number): void {
    cMemcpy(to, from, bytes);
  }

  fill(to: Address, byte: number, bytes: number): void {
    cMemset(to, byte, bytes);
  }

  compare(a: Address, b: Address, bytes: number): number {
    return cMemcmp(a, b, bytes);
  }

  isZero(address: Address, bytes: number): boolean {
    if (bytes === 0) return true;
    // The first byte is zero and every byte equals its predecessor.
    if (new Uint8Array(viewBuffer(address, 1))[0] !== 0) return false;
    return bytes === 1 || cMemcmp(address, address + 1, bytes - 1) === 0;
  }

  crc32c(address: Address, bytes: number, seed: number): number {
    if (isalCrc !== null) return ~isalCrc(address, bytes, ~seed >>> 0) >>> 0;
    return crc32cTable(new Uint8Array(viewBuffer(address, bytes)), seed);
  }

  copyFaultable(to: Address, from: Address, bytes: number): number {
    // Source and target are both in this process; the kernel does the copy and answers EFAULT
    // where a load or store of ours would raise SIGBUS.
    const words = this.iovecs.u32;
    words[0] = to >>> 0;
    words[1] = Math.floor(to / 4294967296);
    words[2] = bytes;
    words[3] = 0;
    words[4] = from >>> 0;
    words[5] = Math.floor(from / 4294967296);
    words[6] = bytes;
    words[7] = 0;
    const at = this.iovecs.address;
    const copied = cProcessVmReadv(this.pid, at, 1, at + 16, 1, 0);
    if (copied === bytes) return 0;
    return copied === -1 ? -lastErrno() : -EFAULT;
  }
}

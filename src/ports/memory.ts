// An address is an opaque number (below 2^47). Only a Memory port dereferences it. `sys/`
// implements it on real addresses, the simulator on one ArrayBuffer with bounds checks.

export type Address = number;

/** Memory we own: pinned pages outside the JS heap with typed windows over all of it. */
export interface Arena {
  readonly address: Address;
  readonly bytes: number;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly f64: Float64Array;
}

export interface Memory {
  /** Zeroed, page-aligned. Throws SysError when the system has none. Not on the hot path. */
  allocate(bytes: number): Arena;
  /** The arena's windows must not be touched afterwards. */
  free(arena: Arena): void;

  copy(to: Address, from: Address, bytes: number): void;
  fill(to: Address, byte: number, bytes: number): void;
  /** 0 when equal. */
  compare(a: Address, b: Address, bytes: number): number;
  isZero(address: Address, bytes: number): boolean;
  /** CRC32C (Castagnoli), chainable: seed is the previous result, 0 at first. */
  crc32c(address: Address, bytes: number, seed: number): number;
  /**
   * Copy where either side may be memory another process can truncate (a SIGBUS for plain loads).
   * Returns 0 or -EFAULT; on -EFAULT a part may have been copied. About 1.2 us a call.
   */
  copyFaultable(to: Address, from: Address, bytes: number): number;
}

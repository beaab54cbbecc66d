// The virtio-blk device as a driver finds it: feature bits offered, configuration space, and what
// was negotiated. One per device, shared by its queues, which read the few fields below on every
// request. Follows virtio 1.x 5.2.3 to 5.2.6.
//
// Invariants:
// - durableWrites is true when a completed write must be on stable storage: the driver did not
//   accept FLUSH, or it accepted CONFIG_WCE and set writeback to 0. Until features are accepted it
//   is true as well: nobody is owed less.
// - The driver may change one byte of the space, writeback; everything else is refused.
// - FLUSH is offered whenever CONFIG_WCE is (5.2.3.1).

import { assert, isPowerOfTwo, SECTOR_BYTES } from "../base/index.ts";
import type { BlockDeviceInfo } from "../ports/index.ts";
import {
  BLK_CONFIG,
  BLK_F_BLK_SIZE,
  BLK_F_CONFIG_WCE,
  BLK_F_DISCARD,
  BLK_F_FLUSH,
  BLK_F_MQ,
  BLK_F_RO,
  BLK_F_SEG_MAX,
  BLK_F_TOPOLOGY,
  BLK_F_WRITE_ZEROES,
  BLK_ID_BYTES,
  F_EVENT_IDX,
  F_INDIRECT_DESC,
  F_RING_PACKED,
  F_VERSION_1,
  hasFeature,
} from "./layouts.ts";

/** Fits a queue of 128 with header and status beside the data, as every peer advertises. */
export const SEG_MAX = 126;
/** 1 GiB: few requests for a whole-disk fstrim, each still a bounded piece of work. */
export const DISCARD_SECTORS_MAX = 2097152;
/** 32 MiB: may have to be written out where the backing cannot zero a range. */
export const WRITE_ZEROES_SECTORS_MAX = 65536;
/** One segment per DISCARD and WRITE_ZEROES; more are answered UNSUPP (row 29). */
export const RANGE_SEGMENTS_MAX = 1;
/** vhost-user carries at most this much configuration space; ours ends at 96, zeroes follow. */
export const CONFIG_SPACE_BYTES_MAX = 256;

const TOPOLOGY_U16_MAX = 0xffff;
const U32_MAX = 0xffffffff;

/** writeConfig(): nothing changed, writeback changed, or the write was refused. */
export type ConfigWrite = "unchanged" | "changed" | "refused";

export interface BlkConfigOptions {
  readonly queueCount: number;
  readonly packedAllowed: boolean;
  /** The attachment is read-only although the device may not be. */
  readonly readOnly: boolean;
  /** What a guest set earlier, where that is known (a restarted daemon); true otherwise. */
  readonly writeback: boolean;
}

export class BlkConfig {
  readonly bytes: Uint8Array = new Uint8Array(BLK_CONFIG.BYTES);
  offeredLow = 0;
  offeredHigh = 0;
  acceptedLow = 0;
  acceptedHigh = 0;

  // Read by the queues on every request.
  durableWrites = true;
  readOnly = false;
  /** Not a number until refresh(): the field is a double from its first value on, as it must be. */
  capacitySectors: number = Number.NaN;
  /** Block size minus one, in bytes and in sectors: both sizes are powers of two. */
  blockBytesMask = 0;
  blockSectorsMask = 0;
  canDiscard = false;
  readonly serial: Uint8Array = new Uint8Array(BLK_ID_BYTES);

  private readonly options: BlkConfigOptions;
  private readonly view: DataView = new DataView(this.bytes.buffer);

  constructor(info: BlockDeviceInfo, options: BlkConfigOptions) {
    assert(options.queueCount >= 1 && options.queueCount <= 65535, "queue count out of range");
    this.options = options;
    this.refresh(info);
    this.bytes[BLK_CONFIG.writeback] = options.writeback ? 1 : 0;
    this.serial.set(new TextEncoder().encode(info.serial).subarray(0, BLK_ID_BYTES));
  }

  get writeback(): boolean {
    return this.bytes[BLK_CONFIG.writeback] === 1;
  }

  /** Takes over a new capacity. True when the driver must be told (CONFIG_CHANGE). */
  refresh(info: BlockDeviceInfo): boolean {
    assert(info.blockBytes === 512 || info.blockBytes === 4096, "block size must be 512 or 4096");
    assert(info.capacityBytes % info.blockBytes === 0, "capacity must be whole blocks");
    assert(isPowerOfTwo(info.physicalBlockBytes), "physical block must be a power of two");
    assert(info.physicalBlockBytes >= info.blockBytes, "physical block below the logical one");
    const before = this.capacitySectors;
    this.readOnly = info.readOnly || this.options.readOnly;
    this.canDiscard = info.canDiscard;
    this.capacitySectors = info.capacityBytes / SECTOR_BYTES;
    this.blockBytesMask = info.blockBytes - 1;
    this.blockSectorsMask = info.blockBytes / SECTOR_BYTES - 1;
    this.offer();
    this.fill(info);
    return before !== this.capacitySectors;
  }

  /** SET_FEATURES. Bits that were not offered are masked out, as the driver's others may pass. */
  acceptFeatures(low: number, high: number): void {
    this.acceptedLow = (low & this.offeredLow) >>> 0;
    this.acceptedHigh = (high & this.offeredHigh) >>> 0;
    this.updateDurability();
  }

  /**
   * Device reset: nothing accepted. writeback stays, because a front-end may go on showing the
   * guest its own copy of it: resetting ours to 1 would promise less than the guest reads.
   */
  reset(): void {
    this.acceptedLow = 0;
    this.acceptedHigh = 0;
    this.updateDurability();
  }

  accepted(bit: number): boolean {
    return hasFeature(this.acceptedLow, this.acceptedHigh, bit);
  }

  /** GET_CONFIG. False when the range leaves the space that can be asked for (row 53). */
  readConfig(offset: number, bytes: number, target: Uint8Array, targetOffset: number): boolean {
    if (bytes > CONFIG_SPACE_BYTES_MAX || offset > CONFIG_SPACE_BYTES_MAX - bytes) return false;
    for (let index = 0; index < bytes; index++) {
      target[targetOffset + index] = this.bytes[offset + index] ?? 0;
    }
    return true;
  }

  /**
   * SET_CONFIG. A range that repeats what is there may be written; a difference is allowed in
   * writeback alone. It counts once CONFIG_WCE is accepted, which a front-end may tell us later.
   * With `migrating` the front-end hands over a whole space: writeback is taken from it, the rest
   * is ours already.
   */
  writeConfig(
    offset: number,
    source: Uint8Array,
    sourceOffset: number,
    bytes: number,
    migrating: boolean,
  ): ConfigWrite {
    if (bytes > CONFIG_SPACE_BYTES_MAX || offset > CONFIG_SPACE_BYTES_MAX - bytes) return "refused";
    for (let index = 0; index < bytes; index++) {
      const at = offset + index;
      if (at === BLK_CONFIG.writeback || migrating) continue;
      if ((source[sourceOffset + index] as number) !== (this.bytes[at] ?? 0)) return "refused";
    }
    const writebackIndex = BLK_CONFIG.writeback - offset;
    if (writebackIndex < 0 || writebackIndex >= bytes) return "unchanged";
    const value = source[sourceOffset + writebackIndex] as number;
    if (value === this.bytes[BLK_CONFIG.writeback]) return "unchanged";
    if (value > 1) return "refused";
    this.bytes[BLK_CONFIG.writeback] = value;
    this.updateDurability();
    return "changed";
  }

  /** What a guest has set: writeback. */
  get guestState(): number {
    return this.writeback ? 1 : 0;
  }

  /** What a guest had set before the daemon was restarted. */
  restoreGuestState(state: number): void {
    this.bytes[BLK_CONFIG.writeback] = state === 0 ? 0 : 1;
    this.updateDurability();
  }

  private updateDurability(): void {
    const flushes = this.accepted(BLK_F_FLUSH);
    const writeThrough = this.accepted(BLK_F_CONFIG_WCE) && !this.writeback;
    this.durableWrites = !flushes || writeThrough;
  }

  private offer(): void {
    const low = [
      BLK_F_SEG_MAX,
      BLK_F_BLK_SIZE,
      BLK_F_FLUSH,
      BLK_F_TOPOLOGY,
      BLK_F_CONFIG_WCE,
      BLK_F_MQ,
      F_INDIRECT_DESC,
      F_EVENT_IDX,
    ];
    if (this.readOnly) low.push(BLK_F_RO);
    else low.push(BLK_F_WRITE_ZEROES);
    if (this.canDiscard && !this.readOnly) low.push(BLK_F_DISCARD);
    const high = [F_VERSION_1 - 32];
    if (this.options.packedAllowed) high.push(F_RING_PACKED - 32);
    this.offeredLow = low.reduce((word, bit) => word | (1 << bit), 0) >>> 0;
    this.offeredHigh = high.reduce((word, bit) => word | (1 << bit), 0) >>> 0;
  }

  private fill(info: BlockDeviceInfo): void {
    const blocks = (bytes: number, max: number): number =>
      Math.min(Math.floor(bytes / info.blockBytes), max);
    const granularity = Math.max(info.discardGranularityBytes, info.blockBytes);
    const set32 = (at: number, value: number): void => this.view.setUint32(at, value, true);
    const set16 = (at: number, value: number): void => this.view.setUint16(at, value, true);
    set32(BLK_CONFIG.capacity, this.capacitySectors >>> 0);
    set32(BLK_CONFIG.capacity + 4, Math.floor(this.capacitySectors / 2 ** 32));
    set32(BLK_CONFIG.seg_max, SEG_MAX);
    set32(BLK_CONFIG.blk_size, info.blockBytes);
    this.bytes[BLK_CONFIG.physical_block_exp] = Math.log2(
      info.physicalBlockBytes / info.blockBytes,
    );
    set16(BLK_CONFIG.min_io_size, blocks(info.physicalBlockBytes, TOPOLOGY_U16_MAX));
    set32(BLK_CONFIG.opt_io_size, blocks(info.optimalIoBytes, U32_MAX));
    set16(BLK_CONFIG.num_queues, this.options.queueCount);
    const discards = this.canDiscard && !this.readOnly;
    set32(BLK_CONFIG.max_discard_sectors, discards ? DISCARD_SECTORS_MAX : 0);
    set32(BLK_CONFIG.max_discard_seg, discards ? RANGE_SEGMENTS_MAX : 0);
    set32(BLK_CONFIG.discard_sector_alignment, discards ? granularity / SECTOR_BYTES : 0);
    set32(BLK_CONFIG.max_write_zeroes_sectors, this.readOnly ? 0 : WRITE_ZEROES_SECTORS_MAX);
    set32(BLK_CONFIG.max_write_zeroes_seg, this.readOnly ? 0 : RANGE_SEGMENTS_MAX);
    this.bytes[BLK_CONFIG.write_zeroes_may_unmap] = discards ? 1 : 0;
  }
}

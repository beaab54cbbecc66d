// @hot
// A volume of the store as a block device with blocks of 4096 bytes.

import { assert } from "../base/index.ts";
import type { BlockDevice, BlockDeviceInfo } from "../ports/index.ts";
import { BLOCK_BYTES, SLAB_BYTES } from "./layouts.ts";
import type { FlowVolume, RequestFlow } from "./request-flow.ts";
import { grownMap } from "./tables.ts";

export interface StoreVolumeOptions {
  readonly volume: number;
  readonly epoch: number;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly serial: string;
  readonly map: Int32Array;
}

class StoreVolumeInfo implements BlockDeviceInfo {
  capacityBytes: number;
  readonly blockBytes: number = BLOCK_BYTES;
  readonly physicalBlockBytes: number = BLOCK_BYTES;
  readonly optimalIoBytes: number = SLAB_BYTES;
  readonly readOnly: boolean;
  readonly canDiscard = true;
  readonly discardGranularityBytes: number = SLAB_BYTES;
  readonly serial: string;

  constructor(options: StoreVolumeOptions) {
    this.capacityBytes = options.sizeBytes;
    this.readOnly = options.readOnly;
    this.serial = options.serial;
  }
}

export class StoreVolume implements BlockDevice, FlowVolume {
  readonly volume: number;
  readonly epoch: number;
  readonly info: StoreVolumeInfo;
  map: Int32Array;
  sequence = 0;
  inflightCount = 0;
  isOpen = true;
  readonly tellsDamage = false;
  private readonly flow: RequestFlow;
  private readonly closed: (volume: number) => void;

  constructor(options: StoreVolumeOptions, flow: RequestFlow, closed: (volume: number) => void) {
    this.volume = options.volume;
    this.epoch = options.epoch;
    this.map = options.map;
    this.info = new StoreVolumeInfo(options);
    this.flow = flow;
    this.closed = closed;
  }

  submit(slot: number): void {
    assert(this.isOpen, "a request to a closed volume");
    this.flow.submit(slot, this);
  }

  /** Age of the oldest request on its way, for a stuck disk's health report; 0 when idle. */
  oldestInflightUs(nowUs: number): number {
    return this.inflightCount === 0 ? 0 : this.flow.oldestUs(this, nowUs);
  }

  // @cold
  setCapacity(bytes: number): void {
    assert(bytes > 0 && bytes % BLOCK_BYTES === 0, "a size that is not whole blocks");
    this.map = grownMap(this.map, bytes);
    this.info.capacityBytes = bytes;
  }

  // @cold
  close(): void {
    assert(this.inflightCount === 0, "a volume is closed with requests on their way");
    assert(this.isOpen, "a volume is closed twice");
    this.isOpen = false;
    this.closed(this.volume);
  }
}

// The facts about a device that its front ends show to a guest. One live object per device: the
// front end holds it and reads it again after a resize.

import { assert, isPowerOfTwo } from "../base/index.ts";
import type { BlockDeviceInfo } from "../ports/index.ts";
import { LocalError } from "./errors.ts";

/** virtio-blk's GET_ID buffer. */
const SERIAL_CHARS_MAX = 20;

export interface LocalDeviceOptions {
  readonly capacityBytes: number;
  readonly blockBytes: number;
  readonly readOnly: boolean;
  /** At most 20 characters of ASCII. */
  readonly serial: string;
  /** What the device writes without reading first; blockBytes if not said. */
  readonly physicalBlockBytes?: number;
  /** The best size of a request; physicalBlockBytes if not said. */
  readonly optimalIoBytes?: number;
  /** Discarded ranges can be given back. The opener finds out; see each device. */
  readonly canDiscard?: boolean;
  /** What discards should be aligned to; physicalBlockBytes if not said. */
  readonly discardGranularityBytes?: number;
}

export class LocalInfo implements BlockDeviceInfo {
  capacityBytes: number;
  readonly blockBytes: number;
  readonly physicalBlockBytes: number;
  readonly optimalIoBytes: number;
  readonly readOnly: boolean;
  readonly canDiscard: boolean;
  readonly discardGranularityBytes: number;
  readonly serial: string;

  constructor(options: LocalDeviceOptions, canDiscardByDefault: boolean) {
    const { blockBytes } = options;
    const physicalBlockBytes = options.physicalBlockBytes ?? blockBytes;
    const discardGranularityBytes = options.discardGranularityBytes ?? physicalBlockBytes;
    assert(blockBytes === 512 || blockBytes === 4096, "blocks are 512 or 4096 bytes");
    assert(isPowerOfTwo(physicalBlockBytes), "the physical block must be a power of two");
    assert(physicalBlockBytes >= blockBytes, "the physical block is below the logical one");
    assert(discardGranularityBytes % blockBytes === 0, "discards are whole blocks");
    assert(/^[\x20-\x7e]*$/.test(options.serial), "the serial must be ASCII");
    assert(options.serial.length <= SERIAL_CHARS_MAX, "the serial has at most 20 characters");
    this.capacityBytes = checkedCapacity(options.capacityBytes, blockBytes);
    this.blockBytes = blockBytes;
    this.physicalBlockBytes = physicalBlockBytes;
    this.optimalIoBytes = options.optimalIoBytes ?? physicalBlockBytes;
    this.readOnly = options.readOnly;
    this.canDiscard = options.canDiscard ?? canDiscardByDefault;
    this.discardGranularityBytes = discardGranularityBytes;
    this.serial = options.serial;
  }

  setCapacity(bytes: number): void {
    this.capacityBytes = checkedCapacity(bytes, this.blockBytes);
  }
}

function checkedCapacity(bytes: number, blockBytes: number): number {
  if (Number.isSafeInteger(bytes) && bytes > 0 && bytes % blockBytes === 0) return bytes;
  throw new LocalError("BAD_CAPACITY", `a volume cannot have ${bytes} bytes`, {
    advice: `Choose a positive multiple of the block size, ${blockBytes} bytes.`,
  });
}

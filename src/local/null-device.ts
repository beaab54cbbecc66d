// @hot
// A device of nothing: every request completes at once, reads leave memory as it is. What is left
// of the data path without a disk, for benchmarks, as other targets' null back ends.

import { EIO, EROFS, OP_FLUSH, OP_READ, type RequestTable } from "../base/index.ts";
import type { BlockDevice } from "../ports/index.ts";
import { type LocalDeviceOptions, LocalInfo } from "./device-info.ts";

export class NullDevice implements BlockDevice {
  readonly info: LocalInfo;
  readonly inflightCount: number = 0;
  private readonly requests: RequestTable;

  constructor(options: LocalDeviceOptions, modules: { readonly requests: RequestTable }) {
    this.info = new LocalInfo(options, true);
    this.requests = modules.requests;
  }

  submit(slot: number): void {
    const { requests, info } = this;
    const op = requests.op[slot] as number;
    if (info.readOnly && op !== OP_READ && op !== OP_FLUSH) {
      requests.complete(slot, -EROFS);
      return;
    }
    const end = (requests.offsetBytes[slot] as number) + (requests.lengthBytes[slot] as number);
    const isOutside = op !== OP_FLUSH && end > info.capacityBytes;
    requests.complete(slot, isOutside ? -EIO : 0);
  }

  setCapacity(bytes: number): void {
    this.info.setCapacity(bytes);
  }

  /** Nothing is ever in flight. */
  oldestInflightUs(_nowUs: number): number {
    return 0;
  }

  close(): void {}
}

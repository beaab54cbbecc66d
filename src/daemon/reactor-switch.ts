// @hot
// The device of a cluster's volume as its front end sees it: one device for as long as the socket
// is there, over owners that come and go: a volume that is handed over surrenders for good, and a
// new owner takes its place when the volume comes back.
//
// Invariant: owners are exchanged only while nothing is in flight: the front's gate is held.

import { assert } from "../base/index.ts";
import type { BlockDeviceInfo } from "../ports/index.ts";
import type { OwnedDevice } from "./reactor-volume.ts";

export class SwitchedDevice implements OwnedDevice {
  private inner: OwnedDevice;

  constructor(inner: OwnedDevice) {
    this.inner = inner;
  }

  /** Closes the one before. */
  // @cold
  exchange(inner: OwnedDevice): void {
    assert(this.inner.inflightCount === 0, "owners exchanged under requests");
    this.inner.close();
    inner.setCapacity(this.inner.info.capacityBytes);
    this.inner = inner;
  }

  get info(): BlockDeviceInfo {
    return this.inner.info;
  }

  submit(slot: number): void {
    this.inner.submit(slot);
  }

  get inflightCount(): number {
    return this.inner.inflightCount;
  }

  oldestInflightUs(nowUs: number): number {
    return this.inner.oldestInflightUs(nowUs);
  }

  // @cold
  setCapacity(bytes: number): void {
    this.inner.setCapacity(bytes);
  }

  // @cold
  close(): void {
    this.inner.close();
  }
}

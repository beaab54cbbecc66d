// What a virtio-blk queue is given: the seams to its reactor, its device and whoever owns the ring.
// Types, but for the notifier of a queue that has none.

import type { BlockDevice, ReactorPort } from "../ports/index.ts";
import type { BlkConfig } from "./blk-config.ts";
import type { BlkMeter } from "./blk-meter.ts";
import type { VirtqueueStart } from "./virtqueue.ts";

/** Interrupts the driver; vhost-user's call descriptor. Must never block. */
export interface CallNotifier {
  signal(): void;
}

export interface RingBreakHandler {
  /**
   * Called once when a ring broke the rules; `reason` is a BROKEN_... code. Called from within
   * poll() or a completion: the handler must not stop the queue before that has returned.
   */
  ringBroken(queueIndex: number, reason: number): void;
}

export interface BlkQueueModules {
  readonly reactor: Pick<ReactorPort, "requests" | "loopTimeUs" | "requestFlush">;
  readonly device: BlockDevice;
  readonly config: BlkConfig;
  readonly meter: BlkMeter;
  readonly breakHandler: RingBreakHandler;
}

export interface BlkQueueStart {
  readonly ring: VirtqueueStart;
  readonly notifier: CallNotifier;
  /** Heads that an earlier process left in flight, oldest first; answered before anything new. */
  readonly resubmit: Uint16Array | null;
}

class NoNotifier implements CallNotifier {
  signal(): void {}
}
export const NO_NOTIFIER: CallNotifier = new NoNotifier();

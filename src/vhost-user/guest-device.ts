// The seam between the protocol (session.ts, vring.ts) and the virtio device that a front-end's
// guest sees: virtio-blk (blk-model.ts) or virtio-scsi (scsi-model.ts).
//
//   DeviceModel    one per socket: what all its sessions have in common
//   GuestDevice    one per session: features, configuration space, the queues behind its rings
//   RingQueue      one per ring that runs
//
// Invariant: a RingQueue is closed only when its deviceCount is 0.

import type { Poller } from "../ports/index.ts";
import type { BlkMeter, BlkQueueModules, BlkQueueStart, RingLog } from "../virtio/index.ts";

/** What a queue is given by its ring. */
export interface QueueSeams extends Pick<BlkQueueModules, "reactor" | "breakHandler"> {
  /** Nothing is taken from a ring that is not enabled. */
  readonly ring: { readonly enabled: boolean };
}

/** The virtqueue of a running ring, with what serves it. See BlkQueue for each member. */
export interface RingQueue extends Poller {
  readonly brokenReason: number;
  /** Requests that still use guest memory. */
  readonly deviceCount: number;
  /** Heads of an earlier process that wait to be taken up again. */
  readonly resubmitCount: number;
  /** What GET_VRING_BASE answers, also after close(). */
  readonly base: number;
  /** 0 or a BROKEN_... reason. */
  start(options: BlkQueueStart): number;
  stopTaking(): void;
  /** See Virtqueue; flush() comes before. */
  owesNotification(): boolean;
  /** Interrupts the driver, which owesNotification() said waits for it. */
  remind(): void;
  setRingLog(ringLog: RingLog | null): void;
  close(): void;
}

/** Features and configuration space, as one front-end negotiates them. See BlkConfig. */
export interface DeviceConfig {
  readonly offeredLow: number;
  readonly offeredHigh: number;
  acceptFeatures(low: number, high: number): void;
  /** No features are accepted any more. What the guest has set stays. */
  reset(): void;
  readConfig(offset: number, bytes: number, target: Uint8Array, targetOffset: number): boolean;
  writeConfig(
    offset: number,
    source: Uint8Array,
    sourceOffset: number,
    bytes: number,
    migrating: boolean,
  ): "unchanged" | "changed" | "refused";
  /**
   * What a guest has set in the space, as one u32: kept where a restarted daemon finds it, because
   * front-ends do not tell it again.
   */
  readonly guestState: number;
  restoreGuestState(state: number): void;
}

/** The device as one session's guest sees it. */
export interface GuestDevice {
  readonly config: DeviceConfig;
  /** The session may run rings from now on. Called again after others have run theirs. */
  begin(): void;
  newQueue(index: number, seams: QueueSeams): RingQueue;
  /** The driver has reset the device (RESET_DEVICE); no ring runs. The configuration is told. */
  reset(): void;
  /** Something that the configuration shows has changed. True when the front-end must be told. */
  refresh(): boolean;
  /** The session has ended; no ring runs. */
  end(): void;
}

/** What is behind a socket. */
export interface DeviceModel {
  /** Rings of the device: 1 to 256. */
  readonly ringCountMax: number;
  /** What GET_QUEUE_NUM answers: request queues, without those that a device has in any case. */
  readonly requestQueueCount: number;
  readonly packedAllowed: boolean;
  readonly meter: BlkMeter;
  /** `guestState` is that of the guest whose rings run, where there is one. */
  newGuest(guestState: number | null): GuestDevice;
}

// virtio-blk behind a vhost-user socket: one volume, its configuration, a BlkQueue for each ring.

import type { BlockDevice } from "../ports/index.ts";
import { BlkConfig, type BlkMeter, BlkQueue } from "../virtio/index.ts";
import type { DeviceModel, GuestDevice, QueueSeams, RingQueue } from "./guest-device.ts";

export interface BlkModelOptions {
  readonly queueCountMax: number;
  readonly packedAllowed: boolean;
  readonly readOnly: boolean;
  readonly meter: BlkMeter;
}

export class BlkModel implements DeviceModel {
  readonly ringCountMax: number;
  readonly requestQueueCount: number;
  readonly packedAllowed: boolean;
  readonly meter: BlkMeter;
  private readonly device: BlockDevice;
  private readonly options: BlkModelOptions;

  constructor(device: BlockDevice, options: BlkModelOptions) {
    this.device = device;
    this.options = options;
    this.ringCountMax = options.queueCountMax;
    this.requestQueueCount = options.queueCountMax;
    this.packedAllowed = options.packedAllowed;
    this.meter = options.meter;
  }

  newGuest(guestState: number | null): GuestDevice {
    const { queueCountMax, packedAllowed, readOnly, meter } = this.options;
    const config = new BlkConfig(this.device.info, {
      queueCount: queueCountMax,
      packedAllowed,
      readOnly,
      writeback: guestState !== 0,
    });
    return new BlkGuest(this.device, config, meter);
  }
}

class BlkGuest implements GuestDevice {
  readonly config: BlkConfig;
  private readonly device: BlockDevice;
  private readonly meter: BlkMeter;

  constructor(device: BlockDevice, config: BlkConfig, meter: BlkMeter) {
    this.device = device;
    this.config = config;
    this.meter = meter;
  }

  begin(): void {}

  newQueue(index: number, seams: QueueSeams): RingQueue {
    const { device, config, meter } = this;
    const { reactor, breakHandler } = seams;
    return new BlkQueue(index, { reactor, breakHandler, device, config, meter });
  }

  reset(): void {}

  refresh(): boolean {
    return this.config.refresh(this.device.info);
  }

  end(): void {}
}

// The virtio-scsi device as a driver finds it: feature bits offered, configuration space, what was
// negotiated (virtio 1.2, 5.6.3 and 5.6.4).
//
// Invariants:
//  - the driver may change two fields, sense_size and cdb_size, within the bounds below; a ring
//    takes both when it starts. RESET_DEVICE puts back what the specification says; status 0 does
//    not, because front-ends send it when they stop a guest for a moment, too;
//  - front-ends whose configuration space is their own (QEMU) never ask for ours: then the two
//    fields are what the specification says, and such a front-end refuses to change them.

import { CDB_BYTES_MAX, LUNS_MAX, SENSE_BYTES_MAX } from "../scsi/index.ts";
import {
  CONFIG_SPACE_BYTES_MAX,
  type ConfigWrite,
  F_EVENT_IDX,
  F_INDIRECT_DESC,
  F_RING_PACKED,
  F_VERSION_1,
  hasFeature,
  SEG_MAX,
} from "../virtio/index.ts";
import type { DeviceConfig } from "./guest-device.ts";
import {
  CDB_SIZE_DEFAULT,
  COMMAND_REQUEST,
  COMMAND_RESPONSE,
  EVENT,
  SCSI_CONFIG,
  SCSI_F_CHANGE,
  SCSI_F_HOTPLUG,
  SENSE_SIZE_DEFAULT,
} from "./layouts-scsi.ts";

/** 4 MiB, what one READ or WRITE may move, in units of 512 bytes. */
const MAX_SECTORS = 8192;
const COMMANDS_PER_LUN = 128;
/** The shortest CDB there is. */
const CDB_SIZE_MIN = 6;
/** The longest sense data there is (SPC-4 4.5.1); what we make is never longer than 96 bytes. */
export const SENSE_SIZE_MAX = 252;

export interface ScsiConfigOptions {
  readonly requestQueueCount: number;
  readonly packedAllowed: boolean;
}

export class ScsiConfig implements DeviceConfig {
  readonly bytes: Uint8Array = new Uint8Array(SCSI_CONFIG.BYTES);
  readonly offeredLow: number;
  readonly offeredHigh: number;
  private acceptedLow = 0;
  private acceptedHigh = 0;
  private readonly view: DataView = new DataView(this.bytes.buffer);

  constructor(options: ScsiConfigOptions) {
    let low = (1 << F_INDIRECT_DESC) | (1 << F_EVENT_IDX);
    low |= (1 << SCSI_F_HOTPLUG) | (1 << SCSI_F_CHANGE);
    this.offeredLow = low >>> 0;
    const packed = options.packedAllowed ? 1 << (F_RING_PACKED - 32) : 0;
    this.offeredHigh = (1 << (F_VERSION_1 - 32)) | packed;
    const { view } = this;
    view.setUint32(SCSI_CONFIG.num_queues, options.requestQueueCount, true);
    view.setUint32(SCSI_CONFIG.seg_max, SEG_MAX, true);
    view.setUint32(SCSI_CONFIG.max_sectors, MAX_SECTORS, true);
    view.setUint32(SCSI_CONFIG.cmd_per_lun, COMMANDS_PER_LUN, true);
    view.setUint32(SCSI_CONFIG.event_info_size, EVENT.BYTES, true);
    view.setUint32(SCSI_CONFIG.max_lun, LUNS_MAX - 1, true);
    this.setSizes(SENSE_SIZE_DEFAULT, CDB_SIZE_DEFAULT);
  }

  get senseBytes(): number {
    return this.view.getUint32(SCSI_CONFIG.sense_size, true);
  }

  get cdbBytes(): number {
    return this.view.getUint32(SCSI_CONFIG.cdb_size, true);
  }

  /** Readable bytes of a command before its data-out. */
  get requestBytes(): number {
    return COMMAND_REQUEST.cdb + this.cdbBytes;
  }

  /** Writable bytes of a command before its data-in. */
  get responseBytes(): number {
    return COMMAND_RESPONSE.sense + this.senseBytes;
  }

  acceptFeatures(low: number, high: number): void {
    this.acceptedLow = (low & this.offeredLow) >>> 0;
    this.acceptedHigh = (high & this.offeredHigh) >>> 0;
  }

  accepted(bit: number): boolean {
    return hasFeature(this.acceptedLow, this.acceptedHigh, bit);
  }

  reset(): void {
    this.acceptedLow = 0;
    this.acceptedHigh = 0;
  }

  /** The sizes of a device that was reset. */
  forgetSizes(): void {
    this.setSizes(SENSE_SIZE_DEFAULT, CDB_SIZE_DEFAULT);
  }

  readConfig(offset: number, bytes: number, target: Uint8Array, targetOffset: number): boolean {
    if (bytes > CONFIG_SPACE_BYTES_MAX || offset > CONFIG_SPACE_BYTES_MAX - bytes) return false;
    for (let index = 0; index < bytes; index++) {
      target[targetOffset + index] = this.bytes[offset + index] ?? 0;
    }
    return true;
  }

  /** A write of the two fields, in part or whole; other bytes may be repeated, not changed. */
  writeConfig(
    offset: number,
    source: Uint8Array,
    sourceOffset: number,
    bytes: number,
    migrating: boolean,
  ): ConfigWrite {
    if (bytes > CONFIG_SPACE_BYTES_MAX || offset > CONFIG_SPACE_BYTES_MAX - bytes) return "refused";
    const sizes = this.bytes.slice(SCSI_CONFIG.sense_size, SCSI_CONFIG.max_channel);
    for (let index = 0; index < bytes; index++) {
      const at = offset + index;
      const value = source[sourceOffset + index];
      if (at >= SCSI_CONFIG.sense_size && at < SCSI_CONFIG.max_channel) {
        sizes[at - SCSI_CONFIG.sense_size] = value;
      } else if (!migrating && value !== (this.bytes[at] ?? 0)) {
        return "refused";
      }
    }
    const view = new DataView(sizes.buffer);
    const senseBytes = view.getUint32(0, true);
    const cdbBytes = view.getUint32(SCSI_CONFIG.cdb_size - SCSI_CONFIG.sense_size, true);
    if (senseBytes === this.senseBytes && cdbBytes === this.cdbBytes) return "unchanged";
    if (!isPossible(senseBytes, cdbBytes)) return "refused";
    this.setSizes(senseBytes, cdbBytes);
    return "changed";
  }

  get guestState(): number {
    return this.senseBytes | (this.cdbBytes << 16);
  }

  /** What is no pair of sizes is not looked at: the region it comes from is not ours alone. */
  restoreGuestState(state: number): void {
    const senseBytes = state & 0xffff;
    const cdbBytes = state >>> 16;
    if (isPossible(senseBytes, cdbBytes)) this.setSizes(senseBytes, cdbBytes);
  }

  private setSizes(senseBytes: number, cdbBytes: number): void {
    this.view.setUint32(SCSI_CONFIG.sense_size, senseBytes, true);
    this.view.setUint32(SCSI_CONFIG.cdb_size, cdbBytes, true);
  }
}

function isPossible(senseBytes: number, cdbBytes: number): boolean {
  return senseBytes <= SENSE_SIZE_MAX && cdbBytes >= CDB_SIZE_MIN && cdbBytes <= CDB_BYTES_MAX;
}

/** Sense data of a task that fits the driver's buffer. */
export function senseBytesThatFit(bytes: number, room: number): number {
  const made = bytes < SENSE_BYTES_MAX ? bytes : SENSE_BYTES_MAX;
  return made < room ? made : room;
}

// A vhost-user-blk session from the front-end's side: negotiation, configuration space, memory,
// rings, inflight region; in QEMU's order of messages or in libblkio's, because back-ends have
// broken on either. One session is one connection; after the back-end has died, a new session is
// opened with the same memory, rings and inflight region (start() with `afterLoss`).
//
// What is asked for is required: a session with `packed` on a back-end without RING_PACKED fails
// with UNSUPPORTED instead of measuring something else.

import { join64 } from "../base/index.ts";
import * as sys from "../sys/index.ts";
import * as m from "../vhost-user/messages.ts";
import * as v from "../virtio/index.ts";
import type { BackendChannel } from "./backend-channel.ts";
import { LoadError } from "./errors.ts";
import { bit, FrontEnd, hasBit, type InflightRegion } from "./front-end.ts";
import type { LoadGuestMemory } from "./guest-memory.ts";
import type { PackedRing } from "./packed-ring.ts";
import type { SplitRing } from "./split-ring.ts";

export interface SessionOptions {
  readonly socketPath: string;
  /** Longest wait for one answer. Default 5000. */
  readonly timeoutMs?: number;
  /** Whose order of messages. Default "qemu". */
  readonly style?: "qemu" | "libblkio";
  readonly packed?: boolean;
  readonly indirect?: boolean;
  readonly eventIndex?: boolean;
  /** Rings that shall run. Default 1. */
  readonly queueCount?: number;
  /**
   * The inflight region, needed to survive the back-end's death: required (true), used where the
   * back-end has one as QEMU does ("offered"), or not used (default).
   */
  readonly inflight?: boolean | "offered";
  /** Device feature bits not to accept although offered. */
  readonly refuseFeatures?: readonly number[];
  /** Protocol feature bits not to accept although offered. */
  readonly refuseProtocolFeatures?: readonly number[];
  readonly acks?: "always" | "never";
  /** Handed to the back-end where it takes one. */
  readonly backendChannel?: BackendChannel;
}

/** The virtio-blk configuration space, in the specification's words and units. */
export interface BlkConfig {
  /** In units of 512 bytes. */
  readonly capacitySectors: number;
  readonly capacityBytes: number;
  readonly segMax: number;
  readonly blockBytes: number;
  readonly physicalBlockExponent: number;
  readonly minIoBlocks: number;
  readonly optIoBlocks: number;
  readonly writeback: number;
  readonly queueCount: number;
  readonly maxDiscardSectors: number;
  readonly maxDiscardSegments: number;
  readonly discardSectorAlignment: number;
  readonly maxWriteZeroesSectors: number;
  readonly maxWriteZeroesSegments: number;
  readonly writeZeroesMayUnmap: number;
}

export interface SessionRing {
  readonly ring: SplitRing | PackedRing;
  readonly kickFd: number;
  readonly callFd: number;
  readonly errFd?: number;
}

export interface StartOptions {
  /** From inflightRegion() of the first session; required where the session usesInflight. */
  readonly inflight?: InflightRegion;
  /** The previous back-end died: ring bases come from the rings, as QEMU restores them. */
  readonly afterLoss?: boolean;
}

const PROTOCOL_FEATURES_TAKEN: readonly number[] = [
  m.PROTOCOL_F_MQ,
  m.PROTOCOL_F_LOG_SHMFD,
  m.PROTOCOL_F_REPLY_ACK,
  m.PROTOCOL_F_BACKEND_REQ,
  m.PROTOCOL_F_CONFIG,
  m.PROTOCOL_F_INFLIGHT_SHMFD,
  m.PROTOCOL_F_RESET_DEVICE,
  m.PROTOCOL_F_CONFIGURE_MEM_SLOTS,
  m.PROTOCOL_F_STATUS,
];

const FEATURES_TAKEN: readonly number[] = [
  v.BLK_F_SEG_MAX,
  v.BLK_F_RO,
  v.BLK_F_BLK_SIZE,
  v.BLK_F_FLUSH,
  v.BLK_F_TOPOLOGY,
  v.BLK_F_CONFIG_WCE,
  v.BLK_F_MQ,
  v.BLK_F_DISCARD,
  v.BLK_F_WRITE_ZEROES,
  m.VHOST_USER_F_PROTOCOL_FEATURES,
  v.F_VERSION_1,
];

/** What every virtio-blk back-end of 1.1 has: up to write_zeroes_may_unmap and its padding. */
const CONFIG_BYTES = 60;
const STATUS_DRIVER_OK = 0x0f;

function parseConfig(bytes: Uint8Array): BlkConfig {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const u16 = (at: number): number => view.getUint16(at, true);
  const u32 = (at: number): number => view.getUint32(at, true);
  const capacitySectors = join64(u32(v.BLK_CONFIG.capacity), u32(v.BLK_CONFIG.capacity + 4));
  return {
    capacitySectors,
    capacityBytes: capacitySectors * 512,
    segMax: u32(v.BLK_CONFIG.seg_max),
    blockBytes: u32(v.BLK_CONFIG.blk_size),
    physicalBlockExponent: view.getUint8(v.BLK_CONFIG.physical_block_exp),
    minIoBlocks: u16(v.BLK_CONFIG.min_io_size),
    optIoBlocks: u32(v.BLK_CONFIG.opt_io_size),
    writeback: view.getUint8(v.BLK_CONFIG.writeback),
    queueCount: u16(v.BLK_CONFIG.num_queues),
    maxDiscardSectors: u32(v.BLK_CONFIG.max_discard_sectors),
    maxDiscardSegments: u32(v.BLK_CONFIG.max_discard_seg),
    discardSectorAlignment: u32(v.BLK_CONFIG.discard_sector_alignment),
    maxWriteZeroesSectors: u32(v.BLK_CONFIG.max_write_zeroes_sectors),
    maxWriteZeroesSegments: u32(v.BLK_CONFIG.max_write_zeroes_seg),
    writeZeroesMayUnmap: view.getUint8(v.BLK_CONFIG.write_zeroes_may_unmap),
  };
}

export class BlkSession {
  readonly frontEnd: FrontEnd;
  readonly options: SessionOptions;
  /** What the back-end offered. */
  offeredFeatures = 0n;
  offeredProtocolFeatures = 0n;
  /** What was accepted. */
  features = 0n;
  config: BlkConfig = parseConfig(new Uint8Array(CONFIG_BYTES));
  queueCountMax = 1;
  memorySlotsMax: number = m.MEM_TABLE_REGIONS_MAX;
  private rings: readonly SessionRing[] = [];
  private closed = false;

  private constructor(options: SessionOptions, frontEnd: FrontEnd) {
    this.options = options;
    this.frontEnd = frontEnd;
  }

  /** Connects and negotiates; the rings are set up by start(). */
  static open(options: SessionOptions): BlkSession {
    const frontEnd = FrontEnd.connect(options.socketPath, {
      ...(options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs }),
      acks: options.acks ?? "always",
    });
    const session = new BlkSession(options, frontEnd);
    try {
      if (options.style === "libblkio") session.negotiateAsLibblkio();
      else session.negotiateAsQemu();
      return session;
    } catch (error) {
      frontEnd.close();
      throw error;
    }
  }

  hasFeature(position: number): boolean {
    return hasBit(this.features, position);
  }

  private hasProtocol(position: number): boolean {
    return hasBit(this.frontEnd.protocolFeatures, position);
  }

  /** start() sets an inflight region. */
  get usesInflight(): boolean {
    const wanted = this.options.inflight === true || this.options.inflight === "offered";
    return wanted && this.hasProtocol(m.PROTOCOL_F_INFLIGHT_SHMFD);
  }

  private chooseFeatures(): void {
    const options = this.options;
    const wanted = [...FEATURES_TAKEN];
    const require = (position: number, asked: boolean | undefined, name: string): void => {
      if (asked !== true) return;
      if (!hasBit(this.offeredFeatures, position)) {
        throw new LoadError("UNSUPPORTED", `The back-end does not offer ${name}.`, {
          advice: "Run without that option.",
        });
      }
      wanted.push(position);
    };
    require(v.F_RING_PACKED, options.packed, "packed rings (VIRTIO_F_RING_PACKED)");
    require(v.F_INDIRECT_DESC, options.indirect, "indirect descriptors");
    require(v.F_EVENT_IDX, options.eventIndex, "event indexes (VIRTIO_F_EVENT_IDX)");
    let mask = 0n;
    for (const position of wanted) mask |= bit(position);
    for (const position of options.refuseFeatures ?? []) mask &= ~bit(position);
    this.features = this.offeredFeatures & mask;
  }

  private negotiateProtocol(): void {
    if (!hasBit(this.offeredFeatures, m.VHOST_USER_F_PROTOCOL_FEATURES)) {
      throw new LoadError("UNSUPPORTED", "The back-end has no protocol features (bit 30).");
    }
    this.offeredProtocolFeatures = this.frontEnd.getProtocolFeatures();
    let mask = 0n;
    for (const position of PROTOCOL_FEATURES_TAKEN) mask |= bit(position);
    for (const position of this.options.refuseProtocolFeatures ?? []) mask &= ~bit(position);
    if (this.options.backendChannel === undefined) mask &= ~bit(m.PROTOCOL_F_BACKEND_REQ);
    this.frontEnd.setProtocolFeatures(this.offeredProtocolFeatures & mask);
    if (this.options.inflight === true && !this.hasProtocol(m.PROTOCOL_F_INFLIGHT_SHMFD)) {
      throw new LoadError("UNSUPPORTED", "The back-end has no inflight region (INFLIGHT_SHMFD).", {
        advice: "Run without --reconnect: such a back-end loses what is in flight when it dies.",
      });
    }
  }

  private readLimits(): void {
    if (this.hasProtocol(m.PROTOCOL_F_MQ)) this.queueCountMax = this.frontEnd.getQueueNum();
    const wanted = this.options.queueCount ?? 1;
    if (wanted > this.queueCountMax) {
      throw new LoadError(
        "UNSUPPORTED",
        `The back-end has ${this.queueCountMax} queues, ${wanted} were asked for.`,
      );
    }
    if (this.hasProtocol(m.PROTOCOL_F_CONFIGURE_MEM_SLOTS)) {
      this.memorySlotsMax = this.frontEnd.getMaxMemSlots();
    }
  }

  private offerChannel(): void {
    const channel = this.options.backendChannel;
    if (channel === undefined || !this.hasProtocol(m.PROTOCOL_F_BACKEND_REQ)) return;
    this.frontEnd.setBackendReqFd(channel.backendFd);
    channel.handedOver();
  }

  /** GET_CONFIG again, after a CONFIG_CHANGE_MSG for example. */
  readConfig(): BlkConfig {
    const bytes = this.frontEnd.getConfig(0, CONFIG_BYTES);
    if (bytes.length === 0) throw new LoadError("REFUSED", "The back-end refused GET_CONFIG.");
    this.config = parseConfig(bytes);
    return this.config;
  }

  private negotiateAsQemu(): void {
    const frontEnd = this.frontEnd;
    this.offeredFeatures = frontEnd.getFeatures();
    this.negotiateProtocol();
    this.readLimits();
    this.offerChannel();
    frontEnd.setOwner();
    this.offeredFeatures = frontEnd.getFeatures();
    // QEMU gives every queue a call descriptor long before it has one that matters.
    const dummy = sys.check(sys.eventfd(), "eventfd");
    for (let index = 0; index < (this.options.queueCount ?? 1); index++) {
      frontEnd.setVringCall(index, dummy);
    }
    sys.close(dummy);
    this.chooseFeatures();
    this.readConfig();
  }

  private negotiateAsLibblkio(): void {
    const frontEnd = this.frontEnd;
    frontEnd.setOwner();
    this.offeredFeatures = frontEnd.getFeatures();
    this.chooseFeatures();
    frontEnd.setFeatures(this.features);
    this.negotiateProtocol();
    this.readLimits();
    this.offerChannel();
    this.readConfig();
  }

  /** Asks for a fresh, zeroed inflight region; the caller keeps its descriptor. */
  inflightRegion(queueSize: number): InflightRegion {
    // The layout of the region depends on the ring kind, so the features go first, as in QEMU.
    if (this.options.style !== "libblkio") this.frontEnd.setFeatures(this.features);
    return this.frontEnd.getInflightFd(this.options.queueCount ?? 1, queueSize);
  }

  private sendMemory(memory: LoadGuestMemory): void {
    if (this.hasProtocol(m.PROTOCOL_F_CONFIGURE_MEM_SLOTS)) {
      for (const region of memory.regions) this.frontEnd.addMemRegion(region);
    } else {
      this.frontEnd.setMemTable(memory.regions);
    }
  }

  private sendRing(memory: LoadGuestMemory, index: number, options: StartOptions): void {
    const { ring, kickFd, callFd, errFd } = this.rings[index] as SessionRing;
    const frontEnd = this.frontEnd;
    const packed = this.options.packed === true;
    frontEnd.setVringNum(index, ring.size);
    const fresh = packed ? v.PACKED_BASE_INITIAL : 0;
    frontEnd.setVringBase(index, options.afterLoss === true ? ring.baseAfterLoss() : fresh);
    frontEnd.setVringAddr({
      index,
      descriptor: memory.userAddress(ring.descriptorGpa),
      used: memory.userAddress(ring.usedGpa),
      available: memory.userAddress(ring.availableGpa),
    });
    frontEnd.setVringKick(index, kickFd);
    frontEnd.setVringCall(index, callFd);
    if (errFd !== undefined) frontEnd.setVringErr(index, errFd);
  }

  /** Sets up memory and rings and lets them run. */
  start(memory: LoadGuestMemory, rings: readonly SessionRing[], options: StartOptions = {}): void {
    const frontEnd = this.frontEnd;
    this.rings = rings;
    const qemu = this.options.style !== "libblkio";
    if (qemu) frontEnd.setFeatures(this.features);
    if (this.usesInflight) {
      if (options.inflight === undefined) {
        throw new LoadError("OPTIONS", "This session uses an inflight region and was given none.");
      }
      frontEnd.setInflightFd(options.inflight);
    }
    if (qemu) {
      for (let index = 0; index < rings.length; index++) {
        frontEnd.setVringCall(index, (rings[index] as SessionRing).callFd);
      }
      frontEnd.setFeatures(this.features);
    }
    this.sendMemory(memory);
    for (let index = 0; index < rings.length; index++) this.sendRing(memory, index, options);
    for (let index = 0; index < rings.length; index++) frontEnd.setVringEnable(index, true);
    if (this.hasProtocol(m.PROTOCOL_F_STATUS)) frontEnd.setStatus(STATUS_DRIVER_OK);
  }

  /** Stops the rings as QEMU does; returns their bases. */
  stop(): number[] {
    const frontEnd = this.frontEnd;
    for (let index = 0; index < this.rings.length; index++) frontEnd.setVringEnable(index, false);
    const bases: number[] = [];
    for (let index = 0; index < this.rings.length; index++) {
      bases.push(frontEnd.getVringBase(index));
    }
    if (this.hasProtocol(m.PROTOCOL_F_STATUS)) frontEnd.setStatus(0);
    this.rings = [];
    return bases;
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.frontEnd.close();
  }
}

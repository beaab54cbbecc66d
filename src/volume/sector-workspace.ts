// @hot
// What the sector devices of one reactor share: what is kept per request, and lanes. A lane is a
// stretch of private memory with a request slot of its own, taken once and for ever: through it
// blocks are read, merged and written while the guest's request waits.
//
//   guest's slot --(partial blocks)--> [ waiting for a lane ] --> lane: slot + 64 KiB --> device
//
// Invariants:
//  - a slot belongs to one device at a time, so one set of arrays serves all devices;
//  - whoever has a lane waits for nothing but the device below: lanes always come free again;
//  - lanes are granted in the order in which they were asked for, from a loop and never from within
//    a grant: a thousand requests that fail at once do not nest.

import { assert, type RequestOwner, type RequestTable, type SegmentCopier } from "../base/index.ts";
import type { Address, Memory } from "../ports/index.ts";

/** 1 MiB in all, resident only once used. */
const LANE_COUNT_DEFAULT = 16;
const LANE_BYTES_DEFAULT = 65536;
const NONE = -1;

export interface SectorWorkspaceOptions {
  readonly laneCount?: number;
  /** Multiple of 4096. */
  readonly laneBytes?: number;
}

export interface SectorModules {
  readonly requests: RequestTable;
  readonly memory: Memory;
  readonly copier: SegmentCopier;
}

/** A device that uses the workspace. */
export interface SectorClient {
  /** The device below answered a request that was passed on as it is. */
  passedDone(slot: number, result: number): void;
  /** The lane is the request's until it is released. */
  laneGranted(slot: number, lane: number): void;
  /** The device below answered the lane's request. */
  laneDone(lane: number, result: number): void;
}

export class SectorWorkspace implements RequestOwner {
  readonly requests: RequestTable;
  readonly memory: Memory;
  readonly copier: SegmentCopier;
  readonly laneBytes: number;
  private readonly ownerIndex: number;
  private readonly clients: (SectorClient | null)[];
  private readonly ownerBefore: Uint16Array;

  // Per request of a guest ------------------------------------------------------------------------

  /** Blocks [first, end) that it changes. */
  readonly firstBlock: Float64Array;
  readonly endBlock: Float64Array;
  /** As the guest asked, where a discard is narrowed to whole blocks. */
  readonly askedOffset: Float64Array;
  readonly askedBytes: Float64Array;
  /** Changes of one device in the order of their arrival. */
  readonly next: Int32Array;
  readonly previous: Int32Array;
  /** Earlier changes that it has to wait for. */
  readonly blockerCount: Int32Array;
  readonly partial: Uint8Array;

  // Per lane --------------------------------------------------------------------------------------

  readonly laneSlot: Int32Array;
  readonly laneAddress: Float64Array;
  /** The guest's request that has the lane. */
  readonly laneRequest: Int32Array;
  readonly lanePhase: Uint8Array;
  readonly laneDoneBytes: Float64Array;
  /** Bytes of the request that the piece at hand covers. */
  readonly lanePieceBytes: Float64Array;

  private readonly laneOfSlot: Int16Array;
  private readonly freeLanes: Int16Array;
  private freeCount: number;
  private readonly waitingNext: Int32Array;
  private waitingHead = NONE;
  private waitingTail = NONE;
  private isGranting = false;

  constructor(options: SectorWorkspaceOptions, modules: SectorModules) {
    const { requests, memory, copier } = modules;
    const { laneCount = LANE_COUNT_DEFAULT, laneBytes = LANE_BYTES_DEFAULT } = options;
    assert(laneBytes > 0 && laneBytes % 4096 === 0, "a lane holds whole blocks");
    const { capacity } = requests;
    this.requests = requests;
    this.memory = memory;
    this.copier = copier;
    this.laneBytes = laneBytes;
    this.ownerIndex = requests.addOwner(this);
    this.clients = new Array<SectorClient | null>(capacity).fill(null);
    this.ownerBefore = new Uint16Array(capacity);
    this.firstBlock = new Float64Array(capacity);
    this.endBlock = new Float64Array(capacity);
    this.askedOffset = new Float64Array(capacity);
    this.askedBytes = new Float64Array(capacity);
    this.next = new Int32Array(capacity).fill(NONE);
    this.previous = new Int32Array(capacity).fill(NONE);
    this.blockerCount = new Int32Array(capacity);
    this.partial = new Uint8Array(capacity);
    this.waitingNext = new Int32Array(capacity).fill(NONE);
    this.laneSlot = new Int32Array(laneCount);
    this.laneAddress = new Float64Array(laneCount);
    this.laneRequest = new Int32Array(laneCount).fill(NONE);
    this.lanePhase = new Uint8Array(laneCount);
    this.laneDoneBytes = new Float64Array(laneCount);
    this.lanePieceBytes = new Float64Array(laneCount);
    this.laneOfSlot = new Int16Array(capacity).fill(NONE);
    this.freeLanes = new Int16Array(laneCount);
    this.freeCount = laneCount;
    const { address } = memory.allocate(laneCount * laneBytes);
    for (let lane = 0; lane < laneCount; lane++) {
      const slot = requests.acquire(this.ownerIndex);
      assert(slot >= 0, "no slots for the lanes");
      this.laneSlot[lane] = slot;
      this.laneOfSlot[slot] = lane;
      this.laneAddress[lane] = address + lane * laneBytes;
      this.freeLanes[lane] = lane;
    }
  }

  /** From here on the client hears of the slot's completion, not its owner. */
  adopt(slot: number, client: SectorClient): void {
    assert(this.clients[slot] === null, "a request adopted twice");
    this.clients[slot] = client;
    this.ownerBefore[slot] = this.requests.handOver(slot, this.ownerIndex);
  }

  /** Gives the slot back to its owner, with its result. */
  answer(slot: number, result: number): void {
    assert(this.clients[slot] !== null, "an answer to a request that was not adopted");
    this.clients[slot] = null;
    this.requests.handOver(slot, this.ownerBefore[slot] as number);
    this.requests.complete(slot, result);
  }

  requestCompleted(slot: number, result: number): void {
    const lane = this.laneOfSlot[slot] as number;
    if (lane === NONE) {
      (this.clients[slot] as SectorClient).passedDone(slot, result);
      return;
    }
    const client = this.clients[this.laneRequest[lane] as number] as SectorClient;
    client.laneDone(lane, result);
  }

  /** The slot's client gets a lane, now or later. */
  wantLane(slot: number): void {
    this.waitingNext[slot] = NONE;
    if (this.waitingTail === NONE) this.waitingHead = slot;
    else this.waitingNext[this.waitingTail] = slot;
    this.waitingTail = slot;
    this.grant();
  }

  releaseLane(lane: number): void {
    assert(this.laneRequest[lane] !== NONE, "a free lane released");
    this.laneRequest[lane] = NONE;
    this.freeLanes[this.freeCount] = lane;
    this.freeCount += 1;
    this.grant();
  }

  private grant(): void {
    if (this.isGranting) return;
    this.isGranting = true;
    while (this.freeCount > 0 && this.waitingHead !== NONE) {
      const slot = this.waitingHead;
      this.waitingHead = this.waitingNext[slot] as number;
      if (this.waitingHead === NONE) this.waitingTail = NONE;
      this.freeCount -= 1;
      const lane = this.freeLanes[this.freeCount] as number;
      this.laneRequest[lane] = slot;
      this.laneDoneBytes[lane] = 0;
      (this.clients[slot] as SectorClient).laneGranted(slot, lane);
    }
    this.isGranting = false;
  }

  /** Submits the lane's own request, with memory or (address 0) without. */
  submitLane(
    lane: number,
    device: { submit(slot: number): void },
    op: number,
    flags: number,
    offsetBytes: number,
    address: Address,
    bytes: number,
  ): void {
    const { requests } = this;
    const slot = this.laneSlot[lane] as number;
    requests.op[slot] = op;
    requests.flags[slot] = flags;
    requests.offsetBytes[slot] = offsetBytes;
    requests.segmentCount[slot] = 0;
    requests.lengthBytes[slot] = 0;
    requests.startedUs[slot] = requests.startedUs[this.laneRequest[lane] as number] as number;
    if (address === 0) requests.lengthBytes[slot] = bytes;
    else requests.addSegment(slot, address, bytes);
    device.submit(slot);
  }
}

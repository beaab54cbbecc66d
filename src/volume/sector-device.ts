// @hot
// A device with blocks of 512 bytes over one that reads and writes blocks of 4096.
//
//   guest   |..|##|##|##|##|##|##|##|##|##|##|..|      a write that begins and ends within blocks
//   below   [    block 0    ][    block 1    ][    block 2    ]
//            read, merge, write whole         read, merge, write whole
//
// Requests of whole blocks are passed on in their own slot, without a copy. A request with a
// partial block goes through a lane (sector-workspace.ts): blocks that are changed in part are read
// into private memory, merged with the guest's bytes and written whole.
//
// Invariants:
//  - while a partial change of a block is under way, no other change of that block is: changes that
//    overlap, one of them partial, happen one after the other in the order of their arrival, so
//    that a merge never takes back what another request wrote;
//  - changes of whole blocks among each other, and reads, wait for nobody: the device below orders
//    them;
//  - a guest's memory is read and written once per byte; what is faultable, by the copier alone;
//  - a discard changes only the whole blocks inside it; zeroes and writes change exactly their
//    bytes;
//  - a request is answered once, and its slot is then as the guest's front end filled it.

import {
  assert,
  EIO,
  EROFS,
  FLAG_DURABLE,
  FLAG_UNMAP,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
  type RequestTable,
} from "../base/index.ts";
import type { BlockDevice, BlockDeviceInfo } from "../ports/index.ts";
import type { SectorClient, SectorWorkspace } from "./sector-workspace.ts";

const BLOCK_BYTES = 4096;
const BLOCK_MASK = 4095;
const NONE = -1;

const PHASE_READ = 1;
const PHASE_HEAD = 2;
const PHASE_TAIL = 3;
const PHASE_WRITE = 4;
const PHASE_ZERO = 5;

/** What is below: a device whose opener can resize and close it. */
export interface WholeBlockDevice extends BlockDevice {
  setCapacity(bytes: number): void;
  oldestInflightUs(nowUs: number): number;
  close(): void;
}

/** The facts of the device below, with smaller logical blocks. */
class SectorInfo implements BlockDeviceInfo {
  readonly blockBytes = 512;
  private readonly below: WholeBlockDevice;

  constructor(below: WholeBlockDevice) {
    this.below = below;
  }

  get capacityBytes(): number {
    return this.below.info.capacityBytes;
  }

  get physicalBlockBytes(): number {
    return Math.max(BLOCK_BYTES, this.below.info.physicalBlockBytes);
  }

  get optimalIoBytes(): number {
    return this.below.info.optimalIoBytes;
  }

  get readOnly(): boolean {
    return this.below.info.readOnly;
  }

  get canDiscard(): boolean {
    return this.below.info.canDiscard;
  }

  get discardGranularityBytes(): number {
    return Math.max(BLOCK_BYTES, this.below.info.discardGranularityBytes);
  }

  get serial(): string {
    return this.below.info.serial;
  }
}

export class SectorDevice implements BlockDevice, SectorClient {
  readonly info: SectorInfo;
  private readonly below: WholeBlockDevice;
  private readonly shared: SectorWorkspace;
  private readonly requests: RequestTable;
  /** Requests adopted and not yet answered. */
  private heldCount = 0;
  /** Changes under way or waiting, in the order of their arrival. */
  private firstChange = NONE;
  private lastChange = NONE;
  private partialCount = 0;
  private waitingCount = 0;

  constructor(below: WholeBlockDevice, modules: { readonly workspace: SectorWorkspace }) {
    assert(below.info.blockBytes === BLOCK_BYTES, "the device below has blocks of 4096 bytes");
    this.below = below;
    this.info = new SectorInfo(below);
    this.shared = modules.workspace;
    this.requests = modules.workspace.requests;
  }

  /** 0 when there are none; a request that is also below at the moment may count twice. */
  get inflightCount(): number {
    return this.heldCount + this.below.inflightCount;
  }

  oldestInflightUs(nowUs: number): number {
    return this.below.oldestInflightUs(nowUs);
  }

  /** Bytes are whole blocks: a part of a block would come back when the device grows again. */
  // @cold
  setCapacity(bytes: number): void {
    assert(bytes % BLOCK_BYTES === 0, "a capacity of whole blocks");
    this.below.setCapacity(bytes);
  }

  // @cold
  close(): void {
    assert(this.heldCount === 0, "device closed with requests in flight");
    this.below.close();
  }

  submit(slot: number): void {
    const { requests } = this;
    const op = requests.op[slot] as number;
    const offsetBytes = requests.offsetBytes[slot] as number;
    const lengthBytes = requests.lengthBytes[slot] as number;
    const isWhole = ((offsetBytes | lengthBytes) & BLOCK_MASK) === 0;
    if (op === OP_FLUSH || (op === OP_READ && isWhole)) {
      this.below.submit(slot);
      return;
    }
    if (op !== OP_READ && this.info.readOnly) {
      requests.complete(slot, -EROFS);
      return;
    }
    if (offsetBytes + lengthBytes > this.info.capacityBytes) {
      requests.complete(slot, -EIO);
      return;
    }
    if (op === OP_READ) {
      this.hold(slot);
      this.shared.wantLane(slot);
      return;
    }
    this.change(slot, op, offsetBytes, lengthBytes, isWhole);
  }

  private hold(slot: number): void {
    this.heldCount += 1;
    this.shared.adopt(slot, this);
  }

  // The order of changes --------------------------------------------------------------------------

  private change(slot: number, op: number, offset: number, length: number, isWhole: boolean): void {
    const { shared } = this;
    let first = Math.floor(offset / BLOCK_BYTES);
    let end = Math.ceil((offset + length) / BLOCK_BYTES);
    if (op === OP_DISCARD && !isWhole) {
      first = Math.ceil(offset / BLOCK_BYTES);
      end = Math.floor((offset + length) / BLOCK_BYTES);
      if (end <= first) {
        this.requests.complete(slot, 0);
        return;
      }
    }
    this.hold(slot);
    shared.firstBlock[slot] = first;
    shared.endBlock[slot] = end;
    shared.askedOffset[slot] = offset;
    shared.askedBytes[slot] = length;
    if (op === OP_DISCARD) {
      this.requests.offsetBytes[slot] = first * BLOCK_BYTES;
      this.requests.lengthBytes[slot] = (end - first) * BLOCK_BYTES;
    }
    const isPartial = !isWhole && op !== OP_DISCARD;
    shared.partial[slot] = isPartial ? 1 : 0;
    // Whole blocks only, on all sides: nothing to look for.
    const blockers = isPartial || this.partialCount > 0 ? this.countBlockers(slot) : 0;
    shared.blockerCount[slot] = blockers;
    this.append(slot);
    if (isPartial) this.partialCount += 1;
    if (blockers > 0) this.waitingCount += 1;
    else this.start(slot);
  }

  private countBlockers(slot: number): number {
    let count = 0;
    let other = this.firstChange;
    while (other !== NONE) {
      if (this.excludes(other, slot)) count += 1;
      other = this.shared.next[other] as number;
    }
    return count;
  }

  private excludes(a: number, b: number): boolean {
    const { firstBlock, endBlock, partial } = this.shared;
    if (partial[a] === 0 && partial[b] === 0) return false;
    return (
      (firstBlock[a] as number) < (endBlock[b] as number) &&
      (firstBlock[b] as number) < (endBlock[a] as number)
    );
  }

  private append(slot: number): void {
    const { next, previous } = this.shared;
    previous[slot] = this.lastChange;
    next[slot] = NONE;
    if (this.lastChange === NONE) this.firstChange = slot;
    else next[this.lastChange] = slot;
    this.lastChange = slot;
  }

  private start(slot: number): void {
    if (this.shared.partial[slot] === 1) this.shared.wantLane(slot);
    else this.below.submit(slot);
  }

  passedDone(slot: number, result: number): void {
    this.changed(slot, result);
  }

  /** Answers, and starts those that waited for this change alone. */
  private changed(slot: number, result: number): void {
    const { shared, requests } = this;
    const { next, previous } = shared;
    const before = previous[slot] as number;
    const after = next[slot] as number;
    if (before === NONE) this.firstChange = after;
    else next[before] = after;
    if (after === NONE) this.lastChange = before;
    else previous[after] = before;
    if (shared.partial[slot] === 1) this.partialCount -= 1;
    let other = this.waitingCount > 0 ? after : NONE;
    while (other !== NONE) {
      // Starting it may end it, and take it out of the list.
      const following = next[other] as number;
      if ((shared.blockerCount[other] as number) > 0 && this.excludes(slot, other)) {
        shared.blockerCount[other] = (shared.blockerCount[other] as number) - 1;
        if (shared.blockerCount[other] === 0) {
          this.waitingCount -= 1;
          this.start(other);
        }
      }
      other = following;
    }
    requests.offsetBytes[slot] = shared.askedOffset[slot] as number;
    requests.lengthBytes[slot] = shared.askedBytes[slot] as number;
    this.answer(slot, result);
  }

  private answer(slot: number, result: number): void {
    this.heldCount -= 1;
    this.shared.answer(slot, result);
  }

  // Partial blocks --------------------------------------------------------------------------------

  laneGranted(_slot: number, lane: number): void {
    this.issue(lane);
  }

  /** The first operation of the next piece. */
  private issue(lane: number): void {
    const { shared, requests } = this;
    const slot = shared.laneRequest[lane] as number;
    const op = requests.op[slot] as number;
    const done = shared.laneDoneBytes[lane] as number;
    const at = (requests.offsetBytes[slot] as number) + done;
    const leftBytes = (requests.lengthBytes[slot] as number) - done;
    const within = at & BLOCK_MASK;
    const isZero = op === OP_WRITE_ZEROES;
    if (isZero && within === 0 && leftBytes >= BLOCK_BYTES) {
      const bytes = leftBytes - (leftBytes & BLOCK_MASK);
      shared.lanePieceBytes[lane] = bytes;
      shared.lanePhase[lane] = PHASE_ZERO;
      shared.submitLane(lane, this.below, OP_WRITE_ZEROES, this.flagsOf(slot), at, 0, bytes);
      return;
    }
    const roomBytes = (isZero ? BLOCK_BYTES : shared.laneBytes) - within;
    const bytes = Math.min(leftBytes, roomBytes);
    shared.lanePieceBytes[lane] = bytes;
    if (op === OP_READ) {
      const blockBytes = Math.ceil((within + bytes) / BLOCK_BYTES) * BLOCK_BYTES;
      this.transfer(lane, PHASE_READ, at - within, 0, blockBytes);
    } else if (within !== 0) {
      this.transfer(lane, PHASE_HEAD, at - within, 0, BLOCK_BYTES);
    } else {
      this.issueTail(lane, at, bytes);
    }
  }

  /** The piece's last block, where the piece ends within it and it has not been read yet. */
  private issueTail(lane: number, at: number, bytes: number): void {
    const within = at & BLOCK_MASK;
    const tail = (within + bytes) & BLOCK_MASK;
    const tailStart = within + bytes - tail;
    const isRead = within !== 0 && tailStart === 0;
    if (tail === 0 || isRead) this.issueWrite(lane, at, bytes);
    else this.transfer(lane, PHASE_TAIL, at - within + tailStart, tailStart, BLOCK_BYTES);
  }

  /** Everything that stays is in the lane: the guest's bytes come over it. */
  private issueWrite(lane: number, at: number, bytes: number): void {
    const { shared, requests } = this;
    const slot = shared.laneRequest[lane] as number;
    const within = at & BLOCK_MASK;
    const target = (shared.laneAddress[lane] as number) + within;
    if (requests.op[slot] === OP_WRITE) {
      const done = shared.laneDoneBytes[lane] as number;
      const copied = shared.copier.gather(slot, done, target, bytes);
      if (copied !== 0) {
        this.finish(lane, copied);
        return;
      }
    } else {
      shared.memory.fill(target, 0, bytes);
    }
    const blockBytes = Math.ceil((within + bytes) / BLOCK_BYTES) * BLOCK_BYTES;
    this.transfer(lane, PHASE_WRITE, at - within, 0, blockBytes);
  }

  /** `bytes` between the device below and the lane's memory at `laneOffset`. */
  private transfer(
    lane: number,
    phase: number,
    offsetBytes: number,
    laneOffset: number,
    bytes: number,
  ): void {
    const { shared } = this;
    shared.lanePhase[lane] = phase;
    const isWrite = phase === PHASE_WRITE;
    const op = isWrite ? OP_WRITE : OP_READ;
    const flags = isWrite ? this.flagsOf(shared.laneRequest[lane] as number) : 0;
    const address = (shared.laneAddress[lane] as number) + laneOffset;
    shared.submitLane(lane, this.below, op, flags, offsetBytes, address, bytes);
  }

  private flagsOf(slot: number): number {
    return (this.requests.flags[slot] as number) & (FLAG_DURABLE | FLAG_UNMAP);
  }

  laneDone(lane: number, result: number): void {
    if (result < 0) {
      this.finish(lane, result);
      return;
    }
    const { shared, requests } = this;
    const slot = shared.laneRequest[lane] as number;
    const done = shared.laneDoneBytes[lane] as number;
    const bytes = shared.lanePieceBytes[lane] as number;
    const at = (requests.offsetBytes[slot] as number) + done;
    const phase = shared.lanePhase[lane] as number;
    if (phase === PHASE_HEAD) {
      this.issueTail(lane, at, bytes);
      return;
    }
    if (phase === PHASE_TAIL) {
      this.issueWrite(lane, at, bytes);
      return;
    }
    if (phase === PHASE_READ) {
      const source = (shared.laneAddress[lane] as number) + (at & BLOCK_MASK);
      const copied = shared.copier.scatter(slot, done, source, bytes);
      if (copied !== 0) {
        this.finish(lane, copied);
        return;
      }
    }
    shared.laneDoneBytes[lane] = done + bytes;
    if (done + bytes < (requests.lengthBytes[slot] as number)) this.issue(lane);
    else this.finish(lane, 0);
  }

  private finish(lane: number, result: number): void {
    const { shared } = this;
    const slot = shared.laneRequest[lane] as number;
    shared.releaseLane(lane);
    if (this.requests.op[slot] === OP_READ) this.answer(slot, result);
    else this.changed(slot, result);
  }
}

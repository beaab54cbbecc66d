// @hot
// A block device over one file or block device, driven through the Disk port. Nearly every request
// is one operation: read or write for a single segment, readv or writev on the slot's own iovecs
// otherwise. The rest are the detours below; a request has at most one operation in flight.
//
//   read, write  --> WHOLE --short--> PIECE (segment by segment) --> done
//        `- memory not aligned --> [wait] BOUNCE (buffer by buffer) --> done
//   flush        --> SYNC --> done
//   discard      --> PUNCH --> done             (not supported: done, a discard is advice)
//   write zeroes --> PUNCH or ZERO --> [SYNC] --> done
//                        `- not supported --> FILL (writes zeroes) --> [SYNC] --> done
//
// Invariants:
//  - phase[slot] is IDLE exactly when the request is not ours: it is completed once, and an answer
//    of the disk that nobody waits for is an assertion;
//  - every operation but a retry makes progress, and retries in a row are bounded;
//  - guest memory is touched by the kernel or by the SegmentCopier, never by a plain access, so
//    that memory truncated under us answers -EFAULT;
//  - a regular file shorter than the volume reads as zeroes past its end (a sparse file); a block
//    device that ends early is an error.

import {
  assert,
  EAGAIN,
  EINTR,
  EIO,
  ENOSYS,
  EOPNOTSUPP,
  EROFS,
  FLAG_DURABLE,
  FLAG_UNMAP,
  isPowerOfTwo,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
  type RequestTable,
  SEGMENTS_MAX,
  type SegmentCopier,
  unreachable,
  ZERO_BYTES,
} from "../base/index.ts";
import {
  type BlockDevice,
  DEALLOCATE_PUNCH,
  DEALLOCATE_ZERO,
  type Disk,
  type DiskHandler,
} from "../ports/index.ts";
import { COUNTERS_MAX, VOLUME_COUNTERS } from "../telemetry/index.ts";
import type { BounceClient, BouncePool } from "./bounce-pool.ts";
import { type LocalDeviceOptions, LocalInfo } from "./device-info.ts";
import { LocalError } from "./errors.ts";
import type { Workspace } from "./workspace.ts";

const PHASE_IDLE = 0;
const PHASE_WHOLE = 1;
const PHASE_PIECE = 2;
const PHASE_BOUNCE_WAIT = 3;
const PHASE_BOUNCE = 4;
const PHASE_SYNC = 5;
const PHASE_PUNCH = 6;
const PHASE_ZERO = 7;
const PHASE_FILL = 8;

/** -EINTR and -EAGAIN in a row before they become the request's result. */
const RETRIES_MAX = 16;
const IOVEC_WORDS = 4;
const NO_BUFFER = -1;

const BOUNCE_COUNT = VOLUME_COUNTERS.bounceCount;
const BOUNCE_BYTES = VOLUME_COUNTERS.bounceBytes;
const BOUNCE_WAIT_COUNT = VOLUME_COUNTERS.bounceWaitCount;
const SHORT_TRANSFER_COUNT = VOLUME_COUNTERS.shortTransferCount;
const RETRY_COUNT = VOLUME_COUNTERS.retryCount;
const ZERO_FILL_BYTES = VOLUME_COUNTERS.zeroFillBytes;

export interface FileDeviceOptions extends LocalDeviceOptions {
  /** "file": what lies past the end reads as zeroes. "block": a device has no such thing. */
  readonly kind: "file" | "block";
}

export interface FileDeviceModules {
  readonly workspace: Workspace;
  /** Its completions must reach this device's diskCompleted(). */
  readonly disk: Disk;
  /** VolumeMeter.counters; counted for nobody if not given. */
  readonly counters?: Float64Array;
}

export class FileDevice implements BlockDevice, DiskHandler, BounceClient {
  readonly info: LocalInfo;
  inflightCount = 0;
  private readonly disk: Disk;
  private readonly requests: RequestTable;
  private readonly workspace: Workspace;
  private readonly copier: SegmentCopier;
  private readonly bounce: BouncePool;
  private readonly bounceClient: number;
  private readonly counters: Float64Array;
  private readonly phase: Uint8Array;
  private readonly blockMask: number;
  private readonly memoryMask: number;
  private readonly offsetMask: number;
  private readonly endsInZeroes: boolean;
  // What the disk turned out not to support is not asked for again.
  private canPunch: boolean;
  private canZero = true;

  constructor(options: FileDeviceOptions, modules: FileDeviceModules) {
    const { workspace, disk } = modules;
    this.info = new LocalInfo(options, false);
    this.disk = disk;
    this.workspace = workspace;
    this.requests = workspace.requests;
    this.copier = workspace.copier;
    this.bounce = workspace.bounce;
    this.counters = modules.counters ?? new Float64Array(COUNTERS_MAX);
    this.phase = new Uint8Array(workspace.requests.capacity);
    assert(isPowerOfTwo(disk.memoryAlignmentBytes), "memory alignment: a power of two");
    assert(isPowerOfTwo(disk.offsetAlignmentBytes), "offset alignment: a power of two");
    checkAlignment(options.blockBytes, disk.offsetAlignmentBytes);
    this.blockMask = options.blockBytes - 1;
    this.memoryMask = disk.memoryAlignmentBytes - 1;
    this.offsetMask = disk.offsetAlignmentBytes - 1;
    assert((workspace.bounce.bufferBytes & this.offsetMask) === 0, "bounce buffer not aligned");
    this.endsInZeroes = options.kind === "file";
    this.canPunch = this.info.canDiscard;
    if (!this.endsInZeroes) checkDeviceSize(options.capacityBytes, disk.capacityBytes);
    this.bounceClient = workspace.bounce.addClient(this);
  }

  submit(slot: number): void {
    const requests = this.requests;
    assert(this.phase[slot] === PHASE_IDLE, "slot submitted twice");
    const phase = this.firstPhase(slot);
    if (phase <= PHASE_IDLE) {
      // Nothing to do (0), or refused (a negated errno).
      requests.complete(slot, phase);
      return;
    }
    this.workspace.progressBytes[slot] = 0;
    this.workspace.retries[slot] = 0;
    this.workspace.buffer[slot] = NO_BUFFER;
    this.phase[slot] = phase;
    this.inflightCount += 1;
    if (phase === PHASE_BOUNCE_WAIT) this.startBounce(slot);
    else this.issue(slot);
  }

  /** Where the request in `slot` begins; PHASE_IDLE when it is done, a negated errno if refused. */
  private firstPhase(slot: number): number {
    const requests = this.requests;
    const info = this.info;
    const op = requests.op[slot] as number;
    if (op === OP_FLUSH) return info.readOnly ? PHASE_IDLE : PHASE_SYNC;
    if (op !== OP_READ && info.readOnly) return -EROFS;
    const offsetBytes = requests.offsetBytes[slot] as number;
    const lengthBytes = requests.lengthBytes[slot] as number;
    assert(offsetBytes >= 0, "a request before the start of the device");
    // A resize may overtake a request that was in range when it was checked.
    if (offsetBytes + lengthBytes > info.capacityBytes) return -EIO;
    assert(((offsetBytes | lengthBytes) & this.blockMask) === 0, "a request of part of a block");
    if (lengthBytes === 0) return PHASE_IDLE;
    if (op === OP_READ || op === OP_WRITE) {
      return this.isAligned(slot) ? PHASE_WHOLE : PHASE_BOUNCE_WAIT;
    }
    if (op === OP_DISCARD) return this.canPunch ? PHASE_PUNCH : PHASE_IDLE;
    if (op === OP_WRITE_ZEROES) return this.zeroPhase(slot);
    return unreachable("an operation that does not exist");
  }

  /** The best way to zero a range that the disk has not refused yet. */
  private zeroPhase(slot: number): number {
    const unmap = ((this.requests.flags[slot] as number) & FLAG_UNMAP) !== 0;
    if (unmap && this.canPunch) return PHASE_PUNCH;
    return this.canZero ? PHASE_ZERO : PHASE_FILL;
  }

  /** Can the kernel use the segments as they lie? Lengths must fit too, each on its own. */
  private isAligned(slot: number): boolean {
    const memoryMask = this.memoryMask;
    const offsetMask = this.offsetMask;
    if ((memoryMask | offsetMask) === 0) return true;
    const words = this.requests.segments;
    let at = slot * SEGMENTS_MAX * IOVEC_WORDS;
    const end = at + (this.requests.segmentCount[slot] as number) * IOVEC_WORDS;
    while (at < end) {
      if (((words[at] as number) & memoryMask) !== 0) return false;
      if (((words[at + 2] as number) & offsetMask) !== 0) return false;
      at += IOVEC_WORDS;
    }
    return true;
  }

  /** Submits the next operation of the request: the first, the following, or the same again. */
  private issue(slot: number): void {
    const offsetBytes = this.requests.offsetBytes[slot] as number;
    const lengthBytes = this.requests.lengthBytes[slot] as number;
    switch (this.phase[slot]) {
      case PHASE_WHOLE:
        this.issueWhole(slot, offsetBytes, lengthBytes);
        return;
      case PHASE_PIECE:
        this.issuePiece(slot, offsetBytes);
        return;
      case PHASE_BOUNCE:
        this.issueBounce(slot, offsetBytes, lengthBytes);
        return;
      case PHASE_SYNC:
        this.disk.sync(slot);
        return;
      case PHASE_PUNCH:
        this.disk.deallocate(slot, offsetBytes, lengthBytes, DEALLOCATE_PUNCH);
        return;
      case PHASE_ZERO:
        this.disk.deallocate(slot, offsetBytes, lengthBytes, DEALLOCATE_ZERO);
        return;
      case PHASE_FILL:
        this.issueFill(slot, offsetBytes, lengthBytes);
        return;
      default:
        unreachable("an operation in a phase that has none");
    }
  }

  private issueWhole(slot: number, offsetBytes: number, lengthBytes: number): void {
    const requests = this.requests;
    const count = requests.segmentCount[slot] as number;
    assert(count > 0, "a read or write without memory");
    this.workspace.pieceBytes[slot] = lengthBytes;
    if (requests.op[slot] === OP_READ) {
      if (count === 1) {
        this.disk.read(slot, offsetBytes, requests.segmentAddress(slot, 0), lengthBytes);
      } else {
        this.disk.readv(slot, offsetBytes, requests.segmentsAddress(slot), count);
      }
      return;
    }
    const durable = this.isDurable(slot);
    if (count === 1) {
      this.disk.write(slot, offsetBytes, requests.segmentAddress(slot, 0), lengthBytes, durable);
    } else {
      this.disk.writev(slot, offsetBytes, requests.segmentsAddress(slot), count, durable);
    }
  }

  /** What is left of the segment in which the request stands. */
  private issuePiece(slot: number, offsetBytes: number): void {
    const requests = this.requests;
    const progressBytes = this.workspace.progressBytes[slot] as number;
    let skip = progressBytes;
    let index = 0;
    while (skip >= requests.segmentBytes(slot, index)) {
      skip -= requests.segmentBytes(slot, index);
      index += 1;
      assert(index < (requests.segmentCount[slot] as number), "progress past the last segment");
    }
    const address = requests.segmentAddress(slot, index) + skip;
    const bytes = requests.segmentBytes(slot, index) - skip;
    const at = offsetBytes + progressBytes;
    this.workspace.pieceBytes[slot] = bytes;
    if (requests.op[slot] === OP_READ) this.disk.read(slot, at, address, bytes);
    else this.disk.write(slot, at, address, bytes, this.isDurable(slot));
  }

  private issueBounce(slot: number, offsetBytes: number, lengthBytes: number): void {
    const progressBytes = this.workspace.progressBytes[slot] as number;
    const bytes = Math.min(lengthBytes - progressBytes, this.bounce.bufferBytes);
    const address = this.bounce.address(this.workspace.buffer[slot] as number);
    const at = offsetBytes + progressBytes;
    this.workspace.pieceBytes[slot] = bytes;
    if (this.requests.op[slot] === OP_READ) {
      this.disk.read(slot, at, address, bytes);
      return;
    }
    const copied = this.copier.gather(slot, progressBytes, address, bytes);
    if (copied === 0) this.disk.write(slot, at, address, bytes, this.isDurable(slot));
    else this.finish(slot, copied);
  }

  private issueFill(slot: number, offsetBytes: number, lengthBytes: number): void {
    const progressBytes = this.workspace.progressBytes[slot] as number;
    const bytes = Math.min(lengthBytes - progressBytes, ZERO_BYTES);
    this.workspace.pieceBytes[slot] = bytes;
    // Where the whole must be durable, one sync at the end is cheaper than one per piece.
    this.disk.write(slot, offsetBytes + progressBytes, this.copier.zeroes.address, bytes, false);
  }

  private startBounce(slot: number): void {
    const buffer = this.bounce.acquire(this.bounceClient, slot);
    if (buffer === NO_BUFFER) this.counters[BOUNCE_WAIT_COUNT] += 1;
    else this.bounceGranted(slot, buffer);
  }

  bounceGranted(slot: number, buffer: number): void {
    assert(this.phase[slot] === PHASE_BOUNCE_WAIT, "a buffer for a request that wants none");
    this.workspace.buffer[slot] = buffer;
    this.phase[slot] = PHASE_BOUNCE;
    this.counters[BOUNCE_COUNT] += 1;
    this.counters[BOUNCE_BYTES] += this.requests.lengthBytes[slot] as number;
    this.issue(slot);
  }

  diskCompleted(slot: number, result: number): void {
    const phase = this.phase[slot] as number;
    if (phase === PHASE_WHOLE && result === this.workspace.pieceBytes[slot]) {
      this.finish(slot, 0);
      return;
    }
    assert(phase !== PHASE_IDLE, "the disk answered a request it does not have");
    assert(phase !== PHASE_BOUNCE_WAIT, "the disk answered a request it was never given");
    if (result < 0) {
      this.failed(slot, phase, result);
      return;
    }
    if (phase === PHASE_WHOLE || phase === PHASE_PIECE || phase === PHASE_BOUNCE) {
      this.transferred(slot, phase, result);
    } else if (phase === PHASE_FILL) {
      this.advance(slot, result);
    } else {
      this.rangeDone(slot, phase);
    }
  }

  private failed(slot: number, phase: number, result: number): void {
    if (result === -EINTR || result === -EAGAIN) {
      const retries = (this.workspace.retries[slot] as number) + 1;
      if (retries <= RETRIES_MAX) {
        this.workspace.retries[slot] = retries;
        this.counters[RETRY_COUNT] += 1;
        this.issue(slot);
        return;
      }
    }
    const isUnsupported = result === -EOPNOTSUPP || result === -ENOSYS;
    if (isUnsupported && (phase === PHASE_PUNCH || phase === PHASE_ZERO)) {
      if (phase === PHASE_PUNCH) this.canPunch = false;
      else this.canZero = false;
      if (this.requests.op[slot] === OP_DISCARD) {
        this.finish(slot, 0);
        return;
      }
      this.phase[slot] = this.zeroPhase(slot);
      this.issue(slot);
      return;
    }
    this.finish(slot, result);
  }

  /** `bytes` moved between the disk and guest memory, or a bounce buffer. */
  private transferred(slot: number, phase: number, bytes: number): void {
    const isRead = this.requests.op[slot] === OP_READ;
    const progressBytes = this.workspace.progressBytes[slot] as number;
    assert(bytes <= (this.workspace.pieceBytes[slot] as number), "the disk moved more than asked");
    if (isRead && phase === PHASE_BOUNCE && bytes > 0) {
      const address = this.bounce.address(this.workspace.buffer[slot] as number);
      const copied = this.copier.scatter(slot, progressBytes, address, bytes);
      if (copied !== 0) {
        this.finish(slot, copied);
        return;
      }
    }
    // Nothing, or a fraction of what the disk is read in: the end of the file.
    if (isRead && (bytes === 0 || (bytes & this.offsetMask) !== 0)) {
      this.readPastEnd(slot, progressBytes + bytes);
      return;
    }
    if (phase === PHASE_WHOLE) this.phase[slot] = PHASE_PIECE;
    this.advance(slot, bytes);
  }

  private readPastEnd(slot: number, progressBytes: number): void {
    if (!this.endsInZeroes) {
      this.finish(slot, -EIO);
      return;
    }
    const lengthBytes = this.requests.lengthBytes[slot] as number;
    this.finish(slot, this.copier.zero(slot, progressBytes, lengthBytes - progressBytes));
  }

  /** `bytes` of a read, write or fill are done: the next operation, or the end. */
  private advance(slot: number, bytes: number): void {
    const pieceBytes = this.workspace.pieceBytes[slot] as number;
    assert(bytes <= pieceBytes, "the disk moved more than asked");
    const op = this.requests.op[slot] as number;
    if (bytes < pieceBytes) this.counters[SHORT_TRANSFER_COUNT] += 1;
    // A fraction of what the disk is written in must be written again.
    const whole = bytes - (bytes & this.offsetMask);
    if (whole === 0) {
      this.finish(slot, -EIO);
      return;
    }
    if (op === OP_WRITE_ZEROES) this.counters[ZERO_FILL_BYTES] += whole;
    const progressBytes = (this.workspace.progressBytes[slot] as number) + whole;
    this.workspace.progressBytes[slot] = progressBytes;
    this.workspace.retries[slot] = 0;
    if (progressBytes < (this.requests.lengthBytes[slot] as number)) this.issue(slot);
    else this.rangeDone(slot, this.phase[slot] as number);
  }

  /** Everything is written, zeroed, punched or synced. */
  private rangeDone(slot: number, phase: number): void {
    const needsSync = this.requests.op[slot] === OP_WRITE_ZEROES && this.isDurable(slot);
    if (needsSync && phase !== PHASE_SYNC) {
      this.phase[slot] = PHASE_SYNC;
      this.workspace.retries[slot] = 0;
      this.issue(slot);
      return;
    }
    this.finish(slot, 0);
  }

  private finish(slot: number, result: number): void {
    assert(this.inflightCount > 0, "a request finished that never began");
    assert(result <= 0, "a result that is neither success nor an error");
    const buffer = this.workspace.buffer[slot] as number;
    this.workspace.buffer[slot] = NO_BUFFER;
    this.phase[slot] = PHASE_IDLE;
    this.inflightCount -= 1;
    this.requests.complete(slot, result);
    if (buffer !== NO_BUFFER) this.bounce.release(buffer);
  }

  private isDurable(slot: number): boolean {
    return ((this.requests.flags[slot] as number) & FLAG_DURABLE) !== 0;
  }

  /** Age of the oldest unanswered request, for a stuck device's health report; 0 when idle. */
  oldestInflightUs(nowUs: number): number {
    if (this.inflightCount === 0) return 0;
    let oldestUs = 0;
    for (let slot = 0; slot < this.phase.length; slot++) {
      if (this.phase[slot] === PHASE_IDLE) continue;
      const ageUs = nowUs - (this.requests.startedUs[slot] as number);
      if (ageUs > oldestUs) oldestUs = ageUs;
    }
    return oldestUs;
  }

  /** The file has been truncated or grown to `bytes`. */
  // @cold
  setCapacity(bytes: number): void {
    if (!this.endsInZeroes) checkDeviceSize(bytes, this.disk.capacityBytes);
    this.info.setCapacity(bytes);
  }

  /** Nothing may be in flight. The disk is the opener's to close. */
  // @cold
  close(): void {
    assert(this.inflightCount === 0, "device closed with requests in flight");
    this.bounce.removeClient(this.bounceClient);
  }
}

// @cold
function checkAlignment(blockBytes: number, offsetAlignmentBytes: number): void {
  if (blockBytes % offsetAlignmentBytes === 0) return;
  throw new LocalError(
    "BLOCK_TOO_SMALL",
    `blocks of ${blockBytes} bytes on a disk that moves ${offsetAlignmentBytes} bytes at a time`,
    { advice: `Use blocks of ${offsetAlignmentBytes} bytes, or open the file without O_DIRECT.` },
  );
}

// @cold
function checkDeviceSize(capacityBytes: number, deviceBytes: number): void {
  if (capacityBytes <= deviceBytes) return;
  throw new LocalError(
    "DEVICE_TOO_SMALL",
    `a volume of ${capacityBytes} bytes on a device of ${deviceBytes} bytes`,
    { advice: "Make the volume no larger than the device." },
  );
}

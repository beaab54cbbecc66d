// FileDevice over the fake disk against a model: random requests, many in flight, completions in
// random order, short transfers, transient errors, every class of alignment, disks with and
// without punch and zero. At the end the file, and every byte that was read, must be what a plain
// array says.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  EAGAIN,
  EINTR,
  FLAG_DURABLE,
  FLAG_FAULTABLE,
  FLAG_UNMAP,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
  Prng,
} from "../base/index.ts";
import { FakeDisk } from "./_fake-disk.ts";
import { type Request, Workbench } from "./_fake-workbench.ts";
import { FileDevice } from "./file-device.ts";

const CAPACITY = 262144;
const SLOTS = 32;
/** Each slot has its own part of guest memory, so that buffers in flight do not overlap. */
const GUEST_BYTES_PER_SLOT = 65536;
const REQUEST_BYTES_MAX = 24576;
const REQUEST_COUNT = 400;

interface InFlight {
  readonly slot: number;
  readonly request: Request;
  readonly bytes: number;
  /** What the guest wrote. */
  readonly content: Uint8Array;
}

class Run {
  private readonly prng: Prng;
  private readonly bench: Workbench;
  private readonly disk: FakeDisk;
  private readonly device: FileDevice;
  private readonly model: Uint8Array = new Uint8Array(CAPACITY);
  private readonly alignmentClass: readonly [memory: number, offset: number, block: number];
  private readonly inFlight: InFlight[] = [];
  private readonly freeParts: number[] = Array.from({ length: SLOTS }, (_, index) => index);
  private readonly partOfSlot: Map<number, number> = new Map();
  completed = 0;

  constructor(seed: number) {
    const prng = new Prng(seed);
    this.prng = prng;
    this.bench = new Workbench({
      slots: SLOTS,
      guestBytes: SLOTS * GUEST_BYTES_PER_SLOT,
      bounceBufferCount: prng.between(1, 4),
      bounceBufferBytes: prng.pick([4096, 8192, 32768]),
    });
    this.alignmentClass = prng.pick([
      [1, 1, 512],
      [1, 1, 4096],
      [4, 512, 512],
      [512, 512, 512],
      [512, 512, 4096],
      [4096, 4096, 4096],
    ] as const);
    const [memoryAlignmentBytes, offsetAlignmentBytes, blockBytes] = this.alignmentClass;
    const fileBytes = prng.chance(0.5) ? CAPACITY : prng.below(CAPACITY);
    this.disk = new FakeDisk(
      { capacityBytes: CAPACITY, fileBytes, memoryAlignmentBytes, offsetAlignmentBytes },
      this.bench.memory,
    );
    for (let at = 0; at < fileBytes; at++) this.model[at] = this.disk.data[at] = prng.u32();
    // A file's hidden bytes past its end must never be read.
    this.disk.data.fill(0xee, fileBytes);
    this.disk.supportsPunch = prng.chance(0.7);
    this.disk.supportsZero = prng.chance(0.7);
    const shortChance = prng.pick([0, 0.1, 0.5]);
    const retryChance = prng.pick([0, 0.1]);
    this.disk.fault = (operation) => {
      if (prng.chance(retryChance)) return prng.chance(0.5) ? -EAGAIN : -EINTR;
      if (!prng.chance(shortChance)) return Number.MAX_SAFE_INTEGER;
      const units = Math.ceil(operation.bytes / offsetAlignmentBytes);
      const extra = operation.kind === "write" && offsetAlignmentBytes > 1 ? prng.below(100) : 0;
      return prng.between(1, Math.max(1, units)) * offsetAlignmentBytes + extra;
    };
    this.device = new FileDevice(
      {
        kind: "file",
        capacityBytes: CAPACITY,
        blockBytes,
        readOnly: false,
        serial: "m",
        canDiscard: true,
      },
      { workspace: this.bench.workspace, disk: this.disk },
    );
    this.disk.handler = this.device;
  }

  run(): void {
    let submitted = 0;
    while (submitted < REQUEST_COUNT || this.inFlight.length > 0) {
      const wantsMore = submitted < REQUEST_COUNT && this.inFlight.length < SLOTS;
      if (wantsMore && this.prng.chance(0.6)) {
        if (this.submitOne()) submitted += 1;
      } else if (this.disk.pending.length > 0) {
        this.disk.complete(this.prng.below(this.disk.pending.length));
      }
      this.collect();
    }
    assert.equal(this.device.inflightCount, 0);
    assert.equal(this.bench.workspace.bounce.waitingSlots, 0);
    this.device.close();
    const { fileBytes } = this.disk;
    assert.deepEqual(
      Buffer.from(this.disk.data.subarray(0, fileBytes)).compare(this.model.subarray(0, fileBytes)),
      0,
      "the file is not what was written",
    );
    assert.ok(this.model.subarray(fileBytes).every((byte) => byte === 0));
  }

  /** Random, unless its range is in flight already: the order of those two would be open. */
  private submitOne(): boolean {
    const { prng } = this;
    const blockBytes = this.alignmentClass[2];
    const op = prng.pick([
      OP_READ,
      OP_READ,
      OP_WRITE,
      OP_WRITE,
      OP_DISCARD,
      OP_WRITE_ZEROES,
      OP_FLUSH,
    ]);
    const blocks = prng.between(1, REQUEST_BYTES_MAX / blockBytes);
    const bytes = op === OP_FLUSH ? 0 : blocks * blockBytes;
    const offsetBytes = prng.below((CAPACITY - bytes) / blockBytes + 1) * blockBytes;
    const overlaps = this.inFlight.some(
      (one) =>
        offsetBytes < one.request.offsetBytes + one.bytes &&
        one.request.offsetBytes < offsetBytes + bytes,
    );
    if (overlaps) return false;
    const part = this.freeParts.pop() as number;
    const flags =
      (prng.chance(0.3) ? FLAG_DURABLE : 0) |
      (prng.chance(0.5) ? FLAG_UNMAP : 0) |
      (prng.chance(0.3) ? FLAG_FAULTABLE : 0);
    const hasMemory = op === OP_READ || op === OP_WRITE;
    const segments = hasMemory ? this.segments(part * GUEST_BYTES_PER_SLOT, bytes) : [];
    const content = new Uint8Array(op === OP_WRITE ? bytes : 0);
    for (let at = 0; at < content.length; at++) content[at] = prng.u32();
    let done = 0;
    for (const [at, length] of op === OP_WRITE ? segments : []) {
      this.bench.guest.u8.set(content.subarray(done, done + length), at);
      done += length;
    }
    const request = hasMemory
      ? { op, offsetBytes, flags, segments }
      : { op, offsetBytes, flags, lengthBytes: bytes };
    const slot = this.bench.submit(this.device, request);
    this.partOfSlot.set(slot, part);
    this.inFlight.push({ slot, request, bytes, content });
    return true;
  }

  /** Cuts `bytes` into segments with gaps: aligned for this disk, or at any byte. */
  private segments(base: number, bytes: number): [number, number][] {
    const { prng } = this;
    const [memoryBytes, offsetBytes] = this.alignmentClass;
    const isAligned = prng.chance(0.5);
    const unit = isAligned ? Math.max(memoryBytes, offsetBytes) : 1;
    const segments: [number, number][] = [];
    let at = base + (isAligned ? 0 : prng.below(64));
    let left = bytes;
    while (left > 0) {
      const most = segments.length === 7 ? left : Math.min(left, prng.between(1, 16) * 700);
      const length = isAligned ? Math.max(unit, Math.floor(most / unit) * unit) : most;
      segments.push([at, Math.min(length, left)]);
      left -= length;
      at += length + (isAligned ? unit : prng.between(1, 100));
    }
    assert.ok(at <= base + GUEST_BYTES_PER_SLOT, "the test's buffers overlap");
    return segments;
  }

  private collect(): void {
    for (let index = this.inFlight.length - 1; index >= 0; index--) {
      const one = this.inFlight[index] as InFlight;
      const result = this.bench.result(one.slot);
      if (result === undefined) continue;
      this.bench.results.delete(one.slot);
      this.inFlight.splice(index, 1);
      this.freeParts.push(this.partOfSlot.get(one.slot) as number);
      this.check(one, result);
      this.completed += 1;
    }
  }

  private check(one: InFlight, result: number): void {
    const { op, offsetBytes } = one.request;
    const what = `op ${op} of ${one.bytes} bytes at ${offsetBytes}`;
    assert.equal(result, 0, what);
    if (op === OP_WRITE) this.model.set(one.content, offsetBytes);
    if (op === OP_WRITE_ZEROES) this.model.fill(0, offsetBytes, offsetBytes + one.bytes);
    if (op === OP_DISCARD && this.disk.supportsPunch) {
      this.model.fill(0, offsetBytes, offsetBytes + one.bytes);
    }
    if (op !== OP_READ) return;
    let done = offsetBytes;
    for (const [at, length] of one.request.segments ?? []) {
      const read = Buffer.from(this.bench.guest.u8.subarray(at, at + length));
      assert.equal(read.compare(this.model.subarray(done, done + length)), 0, `${what} read wrong`);
      done += length;
    }
  }
}

describe("FileDevice against a model", () => {
  it("120 random histories", () => {
    for (let seed = 1; seed <= 120; seed++) {
      try {
        const run = new Run(seed);
        run.run();
        assert.equal(run.completed, REQUEST_COUNT);
      } catch (error) {
        throw new Error(`seed ${seed}`, { cause: error });
      }
    }
  });
});

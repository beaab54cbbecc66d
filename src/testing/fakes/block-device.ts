// A block device over one array, for tests: it checks what the port demands of its callers, can
// hold requests back, and can fail them.

import assert from "node:assert/strict";
import {
  FLAG_DURABLE,
  FLAG_UNMAP,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
  type RequestTable,
} from "../../base/index.ts";
import type { BlockDevice } from "../../ports/index.ts";
import type { TestMemory } from "./memory.ts";

export interface TestInfo {
  capacityBytes: number;
  blockBytes: number;
  physicalBlockBytes: number;
  optimalIoBytes: number;
  readOnly: boolean;
  canDiscard: boolean;
  discardGranularityBytes: number;
  serial: string;
}

export class TestDevice implements BlockDevice {
  readonly info: TestInfo;
  readonly content: Uint8Array;
  /** Requests wait here while set. */
  isHolding = false;
  readonly held: number[] = [];
  /** Result of the requests to come, where not 0. */
  result = 0;
  flushCount = 0;
  writeCount = 0;
  durableCount = 0;
  unmapCount = 0;
  private readonly requests: RequestTable;
  private readonly memory: TestMemory;

  constructor(requests: RequestTable, memory: TestMemory, blocks: number, blockBytes: number) {
    this.requests = requests;
    this.memory = memory;
    this.content = new Uint8Array(blocks * blockBytes);
    this.info = {
      capacityBytes: blocks * blockBytes,
      blockBytes,
      physicalBlockBytes: Math.max(4096, blockBytes),
      optimalIoBytes: 65536,
      readOnly: false,
      canDiscard: true,
      discardGranularityBytes: 4096,
      serial: "test",
    };
  }

  get inflightCount(): number {
    return this.held.length;
  }

  submit(slot: number): void {
    if (this.isHolding) this.held.push(slot);
    else this.requests.complete(slot, this.serve(slot));
  }

  /** Serves what was held back, `count` of it. */
  release(count: number = this.held.length): void {
    for (const slot of this.held.splice(0, count)) {
      this.requests.complete(slot, this.serve(slot));
    }
  }

  private serve(slot: number): number {
    const { requests, info } = this;
    const op = requests.op[slot];
    if (op === OP_FLUSH) {
      this.flushCount += 1;
      return this.result;
    }
    const offset = requests.offsetBytes[slot];
    const bytes = requests.lengthBytes[slot];
    assert.ok(bytes > 0 && bytes % info.blockBytes === 0, `a request of ${bytes} bytes`);
    assert.ok(offset >= 0 && offset % info.blockBytes === 0, `a request at ${offset}`);
    assert.ok(offset + bytes <= info.capacityBytes, `a request beyond the end: ${offset}`);
    assert.ok(op === OP_READ || !info.readOnly, "a write to a read-only device");
    const flags = requests.flags[slot];
    if (op !== OP_READ && (flags & FLAG_DURABLE) !== 0) this.durableCount += 1;
    if (this.result !== 0) return this.result;
    if (op === OP_WRITE_ZEROES) {
      if ((flags & FLAG_UNMAP) !== 0) this.unmapCount += 1;
      this.content.fill(0, offset, offset + bytes);
      return 0;
    }
    if (op === OP_WRITE) this.writeCount += 1;
    let at = offset;
    for (let index = 0; index < requests.segmentCount[slot]; index++) {
      const length = requests.segmentBytes(slot, index);
      const window = this.memory.window(requests.segmentAddress(slot, index), length);
      if (op === OP_READ) window.set(this.content.subarray(at, at + length));
      else this.content.set(window, at);
      at += length;
    }
    assert.equal(at, offset + bytes);
    return 0;
  }
}

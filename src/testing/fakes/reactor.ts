// A reactor's few services for tests and benchmarks: a request table, a time that the test sets,
// and the loop's order of events: deliver completions, flush, poll.

import { RequestTable, segmentArenaBytes } from "../../base/index.ts";
import type { BlockDevice, BlockDeviceInfo, Poller } from "../../ports/index.ts";
import type { BlkMeter } from "../../virtio/index.ts";

const ARENA_ADDRESS = 0x7e00_0000_0000;

export class FakeReactor {
  readonly requests: RequestTable;
  loopTimeUs = 0;
  private readonly dirty: Poller[] = [];

  constructor(slots: number) {
    const u32 = new Uint32Array(segmentArenaBytes(slots) / 4);
    this.requests = new RequestTable(slots, { address: ARENA_ADDRESS, u32 });
  }

  requestFlush(poller: Poller): void {
    this.dirty.push(poller);
  }

  /** What comes before polling: completions, then flushes. */
  deliver(): void {
    this.requests.drain(256);
    while (this.dirty.length > 0) (this.dirty.pop() as Poller).flush();
  }

  turn(poller: Poller): number {
    this.deliver();
    return poller.poll();
  }
}

export const FAKE_INFO: BlockDeviceInfo = {
  capacityBytes: 1 << 30,
  blockBytes: 512,
  physicalBlockBytes: 4096,
  optimalIoBytes: 65536,
  readOnly: false,
  canDiscard: true,
  discardGranularityBytes: 4096,
  serial: "ringstore-test",
};

/** Completes inside submit() with success. */
export class NullDevice implements BlockDevice {
  readonly info: BlockDeviceInfo;
  readonly inflightCount = 0;
  private readonly requests: RequestTable;

  constructor(requests: RequestTable, info: BlockDeviceInfo) {
    this.requests = requests;
    this.info = info;
  }

  submit(slot: number): void {
    this.requests.complete(slot, 0);
  }
}

export class FakeMeter implements BlkMeter {
  readonly counters: Float64Array = new Float64Array(64);
  readonly latencies: number[] = [];

  recordLatency(op: number, us: number): void {
    this.latencies.push(op, us);
  }
}

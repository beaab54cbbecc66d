// Split and packed rings and the requests on them, against the trivial device in the same thread.

import assert from "node:assert/strict";
import { test } from "node:test";
import * as sys from "../sys/index.ts";
import { BLK_T_FLUSH, BLK_T_IN, BLK_T_OUT } from "../virtio/index.ts";
import { BlkQueue, type BlkQueueOptions, STATUS_UNTOUCHED } from "./blk-queue.ts";
import { LoadError } from "./errors.ts";
import { type GuestRegion, LoadGuestMemory } from "./guest-memory.ts";
import { PackedRing } from "./packed-ring.ts";
import { SplitRing } from "./split-ring.ts";
import { TrivialDevice } from "./trivial-device.ts";

const BASE = 0x100000000;
const STORE_BYTES = 1024 * 1024;

interface Bench {
  readonly memory: LoadGuestMemory;
  readonly region: GuestRegion;
  readonly queue: BlkQueue;
  readonly device: TrivialDevice;
  readonly kickFd: number;
  close(): void;
}

function bench(options: Partial<BlkQueueOptions> = {}): Bench {
  const memory = new LoadGuestMemory([{ guestAddress: BASE, bytes: 4 * 1024 * 1024 }]);
  const region = memory.regions[0] as GuestRegion;
  const kickFd = sys.check(sys.eventfd(), "eventfd");
  const queue = new BlkQueue(memory, {
    index: 0,
    packed: false,
    size: 16,
    slotCount: 4,
    indirect: false,
    eventIndex: false,
    dataBytes: 4096,
    region,
    kickFd,
    ...options,
  });
  const ring = (queue.split ?? queue.packed) as SplitRing | PackedRing;
  const device = new TrivialDevice(region.host, BASE, {
    packed: options.packed === true,
    size: ring.size,
    eventIndex: ring.eventIndex,
    descriptorGpa: ring.descriptorGpa,
    availableGpa: ring.availableGpa,
    usedGpa: ring.usedGpa,
  });
  device.store = new Uint8Array(STORE_BYTES);
  const close = (): void => {
    sys.close(kickFd);
    memory.close();
  };
  return { memory, region, queue, device, kickFd, close };
}

/** Runs one request to its end; returns its status. */
function roundTrip(
  { queue, device }: Bench,
  type: number,
  sector: number,
  bytes: number,
  slot = 0,
): number {
  queue.submit(slot, type, sector, bytes, type === BLK_T_IN);
  queue.publish();
  while (device.step());
  assert.equal(queue.pending(), 1);
  assert.equal(queue.takeCompleted(), slot);
  return queue.status;
}

function fill(region: GuestRegion, gpa: number, bytes: number, seed: number): void {
  for (let index = 0; index < bytes; index++) {
    region.host.u8[gpa - BASE + index] = (index * 31 + seed) & 0xff;
  }
}

const SHAPES: readonly (readonly [string, Partial<BlkQueueOptions>])[] = [];
for (const packed of [false, true]) {
  for (const indirect of [false, true]) {
    for (const extra of [{}, { segmentBytes: 1024, size: 32 }, { headerStrideBytes: 99 }]) {
      const name = `${packed ? "packed" : "split"} ${indirect ? "indirect" : "direct"}`;
      const shape = { packed, indirect, eventIndex: indirect, ...extra };
      (SHAPES as [string, Partial<BlkQueueOptions>][]).push([
        `${name} ${JSON.stringify(extra)}`,
        shape,
      ]);
    }
  }
}

for (const [name, shape] of SHAPES) {
  test(`data goes out and comes back, sizes and directions alternate: ${name}`, () => {
    const one = bench(shape);
    const { queue, region, device } = one;
    for (let round = 0; round < 20; round++) {
      const slot = round % 4;
      const bytes = round % 3 === 0 ? 512 : 4096;
      const sector = 8 * round + 2 ** 11 - 200;
      fill(region, queue.dataGpa[slot] as number, bytes, round);
      const written = region.host.u8.slice((queue.dataGpa[slot] as number) - BASE).slice(0, bytes);
      assert.equal(roundTrip(one, BLK_T_OUT, sector, bytes, slot), 0);
      assert.deepEqual(device.store?.slice(sector * 512, sector * 512 + bytes), written);
      const other = (slot + 1) % 4;
      assert.equal(roundTrip(one, BLK_T_IN, sector, bytes, other), 0);
      const at = (queue.dataGpa[other] as number) - BASE;
      assert.deepEqual(region.host.u8.slice(at, at + bytes), written);
      assert.equal(queue.usedBytes, bytes + 1);
      assert.equal(roundTrip(one, BLK_T_FLUSH, 0, 0, slot), 0);
      assert.equal(queue.usedBytes, 1);
    }
    // Beyond the end of the disk: the status comes through.
    assert.equal(roundTrip(one, BLK_T_IN, STORE_BYTES / 512, 512), 1);
    one.close();
  });

  test(`indexes come round: 200000 requests, ${name}`, () => {
    const one = bench({ ...shape, dataBytes: 512, segmentBytes: 512 });
    const { queue, device } = one;
    device.store = null;
    let completed = 0;
    for (let slot = 0; slot < 4; slot++) queue.submit(slot, BLK_T_IN, 8, 512, true);
    queue.publish();
    while (completed < 200000) {
      // The device works in bursts of different length, so batches differ too.
      for (let burst = 0; burst <= completed % 4; burst++) device.step();
      for (let left = queue.pending(); left > 0; left--) {
        const slot = queue.takeCompleted();
        completed += 1;
        queue.submit(slot, BLK_T_IN, 8, 512, true);
      }
      queue.publish();
    }
    assert.equal(queue.inflightCount, 4);
    assert.ok(device.requestCount >= 200000);
    one.close();
  });
}

test("requests beyond 2 TiB carry the high half of their sector", () => {
  for (const headerStrideBytes of [128, 99]) {
    const one = bench({ headerStrideBytes });
    one.device.store = null;
    const sector = 3 * 2 ** 32 + 5;
    roundTrip(one, BLK_T_IN, sector, 512, 1);
    const header = one.memory.bytesAt(
      BASE + (one.queue.headerAddress(1) - one.region.host.address),
      16,
    );
    const view = new DataView(header.buffer, header.byteOffset);
    assert.equal(view.getUint32(0, true), BLK_T_IN);
    assert.equal(view.getUint32(4, true), 0);
    assert.equal(view.getUint32(8, true), 5);
    assert.equal(view.getUint32(12, true), 3);
    one.close();
  }
});

function badCompletion(pattern: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof LoadError, String(error));
    assert.equal(error.code, "BAD_COMPLETION");
    assert.match(error.message, pattern);
    return true;
  };
}

/** Completes by hand what no device would. */
function putUsed(queue: BlkQueue, id: number, bytes: number): void {
  const { split } = queue;
  assert.ok(split !== null);
  const index = split.used16[1] as number;
  split.used32[1 + (index % split.size) * 2] = id;
  split.used32[2 + (index % split.size) * 2] = bytes;
  split.used16[1] = index + 1;
}

test("split: completions that no driver may accept", () => {
  const one = bench();
  const { queue } = one;
  putUsed(queue, 0, 1);
  assert.throws(() => queue.takeCompleted(), badCompletion(/descriptor 0, which heads nothing/));
  putUsed(queue, 1, 1);
  assert.throws(() => queue.takeCompleted(), badCompletion(/descriptor 1, which heads nothing/));
  putUsed(queue, 16, 1);
  assert.throws(() => queue.takeCompleted(), badCompletion(/used id 16 in a ring of 16/));
  const { split } = queue;
  assert.ok(split !== null);
  split.used16[1] = (split.usedIndex + 17) & 0xffff;
  assert.throws(() => queue.pending(), badCompletion(/17 past the 2/));
  one.close();
});

test("a completion twice, without a status, or with a wrong length is refused", () => {
  const one = bench();
  const { queue, device } = one;
  queue.submit(2, BLK_T_IN, 0, 512, true);
  queue.publish();
  device.step();
  queue.takeCompleted();
  putUsed(queue, 6, 513);
  assert.throws(() => queue.takeCompleted(), badCompletion(/descriptor 6, which heads nothing/));
  queue.submit(2, BLK_T_IN, 0, 512, true);
  putUsed(queue, 6, 513);
  assert.throws(() => queue.takeCompleted(), badCompletion(/request 2 was completed without/));
  const short = bench();
  short.queue.submit(0, BLK_T_OUT, 0, 512, false);
  short.queue.publish();
  short.device.step();
  const { split } = short.queue;
  assert.ok(split !== null);
  split.used32[2] = 513;
  assert.throws(() => short.queue.takeCompleted(), badCompletion(/length 513, not 1/));
  one.close();
  short.close();
});

test("any length passes where that was asked for, and is counted", () => {
  const one = bench({ anyUsedLength: true });
  one.queue.submit(0, BLK_T_IN, 0, 512, true);
  one.queue.publish();
  one.device.step();
  assert.ok(one.queue.split !== null);
  one.queue.split.used32[2] = 0;
  assert.equal(one.queue.takeCompleted(), 0);
  assert.equal(one.queue.wrongLengthCount, 1);
  one.close();
});

test("a status written after completion is caught at the next submission", () => {
  const one = bench();
  const { queue, region } = one;
  assert.equal(roundTrip(one, BLK_T_IN, 0, 512, 3), 0);
  const at = queue.headerAddress(3) - region.host.address + 64;
  assert.equal(region.host.u8[at], STATUS_UNTOUCHED);
  region.host.u8[at] = 0;
  assert.throws(
    () => queue.submit(3, BLK_T_IN, 0, 512, true),
    badCompletion(/status byte of request 3 became 0/),
  );
  one.close();
});

test("packed: an id out of range or not in flight is refused", () => {
  const one = bench({ packed: true });
  const { queue, device } = one;
  const ring = queue.packed as PackedRing;
  queue.submit(1, BLK_T_FLUSH, 0, 0, false);
  queue.publish();
  device.step();
  ring.halves[6] = 3;
  assert.equal(queue.pending(), 1);
  assert.throws(() => queue.takeCompleted(), badCompletion(/used id 3 at position 0/));
  ring.halves[6] = 40000;
  assert.equal(queue.pending(), 1);
  assert.throws(() => queue.takeCompleted(), badCompletion(/used id 40000/));
  ring.halves[6] = 1;
  assert.equal(queue.takeCompleted(), 1);
  assert.equal(queue.pending(), 0);
  one.close();
});

test("split kicks: by flag, and by event index across its wrap", () => {
  const memory = new LoadGuestMemory([{ guestAddress: BASE, bytes: 65536 }]);
  const plain = new SplitRing(memory, { size: 8, eventIndex: false });
  plain.offer(0);
  assert.equal(plain.publish(), true);
  assert.equal(plain.publish(), false, "nothing new, nothing to kick for");
  plain.used16[0] = 1;
  plain.offer(0);
  assert.equal(plain.publish(), false);
  const event = new SplitRing(memory, { size: 8, eventIndex: true });
  const availableEvent = 2 + 8 * 4;
  event.availableIndex = 0xfffe;
  event.publishedIndex = 0xfffe;
  const kicks: boolean[] = [];
  for (const wanted of [0xfffe, 0, 0xffff, 2, 5]) {
    event.used16[availableEvent] = wanted;
    event.offer(0);
    kicks.push(event.publish());
  }
  // Published 0xffff, 0, 1, 2, 3: a kick when the entry at the event index was among the new.
  assert.deepEqual(kicks, [true, false, false, false, false]);
  event.used16[availableEvent] = 4;
  for (let count = 0; count < 3; count++) event.offer(0);
  assert.equal(event.publish(), true, "one of a batch passes the event");
  memory.close();
});

test("packed kicks: by flag, and by descriptor event across the wrap", () => {
  const memory = new LoadGuestMemory([{ guestAddress: BASE, bytes: 65536 }]);
  const ring = new PackedRing(memory, { size: 4, eventIndex: true });
  const offer = (id: number): void => {
    ring.beginChain(id, 1);
    ring.offerDescriptor(BASE, 16, id, 0);
  };
  const free = (id: number): void => {
    ring.chainLength[id] = 0;
  };
  ring.deviceEvent[1] = 0;
  offer(0);
  assert.equal(ring.publish(), true);
  ring.deviceEvent[1] = 1;
  offer(1);
  assert.equal(ring.publish(), false);
  ring.deviceEvent[1] = 2;
  ring.deviceEvent[0] = 3 | 0x8000;
  offer(2);
  assert.equal(ring.publish(), false, "position 2 is not 3");
  offer(3);
  assert.equal(ring.publish(), true, "position 3 of this lap");
  for (let id = 0; id < 4; id++) free(id);
  ring.deviceEvent[0] = 3 | 0x8000;
  offer(0);
  assert.equal(ring.publish(), false, "the event was in the last lap");
  ring.deviceEvent[0] = 2;
  for (let id = 1; id < 4; id++) offer(id);
  assert.equal(ring.publish(), true, "a batch passes position 2 of this lap");
  memory.close();
});

test("notifications: armed for the next completion only, off by default", () => {
  const memory = new LoadGuestMemory([{ guestAddress: BASE, bytes: 65536 }]);
  const plain = new SplitRing(memory, { size: 8, eventIndex: false });
  assert.equal(plain.available[0], 1);
  assert.equal(plain.armNotifications(), false);
  assert.equal(plain.available[0], 0);
  plain.used16[1] = 1;
  assert.equal(plain.armNotifications(), true, "one is there already");
  const event = new SplitRing(memory, { size: 8, eventIndex: true });
  event.usedIndex = 7;
  event.used16[1] = 7;
  assert.equal(event.armNotifications(), false);
  assert.equal(event.available[2 + 8], 7);
  event.suppressNotifications();
  assert.equal(event.available[2 + 8], 0x8007);
  const packed = new PackedRing(memory, { size: 8, eventIndex: true });
  assert.equal(packed.driverEvent[1], 1);
  packed.usedPosition = 3;
  packed.usedWrap = 1;
  assert.equal(packed.armNotifications(), false);
  assert.deepEqual([...packed.driverEvent], [3 | 0x8000, 2]);
  memory.close();
});

test("a batch in a packed ring is invisible until its first descriptor's flags are stored", () => {
  const one = bench({ packed: true });
  one.device.store = null;
  one.queue.submit(0, BLK_T_IN, 0, 512, true);
  one.queue.submit(1, BLK_T_IN, 0, 512, true);
  assert.equal(one.device.step(), false);
  one.queue.publish();
  assert.equal(one.device.step(), true);
  assert.equal(one.device.step(), true);
  assert.equal(one.queue.pending(), 2);
  one.close();
});

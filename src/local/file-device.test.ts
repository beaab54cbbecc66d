// FileDevice against a scripted disk: which operation each request becomes, and what each oddity
// of a disk does to it.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  EAGAIN,
  EFAULT,
  EINTR,
  EIO,
  ENOSPC,
  EROFS,
  FLAG_DURABLE,
  FLAG_FAULTABLE,
  FLAG_UNMAP,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
} from "../base/index.ts";
import { COUNTERS_MAX, VOLUME_COUNTERS } from "../telemetry/index.ts";
import { FakeDisk, type FakeDiskOptions } from "./_fake-disk.ts";
import { type Request, Workbench } from "./_fake-workbench.ts";
import { FileDevice, type FileDeviceOptions } from "./file-device.ts";

const CAPACITY = 4 * 1048576;
const ALL = Number.MAX_SAFE_INTEGER;

class Setup {
  readonly bench: Workbench;
  readonly disk: FakeDisk;
  readonly device: FileDevice;
  readonly counters: Float64Array = new Float64Array(COUNTERS_MAX);

  constructor(
    disk: Partial<FakeDiskOptions> = {},
    options: Partial<FileDeviceOptions> = {},
    bench: Workbench = new Workbench({ bounceBufferCount: 2, bounceBufferBytes: 8192 }),
  ) {
    this.bench = bench;
    this.disk = new FakeDisk(
      { capacityBytes: CAPACITY, fileBytes: CAPACITY, ...disk },
      this.bench.memory,
    );
    this.device = new FileDevice(
      {
        kind: "file",
        capacityBytes: CAPACITY,
        blockBytes: 512,
        readOnly: false,
        serial: "test",
        canDiscard: true,
        ...options,
      },
      { workspace: this.bench.workspace, disk: this.disk, counters: this.counters },
    );
    this.disk.handler = this.device;
  }

  submit(request: Request): number {
    return this.bench.submit(this.device, request);
  }

  /** Submits, lets the disk do everything, and returns the result. */
  run(request: Request): number {
    const slot = this.submit(request);
    this.disk.completeAll();
    const result = this.bench.result(slot);
    assert.ok(result !== undefined, "the request is still in flight");
    assert.equal(this.device.inflightCount, 0);
    return result;
  }

  get kinds(): string {
    return this.disk.log.map((one) => one.kind).join(" ");
  }

  counter(name: keyof typeof VOLUME_COUNTERS): number {
    return this.counters[VOLUME_COUNTERS[name]] as number;
  }
}

const direct = { memoryAlignmentBytes: 512, offsetAlignmentBytes: 512 };

describe("what a request becomes", () => {
  it("one segment: one read or write, completed only when the disk says so", () => {
    const setup = new Setup();
    setup.disk.data.fill(7, 4096, 8192);
    const slot = setup.submit({ op: OP_READ, offsetBytes: 4096, segments: [[100, 4096]] });
    assert.equal(setup.bench.result(slot), undefined);
    assert.equal(setup.device.inflightCount, 1);
    const [operation] = setup.disk.pending;
    assert.equal(operation?.iovecs, 0);
    setup.disk.complete();
    assert.equal(setup.bench.result(slot), 0);
    assert.ok(setup.bench.guest.u8.subarray(100, 4196).every((byte) => byte === 7));
    assert.equal(setup.bench.guest.u8[4196], 0);
    assert.equal(setup.device.inflightCount, 0);
  });

  it("several segments: the slot's own iovecs", () => {
    const setup = new Setup();
    setup.bench.guest.u8.fill(1, 0, 512).fill(2, 1000, 1512).fill(3, 5000, 6024);
    const segments = [
      [0, 512],
      [1000, 512],
      [5000, 1024],
    ] as const;
    const slot = setup.submit({ op: OP_WRITE, offsetBytes: 512, segments });
    const [operation] = setup.disk.pending;
    assert.equal(operation?.iovecs, setup.bench.requests.segmentsAddress(slot));
    assert.equal(operation?.durable, false);
    setup.disk.complete();
    assert.equal(setup.bench.result(slot), 0);
    assert.deepEqual(
      [512, 1023, 1024, 1535, 1536, 2559, 2560].map((at) => setup.disk.data[at]),
      [1, 1, 2, 2, 3, 3, 0],
    );
  });

  it("FLAG_DURABLE makes writes durable, one segment or several", () => {
    const setup = new Setup();
    const flags = FLAG_DURABLE;
    const two = [
      [0, 512],
      [2048, 512],
    ] as const;
    assert.equal(setup.run({ op: OP_WRITE, offsetBytes: 0, segments: [[0, 512]], flags }), 0);
    assert.equal(setup.run({ op: OP_WRITE, offsetBytes: 0, segments: two, flags }), 0);
    assert.deepEqual(
      setup.disk.log.map((one) => one.durable),
      [true, true],
    );
    assert.equal(setup.disk.isDirty, false);
  });

  it("FLUSH is a sync, and nothing on a read-only device", () => {
    const setup = new Setup();
    assert.equal(setup.run({ op: OP_FLUSH, offsetBytes: 0 }), 0);
    assert.equal(setup.kinds, "sync");
    const readOnly = new Setup({}, { readOnly: true });
    assert.equal(readOnly.run({ op: OP_FLUSH, offsetBytes: 0 }), 0);
    assert.equal(readOnly.kinds, "");
  });

  it("a read-only device refuses every change", () => {
    const setup = new Setup({}, { readOnly: true });
    const change = { offsetBytes: 0, lengthBytes: 512 };
    for (const op of [OP_WRITE, OP_DISCARD, OP_WRITE_ZEROES]) {
      assert.equal(setup.run({ op, ...change }), -EROFS);
    }
    assert.equal(setup.run({ op: OP_READ, offsetBytes: 0, segments: [[0, 512]] }), 0);
    assert.equal(setup.kinds, "read");
  });

  it("a request past the capacity answers EIO without touching the disk", () => {
    const setup = new Setup();
    const segments = [[0, 1024]] as const;
    assert.equal(setup.run({ op: OP_READ, offsetBytes: CAPACITY - 512, segments }), -EIO);
    setup.device.setCapacity(CAPACITY / 2);
    assert.equal(setup.device.info.capacityBytes, CAPACITY / 2);
    assert.equal(setup.run({ op: OP_WRITE, offsetBytes: CAPACITY / 2, segments }), -EIO);
    assert.equal(setup.kinds, "");
  });

  it("a request of part of a block is our own mistake", () => {
    const setup = new Setup({}, { blockBytes: 4096 });
    assert.throws(
      () => setup.submit({ op: OP_READ, offsetBytes: 512, segments: [[0, 4096]] }),
      /part of a block/,
    );
  });
});

describe("short transfers and transient errors", () => {
  it("what is missing is moved segment by segment", () => {
    for (const op of [OP_READ, OP_WRITE]) {
      const setup = new Setup();
      const moves = [700, 100, ALL, 1, ALL, ALL];
      setup.disk.fault = () => moves.shift() ?? ALL;
      for (let at = 0; at < 3072; at++) setup.disk.data[at] = at % 251;
      for (let at = 0; at < 20000; at++) setup.bench.guest.u8[at] = at % 241;
      const expected = [...setup.bench.guest.u8.subarray(0, 20000)];
      const segments = [
        [0, 512],
        [9001, 1024],
        [15000, 1536],
      ] as const;
      assert.equal(setup.run({ op, offsetBytes: 0, segments }), 0);
      assert.equal(setup.disk.log.length, 5);
      assert.equal(setup.counter("shortTransferCount"), 3);
      let done = 0;
      for (const [at, bytes] of segments) {
        for (let byte = 0; byte < bytes; byte++) {
          if (op === OP_WRITE) assert.equal(setup.disk.data[done], expected[at + byte]);
          else expected[at + byte] = setup.disk.data[done] as number;
          done += 1;
        }
      }
      assert.deepEqual([...setup.bench.guest.u8.subarray(0, 20000)], expected);
    }
  });

  it("continued writes keep their durability", () => {
    const setup = new Setup();
    const moves = [512, ALL];
    setup.disk.fault = () => moves.shift() ?? ALL;
    const segments = [[0, 1024]] as const;
    assert.equal(setup.run({ op: OP_WRITE, offsetBytes: 0, segments, flags: FLAG_DURABLE }), 0);
    assert.deepEqual(
      setup.disk.log.map((one) => one.durable),
      [true, true],
    );
  });

  it("a write that moves nothing is an error", () => {
    const setup = new Setup();
    setup.disk.fault = () => 0;
    assert.equal(setup.run({ op: OP_WRITE, offsetBytes: 0, segments: [[0, 512]] }), -EIO);
    assert.equal(setup.disk.log.length, 1);
  });

  it("EINTR and EAGAIN are tried again, but not for ever", () => {
    for (const errno of [EINTR, EAGAIN]) {
      for (const op of [OP_READ, OP_FLUSH, OP_DISCARD, OP_WRITE_ZEROES]) {
        const setup = new Setup();
        let failures = 16;
        setup.disk.fault = () => (failures-- > 0 ? -errno : ALL);
        const memory = op === OP_READ ? { segments: [[0, 512]] as const } : { lengthBytes: 512 };
        assert.equal(setup.run({ op, offsetBytes: 0, ...memory }), 0);
        assert.equal(setup.counter("retryCount"), 16);
        failures = 1000;
        assert.equal(setup.run({ op, offsetBytes: 0, ...memory }), -errno);
        assert.equal(setup.disk.log.length, 17 + 17);
      }
    }
  });

  it("progress renews the patience for transient errors", () => {
    const setup = new Setup();
    let count = 0;
    // Ten failures, a block, ten failures, a block...
    setup.disk.fault = () => (count++ % 11 < 10 ? -EAGAIN : 512);
    assert.equal(setup.run({ op: OP_READ, offsetBytes: 0, segments: [[0, 2048]] }), 0);
    assert.equal(setup.counter("retryCount"), 40);
  });

  it("other errors come through as they are", () => {
    for (const errno of [EIO, ENOSPC, EFAULT]) {
      const setup = new Setup();
      setup.disk.fault = () => -errno;
      assert.equal(setup.run({ op: OP_WRITE, offsetBytes: 0, segments: [[0, 512]] }), -errno);
      assert.equal(setup.run({ op: OP_FLUSH, offsetBytes: 0 }), -errno);
    }
  });

  it("a short file reads as zeroes past its end, a short block device is an error", () => {
    for (const fileBytes of [0, 300, 4096, 5000]) {
      for (const options of [{}, direct]) {
        for (const base of [0, 8]) {
          const setup = new Setup({ fileBytes, ...options });
          setup.disk.data.fill(9);
          setup.bench.guest.u8.fill(5);
          const segments = [
            [base, 2048],
            [4096 + base, 6144],
          ] as const;
          assert.equal(setup.run({ op: OP_READ, offsetBytes: 0, segments }), 0);
          const read = segments.flatMap(([at, bytes]) => [
            ...setup.bench.guest.u8.subarray(at, at + bytes),
          ]);
          const expected = read.map((_, at) => (at < fileBytes ? 9 : 0));
          assert.deepEqual(read, expected, `file of ${fileBytes}`);
        }
      }
    }
    const setup = new Setup({ fileBytes: 4096 }, { kind: "block" });
    assert.equal(setup.run({ op: OP_READ, offsetBytes: 0, segments: [[0, 8192]] }), -EIO);
  });

  it("memory truncated under us answers EFAULT, without a plain access", () => {
    for (const options of [{}, direct]) {
      for (const op of [OP_READ, OP_WRITE]) {
        for (const fileBytes of [CAPACITY, 0]) {
          const setup = new Setup({ fileBytes, ...options });
          setup.bench.memory.truncate(setup.bench.guest, 4096);
          const segments = [[4097, 512]] as const;
          const flags = FLAG_FAULTABLE;
          assert.equal(setup.run({ op, offsetBytes: 0, segments, flags }), -EFAULT);
          const half = [[2048 + 8, 4096]] as const;
          assert.equal(setup.run({ op, offsetBytes: 0, segments: half, flags }), -EFAULT);
        }
      }
    }
  });
});

describe("discard and write zeroes", () => {
  const range = { offsetBytes: 4096, lengthBytes: 65536 };

  it("DISCARD punches; WRITE_ZEROES punches only when it may", () => {
    const setup = new Setup();
    setup.disk.data.fill(1);
    assert.equal(setup.run({ op: OP_DISCARD, ...range }), 0);
    assert.equal(setup.run({ op: OP_WRITE_ZEROES, ...range }), 0);
    assert.equal(setup.run({ op: OP_WRITE_ZEROES, ...range, flags: FLAG_UNMAP }), 0);
    assert.equal(setup.kinds, "punch zero punch");
    assert.ok(setup.disk.log.every((one) => one.offsetBytes === 4096 && one.bytes === 65536));
  });

  it("DISCARD on a disk that cannot is success without effect, and not asked again", () => {
    const setup = new Setup();
    setup.disk.supportsPunch = false;
    setup.disk.data.fill(1);
    assert.equal(setup.run({ op: OP_DISCARD, ...range }), 0);
    assert.equal(setup.run({ op: OP_DISCARD, ...range }), 0);
    assert.equal(setup.kinds, "punch");
    assert.ok(setup.disk.data.every((byte) => byte === 1));
    const never = new Setup({}, { canDiscard: false });
    assert.equal(never.run({ op: OP_DISCARD, ...range }), 0);
    assert.equal(never.run({ op: OP_WRITE_ZEROES, ...range, flags: FLAG_UNMAP }), 0);
    assert.equal(never.kinds, "zero");
  });

  it("WRITE_ZEROES falls back from punch to zero to writing zeroes, and remembers", () => {
    const setup = new Setup();
    const long = { op: OP_WRITE_ZEROES, offsetBytes: 512, lengthBytes: 2.5 * 1048576 };
    setup.disk.supportsPunch = false;
    setup.disk.data.fill(1);
    assert.equal(setup.run({ ...long, flags: FLAG_UNMAP }), 0);
    assert.equal(setup.kinds, "punch zero");
    setup.disk.supportsZero = false;
    setup.disk.data.fill(1);
    assert.equal(setup.run({ ...long, flags: FLAG_UNMAP }), 0);
    assert.equal(setup.kinds, "punch zero zero write write write");
    assert.equal(setup.run(long), 0);
    assert.equal(setup.kinds, "punch zero zero write write write write write write");
    const end = 512 + long.lengthBytes;
    assert.deepEqual(
      [511, 512, 1048576, end - 1, end].map((at) => setup.disk.data[at]),
      [1, 0, 0, 0, 1],
    );
    assert.equal(setup.counter("zeroFillBytes"), 2 * long.lengthBytes);
  });

  it("short and failing zero writes", () => {
    const setup = new Setup();
    setup.disk.supportsZero = false;
    setup.disk.data.fill(1);
    const moves = [ALL, 1000, ALL, 0];
    setup.disk.fault = () => moves.shift() ?? ALL;
    const request = { op: OP_WRITE_ZEROES, offsetBytes: 0, lengthBytes: 4096 };
    assert.equal(setup.run(request), 0);
    assert.ok(setup.disk.data.subarray(0, 4096).every((byte) => byte === 0));
    assert.equal(setup.disk.data[4096], 1);
    assert.equal(setup.run(request), -EIO);
    setup.disk.fault = () => -ENOSPC;
    assert.equal(setup.run(request), -ENOSPC);
  });

  it("durable zeroes are synced, once, after the last of them", () => {
    for (const [supportsZero, kinds] of [
      [true, "zero sync"],
      [false, "zero write write sync"],
    ] as const) {
      const setup = new Setup();
      setup.disk.supportsZero = supportsZero;
      const lengthBytes = 1048576 + 512;
      const flags = FLAG_DURABLE;
      assert.equal(setup.run({ op: OP_WRITE_ZEROES, offsetBytes: 0, lengthBytes, flags }), 0);
      assert.equal(setup.kinds, kinds);
      assert.equal(setup.disk.isDirty, false);
    }
  });
});

describe("bounce buffers", () => {
  it("only what is misaligned is bounced", () => {
    const setup = new Setup(direct);
    const cases: [readonly (readonly [number, number])[], boolean][] = [
      [[[512, 512]], false],
      [[[1, 512]], true],
      [[[256, 512]], true],
      [
        [
          [0, 512],
          [1024, 1024],
        ],
        false,
      ],
      [
        [
          [0, 512],
          [1032, 1024],
        ],
        true,
      ],
      // Each length must fit, not only their sum.
      [
        [
          [0, 256],
          [1024, 256],
        ],
        true,
      ],
    ];
    for (const [segments, isBounced] of cases) {
      for (const op of [OP_READ, OP_WRITE]) {
        const before = setup.counter("bounceCount");
        const bytes = segments.reduce((sum, [, length]) => sum + length, 0);
        for (let at = 0; at < bytes; at++) setup.disk.data[at] = at % 199;
        setup.bench.guest.u8.fill(77);
        assert.equal(setup.run({ op, offsetBytes: 0, segments }), 0);
        assert.equal(setup.counter("bounceCount") - before, isBounced ? 1 : 0);
        const moved = segments.flatMap(([at, length]) => [
          ...setup.bench.guest.u8.subarray(at, at + length),
        ]);
        assert.deepEqual([...setup.disk.data.subarray(0, bytes)], moved);
        if (op === OP_READ) assert.ok(moved.every((byte, at) => byte === at % 199));
      }
    }
    assert.equal(setup.bench.workspace.bounce.freeBuffers, 2);
  });

  it("a large request goes through in pieces, durable ones durably", () => {
    const setup = new Setup(direct);
    const bytes = 8192 * 2 + 512;
    for (let at = 0; at < bytes; at++) setup.bench.guest.u8[3 + at] = at % 193;
    const segments = [[3, bytes]] as const;
    assert.equal(setup.run({ op: OP_WRITE, offsetBytes: 0, segments, flags: FLAG_DURABLE }), 0);
    assert.deepEqual(
      setup.disk.log.map((one) => [one.bytes, one.durable]),
      [
        [8192, true],
        [8192, true],
        [512, true],
      ],
    );
    setup.bench.guest.u8.fill(0);
    assert.equal(setup.run({ op: OP_READ, offsetBytes: 0, segments }), 0);
    for (let at = 0; at < bytes; at++) assert.equal(setup.bench.guest.u8[3 + at], at % 193);
  });

  it("full is a state: requests wait in order, across devices, and all complete", () => {
    const bench = new Workbench({ bounceBufferCount: 2, bounceBufferBytes: 8192 });
    const first = new Setup(direct, {}, bench);
    const second = new Setup(direct, {}, bench);
    const slots: number[] = [];
    for (let count = 0; count < 10; count++) {
      const setup = count % 2 === 0 ? first : second;
      const segments = [[count * 600 + 1, 512]] as const;
      slots.push(setup.submit({ op: OP_WRITE, offsetBytes: count * 512, segments }));
    }
    assert.equal(bench.workspace.bounce.waitingSlots, 8);
    assert.equal(first.device.inflightCount, 5);
    assert.equal(first.counter("bounceWaitCount") + second.counter("bounceWaitCount"), 8);
    const done: number[] = [];
    while (first.disk.pending.length + second.disk.pending.length > 0) {
      const setup = first.disk.pending.length > 0 ? first : second;
      done.push(setup.disk.pending[0]?.tag as number);
      setup.disk.complete();
    }
    assert.deepEqual([...done].sort(), [...slots].sort());
    assert.ok(slots.every((slot) => bench.result(slot) === 0));
    assert.equal(bench.workspace.bounce.freeBuffers, 2);
    assert.equal(bench.workspace.bounce.waitingSlots, 0);
    first.device.close();
    second.device.close();
  });

  it("hundreds of waiting requests that fail at once do not nest", () => {
    const bench = new Workbench({ slots: 16384, bounceBufferCount: 1, bounceBufferBytes: 4096 });
    const setup = new Setup(direct, {}, bench);
    const flags = FLAG_FAULTABLE;
    const slots: number[] = [];
    for (let count = 0; count < 16384; count++) {
      slots.push(setup.submit({ op: OP_WRITE, offsetBytes: 0, segments: [[1, 512]], flags }));
    }
    bench.memory.truncate(bench.guest, 0);
    setup.disk.completeAll();
    const results = slots.map((slot) => bench.result(slot));
    assert.equal(results.filter((result) => result === -EFAULT).length, 16383);
    assert.equal(results[0], 0);
    assert.equal(bench.workspace.bounce.freeBuffers, 1);
  });

  it("errors, retries and short transfers in a buffer give it back", () => {
    for (const op of [OP_READ, OP_WRITE]) {
      const setup = new Setup(direct);
      const answers = [-EAGAIN, 512, -EINTR, 1024 + 100, ALL, ALL];
      setup.disk.fault = () => answers.shift() ?? -EIO;
      const segments = [[1, 4096]] as const;
      setup.disk.data.fill(3);
      setup.bench.guest.u8.fill(4);
      assert.equal(setup.run({ op, offsetBytes: 0, segments }), 0);
      // A read that ends in the middle of a block is the end of the file.
      assert.equal(setup.disk.log.length, op === OP_READ ? 4 : 5);
      const last = op === OP_READ ? setup.bench.guest.u8[4096] : setup.disk.data[4095];
      assert.equal(last, op === OP_READ ? 0 : 4);
      answers.length = 0;
      assert.equal(setup.run({ op, offsetBytes: 0, segments }), -EIO);
      assert.equal(setup.bench.workspace.bounce.freeBuffers, 2);
    }
  });
});

describe("guards", () => {
  it("an answer nobody waits for is an assertion, so is a slot submitted twice", () => {
    const setup = new Setup();
    const slot = setup.submit({ op: OP_READ, offsetBytes: 0, segments: [[0, 512]] });
    assert.throws(() => setup.device.submit(slot), /submitted twice/);
    setup.disk.complete();
    assert.throws(() => setup.device.diskCompleted(slot, 512), /does not have/);
    const more = setup.submit({ op: OP_READ, offsetBytes: 0, segments: [[0, 512]] });
    assert.throws(() => setup.device.diskCompleted(more, 1024), /more than asked/);
  });

  it("closing with requests in flight is an assertion", () => {
    const setup = new Setup();
    setup.submit({ op: OP_FLUSH, offsetBytes: 0 });
    assert.throws(() => setup.device.close(), /in flight/);
    setup.disk.complete();
    setup.device.close();
  });

  it("tells the age of the oldest request", () => {
    const setup = new Setup();
    assert.equal(setup.device.oldestInflightUs(1000), 0);
    const { startedUs } = setup.bench.requests;
    const slots = [0, 1, 2].map(() => setup.submit({ op: OP_FLUSH, offsetBytes: 0 }));
    slots.forEach((slot, index) => {
      startedUs[slot] = 500 + index * 100;
    });
    assert.equal(setup.device.oldestInflightUs(1000), 500);
    setup.disk.complete();
    assert.equal(setup.device.oldestInflightUs(1000), 400);
    setup.disk.completeAll();
    assert.equal(setup.device.oldestInflightUs(1000), 0);
  });

  it("what cannot work is refused when the device is opened", () => {
    assert.throws(() => new Setup({ offsetAlignmentBytes: 4096 }), {
      code: "BLOCK_TOO_SMALL",
      message: "blocks of 512 bytes on a disk that moves 4096 bytes at a time",
    });
    assert.throws(() => new Setup({}, { capacityBytes: 1000 }), { code: "BAD_CAPACITY" });
    assert.throws(() => new Setup({}, { capacityBytes: 2 * CAPACITY, kind: "block" }), {
      code: "DEVICE_TOO_SMALL",
    });
    const setup = new Setup({}, { kind: "block" });
    assert.throws(() => setup.device.setCapacity(2 * CAPACITY), { code: "DEVICE_TOO_SMALL" });
    assert.equal(setup.device.info.capacityBytes, CAPACITY);
  });
});

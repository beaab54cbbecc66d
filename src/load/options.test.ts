// Options: defaults, and a sentence for everything that cannot be.

import assert from "node:assert/strict";
import { test } from "node:test";
import { LoadError } from "./errors.ts";
import { type LoadOptions, resolveOptions } from "./options.ts";

test("the ring grows with what the depth needs", () => {
  const size = (options: Partial<LoadOptions>): number =>
    resolveOptions({ socketPath: "", ...options }).queueSize;
  assert.equal(size({}), 128);
  assert.equal(size({ depth: 128 }), 128);
  assert.equal(size({ depth: 128, indirect: false }), 512);
  assert.equal(size({ depth: 16, indirect: false, blockBytes: 65536, segmentBytes: 4096 }), 512);
});

test("verification fills and reads back, reconnecting looks for late writes", () => {
  const verify = resolveOptions({ socketPath: "", verify: true });
  assert.deepEqual([verify.prefill, verify.readBack, verify.canary], [true, true, false]);
  const reconnect = resolveOptions({ socketPath: "", reconnect: true });
  assert.deepEqual([reconnect.prefill, reconnect.canary], [false, true]);
  assert.equal(resolveOptions({ socketPath: "", requestCount: 10 }).runtimeMs > 1e9, true);
});

const BAD: readonly (readonly [Partial<LoadOptions>, RegExp])[] = [
  [{ blockBytes: 100 }, /block size is 100/],
  [{ blockBytes: 1000 }, /block size is 1000; it must be a multiple of 512/],
  [{ blockBytes: 8192, blockBytesMax: 4096 }, /largest block size is 4096/],
  [{ alignBytes: 100 }, /alignment is 100/],
  [{ blockBytes: 1024, blockBytesMax: 4096, alignBytes: 4096 }, /block size is 1024/],
  [{ depth: 0 }, /depth is 0/],
  [{ depth: 1.5 }, /depth is 1.5/],
  [{ depth: 64, queueSize: 32 }, /queue size is 32; it must be at least 64/],
  [{ queueSize: 100 }, /queue size is 100; it must be a power of two/],
  [{ queueCount: 129 }, /queues is 129/],
  [{ readPercent: 101 }, /read share is 101/],
  [{ discardPercent: 60, writeZeroesPercent: 60 }, /shares is 120/],
  [{ zipfTheta: 1 }, /zipf skew is 1/],
  [{ headerStrideBytes: 16 }, /header stride is 16/],
  [{ runtimeMs: -1 }, /runtime/],
  [{ areaBytes: 1000 }, /area is 1000/],
  [{ readPercent: Number.NaN }, /read share is NaN/],
];

for (const [options, pattern] of BAD) {
  test(`refused: ${JSON.stringify(options)}`, () => {
    assert.throws(
      () => resolveOptions({ socketPath: "", ...options }),
      (error) =>
        error instanceof LoadError && error.code === "OPTIONS" && pattern.test(error.message),
    );
  });
}

test("a packed ring may have any size", () => {
  assert.equal(resolveOptions({ socketPath: "", packed: true, queueSize: 100 }).queueSize, 100);
});

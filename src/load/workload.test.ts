// The workload: what is drawn has the shares and places that were asked for.

import assert from "node:assert/strict";
import { test } from "node:test";
import { type LoadOptions, resolveOptions } from "./options.ts";
import {
  KIND_DISCARD,
  KIND_FLUSH,
  KIND_READ,
  KIND_WRITE,
  KIND_WRITE_ZEROES,
  MODE_FILL,
  MODE_READ_BACK,
  Workload,
} from "./workload.ts";

const AREA = 1024 * 1024;

function workload(options: Partial<LoadOptions>, areaBytes = AREA): Workload {
  return new Workload(resolveOptions({ socketPath: "", ...options }), areaBytes);
}

test("random places are aligned, inside, and reach both ends", () => {
  const work = workload({});
  const seen = new Set<number>();
  for (let count = 0; count < 10000; count++) {
    assert.equal(work.pick(), true);
    assert.equal(work.kind, KIND_READ);
    assert.equal(work.lengthBytes, 4096);
    assert.equal(work.offsetBytes % 4096, 0);
    seen.add(work.offsetBytes);
  }
  assert.equal(seen.size, 256);
  assert.equal(Math.max(...seen), AREA - 4096);
});

test("the same seed picks the same requests, another seed others", () => {
  const draw = (seed: number): string => {
    const work = workload({ seed, readPercent: 50 });
    const picked: number[] = [];
    for (let count = 0; count < 100; count++) {
      work.pick();
      picked.push(work.kind, work.offsetBytes);
    }
    return picked.join(" ");
  };
  assert.equal(draw(5), draw(5));
  assert.notEqual(draw(5), draw(6));
});

test("shares of reads, discards and write-zeroes", () => {
  const work = workload({ readPercent: 70, discardPercent: 10, writeZeroesPercent: 5 });
  const counts = new Map<number, number>();
  for (let count = 0; count < 40000; count++) {
    work.pick();
    counts.set(work.kind, (counts.get(work.kind) ?? 0) + 1);
  }
  const share = (kind: number): number => (counts.get(kind) ?? 0) / 40000;
  assert.ok(Math.abs(share(KIND_DISCARD) - 0.1) < 0.01);
  assert.ok(Math.abs(share(KIND_WRITE_ZEROES) - 0.05) < 0.01);
  assert.ok(Math.abs(share(KIND_READ) - 0.85 * 0.7) < 0.02);
  assert.ok(Math.abs(share(KIND_WRITE) - 0.85 * 0.3) < 0.02);
});

test("a flush after every N writes, and after them only", () => {
  const work = workload({ readPercent: 50, flushEvery: 7 });
  let writes = 0;
  let flushes = 0;
  for (let count = 0; count < 5000; count++) {
    work.pick();
    if (work.kind === KIND_WRITE) writes += 1;
    if (work.kind === KIND_FLUSH) {
      flushes += 1;
      assert.equal(writes, 7);
      writes = 0;
    }
  }
  assert.ok(flushes > 200);
});

test("sequential goes through in order and begins again", () => {
  const work = workload({ pattern: "sequential", blockBytes: 65536 });
  for (let count = 0; count < 40; count++) {
    work.pick();
    assert.equal(work.offsetBytes, (count % 16) * 65536);
  }
});

test("sizes from a range, offsets by the alignment, never past the end", () => {
  const work = workload({ blockBytes: 4096, blockBytesMax: 65536, alignBytes: 512 });
  const sizes = new Set<number>();
  let unaligned = 0;
  for (let count = 0; count < 20000; count++) {
    work.pick();
    assert.equal(work.lengthBytes % 512, 0);
    assert.ok(work.lengthBytes >= 4096 && work.lengthBytes <= 65536);
    assert.ok(work.offsetBytes + work.lengthBytes <= AREA);
    sizes.add(work.lengthBytes);
    if (work.offsetBytes % 4096 !== 0) unaligned += 1;
  }
  assert.equal(sizes.size, (65536 - 4096) / 512 + 1);
  assert.ok(unaligned > 10000);
});

test("zipf: few places draw most requests, and all of them may be drawn", () => {
  const work = workload({ pattern: "zipf", zipfTheta: 0.99 }, 4096 * 10000);
  const counts = new Map<number, number>();
  for (let count = 0; count < 100000; count++) {
    work.pick();
    assert.ok(work.offsetBytes >= 0 && work.offsetBytes < 4096 * 10000);
    counts.set(work.offsetBytes, (counts.get(work.offsetBytes) ?? 0) + 1);
  }
  const sorted = [...counts.values()].sort((a, b) => b - a);
  const top = sorted.slice(0, 100).reduce((sum, value) => sum + value, 0);
  assert.ok(top > 45000, `the 100 hottest of 10000 places drew ${top} of 100000`);
  assert.ok(counts.size > 3000);
});

test("sweeps cover the area once, with a short last request", () => {
  const area = 100 * 4096;
  for (const mode of [MODE_FILL, MODE_READ_BACK]) {
    const work = workload({ blockBytes: 65536 }, area);
    work.setMode(mode);
    let at = 0;
    while (work.pick()) {
      assert.equal(work.kind, mode === MODE_FILL ? KIND_WRITE : KIND_READ);
      assert.equal(work.offsetBytes, at);
      at += work.lengthBytes;
    }
    assert.equal(at, area);
  }
});

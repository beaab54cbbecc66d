// CRC32C by table against the published examples (RFC 3720 appendix B.4), and against one bit at
// a time for every length and place that the eight-byte steps could get wrong.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { crc32cTable } from "./crc32c.ts";
import { Prng } from "./prng.ts";

function bitByBit(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return ~crc >>> 0;
}

describe("crc32cTable", () => {
  it("gives the published values", () => {
    const rising = Uint8Array.from({ length: 32 }, (_, index) => index);
    assert.equal(crc32cTable(new Uint8Array(32), 0), 0x8a9136aa);
    assert.equal(crc32cTable(new Uint8Array(32).fill(0xff), 0), 0x62a8ab43);
    assert.equal(crc32cTable(rising, 0), 0x46dd794e);
    assert.equal(crc32cTable(rising.toReversed(), 0), 0x113fdb5c);
  });

  it("covers exactly the range it is given, at every length and place", () => {
    const prng = new Prng(1);
    const data = Uint8Array.from({ length: 64 }, () => prng.u32());
    for (let from = 0; from < 20; from++) {
      for (let to = from; to <= 64; to++) {
        assert.equal(crc32cTable(data, 0, from, to), bitByBit(data.subarray(from, to)));
      }
    }
  });

  it("goes on from an earlier result", () => {
    const prng = new Prng(2);
    const data = Uint8Array.from({ length: 100 }, () => prng.u32());
    for (let cut = 0; cut <= 100; cut++) {
      const first = crc32cTable(data, 0, 0, cut);
      assert.equal(crc32cTable(data, first, cut), bitByBit(data));
    }
  });
});

// The terse fields of fio 3.33, from a recorded line, for a read and for a write.

import assert from "node:assert/strict";
import { test } from "node:test";
import { fioTable, parseFio } from "./fio.ts";

/** Builds a terse line with the given group filled: field 0 KiB, 1 bandwidth, 2 IOPS. */
function line(writes: boolean): string {
  const group = (used: boolean): string[] => {
    const fields = new Array<string>(41).fill("0");
    if (used) {
      fields[0] = "4096";
      fields[1] = "2048";
      fields[2] = "512";
      fields[12] = "99.000000%=1234";
      fields[34] = "77.5";
    }
    return fields;
  };
  return ["3", "fio-3.33", "j", "0", "0", ...group(!writes), ...group(writes), "1%"].join(";");
}

for (const writes of [false, true]) {
  test(`the ${writes ? "write" : "read"} group of a terse line`, () => {
    assert.deepEqual(parseFio("x", `noise\n${line(writes)}\n`), {
      name: "x",
      bytes: 4096 * 1024,
      iops: 512,
      bytesPerSecond: 2048 * 1024,
      meanUs: 77.5,
      p99Us: 1234,
    });
  });
}

test("text that is not fio's is quoted in the error", () => {
  assert.throws(() => parseFio("x", "fio: not found"), /fio: not found/);
});

test("the table: figures to the right, units for people", () => {
  const result = {
    name: "x",
    bytes: 0,
    iops: 512.4,
    bytesPerSecond: 2_100_000,
    meanUs: 77.5,
    p99Us: 1234,
  };
  const [head, line] = fioTable([result]).split("\n");
  assert.match(head ?? "", /^In the guest {2,}IOPS {2,}bandwidth {2,}mean {2,}p99$/);
  assert.match(line ?? "", /^x {2,}512 {2,}2\.0 MiB\/s {2,}78 us {2,}1\.2 ms$/);
  assert.equal(head?.length, line?.length);
});

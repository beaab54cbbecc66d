// The terse fields of fio 3.33, from a recorded line, for a read and for a write.

import assert from "node:assert/strict";
import { test } from "node:test";
import { fioTable, parseFio } from "./fio.ts";

/** A terse line with the given groups filled. */
function line(kinds: Partial<Record<"read" | "write", { iops: number; meanUs: number }>>): string {
  const group = (used: { iops: number; meanUs: number } | undefined): string[] => {
    const fields = new Array<string>(41).fill("0");
    if (used === undefined) return fields;
    fields[0] = String(used.iops * 8);
    fields[1] = String(used.iops * 4);
    fields[2] = String(used.iops);
    fields[12] = "50.000000%=60";
    fields[13] = `99.000000%=${used.meanUs * 10}`;
    fields[14] = "99.900000%=5678";
    fields[34] = String(used.meanUs);
    return fields;
  };
  const groups = [...group(kinds.read), ...group(kinds.write)];
  return ["3", "fio-3.33", "j", "0", "0", ...groups, "1%"].join(";");
}

for (const kind of ["read", "write"] as const) {
  test(`the ${kind} group of a terse line`, () => {
    const text = line({ [kind]: { iops: 512, meanUs: 77.5 } });
    assert.deepEqual(parseFio("x", `noise\n${text}\n`), {
      name: "x",
      bytes: 4096 * 1024,
      iops: 512,
      bytesPerSecond: 2048 * 1024,
      meanUs: 77.5,
      p50Us: 60,
      p99Us: 775,
      p999Us: 5678,
    });
  });
}

test("reads and writes of one job: rates together, the slower kind's percentiles", () => {
  const text = line({ read: { iops: 300, meanUs: 100 }, write: { iops: 100, meanUs: 300 } });
  const found = parseFio("x", text);
  assert.equal(found.iops, 400);
  assert.equal(found.bytes, 3200 * 1024);
  assert.equal(found.meanUs, 150);
  assert.equal(found.p99Us, 3000);
});

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
    p50Us: 60,
    p99Us: 1234,
    p999Us: 5678,
  };
  const [head, line] = fioTable([result]).split("\n");
  assert.match(head ?? "", /^In the guest {2,}IOPS {2,}bandwidth {2,}mean {2,}p99$/);
  assert.match(line ?? "", /^x {2,}512 {2,}2\.0 MiB\/s {2,}78 us {2,}1\.2 ms$/);
  assert.equal(head?.length, line?.length);
});

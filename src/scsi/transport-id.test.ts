// TransportIDs as SPC-4 7.6.4.6 draws them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { iscsiTransportId } from "./transport-id.ts";

test("an iSCSI TransportID has name and ISID, ends with NUL and is whole words long", () => {
  const isid = Uint8Array.of(0x00, 0x02, 0x3d, 0, 0, 1);
  const id = iscsiTransportId("iqn.1993-08.org.debian:01:abc", isid);
  assert.equal(id[0], 0x45);
  assert.equal((id[2] << 8) | id[3], id.length - 4);
  assert.equal(id.length % 4, 0);
  const text = Buffer.from(id.subarray(4)).toString();
  assert.equal(text.replace(/\0+$/, ""), "iqn.1993-08.org.debian:01:abc,i,0x00023d000001");
  assert.ok(text.endsWith("\0"));
  for (let length = 1; length < 9; length++) {
    const other = iscsiTransportId("x".repeat(length), isid);
    assert.equal(other[other.length - 1], 0);
    assert.ok(other.length >= 24);
  }
});

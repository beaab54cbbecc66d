// messages.ts: the numbers and sizes the specification fixes, written out a second time by hand,
// so that a slip in the table is seen.

import assert from "node:assert/strict";
import { test } from "node:test";
import * as m from "./messages.ts";

test("request numbers and names agree with the specification", () => {
  assert.equal(m.requestName(5), "SET_MEM_TABLE");
  assert.equal(m.requestName(18), "SET_VRING_ENABLE");
  assert.equal(m.requestName(24), "GET_CONFIG");
  assert.equal(m.requestName(31), "GET_INFLIGHT_FD");
  assert.equal(m.requestName(34), "RESET_DEVICE");
  assert.equal(m.requestName(37), "ADD_MEM_REG");
  assert.equal(m.requestName(40), "GET_STATUS");
  assert.equal(m.requestName(44), "GET_SHMEM_CONFIG");
  assert.equal(m.requestName(45), "request 45");
  assert.equal(m.requestInfo(0), undefined);
  assert.equal(m.requestInfo(0xffffffff), undefined);
  assert.equal(m.backendRequestName(2), "CONFIG_CHANGE_MSG");
  assert.equal(m.backendRequestName(11), "back-end request 11");
});

test("each constant names its own row", () => {
  for (const [name, value] of Object.entries(m)) {
    if (typeof value !== "number" || !/^(GET|SET|ADD|REM|RESET|SEND|NET)_[A-Z_]+$/.test(name)) {
      continue;
    }
    assert.equal(m.requestName(value), name);
  }
});

test("payload sizes and the order of vring_addr are those of the wire", () => {
  assert.equal(m.HEADER.BYTES, 12);
  assert.equal(m.MEM_TABLE.BYTES, 264);
  assert.equal(m.SINGLE_REGION.BYTES, 40);
  assert.equal(m.VRING_ADDR.BYTES, 40);
  assert.equal(m.VRING_ADDR.used, 16);
  assert.equal(m.VRING_ADDR.available, 24);
  assert.equal(m.INFLIGHT.BYTES, 24);
  assert.equal(m.REPLY_FLAGS, 5);
  assert.equal(m.PAYLOAD_BYTES_MAX, 268);
});

test("requests with a reply of their own", () => {
  const replied: string[] = [];
  for (let number = 1; number <= 40; number++) {
    const info = m.requestInfo(number);
    assert.ok(info !== undefined);
    if (info.answer === m.ANSWER_REPLY && info.gate !== m.PROTOCOL_F_PAGEFAULT) {
      replied.push(info.name);
    }
  }
  assert.deepEqual(replied, [
    "GET_FEATURES",
    "GET_VRING_BASE",
    "GET_PROTOCOL_FEATURES",
    "GET_QUEUE_NUM",
    "IOTLB_MSG",
    "GET_CONFIG",
    "CREATE_CRYPTO_SESSION",
    "GET_INFLIGHT_FD",
    "GET_MAX_MEM_SLOTS",
    "GET_STATUS",
  ]);
});

test("protocol feature bits are named", () => {
  assert.equal(m.protocolFeatureNames(2 ** 0 + 2 ** 3 + 2 ** 40), "MQ REPLY_ACK bit 40");
  assert.equal(
    m.protocolFeatureNames(2 ** m.PROTOCOL_F_CONFIGURE_MEM_SLOTS),
    "CONFIGURE_MEM_SLOTS",
  );
});

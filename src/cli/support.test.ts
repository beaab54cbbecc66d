// What is taken out of a support bundle, whatever brought it there.

import assert from "node:assert/strict";
import { test } from "node:test";
import { redacted } from "./commands/support.ts";

const SECRET = "s3cr3t-s3cr3t";

for (const text of [
  `{"token":"${SECRET}","name":"db1"}`,
  `{"level":"info","password": "${SECRET}"}`,
  `GET /x?token=${SECRET} 200`,
  `key: ${SECRET}`,
  `authorization: Bearer ${SECRET}`,
  `http://user:${SECRET}@10.0.0.1:2379 does not answer`,
  `-----BEGIN EC PRIVATE KEY-----\n${SECRET}\n-----END EC PRIVATE KEY-----\n`,
]) {
  test(`removed: ${text.slice(0, 40).replaceAll("\n", " ")}`, () => {
    const left = redacted(text);
    assert.ok(!left.includes(SECRET), left);
    assert.match(left, /\[removed\]/);
  });
}

test("the rest is left as it is", () => {
  const text = '{"tokenFile":"/etc/tokens","tlsKey":"/etc/key.pem","name":"db1","keyCount":3}';
  assert.equal(redacted(text), text);
});

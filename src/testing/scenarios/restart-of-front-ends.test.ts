// Front-ends come and go, a thousand of them, in every manner; one living daemon holds afterwards
// what it held before: descriptors, mappings, threads, watches, timers, request slots.

import assert from "node:assert/strict";
import { test } from "node:test";
import { reconnectSuite } from "../soak/reconnect-suite.ts";

test("a thousand front-ends leave nothing behind", async (t) => {
  const { counts, broken } = await reconnectSuite({ seed: 7, expired: () => false }, 1000);
  t.diagnostic(counts);
  assert.deepEqual(broken, []);
});

// The fuzzers, briefly: nothing is found in a few seconds each; and a planted bug is found, or the
// fuzzers find nothing because they look at nothing.

import assert from "node:assert/strict";
import { test } from "node:test";
import { FUZZERS, runCampaign } from "./campaign.ts";

const SMOKE_MS = 5_000;
const CANARY_MS = 120_000;

for (const fuzzer of FUZZERS) {
  test(`${fuzzer.name}: some seconds of it find nothing`, { timeout: 120_000 }, async () => {
    const seed = Date.now() % 2 ** 31;
    const result = await runCampaign({ fuzzer, seed, limitMs: SMOKE_MS });
    assert.equal(result.failure, null, JSON.stringify(result.failure));
    assert.ok(result.rounds > 0, "no round was run");
  });
}

test("canary: a target that leaks a region is found out", { timeout: 240_000 }, async () => {
  const fuzzer = FUZZERS.find(({ name }) => name === "messages");
  assert.ok(fuzzer !== undefined);
  const plantedBug = "leak-region";
  const result = await runCampaign({ fuzzer, seed: 1, limitMs: CANARY_MS, plantedBug });
  assert.ok(result.failure !== null, `nothing found in ${result.rounds} rounds`);
});

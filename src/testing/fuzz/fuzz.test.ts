// The fuzzers, briefly; and proof that they see: for each planted bug a campaign must find it, and
// the round it names must show it again, and only where the bug is.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { PlantedBug } from "../target.ts";
import { FUZZERS, replay, runCampaign } from "./campaign.ts";
import type { Fuzzer } from "./stage.ts";

const SMOKE_MS = 8000;
const CANARY_LIMIT_MS = 60_000;
const SETTLE_TIMEOUT_MS = 2000;

function fuzzer(name: string): Fuzzer {
  const found = FUZZERS.find((one) => one.name === name);
  assert.ok(found !== undefined);
  return found;
}

for (const [name, outcomesMin] of [
  ["messages", 300],
  ["chains", 150],
] as const) {
  test(`${name}: some seconds of fuzzing find nothing`, async () => {
    const result = await runCampaign({ fuzzer: fuzzer(name), seed: 1, limitMs: SMOKE_MS });
    assert.equal(result.failure, null, `${result.failure?.round}: ${result.failure?.reason}`);
    assert.ok(result.rounds > 20, `${result.rounds} rounds`);
    assert.ok(result.coverage.size > outcomesMin, `${result.coverage.size} outcomes`);
  });
}

const CANARIES: readonly (readonly [name: string, bug: PlantedBug])[] = [
  ["chains", "overrun"],
  ["chains", "swallow-discard"],
  ["messages", "leak-region"],
];

for (const [name, plantedBug] of CANARIES) {
  test(`${name}: the planted bug "${plantedBug}" is found, and its round shows it again`, async () => {
    const options = { plantedBug, settleTimeoutMs: SETTLE_TIMEOUT_MS };
    const campaign = { fuzzer: fuzzer(name), seed: 1, limitMs: CANARY_LIMIT_MS, ...options };
    const { failure } = await runCampaign(campaign);
    assert.ok(failure !== null, "not found");
    assert.ok(!failure.round.includes(" "), `no single round is to blame: ${failure.round}`);
    assert.notEqual(await replay(failure.round, options), null, "its round does not show it");
    assert.equal(await replay(failure.round), null, "its round fails without it, too");
  });
}

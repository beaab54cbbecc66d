// The fuzzers, briefly; and proof that they see: for each planted bug a campaign must find it, and
// the round it names must show it again, and only where the bug is.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { PlantedBug } from "../target.ts";
import { FUZZERS, replay, runCampaign } from "./campaign.ts";
import type { Fuzzer } from "./stage.ts";

// Counts, not times, say how long: a slow or busy machine takes longer over the same rounds, and
// finds as much in them.
const CANARY_ROUNDS_MAX = 2000;
/** What a planted bug holds up is waited for so long, several times. */
const CANARY_PATIENCE_MS = 5000;

function fuzzer(name: string): Fuzzer {
  const found = FUZZERS.find((one) => one.name === name);
  assert.ok(found !== undefined);
  return found;
}

for (const [name, roundsMax, outcomesMin] of [
  ["messages", 160, 250],
  ["chains", 25, 150],
] as const) {
  test(`${name}: ${roundsMax} rounds of fuzzing find nothing`, async () => {
    const campaign = { fuzzer: fuzzer(name), seed: 1, limitMs: Infinity, roundsMax };
    const result = await runCampaign(campaign);
    assert.equal(result.failure, null, `${result.failure?.round}: ${result.failure?.reason}`);
    assert.equal(result.rounds, roundsMax);
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
    const options = { plantedBug, patienceMs: CANARY_PATIENCE_MS };
    const limits = { limitMs: Infinity, roundsMax: CANARY_ROUNDS_MAX };
    const campaign = { fuzzer: fuzzer(name), seed: 1, ...limits, ...options };
    const { failure } = await runCampaign(campaign);
    assert.ok(failure !== null, "not found");
    assert.ok(!failure.round.includes(" "), `no single round is to blame: ${failure.round}`);
    assert.notEqual(await replay(failure.round, options), null, "its round does not show it");
    assert.equal(await replay(failure.round), null, "its round fails without it, too");
  });
}

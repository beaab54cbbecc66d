// The owner of a volume over simulated replicas, network and metadata: no promise is broken whatever
// goes wrong, and everything comes right when it stops going wrong. More seeds:
//
//   RINGSTORE_SEEDS=200 RINGSTORE_SEED=1000 node --test dist/testing/volume/replicated.test.js

import assert from "node:assert/strict";
import { test } from "node:test";
import { ReplicatedSim } from "./replicated-sim.ts";
import {
  cutShortAmongWrites,
  cutShortThenWritten,
  damagedBlock,
  fullMember,
  handOver,
  readsAhead,
  restartsUnderGrants,
  returnsAmongWrites,
  returnsWithMore,
} from "./scenes.ts";

const seeds = Number(process.env["RINGSTORE_SEEDS"] ?? 12);
const first = Number(process.env["RINGSTORE_SEED"] ?? 1);

for (let seed = first; seed < first + seeds; seed++) {
  test(`nothing that was answered is lost or goes back: seed ${seed}`, (t) => {
    const outcome = new ReplicatedSim(seed, { milliseconds: 8000 }).run();
    assert.ok(outcome.requests > 0 && outcome.takeovers > 1, JSON.stringify(outcome));
    t.diagnostic(JSON.stringify(outcome));
  });
}

test("two members, one of them away now and then: nothing is lost", () => {
  const faults = ["cut", "crashNode", "break", "crashOwner"] as const;
  new ReplicatedSim(3, { nodes: 2, faults, milliseconds: 8000 }).run();
});

const scenes = {
  "a member whose disk is full is put out, and comes back when it has room": fullMember,
  "a member that returns with a write that nobody else has gives it up": returnsWithMore,
  "a member that returns among writes gets them all": returnsAmongWrites,
  "a resync that is cut short among writes goes on, and nothing is missing": cutShortAmongWrites,
  "a resync that is cut short goes on, with what was written meanwhile": cutShortThenWritten,
  "members that restart still count the grants they gave": restartsUnderGrants,
  "a read does not show a write that may still be lost": readsAhead,
  "a damaged block is read from another member and made good": damagedBlock,
  "a volume that is handed over loses nothing": handOver,
};
for (const [name, scene] of Object.entries(scenes)) test(name, () => scene(1));

test("the same seed gives the same run", () => {
  const options = { milliseconds: 3000 };
  assert.deepEqual(new ReplicatedSim(9, options).run(), new ReplicatedSim(9, options).run());
});

// The protocol, checked exhaustively: no state within the bounds of a scope breaks a promise; and
// each hole that is planted in it does, at the step that is written down in scopes.ts.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Checker } from "./checker.ts";
import { ProtocolModel } from "./model.ts";
import {
  HARMLESS_SCOPE,
  HOLES,
  HOLES_OF_REPLACING,
  LARGE_HOLES,
  LARGE_SCOPES,
  LIMITS,
  SCOPES,
} from "./scopes.ts";
import { KINDS } from "./sentences.ts";
import type { Hole, Scope } from "./state.ts";

/** Steps that only an owner with a hole takes. */
const ONLY_WITH_HOLES = ["gives up", "takes it for applied", "takes it for refused"];
const isFull = process.env["RINGSTORE_PROTOCOL"] === "full";
const seenKinds = new Set<string>();

function checkSound(t: { diagnostic(text: string): void }, scope: Scope): void {
  const result = new Checker(new ProtocolModel(scope)).run();
  assert.equal(result.violation, null, result.trace.join("\n"));
  assert.ok(result.isComplete, "every state was visited");
  for (const kind of result.stepsByKind.keys()) seenKinds.add(kind);
  t.diagnostic(`${result.stateCount} states, ${result.stepCount} steps, depth ${result.depth}`);
}

for (const [name, scope] of Object.entries(isFull ? { ...SCOPES, ...LARGE_SCOPES } : SCOPES)) {
  test(`no promise is broken: ${name}`, (t) => checkSound(t, scope));
}

test("the scopes together take every step that the protocol has", () => {
  const missing = KINDS.filter((kind) => !seenKinds.has(kind) && !ONLY_WITH_HOLES.includes(kind));
  assert.deepEqual(missing, []);
});

const holes = [
  ...Object.entries(HOLES).map((one) => [...one, ""] as const),
  ...Object.entries({ ...HOLES_OF_REPLACING, ...(isFull ? LARGE_HOLES : {}) }).map(
    (one) => [...one, ", of a new member"] as const,
  ),
];
for (const [hole, { scope, steps }, where] of holes) {
  test(`the hole is found: ${hole}${where}`, (t) => {
    const result = new Checker(new ProtocolModel(scope, [hole as Hole])).run();
    assert.notEqual(result.violation, null, `${hole} broke nothing in ${result.stateCount} states`);
    assert.equal(result.trace.length, steps, result.trace.join("\n"));
    t.diagnostic(`${result.stateCount} states: ${result.violation}\n${result.trace.join("\n")}`);
  });
}

for (const [name, { scope, steps }] of Object.entries(LIMITS)) {
  test(`what disks cannot know of a backup: ${name}`, (t) => {
    const result = new Checker(new ProtocolModel(scope)).run();
    assert.notEqual(result.violation, null, `nothing was broken in ${result.stateCount} states`);
    assert.equal(result.trace.length, steps, result.trace.join("\n"));
    t.diagnostic(`${result.violation}\n${result.trace.join("\n")}`);
  });
}

test("grants may as well be looked at when a read begins", () => {
  const result = new Checker(new ProtocolModel(HARMLESS_SCOPE, ["grantsAtStart"])).run();
  assert.equal(result.violation, null, result.trace.join("\n"));
  assert.ok(result.isComplete);
});

// libiscsi's conformance suite against volumes of the store, through the real daemon, and against
// units that no volume is: what fails and what is skipped is known, with a reason each
// (iscsi-skips.ts), and nothing else is.
//
// Its tests wait: for the disk below the store, which keeps each write before it is answered, and
// for seconds of their own. So the suite runs in parts at the same time, each on its own volume.

import assert from "node:assert/strict";
import { listIscsiSuite, runIscsiSuite, type SuiteTest } from "../iscsi-suite.ts";
import { startIscsiTarget } from "../iscsi-target.ts";
import { limit, scenario } from "./guest-fixture.ts";
import { classicDaemon, classicVolume, urlWithSecret } from "./iscsi-fixture.ts";
import {
  EXPECTED_SKIPS,
  type KnownTests,
  SPECIAL_MISTAKES,
  SUITE_MISTAKES,
} from "./iscsi-skips.ts";

const SUITE_MS = 300_000;
/**
 * Parts that take about as long as each other; together they are all. MultipathIO has a volume of
 * its own: it counts on zeroes in one block more than it writes.
 */
const PARTS: readonly string[] = [
  "ALL.MultipathIO",
  "ALL.[A-L]*,ALL.Mandatory,ALL.ModeSense6,ALL.N*",
  "ALL.O*,ALL.P*,ALL.R*",
  "ALL.[S-V]*,ALL.i*",
  "ALL.Write1*,ALL.WriteA*,ALL.WriteV*",
  "ALL.WriteS*",
];
const INITIATORS = ["iqn.2026-01.test:suite-1", "iqn.2026-01.test:suite-2"] as const;
/** Families that a volume which cannot be written has something to say to. */
const READ_ONLY = "ALL.ReadOnly,ALL.Inquiry,ALL.Read[1-9]*,ALL.ReadCapacity*,ALL.TestUnitReady";
/** Families for media that can be ejected and for devices that write atomically. */
const SPECIAL =
  "ALL.PreventAllow,ALL.StartStopUnit,ALL.NoMedia,ALL.WriteAtomic16,ALL.Mandatory,ALL.TestUnitReady";

/** Compares what was skipped or failed with what is known to be. */
function judge(
  tests: readonly SuiteTest[],
  outcome: SuiteTest["outcome"],
  known: KnownTests,
): void {
  const found = tests.filter((one) => one.outcome === outcome);
  const nameIn = ({ name }: SuiteTest): string =>
    name in known ? name : name.slice(0, name.indexOf("."));
  const unknown = found.filter((one) => !(nameIn(one) in known)).map(({ text }) => text);
  assert.deepEqual(unknown, [], `${outcome}, and not in iscsi-skips.ts`);
  const names = found.map(nameIn);
  const needless = Object.keys(known).filter((name) => !names.includes(name));
  assert.deepEqual(needless, [], `in iscsi-skips.ts, and not ${outcome}`);
}

scenario("libiscsi's conformance suite finds nothing that is not known", limit(), async (host) => {
  const daemon = await classicDaemon(host);
  const runOn = async (name: string, tests: string, ...attach: string[]): Promise<SuiteTest[]> => {
    const url = urlWithSecret(await classicVolume(host, daemon, name, "192M", { attach }));
    const startedMs = performance.now();
    const run = { url, initiators: INITIATORS, tests, timeoutMs: SUITE_MS } as const;
    const found = await runIscsiSuite(run);
    const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
    host.say(`${tests}: ${found.length} tests in ${seconds} s`);
    const { health, attachment } = await daemon.json(["volume", "show", name]);
    assert.deepEqual(health, []);
    assert.equal(attachment.sessionCount, 0, "every session has ended");
    return [...found];
  };
  const allowed = INITIATORS.flatMap((name) => ["--initiator", name]);
  const runs = PARTS.map((part, index) => runOn(`conform-${index}`, part, ...allowed));
  const readOnly = runOn("fixed", READ_ONLY, "--read-only");
  const [readOnlyTests = [], ...parts] = await Promise.all([readOnly, ...runs]);
  const tests = parts.flat();
  const names = tests.map(({ name }) => name);
  assert.deepEqual(names.toSorted(), (await listIscsiSuite()).toSorted(), "each test ran once");
  judge(tests, "failed", SUITE_MISTAKES);
  judge(tests, "skipped", EXPECTED_SKIPS);
  assert.ok(readOnlyTests.some(({ name }) => name === "ReadOnly.ReadOnlySBC"));
  judge(readOnlyTests, "failed", {});
  judge(readOnlyTests, "skipped", {});
});

scenario(
  "units that can be ejected or write atomically: no test is skipped",
  limit(),
  async (host) => {
    const target = await startIscsiTarget({ after: (hook) => host.atEnd(hook) });
    const tests = await runIscsiSuite({ url: target.url, tests: SPECIAL, timeoutMs: SUITE_MS });
    judge(tests, "failed", SPECIAL_MISTAKES);
    judge(tests, "skipped", {});
  },
);

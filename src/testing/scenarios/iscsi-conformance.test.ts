// libiscsi's conformance suite against a volume of the store, through the real daemon: what fails
// and what is skipped is known, with a reason each (iscsi-skips.ts), and nothing else is.

import assert from "node:assert/strict";
import { runIscsiSuite } from "../iscsi-suite.ts";
import { limit, scenario } from "./guest-fixture.ts";
import { classicDaemon, classicVolume, urlWithSecret } from "./iscsi-fixture.ts";
import { EXPECTED_SKIPS, OPEN_FAILURES, SUITE_MISTAKES } from "./iscsi-skips.ts";

const SUITE_MS = 300_000;
/** Debian 12's libiscsi has 230 tests of SCSI and iSCSI. */
const TEST_COUNT_MIN = 200;

function suiteOf(name: string): string {
  return name.slice(0, name.indexOf("."));
}

scenario("libiscsi's conformance suite finds nothing that is not known", limit(), async (host) => {
  const daemon = await classicDaemon(host);
  const url = urlWithSecret(await classicVolume(host, daemon, "conform", "512M"));
  const tests = await runIscsiSuite({ url, secondUrl: url, tests: "ALL", timeoutMs: SUITE_MS });
  const known: Readonly<Record<string, string>> = { ...SUITE_MISTAKES, ...OPEN_FAILURES };
  const failed = tests.filter(({ outcome }) => outcome === "failed");
  const unknown = failed.filter(({ name }) => !(name in known)).map(({ text }) => text);
  assert.deepEqual(unknown, [], "failed, and not in iscsi-skips.ts");
  const failedNames = failed.map(({ name }) => name);
  const mended = Object.keys(known).filter((name) => !failedNames.includes(name));
  assert.deepEqual(mended, [], "in iscsi-skips.ts as failing, and passed");
  assert.ok(tests.length >= TEST_COUNT_MIN, `only ${tests.length} tests ran`);
  const skipped = tests.filter(({ outcome }) => outcome === "skipped");
  const isExpected = (name: string): boolean =>
    name in EXPECTED_SKIPS || suiteOf(name) in EXPECTED_SKIPS;
  const surprises = skipped.filter(({ name }) => !isExpected(name)).map(({ text }) => text);
  assert.deepEqual(surprises, [], "skipped, and not in iscsi-skips.ts");
  const names = skipped.flatMap(({ name }) => [name, suiteOf(name)]);
  const needless = Object.keys(EXPECTED_SKIPS).filter((name) => !names.includes(name));
  assert.deepEqual(needless, [], "in iscsi-skips.ts, and not skipped");
  const counts = `${failed.length} failed and ${skipped.length} were skipped, as expected`;
  host.say(`${tests.length} tests, of which ${counts}`);
  const volume = await daemon.json(["volume", "show", "conform"]);
  assert.deepEqual(volume.health, []);
  assert.equal(volume.attachment.sessionCount, 0, "every session has ended");
});

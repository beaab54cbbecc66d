// What is made of the conformance suite's words: a skipped test is no passed one.

import assert from "node:assert/strict";
import { test } from "node:test";
import { testsOf } from "./iscsi-suite.ts";

const OUTPUT = `
     CUnit - A unit testing framework for C - Version 2.1-3

Suite: Inquiry
  Test: Standard ...passed
  Test: Residuals ...passed    [FAILED] PRIN command: failed with sense, in its end.
  Test: EVPD ...FAILED
    1. test_inquiry_evpd.c:44  - CU_ASSERT_EQUAL(ret,0)
Suite: Sanitize
  Test: BlockErase ...    [SKIPPED] --allow-sanitize flag is not set. Skipping test.
passed
  Test: Reset ...    [FAILED] it was not passed on.
FAILED

Run Summary:    Type  Total    Ran Passed Failed Inactive
              suites      2      2    n/a      0        0
`;

test("passed, skipped and failed tests are told apart", () => {
  const seen = testsOf(OUTPUT).map(({ name, outcome }) => [name, outcome]);
  assert.deepEqual(seen, [
    ["Inquiry.Standard", "passed"],
    ["Inquiry.Residuals", "passed"],
    ["Inquiry.EVPD", "failed"],
    ["Sanitize.BlockErase", "skipped"],
    ["Sanitize.Reset", "failed"],
  ]);
});

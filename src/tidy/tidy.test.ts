// The rules of the house over the whole tree: one test per rule, each listing every finding with
// what to do instead. What the rules are, and that each catches what it should, is tested beside
// the rules themselves.

import assert from "node:assert/strict";
import { test } from "node:test";
import { checkCycles } from "./cycles-rule.ts";
import { checkDeadExports, unusedReExports } from "./dead-exports-rule.ts";
import { checkDocs } from "./docs-rule.ts";
import { checkHotFiles } from "./hot-rule.ts";
import { checkImports } from "./imports-rule.ts";
import { checkLockfile } from "./lockfile-rule.ts";
import { checkOpenings } from "./opening-rule.ts";
import { type Finding, formatFinding, loadProject, type Project } from "./project.ts";
import { checkSizes } from "./size-rule.ts";
import { checkWords } from "./words-rule.ts";

const RULES: readonly (readonly [string, (project: Project) => Finding[]])[] = [
  ["imports follow the table of rooms", checkImports],
  ["no file imports itself by way of others", checkCycles],
  ["hot files allocate nothing after start", checkHotFiles],
  ["nothing is too long to be read in one go", checkSizes],
  ["each file opens with what it is for", checkOpenings],
  ["no banned words are left behind", checkWords],
  ["what is exported is used", (project) => checkDeadExports(project)],
  ["the lock file holds no addresses", checkLockfile],
  ["links lead somewhere, and every dependency is accounted for", checkDocs],
];

const project = loadProject();

test("the tree was found", () => {
  // A walk that finds nothing would let every rule pass.
  assert.ok(project.sources.some((file) => file.path === "src/tidy/tidy.test.ts"));
  assert.ok(project.scripts.length > 0);
  assert.ok(project.texts.some((file) => file.path === "package.json"));
});

for (const [name, check] of RULES) {
  test(name, () => {
    const findings = check(project).map(formatFinding);
    assert.equal(findings.length, 0, `${findings.length} findings:\n${findings.join("\n")}`);
  });
}

test("what indexes offer and nobody takes is listed", (context) => {
  for (const finding of unusedReExports(project)) context.diagnostic(formatFinding(finding));
});

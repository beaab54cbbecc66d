// Each of the smaller rules catches an offending text, and lets a clean one pass.

import assert from "node:assert/strict";
import { test } from "node:test";
import { checkCycles } from "./cycles-rule.ts";
import { checkDeadExports, unusedReExports } from "./dead-exports-rule.ts";
import { checkDocs } from "./docs-rule.ts";
import { checkLockfile } from "./lockfile-rule.ts";
import { checkOpenings } from "./opening-rule.ts";
import { type Finding, formatFinding, projectOf, sourceFile } from "./project.ts";
import {
  COLUMNS_MAX,
  checkSizes,
  FILE_LINES_MAX,
  FUNCTION_LINES_MAX,
  TEST_FILE_LINES_MAX,
} from "./size-rule.ts";
import { checkWords } from "./words-rule.ts";

type Files = Readonly<Record<string, string>>;

function expectOne(findings: readonly Finding[], expected: RegExp): void {
  assert.equal(findings.length, 1, findings.map(formatFinding).join("\n"));
  assert.match(formatFinding(findings[0] as Finding), expected);
}

test("sizes: a file, a test file and a line that are too long", () => {
  const lines = (count: number): string => "// One line.\n".repeat(count);
  const check = (files: Files): Finding[] => checkSizes(projectOf(files));
  expectOne(
    check({ "src/base/a.ts": lines(FILE_LINES_MAX + 1) }),
    /a\.ts: has 501 lines of .* 500/,
  );
  assert.deepEqual(check({ "src/base/a.ts": lines(FILE_LINES_MAX) }), []);
  assert.deepEqual(check({ "src/base/a.test.ts": lines(TEST_FILE_LINES_MAX) }), []);
  expectOne(check({ "src/base/a.test.ts": lines(TEST_FILE_LINES_MAX + 1) }), /has 801 lines/);
  expectOne(
    check({ "src/base/a.ts": `\n// ${"a".repeat(COLUMNS_MAX - 2)}\n` }),
    /a\.ts:2: has 101 columns/,
  );
  assert.deepEqual(check({ "src/base/a.ts": `// ${"a".repeat(COLUMNS_MAX - 3)}\n` }), []);
  assert.deepEqual(check({ "src/base/a.ts": `// https://example.org/${"a".repeat(97)}\n` }), []);
  expectOne(
    check({ "scripts/a.mjs": lines(FILE_LINES_MAX + 1) }),
    /scripts\/a\.mjs: has 501 lines/,
  );
});

test("sizes: a function that is too long, wherever it stands", () => {
  const body = (count: number): string => "use();\n".repeat(count);
  const check = (text: string, path = "src/base/a.ts"): Finding[] =>
    checkSizes(projectOf({ [path]: text }));
  const limit = FUNCTION_LINES_MAX;
  assert.deepEqual(check(`function f() {\n${body(limit - 2)}}`), []);
  expectOne(
    check(`// One.\nfunction f() {\n${body(limit - 1)}}`),
    /a\.ts:2: function has 71 lines/,
  );
  expectOne(check(`class A {\nm() {\n${body(limit - 1)}}\n}`), /a\.ts:2: function has 71/);
  expectOne(check(`const f = () => {\n${body(limit - 1)}}`), /function has 71/);
  assert.deepEqual(check(`test("a", () => {\n${body(limit)}})`, "src/base/a.test.ts"), []);
  // A class is not a function: many short methods may stand in one.
  assert.deepEqual(check(`class A {\n${"m() {}\n".repeat(limit * 2)}}`), []);
});

test("sizes: source lines are counted, not those of the emitted text", () => {
  const emitted = "function f() {\nuse();\n}\n";
  const lines = { sourceLine: (line: number) => (line === 1 ? 10 : 10 + FUNCTION_LINES_MAX) };
  const file = sourceFile("src/base/a.ts", "// Text.\n", emitted, lines);
  expectOne(checkSizes({ sources: [file], scripts: [], texts: [] }), /a\.ts:10: function has 71/);
});

test("sizes: a source that was not built is a finding, not a pass", () => {
  const file = sourceFile("src/base/a.ts", "// Text.\n", null);
  expectOne(checkSizes({ sources: [file], scripts: [], texts: [] }), /run npm run build/);
});

test("openings: a file must say what it is for", () => {
  const check = (text: string): Finding[] => checkOpenings(projectOf({ "src/base/a.ts": text }));
  const missing = /a\.ts:1: must open with a comment/;
  expectOne(check('import { x } from "./b.ts";\n// What this file is for.\n'), missing);
  expectOne(check("// @hot\nexport const x = 1;\n"), missing);
  expectOne(check("// ----\nexport const x = 1;\n"), missing);
  expectOne(check(""), missing);
  assert.deepEqual(check("// What this file is for.\n"), []);
  assert.deepEqual(check("// @hot\n// What this file is for.\n"), []);
  assert.deepEqual(check("/**\n * What this file is for.\n */\n"), []);
  const script = { "scripts/a.mjs": "#!/usr/bin/env node\n// What this script does.\n" };
  assert.deepEqual(checkOpenings(projectOf(script)), []);
});

test("words: what must not be left behind", () => {
  const check = (path: string, text: string): Finding[] => checkWords(projectOf({ [path]: text }));
  // Put together from pieces, so that the rule does not find this test.
  const slash = "/";
  for (const word of ["FIX" + "ME", "TO" + "DO", "X" + "XX", "HA" + "CK"]) {
    expectOne(check("src/base/a.ts", `// ${word}: later\n`), /a\.ts:1: .*do it now/);
    expectOne(check("README.md", `${word}\n`), /README\.md:1/);
  }
  assert.deepEqual(check("src/base/a.ts", "// mkdtemp XXXXXX, todo, hacker\n"), []);
  expectOne(check("src/base/a.ts", `const x = "${slash}work${slash}x";\n`), /machine's path/);
  expectOne(check("HACKING.md", `see ${slash}root${slash}x\n`), /machine's path/);
  assert.deepEqual(
    check("src/base/a.ts", `const x = ".${slash}work${slash}x", y = "/worker", z = "a/root/";\n`),
    [],
  );
  expectOne(check(".npmrc", `x=https:${slash}/${"regi"}stry.example.org/\n`), /settings name/);
  assert.deepEqual(check(".npmrc", "fund=false\n"), []);
});

test("words: console only where a person reads it", () => {
  const check = (path: string, text: string): Finding[] => checkWords(projectOf({ [path]: text }));
  expectOne(check("src/api/a.ts", "\nconsole.log(1);\n"), /a\.ts:2: "console\.log"/);
  for (const path of ["src/cli/a.ts", "src/api/a.test.ts", "scripts/a.mjs"]) {
    assert.deepEqual(check(path, "console.log(1);\n"), []);
  }
  assert.deepEqual(
    check("src/api/a.ts", '// console.log(1)\nconst x = "console.log"; this.console.end();\n'),
    [],
  );
});

test("words: rooms of the simulator have no clock, chance or timer of their own", () => {
  const check = (path: string, text: string): Finding[] => checkWords(projectOf({ [path]: text }));
  expectOne(check("src/virtio/a.ts", "const now = Date.now();\n"), /Clock port/);
  expectOne(check("src/virtio/a.ts", "const now = performance.now();\n"), /Clock port/);
  expectOne(check("src/base/a.ts", "const x = Math.random();\n"), /Random port/);
  expectOne(check("src/chunk/a.ts", "setTimeout(f, 1);\n"), /timer wheel/);
  const talk = "// Date.now, Math.random and setTimeout\nconst x = 'setTimeout Math.random';\n";
  assert.deepEqual(check("src/virtio/a.ts", talk), []);
  assert.deepEqual(check("src/virtio/a.test.ts", "const now = Date.now();\n"), []);
  assert.deepEqual(check("src/daemon/a.ts", "const now = Date.now();\n"), []);
});

test("dead exports: a name that nobody takes", () => {
  const check = (files: Files): Finding[] => checkDeadExports(projectOf(files), []);
  const a = "export const used = 1;\nexport function dead() {}\n";
  const taker = { "src/base/b.ts": 'import { used } from "./a.ts";\n' };
  expectOne(check({ "src/base/a.ts": a, ...taker }), /a\.ts:2: nothing imports "dead"/);
  for (const line of [
    'import { dead as x } from "./a.ts";',
    'import { type dead } from "./a.ts";',
    'import type { dead } from "./a.ts";',
    'export { dead } from "./a.ts";',
    'export * from "./a.ts";',
    'import * as all from "./a.ts";',
    'type X = import("./a.ts").dead;',
  ]) {
    assert.deepEqual(check({ "src/base/a.ts": a, ...taker, "src/base/c.ts": line }), [], line);
  }
  for (const text of [
    "export interface Dead {}\n",
    "export type Dead = 1;\n",
    "export abstract class Dead {}\n",
    "export async function Dead() {}\n",
    "const x = 1;\nexport { x as Dead };\n",
  ]) {
    expectOne(check({ "src/base/a.ts": text }), /nothing imports "Dead"/);
  }
  // A type that its own file uses names a part of what is exported.
  const part = "export interface Part {}\nexport function used(part: Part): void {}\n";
  assert.deepEqual(check({ "src/base/a.ts": part, ...taker }), []);
  const alias = "export type Part = 1;\nexport const used: Part = 1;\n";
  assert.deepEqual(check({ "src/base/a.ts": alias, ...taker }), []);
  const value = "export const part = 1;\nexport const used = part;\n";
  expectOne(check({ "src/base/a.ts": value, ...taker }), /nothing imports "part"/);
  // Tests are nobody's library.
  assert.deepEqual(check({ "src/base/a.test.ts": "export const dead = 1;\n" }), []);
  // A use in a comment is none.
  const comment = { "src/base/c.ts": '// import { dead } from "./a.ts";\n' };
  assert.equal(check({ "src/base/a.ts": a, ...taker, ...comment }).length, 1);
});

test("dead exports: the list of exceptions is kept short", () => {
  const allowed = [{ path: "src/base/a.ts", name: "dead", why: "for a test" }];
  const dead = { "src/base/a.ts": "export const dead = 1;\n" };
  assert.deepEqual(checkDeadExports(projectOf(dead), allowed), []);
  const elsewhere = [...allowed, { path: "src/base/b.ts", name: "dead", why: "for a test" }];
  expectOne(checkDeadExports(projectOf(dead), elsewhere), /b\.ts: "dead" is used or gone/);
  expectOne(checkDeadExports(projectOf(dead), []), /nothing imports "dead"/);
  const table = [{ path: "src/base/a.ts", name: "*", why: "for a test" }];
  assert.deepEqual(checkDeadExports(projectOf(dead), table), []);
  const used = { ...dead, "src/base/b.ts": 'import { dead } from "./a.ts";\n' };
  expectOne(checkDeadExports(projectOf(used), allowed), /take it off/);
});

test("dead exports: what an index offers and nobody takes is told apart", () => {
  const files = {
    "src/base/a.ts": "export const taken = 1;\nexport const offered = 1;\n",
    "src/base/index.ts": 'export { offered, taken } from "./a.ts";\n',
    "src/virtio/a.ts": 'import { taken } from "../base/index.ts";\n',
  };
  assert.deepEqual(checkDeadExports(projectOf(files), []), []);
  expectOne(unusedReExports(projectOf(files)), /index\.ts:1: no other room uses "offered"/);
});

test("cycles: a file that imports itself by way of others", () => {
  const to = (name: string): string => `import { x } from "./${name}.ts";\n`;
  const cycle = { "src/base/a.ts": to("b"), "src/base/b.ts": to("c"), "src/base/c.ts": to("a") };
  expectOne(checkCycles(projectOf(cycle)), /a\.ts → src\/base\/b\.ts → src\/base\/c\.ts → .*a\.ts/);
  expectOne(checkCycles(projectOf({ "src/base/a.ts": to("a") })), /a\.ts → src\/base\/a\.ts/);
  const diamond = { "src/base/a.ts": to("b") + to("c"), "src/base/b.ts": to("c") };
  assert.deepEqual(checkCycles(projectOf({ ...diamond, "src/base/c.ts": "" })), []);
  const typeOnly = {
    "src/base/a.ts": to("b"),
    "src/base/b.ts": 'import type { x } from "./a.ts";',
  };
  assert.deepEqual(checkCycles(projectOf(typeOnly)), []);
});

test("lock file: no addresses", () => {
  const check = (text: string): Finding[] =>
    checkLockfile(projectOf({ "package-lock.json": text }));
  expectOne(check('{\n  "resolved": "x"\n}\n'), /package-lock\.json:2: holds an address/);
  assert.deepEqual(check('{\n  "integrity": "x"\n}\n'), []);
  expectOne(checkLockfile(projectOf({})), /is missing/);
});

test("documents: titles and links", () => {
  const check = (files: Files): Finding[] => checkDocs(projectOf(files));
  expectOne(check({ "a.md": "## Only a section\n" }), /a\.md: has 0 titles/);
  expectOne(check({ "a.md": "# One\n\n# Two\n" }), /a\.md: has 2 titles/);
  assert.deepEqual(check({ "a.md": "# One\n```sh\n# a comment\n[x](gone.md)\n```\n" }), []);
  expectOne(check({ "a.md": "# One\n\n[x](gone.md#part)\n" }), /a\.md:3: links to "gone\.md"/);
  const page = "# B\n[a](../a.md), [web](https://example.org/), [own](#b), [src](../src/base/)\n";
  assert.deepEqual(
    check({ "a.md": "# A\n", "docs/b.md": page, "src/base/a.ts": "// Text.\n" }),
    [],
  );
});

test("documents: every dependency is accounted for", () => {
  const manifest = JSON.stringify({
    dependencies: { koffi: "1", "@fastify/swagger": "1" },
    devDependencies: { acorn: "1" },
  });
  const check = (page: string): Finding[] =>
    checkDocs(projectOf({ "package.json": manifest, "DEPENDENCIES.md": `# D\n${page}\n` }));
  assert.deepEqual(check("| `koffi` | x |\n@fastify/swagger, acorn."), []);
  expectOne(check("koffi-like, @fastify/swagger, acorn"), /does not name "koffi"/);
  expectOne(check("koffi, fastify, @fastify/swagger"), /does not name "acorn"/);
  assert.equal(checkDocs(projectOf({ "package.json": manifest })).length, 3);
});

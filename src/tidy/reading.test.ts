// The tools the rules read with: the lexer, the source map, and the finding of imports and exports.

import assert from "node:assert/strict";
import { test } from "node:test";
import { lex } from "./lexer.ts";
import { findExports, findImports } from "./modules.ts";
import { parseSourceMap } from "./source-map.ts";

test("lexing keeps every character at its place", () => {
  const text = 'const a = "b"; // c\n/* d\n e */ f(`g ${h("i")} j`);\n';
  const { code, bareCode } = lex(text);
  assert.equal(code, 'const a = "b";     \n    \n      f(     h("i")    );\n');
  assert.equal(bareCode, 'const a = " ";     \n    \n      f(     h(" ")    );\n');
});

test("lexing is not fooled by what looks like something else", () => {
  const code = (text: string): string => lex(text).code.replace(/ +/g, " ").trim();
  assert.equal(code('a = "// not a comment";'), 'a = "// not a comment";');
  assert.equal(code('a = /["`]/g; b = "c";'), 'a = g; b = "c";');
  assert.equal(code("a = b / c; d = e / f; // g"), "a = b / c; d = e / f;");
  assert.equal(code("return /[/]'/.test(a);"), "return .test(a);");
  assert.equal(code("a = `${`b ${c}`} d`; e();"), "a = c ; e();");
  assert.equal(code("a = `${ { b: 1 } } c`; d();"), "a = { b: 1 } ; d();");
  assert.equal(code("a = `b \\` c`; d();"), "a = ; d();");
  assert.equal(code("a = `b \\${c`; d();"), "a = ; d();");
  assert.equal(code("a = /b\\/'c/; d();"), "a = ; d();");
  assert.equal(code("a(); /* b"), "a();");
  assert.equal(code("a(); // b"), "a();");
  assert.equal(code('a = "lone; b();\nc = "d";'), 'a = "lone; b();\nc = "d";');
  assert.equal(code('a = "\\"// b"; c();'), 'a = "\\"// b"; c();');
});

test("a source map leads back to the source's lines", () => {
  // Emitted line 1 comes from source line 3, line 2 column 4 from source line 5.
  const map = parseSourceMap('{"version":3,"mappings":"AAEA,GAAG;IAEC"}');
  assert.equal(map.sourceLine(1, 0), 3);
  assert.equal(map.sourceLine(1, 9), 3);
  assert.equal(map.sourceLine(2, 4), 5);
  assert.equal(map.sourceLine(2, 0), 3);
  assert.equal(map.sourceLine(9, 0), 5);
});

test("imports are found in every form", () => {
  const text = [
    'import a from "./a.ts";',
    'import b, { c, type D as E } from "./b.ts";',
    'import * as f from "./f.ts";',
    'import type { G } from "./g.ts";',
    "import {",
    "  h,",
    '} from "./h.ts";',
    'import "./i.ts";',
    'export { j as k } from "./j.ts";',
    'export * from "./l.ts";',
    'const m = await import("./m.ts");',
    'const n = createRequire(import.meta.url)("n");',
    "export const o = 1;",
    'const p = "import q from \\"./q.ts\\"";',
  ].join("\n");
  const found = findImports(lex(text).code)
    .sort((a, b) => a.line - b.line)
    .map((one) => `${one.line} ${one.specifier} ${one.isType ? "type " : ""}${one.names.join()}`);
  assert.deepEqual(found, [
    "1 ./a.ts default",
    "2 ./b.ts default,c,D",
    "3 ./f.ts *",
    "4 ./g.ts type G",
    "5 ./h.ts h",
    "8 ./i.ts ",
    "9 ./j.ts j",
    "10 ./l.ts *",
    "11 ./m.ts *",
  ]);
});

test("exports are found in every form, overloads once", () => {
  const text = [
    "export const a = 1;",
    "export function b(x: string): void;",
    "export function b(x: number): void;",
    "export class C {}",
    "export interface D {}",
    "export type E = 1;",
    "export { f, g as h };",
    "export default 1;",
    'export { i } from "./i.ts";',
  ].join("\n");
  const names = findExports(lex(text).code).map((one) => one.name);
  assert.deepEqual(names, ["a", "b", "C", "D", "E", "f", "h", "default"]);
});

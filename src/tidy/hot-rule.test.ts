// Each thing that allocates is caught in a hot file, and nothing else is.

import assert from "node:assert/strict";
import { test } from "node:test";
import { checkHotFiles } from "./hot-rule.ts";
import { projectOf, sourceFile } from "./project.ts";

function messagesOf(...lines: string[]): string[] {
  const text = ["// @hot", "// A file for a test of the rule.", ...lines, ""].join("\n");
  return checkHotFiles(projectOf({ "src/virtio/x.ts": text })).map(
    (finding) => `${finding.line}: ${finding.message.split(":")[0]}`,
  );
}

const OFFENCES: readonly (readonly [string, string])[] = [
  ["const f = () => 1;", "closure"],
  ["const f = function () {};", "closure"],
  ["function inner() {}", "closure"],
  ["use(...args);", "spread"],
  ["const [a] = args;", "array destructuring"],
  ["args.map(use);", ".map()"],
  ["args.filter(use);", ".filter()"],
  ["args.forEach(use);", ".forEach()"],
  ["args.reduce(use);", ".reduce()"],
  ["args.slice(1);", ".slice()"],
  ["args.subarray(1);", ".subarray()"],
  ["args.concat(args);", ".concat()"],
  ["use.bind(args);", ".bind()"],
  ["view.getBigUint64(0);", ".getBigUint64()"],
  ["new Thing();", "new"],
  ["use({ a: 1 });", "object literal"],
  ["use([1]);", "array literal"],
  ["use(1n);", "BigInt"],
  ["use(BigInt(1));", "BigInt()"],
  ["use(`a ${args}`);", "template text"],
  ["use(/a/);", "regular expression"],
  ["for (const one of args) use(one);", "for..of"],
  ["for (const one in args) use(one);", "for..in"],
  ["assert(args, `bad ${args}`);", "template text"],
];

for (const [line, expected] of OFFENCES) {
  test(`caught in a function: ${line}`, () => {
    assert.deepEqual(messagesOf("function f(args) {", line, "}"), [`4: ${expected}`]);
  });
  test(`caught in a method: ${line}`, () => {
    assert.deepEqual(messagesOf("export class A {", "m(args) {", line, "}", "}"), [
      `5: ${expected}`,
    ]);
  });
  test(`free at start: ${line}`, () => {
    const constructed = ["class A {", "constructor(args) {", line, "}", "}"];
    const created = ["class A {", "static create(args) {", line, "}", "}"];
    const marked = ["// @cold", "function f(args) {", line, "}"];
    for (const text of [constructed, created, marked]) assert.deepEqual(messagesOf(...text), []);
  });
}

test("async functions and generators are caught everywhere, at start too", () => {
  assert.deepEqual(messagesOf("// @cold", "async function f() {", "await use();", "}"), [
    "4: async function",
  ]);
  assert.deepEqual(messagesOf("function* f() {", "yield 1;", "}"), ["3: generator", "4: yield"]);
  assert.deepEqual(messagesOf("class A {", "static async create() {}", "}"), ["4: async function"]);
  assert.deepEqual(messagesOf("const f = async () => 1;"), ["3: async function"]);
});

test("rest parameters are caught", () => {
  assert.deepEqual(messagesOf("function f(...args) {}"), ["3: rest parameter"]);
});

test("module level and class fields are free", () => {
  const lines = [
    "const names = ['a'].map((name) => `${name}${[...name]}`);",
    "const limits = { a: 1n, b: [new Map()] };",
    "class A {",
    "  field = new Uint32Array(4);",
    "  static { A.table = [1]; }",
    "}",
  ];
  assert.deepEqual(messagesOf(...lines), []);
});

test("a function of the module is hot whichever way it is written", () => {
  assert.deepEqual(messagesOf("const f = (a) => ({ a });"), ["3: object literal"]);
  assert.deepEqual(messagesOf("export const ops = {", "read(a) {", "return [a];", "},", "};"), [
    "5: array literal",
  ]);
  assert.deepEqual(messagesOf("class A {", "on = (a) => {", "use([a]);", "};", "}"), [
    "5: array literal",
  ]);
});

test("a closure made at start runs later, so its body is hot", () => {
  const kept = ["class A {", "constructor() {", "this.on = (a) => {", "use([a]);", "};", "}", "}"];
  assert.deepEqual(messagesOf(...kept), ["6: array literal"]);
  const atOnce = ["class A {", "constructor(names) {", "this.a = names.map((n) => [n]);", "}", "}"];
  assert.deepEqual(messagesOf(...atOnce), []);
});

test("throwing and failing are cold", () => {
  const lines = [
    "function f(a) {",
    "if (a < 0) throw new RangeError(`a is ${a}: ${[...a]}`);",
    "if (a > 9) fail(`a is ${a}`, { a });",
    "if (a > 8) unreachable(`a is ${a}`);",
    "try { use(a); } catch { use(0); }",
    "use(`plain`);",
    "}",
  ];
  assert.deepEqual(messagesOf(...lines), []);
  // A method of that name may well return.
  assert.deepEqual(messagesOf("function f(a) {", "a.fail([1]);", "}"), ["4: array literal"]);
});

test("a @cold line covers what stands right below it, and no more", () => {
  const lines = [
    "// @cold",
    "// Runs once per session.",
    "export function f() {",
    "return [() => [1]];",
    "}",
    "export function g() {",
    "return [1];",
    "}",
  ];
  assert.deepEqual(messagesOf(...lines), ["9: array literal"]);
  for (const word of ["class", "export class", "export default class"]) {
    const above = ["// @cold", `${word} A {`, "m() {", "return [1];", "}", "}"];
    assert.deepEqual(messagesOf(...above), ["6: array literal"], word);
  }
  const apart = ["// @cold", "", "function f() {", "return [1];", "}"];
  assert.deepEqual(messagesOf(...apart), ["6: array literal"]);
  const inside = ["function f() {", "// @cold", "const a = [1];", "}"];
  assert.deepEqual(messagesOf(...inside), ["5: array literal"]);
});

test("methods, fields and statements of the module can be marked", () => {
  const lines = [
    "export class A {",
    "// @cold",
    "m() { return [1]; }",
    "// @cold: at start",
    "on = () => [1];",
    "/**",
    " * @cold",
    " */",
    "get x() { return [1]; }",
    "}",
    "// @cold",
    "const f = () => [1];",
    "// @cold",
    "register(() => [1]);",
    "const ops = {",
    "// @cold",
    "read() { return [1]; },",
    "};",
  ];
  assert.deepEqual(messagesOf(...lines), []);
  const unmarked = lines.map((line) => line.replace("@cold", "@colder"));
  assert.equal(messagesOf(...unmarked).length, 6);
});

test("a mark that the compiler dropped is a finding", () => {
  const text = "// @hot\n// A file.\n// @cold\nfunction f() {}\n";
  const file = sourceFile("src/virtio/x.ts", text, text.replace("// @cold", ""));
  const [finding] = checkHotFiles({ sources: [file], scripts: [], texts: [] });
  assert.match(finding?.message ?? "", /dropped/);
});

test("a hot file that was not built is a finding, not a pass", () => {
  const file = sourceFile("src/virtio/x.ts", "// @hot\n", null);
  assert.equal(checkHotFiles({ sources: [file], scripts: [], texts: [] }).length, 1);
});

test("a file without the mark may allocate", () => {
  const files = { "src/api/x.ts": "// A cold file.\nexport const f = () => [1];\n" };
  assert.deepEqual(checkHotFiles(projectOf(files)), []);
});

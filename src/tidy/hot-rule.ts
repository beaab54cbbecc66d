// Rule: a file whose first line is `// @hot` allocates nothing after start. What allocates is
// banned in its functions by syntax, because a reviewer cannot see an allocation and a profiler
// sees it too late.
//
// - Cold, and free to allocate: module level, class fields, constructors, `static create…`, and
//   whatever a `// @cold` line directly above marks (a function, a method, a statement).
// - Throwing is cold wherever it stands: `throw …` and the arguments of fail(), unreachable() and
//   panic() are not looked at. The arguments of assert() are: they are built when it holds, too.
// - A closure made in cold code is usually what runs later, so its body is hot, except where it
//   is handed to an array's own method (`names.map((name) => …)`).
// - async functions and generators are banned in the whole file: their state lives on the heap.

import type { Finding, Project, SourceFile } from "./project.ts";
import {
  children,
  isFunction,
  markedLines,
  parseTree,
  type SyntaxNode,
  startColumn,
  startLine,
} from "./syntax-tree.ts";

const HOT_MARK = /^\/\/ @hot\b/;

const WAY_OUT = "or mark the function // @cold if it runs only at start";

const ALLOCATING_METHODS: ReadonlyMap<string, string> = new Map([
  ["map", "write a for loop over an index"],
  ["filter", "write a for loop over an index"],
  ["forEach", "write a for loop over an index"],
  ["reduce", "write a for loop over an index"],
  ["flatMap", "write a for loop over an index"],
  ["entries", "write a for loop over an index"],
  ["keys", "write a for loop over an index"],
  ["values", "write a for loop over an index"],
  ["slice", "pass the array with an offset and a length"],
  ["subarray", "pass the array with an offset and a length"],
  ["concat", "copy into a buffer made at start"],
  ["bind", "keep the receiver in a field and call the method"],
  ["getBigUint64", "read two u32 halves"],
  ["getBigInt64", "read two u32 halves"],
  ["setBigUint64", "write two u32 halves"],
  ["setBigInt64", "write two u32 halves"],
]);

/** Methods that call what they are given at once and then forget it. */
const CALLS_AT_ONCE =
  /^(?:map|filter|forEach|reduce|flatMap|from|some|every|find\w*|sort|toSorted)$/;

const NEVER_RETURNS = /^(?:fail|unreachable|panic)(?:[A-Z]\w*)?$/;

export function checkHotFiles(project: Project): Finding[] {
  return project.sources.filter((file) => HOT_MARK.test(file.text)).flatMap(checkHotFile);
}

function checkHotFile(file: SourceFile): Finding[] {
  if (file.emitted === null) {
    return [{ path: file.path, line: 0, message: "has no emitted JavaScript: run npm run build" }];
  }
  const tree = parseTree(file.emitted);
  const coldLines = markedLines(tree, "cold");
  const findings: Finding[] = [];
  const report = (node: SyntaxNode, message: string): void => {
    const line = file.lines.sourceLine(startLine(node), startColumn(node));
    findings.push({ path: file.path, line, message });
  };
  const visit = (node: SyntaxNode, isHot: boolean): void => {
    if (!isHot && coldLines.has(startLine(node)) && !isClass(node)) {
      visitCold(node);
      return;
    }
    if (isHot && node.type === "ThrowStatement") return;
    if (isFunction(node)) {
      judgeFunction(node, isHot, report);
      for (const child of children(node)) visit(child, true);
      return;
    }
    if (isColdMember(node)) {
      // Its function is cold; a closure in it is judged again on its own.
      const value = node.value as SyntaxNode;
      judgeFunction(value, false, report);
      for (const child of children(value)) visit(child, false);
      return;
    }
    if (isHot) {
      const message = judgeHot(node);
      if (message !== null) report(node, message);
      if (node.type === "CallExpression" && neverReturns(node)) return;
    }
    for (const child of children(node)) {
      if (!isHot && isFunction(child) && isCalledAtOnce(node)) {
        judgeFunction(child, false, report);
        for (const inner of children(child)) visit(inner, false);
      } else {
        visit(child, isHot);
      }
    }
  };
  // Below a @cold mark only what is banned everywhere still counts.
  const visitCold = (node: SyntaxNode): void => {
    if (isFunction(node)) judgeFunction(node, false, report);
    for (const child of children(node)) visitCold(child);
  };
  visit(tree.root, false);
  if (countMarks(file.emitted) < countMarks(file.text)) {
    const message = "the compiler dropped a // @cold line: put it right above the function";
    findings.push({ path: file.path, line: 0, message });
  }
  return findings;
}

function countMarks(text: string): number {
  return text.match(/^\s*\/\/ @cold\b/gm)?.length ?? 0;
}

type Report = (node: SyntaxNode, message: string) => void;

function judgeFunction(node: SyntaxNode, isHot: boolean, report: Report): void {
  if (node.async === true) {
    report(node, "async function: a promise per call; submit with a slot, complete by number");
  }
  if (node.generator === true) {
    report(node, "generator: an object per step; keep the state in fields and step it by a call");
  }
  if (isHot) {
    report(node, `closure: make it a method or a function of the module, ${WAY_OUT}`);
  }
}

/** What is wrong with a node in hot code, with what to do instead; null if nothing. */
function judgeHot(node: SyntaxNode): string | null {
  switch (node.type) {
    case "AwaitExpression":
      return "await: submit with a slot and return; the completion carries the number";
    case "YieldExpression":
      return "yield: keep the state in fields and step it by a call";
    case "NewExpression":
      return `new: make it at start and use it again, ${WAY_OUT}`;
    case "ObjectExpression":
      return `object literal: keep the fields in typed arrays indexed by slot, ${WAY_OUT}`;
    case "ArrayExpression":
      return `array literal: keep a typed array made at start, ${WAY_OUT}`;
    case "ClassExpression":
    case "ClassDeclaration":
      return "class in a function: declare it at module level";
    case "SpreadElement":
      return "spread: pass the values one by one, or copy with set()";
    case "RestElement":
      return "rest parameter: name the parameters";
    case "ArrayPattern":
      return "array destructuring: it walks an iterator; index instead";
    case "ForOfStatement":
      return "for..of: it walks an iterator; count an index";
    case "ForInStatement":
      return "for..in: it collects keys; count an index";
    case "TemplateLiteral":
      return (node.expressions as unknown[]).length === 0
        ? null
        : "template text: it builds a string; keep numbers, and format at the edge or in fail()";
    case "TaggedTemplateExpression":
      return "tagged template: it builds an array; call a function";
    case "Literal":
      return judgeLiteral(node);
    case "CallExpression":
      return judgeCall(node);
    default:
      return null;
  }
}

function judgeLiteral(node: SyntaxNode): string | null {
  if (typeof node.bigint === "string") {
    return "BigInt: use numbers below 2^53, or two u32 halves";
  }
  if (node.regex !== undefined && node.regex !== null) {
    return "regular expression: make it at module level";
  }
  return null;
}

function judgeCall(node: SyntaxNode): string | null {
  const callee = node.callee as SyntaxNode;
  if (callee.type === "Identifier" && callee.name === "BigInt") {
    return "BigInt(): use numbers below 2^53, or two u32 halves";
  }
  const method = methodName(callee);
  const instead = method === null ? undefined : ALLOCATING_METHODS.get(method);
  return instead === undefined ? null : `.${method}(): it allocates; ${instead}, ${WAY_OUT}`;
}

function methodName(callee: SyntaxNode): string | null {
  if (callee.type !== "MemberExpression" || callee.computed === true) return null;
  const property = callee.property as SyntaxNode;
  return property.type === "Identifier" ? (property.name as string) : null;
}

function neverReturns(node: SyntaxNode): boolean {
  const callee = node.callee as SyntaxNode;
  return callee.type === "Identifier" && NEVER_RETURNS.test(callee.name as string);
}

function isCalledAtOnce(node: SyntaxNode): boolean {
  if (node.type !== "CallExpression") return false;
  const method = methodName(node.callee as SyntaxNode);
  return method !== null && CALLS_AT_ONCE.test(method);
}

/** Constructors, `static create…` and static blocks run at start. */
function isColdMember(node: SyntaxNode): boolean {
  if (node.type !== "MethodDefinition") return false;
  if (node.kind === "constructor") return true;
  const key = node.key as SyntaxNode;
  return node.static === true && /^create(?:[A-Z]|$)/.test(String(key.name ?? ""));
}

/** A mark above a class says nothing: each of its methods has to be marked. */
function isClass(node: SyntaxNode): boolean {
  const declaration = node.declaration as SyntaxNode | null | undefined;
  return node.type === "Program" || /^Class/.test((declaration ?? node).type);
}

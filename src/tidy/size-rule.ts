// Rule: nothing is too long to be read in one go.
//
// The limits are those of HACKING.md. Tests may be longer: a test file is a list, and its functions
// are mostly one `describe` around it.

import type { Finding, Project, SourceFile } from "./project.ts";
import {
  children,
  isFunction,
  parseTree,
  type SyntaxNode,
  startColumn,
  startLine,
} from "./syntax-tree.ts";

export const FILE_LINES_MAX = 500;
export const TEST_FILE_LINES_MAX = 800;
export const FUNCTION_LINES_MAX = 70;
export const COLUMNS_MAX = 100;
/** A test's name says what it promises, in one string that the formatter does not break. */
const TEST_COLUMNS_MAX = 120;

export function checkSizes(project: Project): Finding[] {
  return [...project.sources, ...project.scripts].flatMap((file) => [
    ...checkFile(file),
    ...(file.isTest ? [] : checkFunctions(file)),
  ]);
}

function checkFile(file: SourceFile): Finding[] {
  const findings: Finding[] = [];
  const lines = file.text.replace(/\n$/, "").split("\n");
  const limit = file.isTest ? TEST_FILE_LINES_MAX : FILE_LINES_MAX;
  if (lines.length > limit) {
    const message = `has ${lines.length} lines of at most ${limit}: split it where its nouns part`;
    findings.push({ path: file.path, line: 0, message });
  }
  const testing = file.isTest || file.path.startsWith("src/testing/");
  const columns = testing ? TEST_COLUMNS_MAX : COLUMNS_MAX;
  for (const [index, line] of lines.entries()) {
    // An address cannot be broken.
    if (line.length <= columns || line.includes("://")) continue;
    const message = `has ${line.length} columns of at most ${columns}: break the line`;
    findings.push({ path: file.path, line: index + 1, message });
  }
  return findings;
}

function checkFunctions(file: SourceFile): Finding[] {
  if (file.emitted === null) {
    return [{ path: file.path, line: 0, message: "has no emitted JavaScript: run npm run build" }];
  }
  const findings: Finding[] = [];
  const visit = (node: SyntaxNode): void => {
    if (isFunction(node)) {
      const first = file.lines.sourceLine(startLine(node), startColumn(node));
      const last = file.lines.sourceLine(node.loc?.end.line ?? 0, node.loc?.end.column ?? 0);
      const count = last - first + 1;
      if (count > FUNCTION_LINES_MAX) {
        const message =
          `function has ${count} lines of at most ${FUNCTION_LINES_MAX}: ` +
          "give its steps names and make them functions";
        findings.push({ path: file.path, line: first, message });
      }
    }
    for (const child of children(node)) visit(child);
  };
  visit(parseTree(file.emitted).root);
  return findings;
}

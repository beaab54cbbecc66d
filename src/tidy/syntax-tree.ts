// The syntax tree of emitted JavaScript: parsing with acorn, children of a node, and the comments
// that mark a function.
//
// Invariant: a tree is walked through `children` alone; no rule knows acorn's node kinds by heart
// beyond those it judges.

import { type Comment, type Node, parse } from "acorn";

export type SyntaxNode = Node & { readonly [key: string]: unknown };

export interface SyntaxTree {
  readonly root: SyntaxNode;
  readonly comments: readonly Comment[];
}

export function parseTree(text: string): SyntaxTree {
  const comments: Comment[] = [];
  const root = parse(text, {
    ecmaVersion: "latest",
    sourceType: "module",
    locations: true,
    allowHashBang: true,
    onComment: comments,
  });
  return { root: root as unknown as SyntaxNode, comments };
}

export function children(node: SyntaxNode): SyntaxNode[] {
  const found: SyntaxNode[] = [];
  for (const value of Object.values(node)) {
    if (isNode(value)) found.push(value);
    if (Array.isArray(value)) found.push(...value.filter(isNode));
  }
  return found;
}

function isNode(value: unknown): value is SyntaxNode {
  return typeof value === "object" && value !== null && "type" in value && "start" in value;
}

export function isFunction(node: SyntaxNode): boolean {
  return (
    node.type === "FunctionDeclaration" ||
    node.type === "FunctionExpression" ||
    node.type === "ArrowFunctionExpression"
  );
}

export function startLine(node: SyntaxNode): number {
  return node.loc?.start.line ?? 0;
}

export function startColumn(node: SyntaxNode): number {
  return node.loc?.start.column ?? 0;
}

/** The emitted lines on which something marked with `// @marker` directly above begins. */
export function markedLines(tree: SyntaxTree, marker: string): Set<number> {
  const byLastLine = new Map<number, Comment>();
  for (const comment of tree.comments) byLastLine.set(comment.loc?.end.line ?? 0, comment);
  const marked = new Set<number>();
  for (const comment of tree.comments) {
    if (!isMarker(comment, marker)) continue;
    // A run of comment lines belongs together: the marker may stand above the explanation.
    let last = comment;
    for (;;) {
      const below = byLastLine.get((last.loc?.end.line ?? 0) + 1);
      if (below === undefined) break;
      last = below;
    }
    marked.add((last.loc?.end.line ?? 0) + 1);
  }
  return marked;
}

function isMarker(comment: Comment, marker: string): boolean {
  return comment.value.split("\n").some((line) => {
    const words = line.replace(/^[\s*]+/, "");
    return (
      words === `@${marker}` || words.startsWith(`@${marker}:`) || words.startsWith(`@${marker} `)
    );
  });
}

// Rule: each file opens with a comment that says what it is for.
//
// A `// @hot` marker or a `#!` line may come first, but explains nothing: a comment must follow.

import type { Finding, Project } from "./project.ts";

const WORDS_MIN = 4;

export function checkOpenings(project: Project): Finding[] {
  const findings: Finding[] = [];
  for (const file of [...project.sources, ...project.scripts]) {
    const lines = file.text.split("\n");
    if (lines[0]?.startsWith("#!")) lines.shift();
    if (lines[0]?.startsWith("// @hot")) lines.shift();
    const opening = lines[0] ?? "";
    const isComment = opening.startsWith("//") || opening.startsWith("/*");
    const comment = lines.slice(0, 3).join(" ");
    if (isComment && (comment.match(/[A-Za-z]{2,}/g)?.length ?? 0) >= WORDS_MIN) continue;
    const message =
      "must open with a comment: what it is for, its invariants, the section it follows";
    findings.push({ path: file.path, line: 1, message });
  }
  return findings;
}

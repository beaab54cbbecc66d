// Rules for the documents: links inside the tree lead somewhere, each page has one title, and
// DEPENDENCIES.md accounts for every package that package.json names.

import { dirname, join } from "node:path/posix";
import type { Finding, Project, TextFile } from "./project.ts";

export function checkDocs(project: Project): Finding[] {
  const findings: Finding[] = [];
  const paths = new Set(project.texts.map((file) => file.path));
  // A link may name a folder, and files that are not text (LICENSE) are named by their folder.
  for (const path of [...paths]) {
    for (let folder = dirname(path); folder !== "."; folder = dirname(folder)) paths.add(folder);
  }
  for (const file of project.texts) {
    if (!file.path.endsWith(".md")) continue;
    const lines = withoutFences(file.text);
    const titles = lines.filter((line) => line.startsWith("# ")).length;
    if (titles !== 1) {
      const message = `has ${titles} titles (lines that begin with "# "): a page has one`;
      findings.push({ path: file.path, line: 0, message });
    }
    findings.push(...checkLinks(file, lines, paths));
  }
  return [...findings, ...checkDependencies(project)];
}

function checkLinks(file: TextFile, lines: readonly string[], paths: Set<string>): Finding[] {
  const findings: Finding[] = [];
  for (const [index, line] of lines.entries()) {
    for (const match of line.matchAll(/\]\(([^)\s]+)(?:\s+"[^"]*")?\)/g)) {
      const target = (match[1] ?? "").split("#")[0] ?? "";
      if (target === "" || /^[a-z][a-z+.-]*:/.test(target)) continue;
      const path = join(dirname(file.path), target).replace(/\/$/, "");
      if (paths.has(path) || path === "." || /^(?:LICENSE|NOTICE)$/.test(path)) continue;
      const message = `links to "${target}", which is not there: name a file of the tree`;
      findings.push({ path: file.path, line: index + 1, message });
    }
  }
  return findings;
}

/** The lines of a page, those of fenced blocks and inline code emptied. */
function withoutFences(text: string): string[] {
  let isFenced = false;
  return text.split("\n").map((line) => {
    const isFence = /^\s*(?:```|~~~)/.test(line);
    if (isFence) isFenced = !isFenced;
    return isFenced || isFence ? "" : line.replace(/`[^`]*`/g, "");
  });
}

function checkDependencies(project: Project): Finding[] {
  const manifest = project.texts.find((file) => file.path === "package.json");
  if (manifest === undefined) return [];
  const page = project.texts.find((file) => file.path === "DEPENDENCIES.md");
  const { dependencies = {}, devDependencies = {} } = JSON.parse(manifest.text) as {
    dependencies?: Record<string, string>;
    devDependencies?: Record<string, string>;
  };
  const findings: Finding[] = [];
  for (const name of Object.keys({ ...dependencies, ...devDependencies })) {
    if (page?.text.includes(`\`${name}\``) || namesPlainly(page?.text ?? "", name)) continue;
    const message = `does not name "${name}": say why it is here, its licence, and the way out`;
    findings.push({ path: "DEPENDENCIES.md", line: 0, message });
  }
  return findings;
}

function namesPlainly(text: string, name: string): boolean {
  const escaped = name.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");
  return new RegExp(`(?:^|[^\\w@/-])${escaped}(?![\\w/-])`, "m").test(text);
}

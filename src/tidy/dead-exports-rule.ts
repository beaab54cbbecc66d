// Rule: what is exported is used by another file; otherwise it is private, or dead.
//
// A type that its own file uses is alive: it names a part of something that is exported.
// A re-export by an index.ts counts as a use: it is the room's public face. Re-exports that no
// other file takes up are reported apart (`unusedReExports`) and do not fail.

import { ALLOWED_EXPORTS, type AllowedExport } from "./dead-exports-allowed.ts";
import { resolveImport } from "./imports-rule.ts";
import { findExports, findImports } from "./modules.ts";
import type { Finding, Project } from "./project.ts";

export function checkDeadExports(
  project: Project,
  allowed: readonly AllowedExport[] = ALLOWED_EXPORTS,
): Finding[] {
  const uses = collectUses(project, () => true);
  const findings: Finding[] = [];
  const excused = new Set<AllowedExport>();
  for (const file of project.sources) {
    if (file.isTest) continue;
    for (const one of findExports(file.lexed.code)) {
      if (isUsed(uses, file.path, one.name)) continue;
      if (one.isType && occurrences(file.lexed.bareCode, one.name) > 1) continue;
      const excuse = allowed.find(
        (entry) => entry.path === file.path && (entry.name === one.name || entry.name === "*"),
      );
      if (excuse !== undefined) {
        excused.add(excuse);
        continue;
      }
      const message = `nothing imports "${one.name}": take away the export, or the thing itself`;
      findings.push({ path: file.path, line: one.line, message });
    }
  }
  for (const entry of allowed) {
    if (excused.has(entry)) continue;
    const message = `"${entry.name}" is used or gone: take it off src/tidy/dead-exports-allowed.ts`;
    findings.push({ path: entry.path, line: 0, message });
  }
  return findings;
}

/** Names that an index.ts offers and no other file takes, from the index or past it. */
export function unusedReExports(project: Project): Finding[] {
  const uses = collectUses(project, (path) => !path.endsWith("/index.ts"));
  const findings: Finding[] = [];
  for (const file of project.sources) {
    if (!file.path.endsWith("/index.ts")) continue;
    for (const one of findImports(file.lexed.code)) {
      if (!one.isReExport) continue;
      const origin = resolveImport(file.path, one.specifier);
      for (const name of one.names) {
        if (name === "*" || isUsed(uses, file.path, name)) continue;
        const users = uses.get(origin)?.get(name) ?? [];
        const room = file.path.slice(0, -"index.ts".length);
        if (users.some((user) => !user.startsWith(room))) continue;
        const message = `no other room uses "${name}"`;
        findings.push({ path: file.path, line: one.line, message });
      }
    }
  }
  return findings;
}

/** For each file: each name taken from it, with the files that take it. */
type Uses = Map<string, Map<string, string[]>>;

function collectUses(project: Project, counts: (path: string) => boolean): Uses {
  const uses: Uses = new Map();
  for (const file of project.sources) {
    if (!counts(file.path)) continue;
    const add = (target: string, name: string): void => {
      let names = uses.get(target);
      if (names === undefined) uses.set(target, (names = new Map()));
      const users = names.get(name) ?? [];
      if (users.push(file.path) === 1) names.set(name, users);
    };
    for (const one of findImports(file.lexed.code)) {
      if (!one.specifier.startsWith(".")) continue;
      for (const name of one.names) add(resolveImport(file.path, one.specifier), name);
    }
  }
  return uses;
}

function occurrences(code: string, name: string): number {
  return (
    code.match(new RegExp(`(?<![\\w$])${name.replaceAll("$", "\\$")}(?![\\w$])`, "g"))?.length ?? 0
  );
}

function isUsed(uses: Uses, path: string, name: string): boolean {
  const names = uses.get(path);
  return names !== undefined && (names.has(name) || names.has("*"));
}

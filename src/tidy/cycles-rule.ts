// Rule: no file imports itself by way of others. A cycle makes the order of module loading matter,
// and a file in one cannot be read alone.
//
// Type imports do not count: they vanish when emitted. Rooms cannot form cycles, because the import
// table has none; so what is found here lies inside one room.

import { resolveImport } from "./imports-rule.ts";
import { findImports } from "./modules.ts";
import type { Finding, Project } from "./project.ts";

export function checkCycles(project: Project): Finding[] {
  const graph = new Map<string, string[]>();
  for (const file of project.sources) {
    const targets = findImports(file.lexed.code)
      .filter((one) => !one.isType && one.specifier.startsWith("."))
      .map((one) => resolveImport(file.path, one.specifier));
    graph.set(file.path, targets);
  }
  const findings: Finding[] = [];
  const done = new Set<string>();
  const trail: string[] = [];
  const visit = (path: string): void => {
    const at = trail.indexOf(path);
    if (at >= 0) {
      const cycle = [...trail.slice(at), path].join(" → ");
      const message = `import cycle ${cycle}: move what they share into a third file`;
      findings.push({ path, line: 0, message });
      return;
    }
    if (done.has(path)) return;
    trail.push(path);
    for (const target of graph.get(path) ?? []) visit(target);
    trail.pop();
    done.add(path);
  };
  for (const path of graph.keys()) visit(path);
  return findings;
}

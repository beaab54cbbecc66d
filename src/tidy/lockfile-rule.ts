// Rule: package-lock.json names versions and hashes, and no addresses: where packages come from is
// the business of each machine's npm settings, and the hash proves that they are the same.

import type { Finding, Project } from "./project.ts";

export function checkLockfile(project: Project): Finding[] {
  const lock = project.texts.find((file) => file.path === "package-lock.json");
  if (lock === undefined) {
    const message = "is missing: npm ci needs it; run npm install --package-lock-only";
    return [{ path: "package-lock.json", line: 0, message }];
  }
  const findings: Finding[] = [];
  for (const [index, line] of lock.text.split("\n").entries()) {
    if (!/^\s*"resolved":/.test(line)) continue;
    const message =
      "holds an address: npm install --package-lock-only --omit-lockfile-registry-resolved";
    findings.push({ path: lock.path, line: index + 1, message });
  }
  return findings;
}

// Rule: words that must not be left behind, each with what to do instead.
//
// The patterns are put together from pieces, so that this file does not find itself.

import { type Finding, isTestPath, type Project } from "./project.ts";
import { findRoom } from "./rooms.ts";

interface BannedWord {
  readonly pattern: RegExp;
  readonly instead: string;
  /** Text files that it concerns; all of them by default. */
  readonly concerns?: (path: string) => boolean;
  /** Look at code without comments and strings. */
  readonly isCode?: boolean;
}

const isPure = (path: string): boolean =>
  !isTestPath(path) && findRoom(roomOf(path))?.setting === "pure";

const WORDS: readonly BannedWord[] = [
  {
    pattern: new RegExp(`\\b(?:FIX${"ME"}|TO${"DO"}|X${"XX"}|HA${"CK"})\\b`),
    instead: "do it now, or write it into the list of what does not work yet",
  },
  {
    pattern: new RegExp(`(?:^|[^\\w.$}-])/(?:wo${"rk"}(?![\\w-])|ro${"ot"}/)`),
    instead: "a machine's path: derive it from import.meta.url, a setting or os.tmpdir()",
  },
  {
    pattern: new RegExp(
      `\\bregi${"stry"}\\.[\\w-]+\\.[a-z]|//[\\w.-]*(?:artifac${"tory"}|nex${"us"})`,
    ),
    instead: "a package registry's address: npm's own settings name it",
  },
  {
    pattern: /(?<![\w.#])console\.\w+/,
    instead: "log through the Log port, or write to process.stdout in an entry point",
    concerns: (path) => path.startsWith("src/") && roomOf(path) !== "cli" && !isTestPath(path),
    isCode: true,
  },
  {
    pattern: /\bDate\.now\b|\bnew Date\(\)|\bperformance\.now\b/,
    instead: "this room runs in virtual time: take the Clock port",
    concerns: isPure,
    isCode: true,
  },
  {
    pattern: /\bMath\.random\b/,
    instead: "this room runs from a seed: take the Random port",
    concerns: isPure,
    isCode: true,
  },
  {
    pattern: /\b(?:setTimeout|setInterval|setImmediate|queueMicrotask)\b/,
    instead: "this room runs in virtual time: let the reactor's timer wheel call you",
    concerns: isPure,
    isCode: true,
  },
];

export function checkWords(project: Project): Finding[] {
  const findings: Finding[] = [];
  const bareCode = new Map(project.sources.map((file) => [file.path, file.lexed.bareCode]));
  for (const file of project.texts) {
    const text = bareCode.get(file.path);
    for (const word of WORDS) {
      if (word.concerns?.(file.path) === false) continue;
      const searched = word.isCode === true ? (text ?? file.text) : file.text;
      for (const [index, line] of searched.split("\n").entries()) {
        const found = line.match(word.pattern)?.[0];
        if (found === undefined) continue;
        const message = `"${found.trim()}": ${word.instead}`;
        findings.push({ path: file.path, line: index + 1, message });
      }
    }
  }
  return findings;
}

function roomOf(path: string): string {
  return path.split("/")[1] ?? "";
}

// What a source file imports and exports, read from its text and not from the emitted JavaScript:
// type imports vanish when the compiler emits, and the import table governs them too.
//
// Invariants: the text is formatted by Biome (one statement starts one line, double quotes), and
// was lexed, so that comments and templates cannot pose as statements.

export interface ModuleImport {
  readonly specifier: string;
  readonly line: number;
  /** Vanishes when emitted. */
  readonly isType: boolean;
  readonly isReExport: boolean;
  /** Names as the exporting file knows them; "*" for all of them. */
  readonly names: readonly string[];
}

export interface ModuleExport {
  readonly name: string;
  readonly line: number;
  /** An interface or a type. */
  readonly isType: boolean;
}

const FROM = String.raw`\s*from\s*"([^"\n]+)"`;
const LIST = String.raw`\{[^}]*\}`;
const WORD = String.raw`[\w$]+`;

const IMPORT_FROM = new RegExp(
  String.raw`^[ \t]*import\s+(type\s+)?((?:${WORD}\s*,?\s*)?(?:\*\s+as\s+${WORD}|${LIST})?)${FROM}`,
  "gm",
);
const EXPORT_FROM = new RegExp(
  String.raw`^[ \t]*export\s+(type\s+)?(\*(?:\s+as\s+${WORD})?|${LIST})${FROM}`,
  "gm",
);
const IMPORT_BARE = /^[ \t]*import\s*"([^"\n]+)"/gm;
const IMPORT_CALL = /\b(?:import|require)\s*\(\s*"([^"\n]+)"\s*\)/g;

const EXPORT_DECLARATION = new RegExp(
  "^export\\s+(?:(?:declare|abstract|async)\\s+)*" +
    `(const|let|var|function\\*?|class|interface|type)\\s+(${WORD})`,
  "gm",
);
const EXPORT_LIST = /^export\s+(type\s+)?\{([^}]*)\}\s*;/gm;
const EXPORT_DEFAULT = /^export\s+default\b/gm;

export function findImports(code: string): ModuleImport[] {
  const found: ModuleImport[] = [];
  const add = (match: RegExpMatchArray, more: Omit<ModuleImport, "line">): void => {
    const start = (match.index ?? 0) + (match[0].length - match[0].trimStart().length);
    found.push({ line: lineAt(code, start), ...more });
  };
  for (const match of code.matchAll(IMPORT_FROM)) {
    const [, type, clause, specifier] = match as unknown as [string, string?, string?, string?];
    add(match, {
      specifier: specifier ?? "",
      isType: type !== undefined,
      isReExport: false,
      names: namesOfClause(clause ?? ""),
    });
  }
  for (const match of code.matchAll(EXPORT_FROM)) {
    const [, type, clause, specifier] = match as unknown as [string, string?, string?, string?];
    add(match, {
      specifier: specifier ?? "",
      isType: type !== undefined,
      isReExport: true,
      names: namesOfClause(clause ?? ""),
    });
  }
  for (const match of code.matchAll(IMPORT_BARE)) {
    add(match, { specifier: match[1] ?? "", isType: false, isReExport: false, names: [] });
  }
  for (const match of code.matchAll(IMPORT_CALL)) {
    add(match, { specifier: match[1] ?? "", isType: false, isReExport: false, names: ["*"] });
  }
  return found;
}

/** The names a file itself exports; `export … from` counts as an import, and is not listed. */
export function findExports(code: string): ModuleExport[] {
  const found: ModuleExport[] = [];
  const add = (match: RegExpMatchArray, name: string, isType: boolean): void => {
    found.push({ name, line: lineAt(code, match.index ?? 0), isType });
  };
  for (const match of code.matchAll(EXPORT_DECLARATION)) {
    add(match, match[2] ?? "", match[1] === "interface" || match[1] === "type");
  }
  for (const match of code.matchAll(EXPORT_LIST)) {
    for (const part of (match[2] ?? "").split(",")) {
      const [name = ""] = part
        .trim()
        .split(/\s+as\s+/)
        .reverse();
      if (name !== "") add(match, name.replace(/^type\s+/, ""), match[1] !== undefined);
    }
  }
  for (const match of code.matchAll(EXPORT_DEFAULT)) add(match, "default", false);
  // Overloads of one function are one name.
  return found.filter(
    (one, index) => found.findIndex((other) => other.name === one.name) === index,
  );
}

function namesOfClause(clause: string): string[] {
  const names: string[] = [];
  if (clause.includes("*")) names.push("*");
  const beforeBrace = clause.split("{")[0] ?? "";
  if (/^[\w$]+/.test(beforeBrace.trim())) names.push("default");
  const list = clause.match(/\{([^}]*)\}/)?.[1] ?? "";
  for (const part of list.split(",")) {
    const name =
      part
        .trim()
        .replace(/^type\s+/, "")
        .split(/\s+as\s+/)[0] ?? "";
    if (name !== "") names.push(name);
  }
  return names;
}

function lineAt(text: string, index: number): number {
  let line = 1;
  for (let at = text.indexOf("\n"); at >= 0 && at < index; at = text.indexOf("\n", at + 1)) line++;
  return line;
}

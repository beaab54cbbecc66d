// Splits TypeScript text into code, comments and literal text, keeping every character at its
// place, so that rules can look at one without being fooled by the other.
//
// Invariants:
// - Both results have the length and the line breaks of the input.
// - It never throws: text that does not lex (a lone quote) is taken as code to the end of its line.
// It knows just enough of the grammar: strings, templates with nesting, comments, and regular
// expressions by what stands before the slash.

export interface LexedText {
  /** Comments, template text and regular expressions blanked; plain strings kept. */
  readonly code: string;
  /** As `code`, with the contents of plain strings blanked too. */
  readonly bareCode: string;
}

const CODE = 0;
const STRING = 1;
const BLANK = 2;

const REGEX_MAY_FOLLOW =
  /(?:^|[(,=:[!&|?{};+\-*%<>~^]|\b(?:return|typeof|case|in|of|delete|void))$/;

export function lex(text: string): LexedText {
  const kinds = new Uint8Array(text.length);
  // The brace depths at which a `}` goes back into a template.
  const templateDepths: number[] = [];
  let braceDepth = 0;
  let index = 0;
  while (index < text.length) {
    const char = text[index] as string;
    const next = text[index + 1];
    let end = index + 1;
    if (char === "/" && next === "/") {
      end = endOfLine(text, index);
      kinds.fill(BLANK, index, end);
    } else if (char === "/" && next === "*") {
      const close = text.indexOf("*/", index + 2);
      end = close < 0 ? text.length : close + 2;
      kinds.fill(BLANK, index, end);
    } else if (char === '"' || char === "'") {
      end = endOfQuoted(text, index, char);
      kinds.fill(STRING, index + 1, Math.max(index + 1, end - 1));
    } else if (char === "`") {
      end = endOfTemplateText(text, index + 1);
      kinds.fill(BLANK, index, end);
      if (text[end - 1] === "{") templateDepths.push(braceDepth++);
    } else if (char === "{") {
      braceDepth++;
    } else if (char === "}") {
      braceDepth--;
      if (templateDepths.length > 0 && templateDepths[templateDepths.length - 1] === braceDepth) {
        templateDepths.pop();
        end = endOfTemplateText(text, index + 1);
        kinds.fill(BLANK, index, end);
        if (text[end - 1] === "{") templateDepths.push(braceDepth++);
      }
    } else if (char === "/" && REGEX_MAY_FOLLOW.test(codeBefore(text, kinds, index))) {
      end = endOfRegex(text, index);
      kinds.fill(BLANK, index, end);
    }
    index = end;
  }
  return { code: blank(text, kinds, BLANK), bareCode: blank(text, kinds, STRING) };
}

function endOfLine(text: string, start: number): number {
  const newline = text.indexOf("\n", start);
  return newline < 0 ? text.length : newline;
}

function endOfQuoted(text: string, start: number, quote: string): number {
  for (let index = start + 1; index < text.length; index++) {
    const char = text[index];
    if (char === "\\") index++;
    else if (char === quote) return index + 1;
    else if (char === "\n") return start + 1;
  }
  return start + 1;
}

/** The index behind the closing backtick, or behind the `${` that interrupts the text. */
function endOfTemplateText(text: string, start: number): number {
  for (let index = start; index < text.length; index++) {
    const char = text[index];
    if (char === "\\") index++;
    else if (char === "`") return index + 1;
    else if (char === "$" && text[index + 1] === "{") return index + 2;
  }
  return text.length;
}

function endOfRegex(text: string, start: number): number {
  let inClass = false;
  for (let index = start + 1; index < text.length; index++) {
    const char = text[index];
    if (char === "\n") return start + 1;
    if (char === "\\") index++;
    else if (char === "[") inClass = true;
    else if (char === "]") inClass = false;
    else if (char === "/" && !inClass) return index + 1;
  }
  return start + 1;
}

/** The last few characters of code before an index: enough to tell a division from a regex. */
function codeBefore(text: string, kinds: Uint8Array, end: number): string {
  let before = "";
  for (let index = end - 1; index >= 0 && before.length < 8; index--) {
    const char = text[index] as string;
    if (kinds[index] === BLANK) continue;
    if (before === "" && /\s/.test(char)) continue;
    before = char + before;
  }
  return before;
}

function blank(text: string, kinds: Uint8Array, from: number): string {
  let result = "";
  let start = 0;
  for (let index = 0; index <= text.length; index++) {
    const isBlank = index < text.length && isBlanked(kinds[index] as number, from);
    if (!isBlank && index < text.length) continue;
    result += text.slice(start, index);
    if (index < text.length) result += text[index] === "\n" ? "\n" : " ";
    start = index + 1;
  }
  return result;
}

function isBlanked(kind: number, from: number): boolean {
  return kind !== CODE && (kind === BLANK || from === STRING);
}

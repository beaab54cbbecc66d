// What a command prints: one result in the form the user asked for. Data goes to stdout; progress,
// warnings and errors go to stderr, so that a pipe gets data only.

import { ClientError } from "../client/index.ts";

export const OUTPUT_FORMS = ["table", "wide", "json", "yaml", "name"] as const;
export type OutputForm = (typeof OUTPUT_FORMS)[number];

export interface Column {
  readonly title: string;
  readonly right?: boolean;
  /** Only with `-o wide`. */
  readonly wide?: boolean;
}

export interface Table {
  readonly columns: readonly Column[];
  readonly rows: readonly (readonly string[])[];
}

export interface Result {
  /** For json and yaml. */
  readonly data: unknown;
  /** For table and wide: rows, or text as it is. */
  readonly shown: Table | string;
  /** For name: one per line. */
  readonly names: readonly string[];
  /** Where the result itself is bad news; otherwise 0. */
  readonly exitCode?: number;
}

export interface OutputOptions {
  readonly form: OutputForm;
  readonly headers: boolean;
}

export async function render(result: Result, options: OutputOptions): Promise<string> {
  switch (options.form) {
    case "json":
      return `${JSON.stringify(result.data, null, 2)}\n`;
    case "yaml": {
      const { stringify } = await import("yaml");
      return stringify(result.data, { lineWidth: 0 });
    }
    case "name":
      return result.names.map((name) => `${name}\n`).join("");
    default:
      if (typeof result.shown === "string") return withNewline(result.shown);
      return renderTable(result.shown, options);
  }
}

function withNewline(text: string): string {
  return text === "" || text.endsWith("\n") ? text : `${text}\n`;
}

const GAP = "   ";

export function renderTable(table: Table, options: OutputOptions): string {
  const kept = table.columns
    .map((column, index) => ({ column, index }))
    .filter(({ column }) => options.form === "wide" || column.wide !== true);
  const body = table.rows.map((row) => kept.map(({ index }) => printable(row[index] ?? "")));
  const lines = options.headers ? [kept.map(({ column }) => column.title), ...body] : body;
  const widths = kept.map((_, at) => Math.max(0, ...lines.map((line) => (line[at] ?? "").length)));
  return lines
    .map((line) => {
      const cells = line.map((cell, at) => {
        const width = widths[at] ?? 0;
        return kept[at]?.column.right === true ? cell.padStart(width) : cell.padEnd(width);
      });
      return `${cells.join(GAP).trimEnd()}\n`;
    })
    .join("");
}

/** Text from elsewhere must not steer the terminal. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it is about.
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, "?");
}

export function parseForm(text: string): OutputForm {
  const form = OUTPUT_FORMS.find((one) => one === text);
  if (form !== undefined) return form;
  throw new ClientError("usage", `-o ${JSON.stringify(text)} is not an output form`, {
    advice: `use one of ${OUTPUT_FORMS.join(", ")}`,
  });
}

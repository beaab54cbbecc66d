// Where a place in emitted JavaScript comes from: the line of the TypeScript source, read from the
// source map (version 3, base64 variable-length quantities), so that findings name source lines.
//
// Invariant: without a map, or before its first segment, a line maps to itself.

export interface LineMap {
  /** One-based emitted line and zero-based column to a one-based source line. */
  sourceLine(line: number, column: number): number;
}

export const IDENTITY_LINES: LineMap = { sourceLine: (line) => line };

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

interface Segment {
  readonly column: number;
  readonly sourceLine: number;
}

export function parseSourceMap(json: string): LineMap {
  const { mappings } = JSON.parse(json) as { mappings: string };
  const lines: Segment[][] = [];
  let sourceLine = 0;
  for (const group of mappings.split(";")) {
    const segments: Segment[] = [];
    let column = 0;
    for (const segment of group.split(",")) {
      if (segment === "") continue;
      const fields = decodeQuantities(segment);
      column += fields[0] ?? 0;
      if (fields.length < 4) continue;
      sourceLine += fields[2] as number;
      segments.push({ column, sourceLine: sourceLine + 1 });
    }
    lines.push(segments);
  }
  return {
    sourceLine: (line, column) => {
      for (let index = Math.min(line, lines.length) - 1; index >= 0; index--) {
        const segments = lines[index] as Segment[];
        const limit = index === line - 1 ? column : Number.POSITIVE_INFINITY;
        const found = segments.findLast((segment) => segment.column <= limit);
        if (found !== undefined) return found.sourceLine;
      }
      return line;
    },
  };
}

function decodeQuantities(text: string): number[] {
  const values: number[] = [];
  let value = 0;
  let shift = 0;
  for (const char of text) {
    const digit = DIGITS.indexOf(char);
    if (digit < 0) throw new Error(`source map holds "${char}", which is not base64`);
    value |= (digit & 31) << shift;
    if ((digit & 32) !== 0) {
      shift += 5;
      continue;
    }
    values.push((value & 1) === 1 ? -(value >>> 1) : value >>> 1);
    value = 0;
    shift = 0;
  }
  return values;
}

// Layout tables: each protocol or disk structure is declared once, as a table of fields with
// offset and width. The declaration is checked when its module loads: no overlap, nothing past
// the end, natural alignment unless the specification packs it. Readers and writers use the
// offsets; documentation and hex dumps use the table.

import { assert } from "./assert.ts";

/** One field: offset and width in bytes. Width may be any length (byte arrays). */
export interface Field {
  readonly offset: number;
  readonly bytes: number;
}

export type FieldTable = Readonly<Record<string, readonly [offset: number, bytes: number]>>;

/** Field name -> byte offset, plus the total size and the table itself. */
export type Layout<T extends FieldTable> = { readonly [K in keyof T]: number } & {
  readonly BYTES: number;
  readonly NAME: string;
  readonly FIELDS: Readonly<Record<string, Field>>;
};

/**
 * Declares a structure of `totalBytes`. Fields are `[offset, bytes]`. `packed` allows fields of
 * 2, 4 or 8 bytes at unaligned offsets, as some specifications demand.
 */
export function layout<const T extends FieldTable>(
  name: string,
  totalBytes: number,
  fields: T,
  options: { packed?: boolean } = {},
): Layout<T> {
  const used = new Uint8Array(totalBytes);
  const table: Record<string, Field> = {};
  const offsets: Record<string, number> = {};
  for (const [field, [offset, bytes]] of Object.entries(fields)) {
    assert(bytes > 0, `${name}.${field}: width must be positive`);
    assert(offset >= 0 && offset + bytes <= totalBytes, `${name}.${field}: outside the structure`);
    const scalar = bytes === 2 || bytes === 4 || bytes === 8;
    assert(
      !scalar || options.packed === true || offset % bytes === 0,
      `${name}.${field}: unaligned`,
    );
    for (let at = offset; at < offset + bytes; at++) {
      assert(used[at] === 0, `${name}.${field}: overlaps another field`);
      used[at] = 1;
    }
    table[field] = { offset, bytes };
    offsets[field] = offset;
  }
  return Object.freeze({ ...offsets, BYTES: totalBytes, NAME: name, FIELDS: table }) as Layout<T>;
}

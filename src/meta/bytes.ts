// Keys on the wire are bytes, here they are text. The range of a prefix ends at the prefix with its
// last byte plus one (etcd's convention for range_end).

import { assert } from "../base/index.ts";

export function keyBytes(key: string): Buffer {
  assert(key !== "", "a key is not empty");
  return Buffer.from(key, "utf8");
}

export function keyText(key: Uint8Array): string {
  return Buffer.from(key.buffer, key.byteOffset, key.length).toString("utf8");
}

/** The first key behind all that begin with `prefix`. */
export function prefixEnd(prefix: string): Buffer {
  const end = keyBytes(prefix);
  const last = end.length - 1;
  // UTF-8 has no byte 0xff, so that one more never carries.
  assert(end[last]! < 0xff, "text has no byte 0xff");
  end[last]!++;
  return end;
}

/** The first key behind `key`: the same with a zero byte more. */
export function keyAfter(key: Uint8Array): Buffer {
  return Buffer.concat([key, Buffer.alloc(1)]);
}

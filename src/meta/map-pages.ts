// The placement pages of a volume all of which lies on one set of disks.

import type { MetaWrite } from "../ports/meta-store.ts";
import type { MetaKeys } from "./keys.ts";
import { encodePage, PAGE_SEGMENTS, SEGMENT_BYTES } from "./placement-page.ts";

export function mapPages(
  keys: MetaKeys,
  volumeId: string,
  sizeBytes: number,
  numbers: readonly number[],
): readonly MetaWrite[] {
  const count = Math.ceil(sizeBytes / SEGMENT_BYTES);
  const writes: MetaWrite[] = [];
  for (let from = 0; from < count; from += PAGE_SEGMENTS) {
    const length = Math.min(PAGE_SEGMENTS, count - from);
    const segments = Array.from({ length }, () => ({ disks: numbers, layer: 0, flags: 0 }));
    const page = from / PAGE_SEGMENTS;
    const value = encodePage(volumeId, { page, segments, exceptions: [] });
    writes.push({ key: keys.volumeMapPage(volumeId, page), value });
  }
  return writes;
}

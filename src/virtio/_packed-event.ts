// @hot
// What a packed ring's driver event area says (virtio 1.2, 2.8.10 and 2.8.14).

import { PACKED_EVENT_DESCRIPTOR, PACKED_EVENT_DISABLE } from "./layouts.ts";

/** Where a packed ring's device stands. */
export interface UsedPosition {
  readonly size: number;
  readonly usedIndex: number;
  readonly usedWrap: number;
}

/**
 * Does the driver want an interrupt, when the last `slots` slots before `at` have been used since
 * it had one? `event` is its off_wrap and flags as one word; without EVENT_IDX (`exact` false) it
 * can only say yes or no.
 */
export function isInterruptWanted(
  event: number,
  at: UsedPosition,
  slots: number,
  exact: boolean,
): boolean {
  const mode = (event >>> 16) & 3;
  if (mode === PACKED_EVENT_DISABLE) return false;
  if (mode !== PACKED_EVENT_DESCRIPTOR || !exact) return true;
  // Positions on one line: [now - slots, now) is what was used.
  const now = at.usedIndex;
  let offset = event & 0x7fff;
  if (((event >>> 15) & 1) !== at.usedWrap) offset -= at.size;
  return offset >= now - slots && offset < now;
}

// What a packed ring's successor puts right before it runs.
//
// An earlier process may have died between push() and publish(): behind the first descriptor of
// its batch, whose flags it still held back, lie used ones. Their requests are taken up again, so
// the driver must not find them when the flags of our first element let it go on.
//
// Invariant: only descriptors between the used and the avail position are touched. Those the
// driver has handed over and not yet got back.

import { PACKED_F_AVAIL, PACKED_F_USED } from "./layouts.ts";
import type { VirtqueueStart } from "./virtqueue.ts";

/** Makes used descriptors that the driver has not seen available again. False on a fault. */
export function takeBackUnseen(options: VirtqueueStart): boolean {
  const { size, base, descriptors, ringLog } = options;
  const availIndex = base & 0x7fff;
  const usedIndex = (base >>> 16) & 0x7fff;
  const usedWrap = (base >>> 31) & 1;
  const lap = ((base >>> 15) & 1) === usedWrap ? 0 : size;
  const count = availIndex - usedIndex + lap;
  if (count <= 0 || count > size) return true;
  if (!descriptors.pull(0, size << 4)) return false;
  for (let step = 0; step < count; step++) {
    const isNextLap = usedIndex + step >= size;
    const index = isNextLap ? usedIndex + step - size : usedIndex + step;
    const wrap = isNextLap ? usedWrap ^ 1 : usedWrap;
    const at = (index << 3) + 7;
    const flags = descriptors.u16[at] as number;
    if (((flags & PACKED_F_USED) !== 0 ? 1 : 0) !== wrap) continue;
    const available = wrap === 1 ? PACKED_F_AVAIL : PACKED_F_USED;
    descriptors.u16[at] = (flags & ~(PACKED_F_AVAIL | PACKED_F_USED)) | available;
    if (!descriptors.push(at << 1, 2)) return false;
    if (ringLog !== null) ringLog.descriptorRingWritten(at << 1, 2);
  }
  return true;
}

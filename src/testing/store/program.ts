// Random programs for a store: writes of every class, overlapping ones, discards, zeroes, reads, in
// bursts of any depth. From one seed; sizes and places are chosen so that little room is visited
// often.

import type { Prng } from "../../base/index.ts";
import type { CheckedClient } from "../sim/index.ts";

/** What a program needs of a client, simulated or real. */
export type ProgramClient = Pick<
  CheckedClient,
  "write" | "read" | "discard" | "writeZeroes" | "writeZeroData" | "flush"
>;

const BLOCK = 4096;
const SLAB = 65536;

/** Starts one random request. */
export function step(client: ProgramClient, prng: Prng, sizeBytes: number): void {
  const kind = prng.below(100);
  const { offsetBytes, bytes } = place(prng, sizeBytes);
  if (kind < 55) client.write(offsetBytes, bytes, prng.chance(0.5));
  else if (kind < 80) client.read(offsetBytes, bytes);
  else if (kind < 88) client.discard(offsetBytes, bytes);
  else if (kind < 94) client.writeZeroes(offsetBytes, bytes, prng.chance(0.5));
  else if (kind < 97) client.writeZeroData(offsetBytes - (offsetBytes % SLAB), SLAB);
  else client.flush();
}

/** A block, some blocks, a whole slab, or a stretch over several; mostly near the front. */
function place(prng: Prng, sizeBytes: number): { offsetBytes: number; bytes: number } {
  const total = sizeBytes / BLOCK;
  const shape = prng.below(10);
  let first = prng.chance(0.7) ? prng.below(Math.min(64, total)) : prng.below(total);
  let count = 1;
  if (shape >= 4 && shape < 7) count = prng.between(1, 15);
  else if (shape === 7) count = prng.between(8, 40);
  else if (shape > 7) {
    first -= first % 16;
    count = 16 * prng.between(1, 2);
  }
  count = Math.min(count, total - first);
  return { offsetBytes: first * BLOCK, bytes: count * BLOCK };
}

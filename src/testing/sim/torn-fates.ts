// The ways in which one write is torn that find most: cut in two at a block or at a sector, either
// half surviving, then combs and random subsets.

import { Prng } from "../../base/index.ts";
import type { TornFate } from "./crash-choice.ts";
import { ALL_SECTORS } from "./sim-blocks.ts";
import type { PendingFragment } from "./write-history.ts";

export interface TornOptions {
  readonly tornVariants?: number;
  readonly tornAt?: "block" | "sector" | "both";
  readonly garbage?: boolean;
  readonly seed?: number;
}

const VARIANTS_DEFAULT = 4;
/** Random subsets are drawn so often per variant; small fragments have few. */
const DRAWS_PER_VARIANT = 8;

/** Up to `tornVariants` different ones, each neither whole nor nothing. */
export function tornFates(one: PendingFragment, options: TornOptions): TornFate[] {
  const countMax = options.tornVariants ?? VARIANTS_DEFAULT;
  const found: TornFate[] = [];
  const seen = new Set<string>();
  const all = Buffer.from(one.masks).toString("latin1");
  for (const keep of candidates(one.masks, options, countMax)) {
    if (found.length >= countMax) break;
    const key = Buffer.from(keep).toString("latin1");
    if (key === all || keep.every((mask) => mask === 0) || seen.has(key)) continue;
    seen.add(key);
    found.push({ keep, garbage: null });
  }
  if (options.garbage !== true) return found;
  return [...found, ...found.map(({ keep }) => ({ keep, garbage: cutPiece(one.masks, keep) }))];
}

/** Of what is lost, the sector next to what is kept: the one being written. */
function cutPiece(masks: Uint8Array, keep: Uint8Array): Uint8Array {
  const garbage = new Uint8Array(masks.length);
  for (let at = 0; at < masks.length; at++) {
    const lost = masks[at] & ~keep[at];
    if (lost === 0) continue;
    garbage[at] = lost & -lost;
    break;
  }
  return garbage;
}

function* candidates(
  masks: Uint8Array,
  options: TornOptions,
  countMax: number,
): Generator<Uint8Array, void, void> {
  const { tornAt = "both" } = options;
  const blocks = masks.length;
  const pick = (bits: (block: number) => number): Uint8Array =>
    masks.map((mask, block) => mask & bits(block));
  const half = Math.ceil(blocks / 2);
  if (tornAt !== "sector") {
    yield pick((block) => (block < half ? ALL_SECTORS : 0));
    yield pick((block) => (block >= half ? ALL_SECTORS : 0));
  }
  if (tornAt !== "block") {
    yield pick((block) => (block === 0 ? lowest(masks[0]) : 0));
    yield pick((block) =>
      block === blocks - 1 ? ALL_SECTORS & ~highest(masks[block]) : ALL_SECTORS,
    );
    yield pick((block) => (block === 0 ? ALL_SECTORS & ~lowest(masks[0]) : ALL_SECTORS));
    yield pick((block) => (block === blocks >>> 1 ? 0x0f : block < blocks >>> 1 ? ALL_SECTORS : 0));
  }
  if (tornAt !== "sector") {
    yield pick((block) => (block === 0 ? ALL_SECTORS : 0));
    yield pick((block) => (block === 0 ? 0 : ALL_SECTORS));
    yield pick((block) => (block === blocks - 1 ? 0 : ALL_SECTORS));
    yield pick((block) => (block % 2 === 0 ? ALL_SECTORS : 0));
    // A few blocks have few subsets: all of them.
    for (let subset = 1; blocks <= 5 && subset < (1 << blocks) - 1; subset++) {
      yield pick((block) => ((subset >>> block) & 1 ? ALL_SECTORS : 0));
    }
  }
  const prng = new Prng((options.seed ?? 1) + blocks);
  for (let draw = 0; draw < countMax * DRAWS_PER_VARIANT; draw++) {
    const bySector = tornAt === "sector" || (tornAt === "both" && prng.chance(0.5));
    yield pick(() => (bySector ? prng.below(256) : prng.chance(0.5) ? ALL_SECTORS : 0));
  }
}

function lowest(mask: number): number {
  return mask & -mask;
}

function highest(mask: number): number {
  return mask === 0 ? 0 : 1 << (31 - Math.clz32(mask));
}

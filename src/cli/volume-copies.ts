// How volumes of the cluster are told to people: where their copies are, how each is, who has the
// volume.

import { formatBytes } from "../base/units.ts";
import type { ClusterBackingView, CopyReplacement, VolumeCopy } from "../model/cluster-types.ts";
import type { Volume } from "../model/types.ts";
import { countOf, formatPercent } from "./format.ts";

/** `2 copies`, `2 copies, 1 out`. */
export function copiesText(backing: ClusterBackingView): string {
  const parts = [countOf(backing.replicaCount, "copy", "copies")];
  for (const state of ["resyncing", "out"] as const) {
    const { length } = backing.copies.filter((copy) => copy.state === state);
    if (length > 0) parts.push(`${length} ${state}`);
  }
  return parts.join(", ");
}

/** `host-1/nvme0`, one for each copy. */
export function placesText(backing: ClusterBackingView): string {
  return backing.copies.map(placeText).join(", ");
}

function placeText(copy: VolumeCopy): string {
  return `${copy.node}/${copy.disk}`;
}

/** The state as this node knows it; of a volume that another node serves, which one. */
export function stateText(volume: Volume): string {
  const { backing, attachment, state } = volume;
  const isSettled = state === "detached" || state === "attached";
  if (backing.kind !== "cluster" || backing.attachedTo === null) return state;
  return attachment === null && isSettled ? `on ${backing.attachedTo}` : state;
}

export function copyRows(backing: ClusterBackingView): readonly (readonly [string, string])[] {
  return [
    ["owner", backing.owner === null ? "none yet" : `${backing.owner}, epoch ${backing.epoch}`],
    ["attached to", backing.attachedTo ?? "-"],
    ...(backing.standby === null ? [] : [["standby", backing.standby] as const]),
    ...backing.copies.map((copy) => ["copy", copyText(copy)] as const),
    ...replacementRows(backing.replacement),
  ];
}

function replacementRows(
  replacement: CopyReplacement | null,
): readonly (readonly [string, string])[] {
  if (replacement === null) return [];
  const { from, to, reason, since } = replacement;
  const source = from === null ? "" : ` instead of ${from.node}/${from.disk}`;
  return [["new copy", `${to.node}/${to.disk}${source} since ${since}: ${reason}`]];
}

function copyText(copy: VolumeCopy): string {
  let text = `${placeText(copy)}: ${copy.state}`;
  if (copy.resync !== null) {
    const { doneBytes, totalBytes } = copy.resync;
    const share = formatPercent(doneBytes, totalBytes);
    text += ` ${share} (${formatBytes(doneBytes)} of ${formatBytes(totalBytes)})`;
  }
  if (copy.since !== null) text += ` since ${copy.since}`;
  return copy.reason === null ? text : `${text}: ${copy.reason}`;
}

// The limit on rebuilds of a node: shown as the data plane has it, set there, kept in the node's
// data directory.
//
// It is the node's own, not the cluster's: what it protects are this node's clients, disks and
// links, and it is wanted most when nodes and metadata are in trouble. So it needs no metadata.

import type { RebuildLimit, RebuildLimitChange } from "../model/rebuild-types.ts";
import type { ClusterPlane } from "../ports/cluster-plane.ts";
import type { ClusterContext } from "./cluster-context.ts";
import type { ClusterFile } from "./cluster-file.ts";
import { asApiError } from "./failure.ts";

export function rebuildLimitOf({ resyncs }: ClusterPlane): RebuildLimit {
  const pace = resyncs.pace();
  return {
    bytesPerSecond: pace?.limitBytesPerSecond ?? null,
    currentBytesPerSecond: pace?.bytesPerSecond ?? 0,
    movedBytes: pace?.movedBytes ?? 0,
  };
}

/** Kept first: what is in force is then in force after a restart as well. */
export async function setRebuildLimit(
  { bytesPerSecond }: RebuildLimitChange,
  file: ClusterFile,
  { plane, host }: ClusterContext,
): Promise<RebuildLimit> {
  try {
    await file.saveRebuildLimit(bytesPerSecond);
    await plane.resyncs.setLimit(bytesPerSecond);
  } catch (error) {
    throw asApiError(error, "cannot set the rebuild limit");
  }
  host.modules.log.log("info", "cluster.rebuild-limit", { bytesPerSecond });
  return { ...rebuildLimitOf(plane), bytesPerSecond };
}

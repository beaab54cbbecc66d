// The cluster side of a daemon, made from its parts: a real one over a data plane that can take
// part in a cluster, otherwise one that says no.

import type { ClusterPlane } from "../ports/cluster-plane.ts";
import type { DataPlane } from "../ports/data-plane.ts";
import { ClusterFile } from "./cluster-file.ts";
import { ClusterHost } from "./cluster-host.ts";
import { CLUSTER_TIMINGS, type ClusterTimings } from "./cluster-timings.ts";
import { type DaemonCluster, NoCluster } from "./no-cluster.ts";
import type { StateFs } from "./state-fs.ts";
import { CLUSTER_ATTACHMENT_STATE, StateStore } from "./state-store.ts";
import type { VolumeHost } from "./volume-host.ts";

export interface ClusterParts {
  readonly host: VolumeHost;
  /** The data directory. */
  readonly root: string;
  readonly dataPlane: DataPlane;
  readonly fs: StateFs;
}

export function makeCluster(
  { host, root, dataPlane: plane, fs }: ClusterParts,
  nodeId: () => Promise<string>,
  timings: ClusterTimings = CLUSTER_TIMINGS,
): DaemonCluster {
  if (!takesPart(plane)) return new NoCluster();
  const file = new ClusterFile(root, fs);
  const directory = host.options.paths.attachedDirectory;
  const attachments = new StateStore(directory, fs, CLUSTER_ATTACHMENT_STATE);
  return new ClusterHost({ file, plane, host, attachments, timings, nodeId });
}

function takesPart(plane: DataPlane): plane is DataPlane & ClusterPlane {
  return "startCluster" in plane;
}

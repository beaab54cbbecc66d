// What the daemon asks of its cluster side, and the side of a daemon whose data plane cannot take
// part in one.

import type { ClusterControl } from "../api/cluster-control.ts";
import { ApiError } from "../model/errors.ts";
import type { SaveReservations } from "../ports/classic-plane.ts";
import type { ClusterVolumes } from "./cluster-volumes.ts";

export interface DaemonCluster extends ClusterControl {
  /** null: in no cluster. */
  readonly volumes: ClusterVolumes | null;
  diskBecameReady(): void;
  diskBecameFailed(): void;
  /** Of a volume of the cluster. */
  readonly saveReservations: SaveReservations;
  /** Before any disk is opened. Rejects never. */
  prepare(): Promise<void>;
  /** In the background: nobody waits for it. */
  begin(): void;
  stop(): Promise<void>;
}

function refuse(): never {
  throw new ApiError("unsupported", "this daemon can be in no cluster");
}

export class NoCluster implements DaemonCluster {
  readonly volumes = null;
  show = async (): Promise<null> => null;
  init = async (): Promise<never> => refuse();
  join = async (): Promise<never> => refuse();
  token = async (): Promise<never> => refuse();
  exportMetadata = async (): Promise<never> => refuse();
  importMetadata = async (): Promise<never> => refuse();
  recover = async (): Promise<never> => refuse();
  listNodes = async (): Promise<never> => refuse();
  showNode = async (): Promise<never> => refuse();
  drainNode = async (): Promise<never> => refuse();
  drainDisk = async (): Promise<never> => refuse();
  removeNode = async (): Promise<never> => refuse();
  handOver = async (): Promise<never> => refuse();
  maintain = async (): Promise<never> => refuse();
  rebuilds = async (): Promise<never> => refuse();
  rebuildLimit = async (): Promise<never> => refuse();
  setRebuildLimit = async (): Promise<never> => refuse();
  diskBecameReady = (): void => undefined;
  diskBecameFailed = (): void => undefined;
  saveReservations = async (): Promise<never> => refuse();
  prepare = async (): Promise<void> => undefined;
  begin = (): void => undefined;
  stop = async (): Promise<void> => undefined;
}

// A daemon that is in no cluster and cannot be: its answers to questions about one.

import type { ClusterControl } from "../api/cluster-control.ts";
import { ApiError } from "../model/errors.ts";

function refuse(): never {
  throw new ApiError("unsupported", "this daemon is in no cluster");
}

export class NoCluster implements ClusterControl {
  show = async (): Promise<null> => null;
  init = async (): Promise<never> => refuse();
  join = async (): Promise<never> => refuse();
  token = async (): Promise<never> => refuse();
  listNodes = async (): Promise<never> => refuse();
  showNode = async (): Promise<never> => refuse();
  removeNode = async (): Promise<never> => refuse();
  rebuilds = async (): Promise<never> => refuse();
}

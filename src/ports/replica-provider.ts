// Where a server of replicas finds them: by volume and disk, one object for each session.

import type { Replica, ReplicaFailure, ReplicaHandler } from "./replica.ts";

export interface ReplicaProvider {
  /**
   * A Replica of its own for one session of an owner; it is fenced next, and closed at the end.
   * `handler` hears of its writes. Or why there is none. UUIDs are lower-case text.
   */
  openReplica(
    volumeUuid: string,
    diskUuid: string,
    handler: ReplicaHandler,
  ): Replica | ReplicaFailure;
}

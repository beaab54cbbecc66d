// peer/: one authenticated link between the reactors of two daemons; a replica of another node as
// its owner sees it, the server that answers it, and the read grants between them.

export type { PeerIdentity } from "./handshake.ts";
export {
  LocalReplica,
  type LocalReplicaModules,
  type LocalReplicaOptions,
} from "./local-replica.ts";
export { type GrantSource, PeerGrants } from "./peer-grants.ts";
export {
  PeerLink,
  type PeerLinkCounters,
  type PeerLinkModules,
  type PeerLinkOptions,
  type PeerLinkState,
} from "./peer-link.ts";
export { NO_PEER_BUGS, type PeerPlantedBugs } from "./planted.ts";
export {
  RemoteReplica,
  type RemoteReplicaEvents,
  type RemoteReplicaOptions,
} from "./remote-replica.ts";
export {
  ReplicaServer,
  type ReplicaServerCounters,
  type ReplicaServerModules,
  type ReplicaServerOptions,
} from "./replica-server.ts";
export type { SessionCounters } from "./session-table.ts";

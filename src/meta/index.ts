// meta/: the cluster's metadata. The client of etcd's API, the records and pages that are kept
// there, and who gets which disk. The embedded server is in server/.

export * from "./errors.ts";
export type { EtcdOptions } from "./etcd-connection.ts";
export { EtcdMetaStore } from "./etcd-store.ts";
export * from "./swap.ts";

// meta/: the cluster's metadata. The client of etcd's API, the records and pages that are kept
// there, archives of them, and who gets which disk. The embedded server is in server/.

export * from "./archive.ts";
export * from "./errors.ts";
export type { EtcdOptions } from "./etcd-connection.ts";
export { EtcdMetaStore } from "./etcd-store.ts";
export * from "./inventory.ts";
export * from "./keys.ts";
export * from "./map-pages.ts";
export * from "./placement.ts";
export * from "./placement-page.ts";
export * from "./record-codec.ts";
export * from "./records.ts";
export * from "./recovery.ts";
export * from "./repair-plan.ts";
export * from "./swap.ts";
export * from "./transact-known.ts";

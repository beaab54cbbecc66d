// iscsi/: the iSCSI target (RFC 7143) on Streams, in a reactor: login, sessions, data.

export { type ChapCredentials, type ChapUser, judgeCredentials } from "./chap.ts";
export { TRANSFER_BYTES_MAX } from "./limits.ts";
export type { TargetWishes } from "./negotiation.ts";
export { Portal, type PortalCounters, type PortalOptions, TARGET_WISHES } from "./portal.ts";
export type { Session } from "./session.ts";
export type {
  IscsiTarget,
  ScsiManagement,
  ScsiService,
  TargetDirectory,
  TargetRedirect,
} from "./target.ts";

// volume/: what stands between a front end and the stores that keep a volume's blocks.

export { OwnerBackground } from "./background.ts";
export { MemberSession } from "./member.ts";
export { OwnedVolume, type OwnerState } from "./owned-volume.ts";
export { NO_OWNER_BUGS, type OwnerBugs } from "./owner-bugs.ts";
export {
  OWNER_TIMINGS,
  type OwnerModules,
  type OwnerOptions,
  type OwnerTimings,
} from "./owner-settings.ts";
export { OwnerWorkspace } from "./owner-workspace.ts";
export type { ClientSight, ClientWindow } from "./resync-pace.ts";
export { SectorDevice, type WholeBlockDevice } from "./sector-device.ts";
export { SectorWorkspace } from "./sector-workspace.ts";

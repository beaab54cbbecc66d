// local/: a BlockDevice over one file or block device, over memory, over nothing.

export type { LocalDeviceOptions } from "./device-info.ts";
export { LocalError, type LocalErrorCode } from "./errors.ts";
export { FileDevice, type FileDeviceModules, type FileDeviceOptions } from "./file-device.ts";
export { MemoryDevice } from "./memory-device.ts";
export { NullDevice } from "./null-device.ts";
export { Workspace, type WorkspaceOptions } from "./workspace.ts";

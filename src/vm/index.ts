// vm/: real Linux guests for tests, benchmarks and the show: kernel, initramfs, QEMU, and a way
// to run commands inside. Imports base/ only; nothing here knows Ringstore's daemon.

export * from "./accelerator.ts";
export * from "./boot-image.ts";
export * from "./cache.ts";
export * from "./console-log.ts";
export * from "./cpio.ts";
export * from "./debian.ts";
export * from "./error.ts";
export * from "./guest.ts";
export * from "./guest-agent.ts";
export { findOnSystem, requireOnSystem } from "./host-program.ts";
export * from "./initiator-programs.ts";
export * from "./initramfs.ts";
export * from "./kernel.ts";
export * from "./migration.ts";
export * from "./packages.ts";
export * from "./qemu.ts";
export {
  type Accelerator,
  type FileDisk,
  findQemu,
  type GuestDisk,
  type MemorySlots,
  type Properties,
  type QemuProgram,
  type QemuVersion,
  type VhostUserBlkDisk,
  type VhostUserScsiController,
} from "./qemu-command.ts";
export * from "./qmp.ts";

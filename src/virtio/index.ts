// virtio/: virtqueues and virtio-blk requests over memory views. A chain becomes a BlockDevice
// submit. Reading order: split-queue.ts, blk.ts.

export { NO_GUEST_MEMORY } from "./_ring-memory.ts";
export * from "./blk.ts";
export * from "./blk-config.ts";
export * from "./blk-meter.ts";
export * from "./blk-modules.ts";
export * from "./chain.ts";
export * from "./chain-memory.ts";
export * from "./layouts.ts";
export * from "./packed-queue.ts";
export * from "./split-queue.ts";
export * from "./virtqueue.ts";

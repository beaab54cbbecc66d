// virtio/: virtqueues and virtio-blk requests over memory views.

export * from "./chain.ts";
export * from "./layouts.ts";
export * from "./virtqueue.ts";

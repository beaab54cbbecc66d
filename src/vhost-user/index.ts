// vhost-user/: the socket protocol between a front-end (QEMU and others) and this back-end, and
// virtio-scsi behind it. Reading order: device.ts, session.ts, requests.ts, vring.ts,
// guest-device.ts, memory-table.ts, inflight.ts; then scsi-model.ts.

export { BlkModel } from "./blk-model.ts";

export { listenError, SESSIONS_MAX, type VhostDeviceOptions, VhostUserDevice } from "./device.ts";
export { FrontGate, type GatedFront } from "./front-gate.ts";
export { ScsiModel, type ScsiModelOptions } from "./scsi-model.ts";

// vhost-user/: the socket protocol between a front-end (QEMU and others) and this back-end.
// Reading order: device.ts, session.ts, requests.ts, vring.ts, memory-table.ts, inflight.ts.

export { listenError, SESSIONS_MAX, type VhostDeviceOptions, VhostUserDevice } from "./device.ts";
export { FrontGate, type GatedFront } from "./front-gate.ts";

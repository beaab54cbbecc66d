// ports/: the seams between rooms. Types only.

export * from "./block-device.ts";
export * from "./classic-plane.ts";
export * from "./clock.ts";
export * from "./cluster-plane.ts";
export * from "./cluster-secret.ts";
export * from "./data-plane.ts";
export * from "./disk.ts";
export * from "./guest-memory.ts";
export * from "./log.ts";
export * from "./memory.ts";
export * from "./meta-store.ts";
export * from "./reactor.ts";
export * from "./replica.ts";
export * from "./replica-note.ts";
export * from "./replica-provider.ts";
export * from "./reservation-record.ts";
export * from "./scsi-plane.ts";
export * from "./store-disk.ts";
export * from "./stream.ts";
export * from "./volume-records.ts";

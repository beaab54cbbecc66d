// load/: the driving side. A vhost-user front-end, guest memory, virtio rings from the driver's
// side, and a load generator over them; an iSCSI initiator for tests.

export * from "./backend-channel.ts";
export * from "./blk-queue.ts";
export * from "./canary.ts";
export * from "./child.ts";
export * from "./errors.ts";
export * from "./front-end.ts";
export * from "./generator.ts";
export * from "./generator-parts.ts";
export * from "./guest-memory.ts";
export * from "./histogram.ts";
export * from "./iscsi-initiator.ts";
export * from "./iscsi-initiator-login.ts";
export * from "./iscsi-run.ts";
export * from "./message-stream.ts";
export * from "./options.ts";
export * from "./packed-ring.ts";
export * from "./process-cpu.ts";
export * from "./report.ts";
export * from "./rig.ts";
export * from "./run.ts";
export * from "./scsi-driver.ts";
export * from "./self-check.ts";
export * from "./session.ts";
export * from "./split-ring.ts";
export * from "./trivial-device.ts";
export * from "./verify.ts";
export * from "./workload.ts";

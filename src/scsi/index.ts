// scsi/: the SPC and SBC command sets over a BlockDevice. No transport.

export * from "./task.ts";

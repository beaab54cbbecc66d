// sys/: the only room that loads koffi. System calls, memory, descriptors, CRC32C.

export { CLUSTER_KEY_BYTES_MIN, HmacSecret } from "./cluster-secret.ts";
export * from "./constants.ts";
export * from "./error.ts";
export * from "./events.ts";
export * from "./files.ts";
export { syscall6 } from "./libc.ts";
export {
  arenaOver,
  mmap,
  munmap,
  SystemMemory,
  windowOver,
} from "./memory.ts";
export * from "./process.ts";
export { canSignalReceived, signalReceived } from "./signal-received.ts";
export * from "./sockets.ts";
export * from "./tcp.ts";

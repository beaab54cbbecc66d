// base/: pure tools. No I/O, no Node API, imports nothing.

export * from "./assert.ts";
export * from "./big-endian.ts";
export * from "./crc32c.ts";
export * from "./errno.ts";
export * from "./error.ts";
export * from "./layout.ts";
export * from "./prng.ts";
export * from "./request-table.ts";
export * from "./segment-copier.ts";
export * from "./send-queue.ts";
export * from "./units.ts";

// wire/: what two daemons say to each other. Layouts, encoders and decoders; no I/O, no state.

export * from "./handshake.ts";
export * from "./header.ts";
export * from "./layouts.ts";
export * from "./payloads.ts";
export { isUuid } from "./uuids.ts";

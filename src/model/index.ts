// model/: every object, request, error, setting and metric of the control plane.
//
// The start path of the daemon and the CLI import the files they need instead of this index,
// which loads the schema library.

export * from "./cluster-rules.ts";
export * from "./cluster-schemas.ts";
export * from "./cluster-types.ts";
export * from "./config.ts";
export * from "./declared.ts";
export * from "./declared-schema.ts";
export * from "./disk-schemas.ts";
export * from "./disk-types.ts";
export * from "./errors.ts";
export * from "./limits.ts";
export * from "./metrics.ts";
export * from "./move-schemas.ts";
export * from "./move-types.ts";
export type { SchemaOf } from "./schema.ts";
export * from "./schemas.ts";
export * from "./types.ts";
export * from "./validate.ts";
export * from "./volume-rules.ts";

// Schemas of rebuild-types.ts, and the bounds of a rate.

import { Type } from "typebox";
import { ApiError } from "./errors.ts";
import type { RebuildLimit, RebuildLimitChange } from "./rebuild-types.ts";
import { describes, type SchemaOf } from "./schema.ts";
import { closed, count, nullable } from "./schema-parts.ts";
import { quote } from "./volume-rules.ts";

const SLAB_BYTES = 65_536;
const RATE_MAX = 2 ** 40;

const rate = nullable(
  Type.Integer({
    minimum: SLAB_BYTES,
    maximum: RATE_MAX,
    description: "for all rebuilds together; null: automatic, as clients' latency allows",
  }),
);

export const RebuildLimitChangeSchema: SchemaOf<RebuildLimitChange> =
  describes<RebuildLimitChange>()(
    Type.Object({ bytesPerSecond: rate }, { ...closed, title: "RebuildLimitChange" }),
  );

export const RebuildLimitSchema: SchemaOf<RebuildLimit> = describes<RebuildLimit>()(
  Type.Object(
    {
      bytesPerSecond: rate,
      currentBytesPerSecond: Type.Number({ minimum: 0, description: "in force now" }),
      movedBytes: count("copied since the daemon was started"),
    },
    { ...closed, title: "RebuildLimit" },
  ),
);

/** `what`: as it was typed. */
export function checkRebuildRate(what: string, bytesPerSecond: number): void {
  if (bytesPerSecond >= SLAB_BYTES && bytesPerSecond <= RATE_MAX) return;
  throw new ApiError("invalid_request", `a rate of ${quote(what)} cannot be`, {
    advice: "give 64K to 1T bytes per second, e.g. 200M; or auto",
  });
}

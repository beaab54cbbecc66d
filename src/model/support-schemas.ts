// JSON schema of support-types.ts.

import Type from "typebox";
import { describes, type SchemaOf } from "./schema.ts";
import { closed, when } from "./schema-parts.ts";
import type { SupportReply } from "./support-types.ts";

export const SupportReplySchema: SchemaOf<SupportReply> = describes<SupportReply>()(
  Type.Object(
    {
      at: when,
      config: Type.Record(Type.String(), Type.Unknown(), { description: "settings in force" }),
      log: Type.Array(Type.String(), { description: "the latest lines of the daemon's log" }),
      machine: Type.Record(Type.String(), Type.String(), {
        description: "kernel, memory, limits",
      }),
    },
    { ...closed, title: "SupportReply" },
  ),
);

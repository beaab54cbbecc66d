// Schemas that belong to HTTP and not to the model: query strings, empty bodies, plain text.
// Query values arrive as text and stay text here.

import Type from "typebox";
import { describes, type SchemaOf } from "../model/schema.ts";

const closed = { additionalProperties: false } as const;

export interface DryRunQuery {
  readonly dryRun?: "true" | "false";
}

export const DryRunSchema: SchemaOf<DryRunQuery> = describes<DryRunQuery>()(
  Type.Object(
    {
      dryRun: Type.Optional(
        Type.Enum(["true", "false"], { description: "check everything, change nothing" }),
      ),
    },
    closed,
  ),
);

export interface DiskRemoveQuery extends DryRunQuery {
  readonly force?: "true" | "false";
}

export const DiskRemoveQuerySchema: SchemaOf<DiskRemoveQuery> = describes<DiskRemoveQuery>()(
  Type.Object(
    {
      dryRun: Type.Optional(
        Type.Enum(["true", "false"], { description: "check everything, change nothing" }),
      ),
      force: Type.Optional(
        Type.Enum(["true", "false"], {
          description: "the disk is gone for good: delete the volumes that lived on it as well",
        }),
      ),
    },
    closed,
  ),
);

export interface EventsQuery {
  readonly since?: string;
}

export const EventsQuerySchema: SchemaOf<EventsQuery> = describes<EventsQuery>()(
  Type.Object(
    {
      since: Type.Optional(
        Type.String({ pattern: "^\\d{1,15}$", description: "only events after this number" }),
      ),
    },
    closed,
  ),
);

export const EmptySchema: SchemaOf<Record<never, never>> = Type.Object({}, closed);

export const TextSchema: SchemaOf<string> = describes<string>()(Type.String());

/** The OpenAPI document describes itself no further. */
export const DocumentSchema: SchemaOf<Record<string, unknown>> = Type.Record(
  Type.String(),
  Type.Unknown(),
);

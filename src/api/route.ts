// What all routes of a kind have in common: their tag, the errors they may answer, what they are
// asked with.

import type { FastifySchema } from "fastify";
import { ApiError } from "../model/errors.ts";
import { ErrorReplySchema, VolumeParamsSchema } from "../model/schemas.ts";
import type { Caller } from "./control-plane.ts";
import { type DryRunQuery, DryRunSchema } from "./query-schemas.ts";

export interface Named {
  readonly Params: { readonly name: string };
}

export interface DryRun {
  readonly Querystring: DryRunQuery;
}

export const named: { readonly params: object } = { params: VolumeParamsSchema };
export const dryRun: { readonly querystring: object } = { querystring: DryRunSchema };

export type RouteSchema = (
  operationId: string,
  summary: string,
  rest?: FastifySchema,
) => FastifySchema;

/** Schemas of routes in that part of the document. */
export function routesOf(tag: string): RouteSchema {
  return (operationId, summary, rest = {}) => {
    const { response, ...others } = rest;
    return {
      operationId,
      summary,
      tags: [tag],
      ...others,
      response: { ...(response as object), "4xx": ErrorReplySchema, "5xx": ErrorReplySchema },
    };
  };
}

/** What only the daemon's own machine may ask: over the socket whose mode is the permission. */
export function requireLocal(caller: Caller, refusal: string, command: string): void {
  if (caller.transport === "unix") return;
  throw new ApiError("local_only", refusal, { advice: `ask on the node itself: ${command}` });
}

// The OpenAPI document: its frame, and its paths from the routes' own schemas. Schemas that have a
// title become components of that name, so that generated clients get named types.

import type { FastifyDynamicSwaggerOptions } from "@fastify/swagger";
import type { FastifyInstance } from "fastify";
import { API_VERSION } from "../model/limits.ts";

export const OPENAPI_OPTIONS: FastifyDynamicSwaggerOptions = {
  openapi: {
    openapi: "3.1.0",
    info: {
      title: "Ringstore",
      description:
        "Volumes for virtual machines over vhost-user. Served on the unix socket " +
        "`ringstored.sock` of the data directory, and with a bearer token on `--listen`. " +
        "Sizes are bytes, times RFC 3339 in UTC. Fields are only ever added within /v1.",
      version: String(API_VERSION),
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    components: {
      securitySchemes: { token: { type: "http", scheme: "bearer", description: "TCP only" } },
    },
    security: [{ token: [] }],
    tags: [
      { name: "volumes", description: "Declared volumes and their attachments" },
      { name: "disks", description: "Disks of the store, in which volumes live" },
      { name: "cluster", description: "The cluster that this daemon is in, and its nodes" },
      { name: "daemon", description: "Status, metrics and events of this daemon" },
    ],
  },
};

type Node = Record<string, unknown>;

/** The whole document of a server that is ready. */
export function openApiDocument(app: FastifyInstance): unknown {
  const document = structuredClone(app.swagger()) as unknown as Node;
  const schemas: Node = {};
  const paths = nameSchemas(document["paths"], schemas);
  const sorted = Object.fromEntries(Object.entries(schemas).sort(([a], [b]) => (a < b ? -1 : 1)));
  const components = { ...(document["components"] as Node), schemas: sorted };
  return { ...document, components, paths };
}

function nameSchemas(value: unknown, schemas: Node): unknown {
  if (Array.isArray(value)) return value.map((item) => nameSchemas(item, schemas));
  if (typeof value !== "object" || value === null) return value;
  const node = Object.fromEntries(
    Object.entries(value).map(([key, item]) => [key, nameSchemas(item, schemas)]),
  );
  const { title } = node;
  if (typeof title !== "string") return node;
  const before = schemas[title];
  if (before !== undefined && JSON.stringify(before) !== JSON.stringify(node)) {
    throw new Error(`two schemas are called ${title}`);
  }
  schemas[title] = node;
  return { $ref: `#/components/schemas/${title}` };
}

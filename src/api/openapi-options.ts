// The frame of the OpenAPI document; its paths come from the routes' own schemas.

import type { FastifyDynamicSwaggerOptions } from "@fastify/swagger";
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
      { name: "daemon", description: "Status, metrics and events of this daemon" },
    ],
  },
};

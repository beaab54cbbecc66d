// /v1/status, /v1/advise, /v1/events, metrics, version, the OpenAPI document.

import type { FastifyInstance } from "fastify";
import {
  AdviseReplySchema,
  ErrorReplySchema,
  EventListSchema,
  StatsReplySchema,
  StatusSchema,
  VersionReplySchema,
} from "../model/schemas.ts";
import { SupportReplySchema } from "../model/support-schemas.ts";
import type { ControlPlane } from "./control-plane.ts";
import type { EventStreams } from "./event-stream.ts";
import { openApiDocument } from "./openapi.ts";
import {
  DocumentSchema,
  type EventsQuery,
  EventsQuerySchema,
  TextSchema,
} from "./query-schemas.ts";
import { routesOf } from "./route.ts";

const METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8";

const METRICS_RESPONSE = {
  200: { description: "Metrics", content: { "text/plain": { schema: TextSchema } } },
  "4xx": ErrorReplySchema,
  "5xx": ErrorReplySchema,
};

const route = routesOf("daemon");

export function addDaemonRoutes(
  app: FastifyInstance,
  controlPlane: ControlPlane,
  streams: EventStreams,
): void {
  app.get(
    "/v1/version",
    { schema: route("version", "Versions", { response: { 200: VersionReplySchema } }) },
    async () => controlPlane.version(),
  );
  app.get(
    "/v1/status",
    { schema: route("status", "Health, counts and rates", { response: { 200: StatusSchema } }) },
    async () => await controlPlane.status(),
  );
  app.get(
    "/v1/advise",
    {
      schema: route("advise", "Each problem with the command that fixes it", {
        response: { 200: AdviseReplySchema },
      }),
    },
    async () => await controlPlane.advise(),
  );
  app.get(
    "/v1/stats",
    {
      schema: route("stats", "Cumulative counters of the attached volumes", {
        response: { 200: StatsReplySchema },
      }),
    },
    async () => controlPlane.stats(),
  );
  app.get(
    "/v1/support",
    {
      schema: route("support", "Settings, the end of the log and facts of the machine, to send", {
        response: { 200: SupportReplySchema },
      }),
    },
    async () => controlPlane.support(),
  );
  addEvents(app, controlPlane, streams);
  for (const url of ["/metrics", "/v1/metrics"]) {
    app.get(
      url,
      {
        schema: {
          ...route(url === "/metrics" ? "metrics" : "metricsV1", "Prometheus text"),
          response: METRICS_RESPONSE,
        },
      },
      async (_request, reply) => {
        const text = await controlPlane.metrics();
        return reply.type(METRICS_TYPE).serializer(String).send(text);
      },
    );
  }
  app.get(
    "/v1/openapi.json",
    { schema: route("openapi", "This document", { response: { 200: DocumentSchema } }) },
    async () => openApiDocument(app),
  );
}

function addEvents(app: FastifyInstance, controlPlane: ControlPlane, streams: EventStreams): void {
  app.get<{ Querystring: EventsQuery }>(
    "/v1/events",
    {
      schema: route("events", "The latest events; a live stream with `accept: text/event-stream`", {
        querystring: EventsQuerySchema,
        response: { 200: EventListSchema },
      }),
    },
    async (request, reply) => {
      const lastId = request.headers["last-event-id"];
      const resumed = typeof lastId === "string" && /^\d{1,15}$/.test(lastId) ? lastId : "0";
      const since = Number(request.query.since ?? resumed);
      const accept = request.headers.accept ?? "";
      if (!accept.includes("text/event-stream")) {
        return { events: controlPlane.eventsSince(since) };
      }
      streams.requireRoom();
      reply.hijack();
      streams.start(reply.raw, since);
      return reply;
    },
  );
}

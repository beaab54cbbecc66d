// The REST server: one Fastify instance per listener (unix socket, TCP), the same routes in both.
// Who calls is decided here, from the listener and the bearer token; every call that changes
// something is logged with caller and result.

import fastifySwagger from "@fastify/swagger";
import { type FastifyInstance, type FastifyReply, type FastifyRequest, fastify } from "fastify";
import { ApiError } from "../model/errors.ts";
import { REQUEST_BODY_MAX_BYTES } from "../model/limits.ts";
import { compileValidator } from "../model/validate.ts";
import type { ApiModules, Caller } from "./control-plane.ts";
import { classify, replyOf, routeNotFound } from "./error-reply.ts";
import { EventStreams } from "./event-stream.ts";
import { OPENAPI_OPTIONS } from "./openapi.ts";
import { addClusterRoutes } from "./routes-cluster.ts";
import { addDaemonRoutes } from "./routes-daemon.ts";
import { addDiskRoutes } from "./routes-disks.ts";
import { addMoveRoutes } from "./routes-moves.ts";
import { addRebuildRoutes } from "./routes-rebuilds.ts";
import { addRestoreRoutes } from "./routes-restore.ts";
import { addVolumeRoutes } from "./routes-volumes.ts";
import { callerOf, type Token } from "./tokens.ts";

export interface ApiServerOptions {
  readonly transport: "unix" | "tcp";
  /** Asked for each request, so that a reload counts at once. Not used on the unix socket. */
  readonly tokens: () => readonly Token[];
  /** PEM. Absent: in the clear. */
  readonly tls?: { readonly cert: Buffer; readonly key: Buffer };
}

/** Headers and body must arrive within this; long operations answer later than that. */
const REQUEST_TIMEOUT_MS = 30_000;
const HEADERS_TIMEOUT_MS = 10_000;
const KEEP_ALIVE_MS = 60_000;
const CONNECTION_COUNT_MAX = 256;
const PARAMETER_LENGTH_MAX = 128;
const LOCAL: Caller = { transport: "unix", name: "local" };

declare module "fastify" {
  interface FastifyRequest {
    caller: Caller;
    /** The code of the error this request was answered with; "" when it succeeded. */
    errorCode: string;
  }
}

export async function createApiServer(
  options: ApiServerOptions,
  modules: ApiModules,
): Promise<FastifyInstance> {
  const app = fastify({
    ...httpsOf(options),
    logger: false,
    bodyLimit: REQUEST_BODY_MAX_BYTES,
    requestTimeout: REQUEST_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_MS,
    routerOptions: { maxParamLength: PARAMETER_LENGTH_MAX },
    forceCloseConnections: "idle",
    return503OnClosing: false,
    frameworkErrors: (error, request, reply) => void sendError(error, request, reply, modules),
  });
  app.server.headersTimeout = HEADERS_TIMEOUT_MS;
  app.server.maxConnections = CONNECTION_COUNT_MAX;
  const streams = new EventStreams(modules.controlPlane);
  app.addHook("preClose", async () => streams.endAll());
  useOwnSchemas(app);
  identifyCallers(app, options);
  logCalls(app, modules);
  app.setErrorHandler((error, request, reply) => sendError(error, request, reply, modules));
  app.setNotFoundHandler((request, reply) =>
    sendError(routeNotFound(request.method, request.url), request, reply, modules),
  );
  await app.register(fastifySwagger, OPENAPI_OPTIONS);
  addVolumeRoutes(app, modules.controlPlane);
  addDiskRoutes(app, modules.controlPlane);
  addClusterRoutes(app, modules.controlPlane);
  addMoveRoutes(app, modules.controlPlane);
  addRebuildRoutes(app, modules.controlPlane);
  addRestoreRoutes(app, modules.controlPlane);
  addDaemonRoutes(app, modules.controlPlane, streams);
  await app.ready();
  return app;
}

/** Its own type of server: the routes see the same requests. */
function httpsOf({ tls }: ApiServerOptions): { readonly https?: never } {
  if (tls === undefined) return {};
  return { https: { cert: tls.cert, key: tls.key, minVersion: "TLSv1.2" } } as never;
}

/** Requests are checked by the model's validators, so that all errors read alike. */
function useOwnSchemas(app: FastifyInstance): void {
  app.setValidatorCompiler(({ schema, httpPart }) => {
    const validate = compileValidator(schema as never);
    return (value: unknown) => {
      const violation = validate(value);
      if (violation === null) return { value };
      const field = violation.field === "" ? `the ${httpPart ?? "request"}` : violation.field;
      return { error: new ApiError("invalid_request", `${field} ${violation.problem}`) };
    };
  });
  // Replies are typed; the tests check each against its schema.
  app.setSerializerCompiler(() => JSON.stringify);
  const parseJson = app.getDefaultJsonParser("error", "error");
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("application/json", { parseAs: "string" }, (request, body, done) => {
    if (body === "") done(null, {});
    else parseJson(request, body as string, done);
  });
}

function identifyCallers(app: FastifyInstance, options: ApiServerOptions): void {
  app.decorateRequest("caller", null as never);
  app.decorateRequest("errorCode", "");
  app.addHook("onRequest", async (request) => {
    request.caller = LOCAL;
    if (options.transport === "unix") return;
    const name = callerOf(request.headers.authorization, options.tokens());
    request.caller = { transport: "tcp", name: name ?? "unknown" };
    if (name !== null) return;
    throw new ApiError("unauthorized", "the request carries no valid bearer token", {
      advice: "send authorization: Bearer TOKEN with a token from the daemon's token file",
    });
  });
  // A call without a body means one without settings.
  app.addHook("preValidation", async (request) => {
    if (request.method === "POST" && request.body === undefined) request.body = {};
  });
}

function logCalls(app: FastifyInstance, modules: ApiModules): void {
  app.addHook("onResponse", async (request, reply) => {
    const route = request.routeOptions.url ?? "(none)";
    modules.answered(request.method, route, reply.statusCode);
    if (request.method === "GET" || request.method === "HEAD") return;
    const { name } = (request.params ?? {}) as { name?: string };
    const body = request.body as { name?: unknown } | undefined | null;
    const volume = name ?? (typeof body?.name === "string" ? body.name.slice(0, 80) : null);
    const { transport, name: caller } = request.caller ?? { transport: "tcp", name: "unknown" };
    modules.log.log(reply.statusCode < 400 ? "info" : "warn", "api.call", {
      method: request.method,
      route,
      volume,
      caller,
      transport,
      status: reply.statusCode,
      code: request.errorCode === "" ? null : request.errorCode,
      durationMs: Math.round(reply.elapsedTime),
    });
  });
}

function sendError(
  error: unknown,
  request: FastifyRequest,
  reply: FastifyReply,
  modules: ApiModules,
): FastifyReply {
  const failure = classify(error, modules, request.routeOptions?.url ?? request.url);
  request.errorCode = failure.code;
  const { status, body } = replyOf(failure);
  if (status === 401) void reply.header("www-authenticate", "Bearer");
  return reply.code(status).type("application/json").send(JSON.stringify(body));
}

// api/: the REST server over a ControlPlane. Loads Fastify: the daemon imports it after the
// guests' sockets are served.

export type {
  ApiModules,
  AttachResult,
  Caller,
  ControlPlane,
  RequestOptions,
} from "./control-plane.ts";
export { openApiDocument } from "./openapi.ts";
export { type ApiServerOptions, createApiServer } from "./server.ts";
export { parseTokens, type Token } from "./tokens.ts";

// client/: the typed REST client. Runs in Node and in browsers.

export { RingstoreClient } from "./client.ts";
export {
  ClientError,
  type ClientRequest,
  type ClientResponse,
  type Transport,
} from "./transport.ts";

// `--curl`: instead of sending a request, prints the curl command that would.

import type { ClientResponse, Transport } from "../client/index.ts";
import { ClientError, type ClientRequest } from "../client/index.ts";
import { API_SOCKET_NAME } from "../model/limits.ts";
import { quoteForShell } from "./shell.ts";
import type { Target } from "./transport.ts";

/** Thrown in place of a reply: the command was printed, there is nothing more to do. */
export class CurlPrinted extends ClientError {
  constructor() {
    super("curl_printed", "the request was printed, not sent");
  }
}

export class CurlTransport implements Transport {
  readonly #target: Target;
  readonly #out: (text: string) => void;

  constructor(target: Target, out: (text: string) => void) {
    this.#target = target;
    this.#out = out;
  }

  async send(request: ClientRequest): Promise<ClientResponse> {
    return this.#print(request, []);
  }

  async stream(path: string): Promise<void> {
    this.#print({ method: "GET", path }, ["-N", "-H", "accept: text/event-stream"]);
  }

  #print(request: ClientRequest, more: readonly string[]): never {
    const words = ["curl", "-sS", ...more];
    if (request.method !== "GET") words.push("-X", request.method);
    if (this.#target.kind === "unix") {
      words.push("--unix-socket", `${this.#target.dataDirectory}/${API_SOCKET_NAME}`);
    }
    const { body, secretField } = request;
    const secret = secretField === undefined ? "" : hereDocument(body, secretField);
    if (body !== undefined) {
      const data = secret === "" ? JSON.stringify(body) : "@-";
      words.push("-H", "content-type: application/json", "-d", data);
    }
    const base = this.#target.kind === "unix" ? "http://localhost" : this.#target.url;
    const quoted = [...words, `${base.replace(/\/$/, "")}${request.path}`].map(quoteForShell);
    if (this.#target.kind === "tcp" && this.#target.tokenFile !== "") {
      // The token itself stays out of histories and screens.
      const file = quoteForShell(this.#target.tokenFile);
      quoted.push("-H", `"authorization: Bearer $(grep -v '^#' ${file} | head -1 | cut -d: -f2)"`);
    }
    this.#out(`${quoted.join(" ")}${secret}\n`);
    throw new CurlPrinted();
  }
}

/**
 * The body on curl's standard input, where `ps` does not show it, its secret as a variable of the
 * shell: printed, it would be on screens and in histories.
 */
function hereDocument(body: unknown, secretField: string): string {
  const visible = { ...(body as object), [secretField]: "" };
  // What is left must come out of the here-document as it goes in.
  const text = JSON.stringify(visible).replace(/[\\`$]/g, "\\$&");
  const field = `${JSON.stringify(secretField)}:"`;
  return ` <<EOF\n${text.replace(field, `${field}$CLUSTER_TOKEN`)}\nEOF`;
}

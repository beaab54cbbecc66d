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
    if (this.#target.kind === "tcp" && this.#target.caFile !== "") {
      words.push("--cacert", this.#target.caFile);
    }
    const { body, secretFields = [] } = request;
    const secrets = secretFields.filter((field) => isThere(body, field.split(".")));
    const secret = secrets.length === 0 ? "" : hereDocument(body, secrets);
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

/** The variables of the shell that secrets are printed as. */
const VARIABLES: Readonly<Record<string, string>> = {
  token: "$CLUSTER_TOKEN",
  metadataPassword: "$METADATA_PASSWORD",
  "classic.chap.secret": "$CHAP_SECRET",
  "classic.chap.target.secret": "$CHAP_TARGET_SECRET",
};

type Fields = Readonly<Record<string, unknown>>;

function isThere(body: unknown, [field = "", ...deeper]: readonly string[]): boolean {
  if (typeof body !== "object" || body === null || !(field in body)) return false;
  return deeper.length === 0 || isThere((body as Fields)[field], deeper);
}

/** The body with "" in the place of a secret that is there. */
function withoutSecret(body: Fields, [field = "", ...deeper]: readonly string[]): Fields {
  const below = deeper.length === 0 ? "" : withoutSecret(body[field] as Fields, deeper);
  return { ...body, [field]: below };
}

/**
 * The body on curl's standard input, where `ps` does not show it, its secrets as variables of the
 * shell: printed, they would be on screens and in histories.
 */
function hereDocument(body: unknown, secrets: readonly string[]): string {
  const blank = secrets.reduce(
    (one, secret) => withoutSecret(one, secret.split(".")),
    body as Fields,
  );
  // What is left must come out of the here-document as it goes in.
  let text = JSON.stringify(blank).replace(/[\\`$]/g, "\\$&");
  for (const secret of secrets) {
    // Two may have the same last name: fields are named in the order of the body.
    const field = `${JSON.stringify(secret.split(".").at(-1))}:`;
    text = text.replace(`${field}""`, () => `${field}"${VARIABLES[secret] ?? ""}"`);
  }
  return ` <<EOF\n${text}\nEOF`;
}

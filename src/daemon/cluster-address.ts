// Addresses that people give: of this node, and of the metadata.

import { createServer } from "node:net";
import { hostname } from "node:os";
import { bareEndpoint, type HostPort, splitAddress } from "../model/cluster-rules.ts";
import { ApiError } from "../model/errors.ts";
import { checkVolumeName, quote } from "../model/volume-rules.ts";

/** `what` names the field. */
export function parseAddress(text: string, what: string): HostPort {
  const address = splitAddress(text);
  if (address !== null) return address;
  throw new ApiError("invalid_request", `${what}: ${quote(text)} is not HOST:PORT`, {
    advice: "give a host name or address and a port, e.g. 10.0.0.1:7400",
  });
}

/** `HOST:PORT`, also from http://HOST:PORT; with TLS from https://HOST:PORT. */
export function parseEndpoints(given: readonly string[], hasTls: boolean): readonly string[] {
  if (given.length === 0 || given.length > 16) {
    throw new ApiError("invalid_request", `${given.length} metadata endpoints`, {
      advice: "give 1 to 16 of one etcd cluster, or the embedded server's",
    });
  }
  return given.map((text) => {
    if (text.startsWith("https://") && !hasTls) {
      throw new ApiError("invalid_request", `${quote(text)} needs the authority's certificate`, {
        advice: "give the file with the certificate of who signed the server's: --metadata-ca",
      });
    }
    if (text.startsWith("http://") && hasTls) {
      throw new ApiError("invalid_request", `${quote(text)} is not TLS, and TLS was asked for`, {
        advice: "give HOST:PORT or https://HOST:PORT, or leave --metadata-ca out",
      });
    }
    const endpoint = bareEndpoint(text);
    parseAddress(endpoint, "metadata");
    return endpoint;
  });
}

/** Asks the system: an address that cannot be listened on is refused before anything is made. */
export async function checkListenable({ host, port }: HostPort): Promise<void> {
  const server = createServer();
  try {
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ host, port }, resolve);
    });
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code ?? String(cause);
    throw new ApiError("invalid_request", `cannot listen on ${host}:${port}: ${reason}`, {
      advice: "give an address of this machine and a free port",
      cause,
    });
  } finally {
    await new Promise((resolve) => server.close(resolve));
  }
}

/** What is given, or the host's name as far as it can be one. */
export function nodeNameOf(given: string | undefined): string {
  const own = hostname().toLowerCase().split(".")[0] ?? "";
  const usable = own.replace(/[^a-z0-9-]/g, "-").replace(/^-+|-+$/g, "");
  const name = given ?? usable;
  checkVolumeName(name, "node");
  return name;
}

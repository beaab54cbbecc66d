// How a node gets into its cluster's metadata: over TLS, with a user's name and password.
//
// What every node needs travels in the cluster's token, which is a secret anyway: the authority's
// certificate, user and password. A certificate of the node itself and its key are files of this
// node; their paths are kept, and they are read again at each start.
//
// Invariant: the password is in no message and in no view.

import { readFileSync } from "node:fs";
import type { EtcdOptions } from "../meta/index.ts";
import type { MetadataAccessRequest } from "../model/cluster-types.ts";
import { ApiError } from "../model/errors.ts";

/** What a token carries. */
export interface SharedAccess {
  /** PEM; null: no TLS. */
  readonly ca: string | null;
  readonly user: string | null;
  readonly password: string | null;
}

export interface MetadataAccess extends SharedAccess {
  readonly certificatePath: string | null;
  readonly keyPath: string | null;
}

export const OPEN_ACCESS: MetadataAccess = {
  ca: null,
  user: null,
  password: null,
  certificatePath: null,
  keyPath: null,
};

/** What was asked for, over what a token brought along. Reads the files, so that they are there. */
export function accessOf(request: MetadataAccessRequest, shared: SharedAccess): MetadataAccess {
  const { metadataCa, metadataCert, metadataKey, metadataUser, metadataPassword } = request;
  const access: MetadataAccess = {
    ca: metadataCa === undefined ? shared.ca : readPem(metadataCa, "CERTIFICATE"),
    user: metadataUser ?? shared.user,
    password: metadataPassword ?? shared.password,
    certificatePath: metadataCert ?? null,
    keyPath: metadataKey ?? null,
  };
  if (access.certificatePath !== null && access.ca === null) {
    throw new ApiError("invalid_request", "a certificate for the metadata without its authority", {
      advice: "give the authority's certificate too: --metadata-ca",
    });
  }
  connectionOf(access);
  return access;
}

/** For the client. Throws where a file cannot be read. */
export function connectionOf(access: MetadataAccess): Pick<EtcdOptions, "tls" | "user"> {
  const { ca, certificatePath, keyPath, user, password } = access;
  const own =
    certificatePath === null || keyPath === null
      ? {}
      : {
          certificate: Buffer.from(readPem(certificatePath, "CERTIFICATE")),
          key: Buffer.from(readPem(keyPath, "PRIVATE KEY")),
        };
  return {
    ...(ca === null ? {} : { tls: { ca: Buffer.from(ca), ...own } }),
    ...(user === null ? {} : { user: { name: user, password: password ?? "" } }),
  };
}

function readPem(path: string, what: "CERTIFICATE" | "PRIVATE KEY"): string {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    throw new ApiError("invalid_request", `cannot read ${path}: ${code}`, {
      advice: "the daemon reads it as its own user, on its own machine",
    });
  }
  if (text.includes(`${what}-----`)) return text;
  throw new ApiError("invalid_request", `${path} holds no ${what.toLowerCase()} in PEM`, {
    advice: "see what it holds: openssl x509 -in FILE -text, or openssl pkey -in FILE -noout",
  });
}

// A node's way to its cluster's metadata: the store, whether it answers, and its refusals in the
// words of the API.

import { AssertionFailure } from "../base/assert.ts";
import { MetaError, type MetaErrorCode } from "../meta/errors.ts";
import { ApiError, type ApiErrorCode } from "../model/errors.ts";
import type { MetaStore } from "../ports/meta-store.ts";

export class MetaLink {
  readonly store: MetaStore;
  readonly endpoints: readonly string[];
  /** Our liveness is registered there, and renewed. */
  isReachable = false;
  /** Why not, of the last attempt. */
  problem = "";

  constructor(store: MetaStore, endpoints: readonly string[]) {
    this.store = store;
    this.endpoints = endpoints;
  }

  /** Runs a question or a change; what fails is told as an ApiError with `context`. */
  async ask<T>(context: string, run: (store: MetaStore) => Promise<T>): Promise<T> {
    try {
      return await run(this.store);
    } catch (error) {
      throw metaApiError(error, context, this.endpoints);
    }
  }
}

const CODES: Partial<Record<MetaErrorCode, ApiErrorCode>> = {
  limit: "limit_reached",
  "no-room": "no_space",
  "newer-format": "unsupported",
  closed: "shutting_down",
};

/** What is no MetaError is passed on as it is. */
export function metaApiError(
  error: unknown,
  context: string,
  endpoints: readonly string[],
): ApiError | AssertionFailure | Error {
  if (!(error instanceof MetaError)) {
    return error instanceof Error ? error : new AssertionFailure(String(error));
  }
  const { code, message, advice } = error;
  const known = CODES[code];
  if (known !== undefined || code === "format") {
    const options = advice === undefined ? { cause: error } : { advice, cause: error };
    return new ApiError(known ?? "internal", `${context}: ${message}`, options);
  }
  const where = endpoints.join(", ");
  if (code === "unknown") {
    const text = `${context}: the metadata at ${where} gave no answer; it may have been done`;
    return new ApiError("metadata_unavailable", text, {
      advice: "look, and give the command again",
      cause: error,
    });
  }
  if (code === "authentication") {
    const refused = `${context}: the metadata at ${where} refuses this node: ${message}`;
    const options = { advice: advice ?? "see its users and what they may do", cause: error };
    return new ApiError("metadata_unavailable", refused, options);
  }
  const text = `${context}: the metadata at ${where} does not answer: ${message}`;
  return new ApiError("metadata_unavailable", text, {
    advice: `see that the metadata server runs and ${where} can be reached; volumes go on`,
    cause: error,
  });
}

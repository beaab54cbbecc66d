// From whatever went wrong during a request to the reply that says so, in the API's own codes.

import { AssertionFailure } from "../base/assert.ts";
import { ApiError, httpStatusOf } from "../model/errors.ts";
import { REQUEST_BODY_MAX_BYTES } from "../model/limits.ts";
import type { ErrorReply } from "../model/types.ts";
import { quote } from "../model/volume-rules.ts";
import type { ApiModules } from "./control-plane.ts";

/** Always an ApiError. A failed assertion ends the process first. */
export function classify(error: unknown, modules: ApiModules, route: string): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof AssertionFailure) modules.fatal(error);
  const { code, statusCode, message } = error as {
    code?: string;
    statusCode?: number;
    message?: string;
  };
  if (code === "FST_ERR_CTP_BODY_TOO_LARGE") {
    return new ApiError("request_too_large", "the request body is too large", {
      advice: `send at most ${REQUEST_BODY_MAX_BYTES} bytes`,
    });
  }
  if (code === "FST_ERR_CTP_INVALID_MEDIA_TYPE") {
    return new ApiError("invalid_request", "the request body's type is not known", {
      advice: "send JSON with the header content-type: application/json",
    });
  }
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500) {
    return new ApiError("invalid_request", bounded(message ?? "the request is not understood"));
  }
  const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
  modules.log.log("error", "api.defect", { route, stack });
  return new ApiError("internal", "something unexpected happened", {
    advice: "the daemon's log has more; please report it",
  });
}

/** The framework repeats what the caller sent. */
function bounded(message: string): string {
  const MESSAGE_LENGTH_MAX = 200;
  return message.length > MESSAGE_LENGTH_MAX
    ? `${message.slice(0, MESSAGE_LENGTH_MAX)}...`
    : message;
}

export function replyOf(error: ApiError): { readonly status: number; readonly body: ErrorReply } {
  const { code, message, advice } = error;
  const body = advice === undefined ? { code, message } : { code, message, advice };
  return { status: httpStatusOf(code), body };
}

export function routeNotFound(method: string, url: string): ApiError {
  return new ApiError("route_not_found", `there is no ${method} ${quote(url)}`, {
    advice: "GET /v1/openapi.json lists what there is",
  });
}

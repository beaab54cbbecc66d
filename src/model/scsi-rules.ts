// What an attachment to a virtio-scsi controller may ask for: the controller's name and a logical
// unit number, with errors that say what to type instead. Used by the daemon, and by the CLI before
// it sends a request.

import { ApiError } from "./errors.ts";
import { LUN_MAX } from "./limits.ts";
import type { ScsiAttach } from "./types.ts";
import { checkVolumeName } from "./volume-rules.ts";

/** Throws ApiError for what no controller can be called, and no unit. */
export function checkScsi({ controller, lun }: ScsiAttach): void {
  checkVolumeName(controller, "controller");
  if (lun === undefined) return;
  if (Number.isInteger(lun) && lun >= 0 && lun <= LUN_MAX) return;
  throw new ApiError("invalid_request", `${lun} is not a LUN`, {
    advice: `use 0 to ${LUN_MAX}, or leave it out for the lowest that is free`,
  });
}

// What the data plane refuses in more than one place.

import { RingstoreError } from "../base/index.ts";

export function attachedError(name: string, what: string): RingstoreError {
  return new RingstoreError("VOLUME_ATTACHED", `volume ${name} is attached and cannot be ${what}`, {
    advice: `Detach it first: ringstore volume detach ${name}`,
  });
}

export function stopped(): RingstoreError {
  return new RingstoreError("SHUTTING_DOWN", "the data plane is stopping", {
    advice: "Try again when the daemon has been started.",
  });
}

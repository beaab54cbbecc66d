// What stands in front of a volume that is open: its vhost-user socket, or an iSCSI target.

import type { DeclaredAttachment } from "../model/declared.ts";
import type { DataPlane } from "../ports/data-plane.ts";
import { type ClassicParts, classicSpecOf } from "./classic-attach.ts";
import { attachmentSpecOf } from "./volume-entry.ts";
import type { HostOptions } from "./volume-host.ts";

export interface FrontParts extends ClassicParts {
  readonly options: HostOptions;
  readonly plane: DataPlane;
}

/** Resolves with a target's portal, `HOST:PORT`; null: a socket. Rejects with ApiError. */
export async function attachFront(
  parts: FrontParts,
  identity: Parameters<typeof attachmentSpecOf>[1],
  settings: Pick<DeclaredAttachment, "queueCountMax" | "packedAllowed" | "readOnly" | "classic">,
): Promise<string | null> {
  const { options, plane } = parts;
  const { classic } = settings;
  if (classic !== undefined) {
    return await plane.attachClassic(await classicSpecOf(identity, settings, classic, parts));
  }
  await plane.attach(attachmentSpecOf(options, identity, settings));
  return null;
}

// What stands in front of a volume that is open: its vhost-user socket, or an iSCSI target.

import type { DeclaredAttachment } from "../model/declared.ts";
import type { DataPlane } from "../ports/data-plane.ts";
import { classicSpecOf } from "./classic-attach.ts";
import type { ClassicKeeper } from "./classic-keeper.ts";
import { attachmentSpecOf } from "./volume-entry.ts";
import type { HostOptions } from "./volume-host.ts";

export interface FrontParts {
  readonly options: HostOptions;
  readonly plane: DataPlane;
  readonly keeper: ClassicKeeper;
}

/** Resolves with a target's portal, `HOST:PORT`; null: a socket. Rejects with ApiError. */
export async function attachFront(
  { options, plane, keeper }: FrontParts,
  identity: Parameters<typeof attachmentSpecOf>[1],
  settings: Pick<DeclaredAttachment, "queueCountMax" | "packedAllowed" | "readOnly" | "classic">,
): Promise<string | null> {
  const { classic } = settings;
  if (classic !== undefined) {
    return await plane.attachClassic(await classicSpecOf(identity, settings, classic, keeper));
  }
  await plane.attach(attachmentSpecOf(options, identity, settings));
  return null;
}

// What stands in front of a volume that is open: its vhost-user socket, an iSCSI target, or a
// virtio-scsi controller of which it is a unit.

import type { DeclaredAttachment } from "../model/declared.ts";
import type { DataPlane } from "../ports/data-plane.ts";
import { type ClassicParts, classicSpecOf } from "./classic-attach.ts";
import { scsiSpecOf } from "./scsi-attach.ts";
import { attachmentSpecOf } from "./volume-entry.ts";
import type { HostOptions } from "./volume-host.ts";

export interface FrontParts extends ClassicParts {
  readonly options: HostOptions;
  readonly plane: DataPlane;
  /** More volumes of that controller are about to be served. */
  readonly isAwaited: (controller: string) => boolean;
}

/** Resolves with a target's portal, `HOST:PORT`; null: a socket. Rejects with ApiError. */
export async function attachFront(
  parts: FrontParts,
  identity: Parameters<typeof attachmentSpecOf>[1],
  settings: Omit<DeclaredAttachment, "attachedAt">,
): Promise<string | null> {
  const { options, plane, reservationsOf, isAwaited } = parts;
  const { classic, scsi } = settings;
  if (classic !== undefined) {
    return await plane.attachClassic(await classicSpecOf(identity, settings, classic, parts));
  }
  if (scsi !== undefined) {
    const how = { reservationsOf, listens: !isAwaited(scsi.controller) };
    await plane.attachScsi(await scsiSpecOf(options, identity, settings, scsi, how));
    return null;
  }
  await plane.attach(attachmentSpecOf(options, identity, settings));
  return null;
}

// Attaching a volume and detaching it, by vhost-user or as an iSCSI target (classic-attach.ts):
//
//   attach   [keep the secret] -> declare attached -> open, listen
//   detach   drain, stop listening -> declare detached -> [forget what ends with its power]
//
// A crash between any two steps leaves it undone, or to be served at the next start. What is kept
// beside a declaration that is gone is forgotten at the next attach, or with the volume.

import type { AttachResult } from "../api/control-plane.ts";
import type { DeclaredClassic } from "../model/declared.ts";
import { ApiError } from "../model/errors.ts";
import { QUEUE_COUNT_MAX } from "../model/limits.ts";
import type { DetachReply, VolumeAttach } from "../model/types.ts";
import { checkQueueCount } from "../model/volume-rules.ts";
import { planClassic, requireSameClassic } from "./classic-attach.ts";
import { asApiError } from "./failure.ts";
import { type AttachmentSettings, placeText, type VolumeEntry } from "./volume-entry.ts";
import type { VolumeHost } from "./volume-host.ts";
import { requireReady } from "./volume-operations.ts";

export async function attachVolume(
  host: VolumeHost,
  name: string,
  request: VolumeAttach,
): Promise<AttachResult> {
  return await host.withVolume(name, async (entry) => {
    requireReady(entry);
    if (request.queueCountMax !== undefined) checkQueueCount(request.queueCountMax);
    const { declared } = entry;
    if (request.classic !== undefined && request.standby !== undefined) {
      const message = `standby does not go with classic: volume ${name} is on this node alone`;
      throw new ApiError("invalid_request", message, { advice: "leave standby out" });
    }
    if (declared.attachment !== null) return await attachAgain(host, entry, request);
    const classic = request.classic === undefined ? null : planClassic(request, request.classic);
    await beginClassic(host, entry, request);
    await host.declare(entry, {
      generation: declared.generation + 1,
      attachment: {
        queueCountMax: request.queueCountMax ?? QUEUE_COUNT_MAX,
        packedAllowed: request.packedAllowed ?? true,
        readOnly: declared.readOnly || (request.readOnly ?? false),
        attachedAt: host.modules.now().toISOString(),
        ...(classic === null ? {} : { classic }),
      },
    });
    try {
      await host.serve(entry);
    } catch (error) {
      const failure = asApiError(error, `cannot attach volume ${name}`);
      entry.problem = { code: "NOT_SERVED", severity: "error", message: failure.message };
      await host.declare(entry, { attachment: null });
      await endClassic(host, entry, classic ?? undefined);
      entry.problem = null;
      throw failure;
    }
    const view = host.view(entry);
    host.modules.events.add("volume.attached", name, placeText(view));
    return { volume: view, changed: true };
  });
}

/** What a detached volume still has of its last attachment ends here, if it did not then. */
async function beginClassic(
  { modules }: VolumeHost,
  { declared: { id } }: VolumeEntry,
  { classic }: VolumeAttach,
): Promise<void> {
  if (classic === undefined) return;
  await modules.classic.powerOff(id);
  if (classic.chap !== undefined) await modules.classic.saveSecret(id, classic.chap.secret);
}

async function endClassic(
  { modules }: VolumeHost,
  { declared: { id } }: VolumeEntry,
  classic: DeclaredClassic | undefined,
): Promise<void> {
  if (classic === undefined) return;
  await modules.classic.powerOff(id);
  if (classic.chapUser !== null) await modules.classic.forgetSecret(id);
}

/** For events. */
export function restoredText({ declared }: VolumeEntry): string {
  const what = declared.attachment?.classic === undefined ? "socket" : "target";
  return `its ${what} is served again`;
}

/** An attachment that is there is not changed by asking for another. */
export function requireSameSettings(
  name: string,
  present: Partial<AttachmentSettings>,
  wanted: VolumeAttach,
): void {
  for (const field of ["queueCountMax", "packedAllowed", "readOnly"] as const) {
    const value = wanted[field];
    if (value === undefined || value === present[field]) continue;
    const message = `volume ${name} is attached with ${field} ${present[field]}, not ${value}`;
    throw new ApiError("attachment_differs", message, {
      advice: `leave ${field} out, or detach first: ringstore volume detach ${name}`,
    });
  }
}

/** Attach is idempotent: asked again with the same or no settings, it answers as before. */
async function attachAgain(
  host: VolumeHost,
  entry: VolumeEntry,
  request: VolumeAttach,
): Promise<AttachResult> {
  const { name, attachment, readOnly } = entry.declared;
  requireSameClassic(entry.declared, attachment?.classic, request, host.modules.classic);
  const present = { ...attachment, readOnly: attachment?.readOnly === true };
  requireSameSettings(name, present, readOnly ? { ...request, readOnly: true } : request);
  if (!entry.serving) {
    try {
      await host.serve(entry);
    } catch (error) {
      throw asApiError(error, `cannot serve volume ${name}`);
    }
    entry.cancelRetry();
    host.modules.events.add("volume.restored", name, restoredText(entry));
  }
  return { volume: host.view(entry), changed: false };
}

export async function detachVolume(host: VolumeHost, name: string): Promise<DetachReply> {
  return await host.withVolume(name, async (entry) => {
    const { attachment } = entry.declared;
    if (attachment === null) return { volume: name, changed: false };
    try {
      if (entry.serving) await host.modules.dataPlane.detach(entry.declared.id);
      entry.serving = false;
      entry.problem = null;
      entry.cancelRetry();
      await host.declare(entry, { attachment: null });
      await endClassic(host, entry, attachment.classic);
      await host.restBacking(entry);
    } catch (error) {
      throw asApiError(error, `cannot detach volume ${name}`);
    }
    const what = attachment.classic === undefined ? "socket is closed" : "target is gone";
    host.modules.events.add("volume.detached", name, `its ${what}`);
    return { volume: name, changed: true };
  });
}

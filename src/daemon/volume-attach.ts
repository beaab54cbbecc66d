// Attaching a volume and detaching it: by vhost-user, as an iSCSI target (classic-attach.ts) or as
// a unit of a virtio-scsi controller (scsi-attach.ts):
//
//   attach   [keep the secrets] -> declare attached -> open, listen
//   detach   drain, stop listening -> declare detached -> [forget what ends with its power]
//
// A crash between any two steps leaves it undone, or to be served at the next start. What is kept
// beside a declaration that is gone is forgotten at the next attach, or with the volume.

import type { AttachResult } from "../api/control-plane.ts";
import type { DeclaredAttachment } from "../model/declared.ts";
import { ApiError } from "../model/errors.ts";
import { QUEUE_COUNT_MAX } from "../model/limits.ts";
import type { DetachReply, VolumeAttach } from "../model/types.ts";
import { checkQueueCount } from "../model/volume-rules.ts";
import { planClassic, requireSameClassic, secretsOf } from "./classic-attach.ts";
import { asApiError } from "./failure.ts";
import { planScsi, requireSameScsi, unitText } from "./scsi-attach.ts";
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
    const attachment = await declareAttached(host, entry, request);
    try {
      await host.serve(entry);
    } catch (error) {
      const failure = asApiError(error, `cannot attach volume ${name}`);
      entry.problem = { code: "NOT_SERVED", severity: "error", message: failure.message };
      await host.declare(entry, { attachment: null });
      await endScsi(host, entry, attachment);
      entry.problem = null;
      throw failure;
    }
    const view = host.view(entry);
    host.modules.events.add("volume.attached", name, placeText(view));
    return { volume: view, changed: true };
  });
}

async function declareAttached(
  host: VolumeHost,
  entry: VolumeEntry,
  request: VolumeAttach,
): Promise<DeclaredAttachment> {
  const { name, readOnly, generation } = entry.declared;
  const identity = { name, isOfCluster: false };
  const classic = request.classic === undefined ? null : planClassic(request, request.classic);
  // Nothing is waited for between this and the next line: the number is taken at once.
  const planned =
    request.scsi === undefined ? null : planScsi(host, identity, request, request.scsi);
  entry.planned = planned;
  try {
    await beginScsi(host, entry, request);
    const attachment: DeclaredAttachment = {
      queueCountMax: request.queueCountMax ?? QUEUE_COUNT_MAX,
      packedAllowed: request.packedAllowed ?? true,
      readOnly: readOnly || (request.readOnly ?? false),
      attachedAt: host.modules.now().toISOString(),
      ...(classic === null ? {} : { classic }),
      ...planned,
    };
    await host.declare(entry, { generation: generation + 1, attachment });
    return attachment;
  } finally {
    entry.planned = null;
  }
}

/** What a detached volume still has of its last attachment ends here, if it did not then. */
async function beginScsi(
  { modules }: VolumeHost,
  { declared: { id } }: VolumeEntry,
  { classic, scsi }: VolumeAttach,
): Promise<void> {
  if (classic === undefined && scsi === undefined) return;
  await modules.classic.powerOff(id);
  if (classic?.chap === undefined) return;
  await modules.classic.saveSecrets(id, secretsOf(classic.chap));
}

/** By iSCSI or virtio-scsi: reservations without APTPL end with the volume's power. */
async function endScsi(
  { modules }: VolumeHost,
  { declared: { id } }: VolumeEntry,
  { classic, scsi }: DeclaredAttachment,
): Promise<void> {
  if (classic === undefined && scsi === undefined) return;
  await modules.classic.powerOff(id);
  if ((classic?.chapUser ?? null) !== null) await modules.classic.forgetSecrets(id);
}

type How = Pick<DeclaredAttachment, "classic" | "scsi">;

/** For events. */
export function restoredText(how: How | null): string {
  const { classic, scsi } = how ?? {};
  if (scsi !== undefined) return `it is ${unitText(scsi)} again`;
  return `its ${classic === undefined ? "socket" : "target"} is served again`;
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
  requireSameScsi(entry.declared, attachment?.scsi, request.scsi);
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
    host.modules.events.add("volume.restored", name, restoredText(attachment));
  }
  return { volume: host.view(entry), changed: false };
}

export function detachedText({ classic, scsi }: How): string {
  if (scsi !== undefined) return `it is no longer ${unitText(scsi)}`;
  return classic === undefined ? "its socket is closed" : "its target is gone";
}

export async function detachVolume(host: VolumeHost, name: string): Promise<DetachReply> {
  return await host.withVolume(name, async (entry) => {
    const { attachment } = entry.declared;
    if (attachment === null) return { volume: name, changed: false };
    try {
      const { dataPlane } = host.modules;
      if (entry.serving) await dataPlane.detach(entry.declared.id);
      else if (attachment.scsi !== undefined) await dataPlane.dropUnit(entry.declared.id);
      entry.serving = false;
      entry.problem = null;
      entry.cancelRetry();
      await host.declare(entry, { attachment: null });
      await endScsi(host, entry, attachment);
      await host.restBacking(entry);
    } catch (error) {
      throw asApiError(error, `cannot detach volume ${name}`);
    }
    host.modules.events.add("volume.detached", name, detachedText(attachment));
    return { volume: name, changed: true };
  });
}

// Growing a volume of the cluster. No byte is visible before every copy that counts has it:
//
//   record: growToBytes -> members grow their replicas, and tell -> record: sizeBytes (and map)
//   -> the owner's guest, and the node that stands by, if any (cluster-serve.ts)
//
// A copy that is out is grown by its node when that is back, before anything is copied to it. A
// crash in between leaves the wish, which nobody relies on: the command given again goes on.

import type { RequestOptions } from "../api/control-plane.ts";
import { formatBytes } from "../base/units.ts";
import type { VolumeRecord } from "../meta/records.ts";
import { membersInSync } from "../meta/repair-plan.ts";
import { ApiError } from "../model/errors.ts";
import { STORE_BLOCK_BYTES } from "../model/limits.ts";
import type { VolumeResize } from "../model/types.ts";
import { checkVolumeSize } from "../model/volume-rules.ts";
import { requireReady } from "./cluster-attach.ts";
import { type ClusterContext, changeVolume } from "./cluster-context.ts";
import { waitForCopies } from "./cluster-create.ts";
import { mapOf } from "./cluster-placement.ts";
import { ServedVolume } from "./cluster-served.ts";
import { asApiError } from "./failure.ts";

export async function resizeClusterVolume(
  context: ClusterContext,
  known: VolumeRecord,
  { sizeBytes }: VolumeResize,
  options: RequestOptions,
): Promise<VolumeRecord> {
  const { served, host } = context;
  host.requireRunning();
  checkVolumeSize(sizeBytes, STORE_BLOCK_BYTES);
  check(context, known, sizeBytes);
  if (options.dryRun) return { ...known, sizeBytes };
  // Attach and detach wait meanwhile, or this waits for them.
  const entry = served.get(known.id) ?? new ServedVolume(known.id, known.name);
  return await entry.exclusively(async () => await grow(context, known, sizeBytes));
}

async function grow(
  context: ClusterContext,
  { id, name, sizeBytes: before }: VolumeRecord,
  sizeBytes: number,
): Promise<VolumeRecord> {
  const { plane, served, host, inventory, keys } = context;
  const what = `cannot resize volume ${name}`;
  const wished = await changeVolume(context, id, what, (record) => {
    check(context, record, sizeBytes);
    return record.sizeBytes === sizeBytes ? null : { ...record, growToBytes: sizeBytes };
  });
  if (wished.sizeBytes === sizeBytes) return wished;
  try {
    await waitForCopies(context, wished, sizeBytes);
  } catch (error) {
    await takeBack(context, wished, sizeBytes);
    throw error;
  }
  const grown = await changeVolume(
    context,
    id,
    what,
    (record) => {
      check(context, record, sizeBytes);
      if (record.growToBytes !== sizeBytes) throw changed(name);
      // A copy that came back meanwhile must have grown too.
      for (const disk of membersInSync(record)) {
        if ((inventory.copy(id, disk)?.sizeBytes ?? 0) < sizeBytes) throw changed(name);
      }
      const { growToBytes: _, ...rest } = record;
      return { ...rest, sizeBytes };
    },
    (record) => ({ writes: mapOf(keys, inventory, record) }),
  );
  try {
    const entry = served.get(id);
    if (entry?.open === true) {
      await plane.resizeVolume(id, sizeBytes);
      entry.sizeBytes = sizeBytes;
    }
  } catch (error) {
    // It has grown; its guest sees it when it is attached anew.
    throw asApiError(error, `volume ${name} has grown, but its guest does not see it yet`);
  }
  const change = `${formatBytes(before)} to ${formatBytes(sizeBytes)}`;
  host.modules.events.add("volume.resized", name, change);
  return grown;
}

function check(
  { member, inventory }: ClusterContext,
  record: VolumeRecord,
  sizeBytes: number,
): void {
  const { name, attachment } = record;
  requireReady(record);
  if (sizeBytes < record.sizeBytes) {
    const message = `volume ${name} has ${record.sizeBytes} bytes, more than ${sizeBytes}`;
    throw new ApiError("unsupported", message, {
      advice: "volumes of the cluster only grow; make a smaller one and copy what is needed",
    });
  }
  const { node } = attachment;
  if (node === null || node === member.nodeId) return;
  const where = inventory.nodeName(node);
  throw new ApiError("attached_elsewhere", `volume ${name} is attached on node ${where}`, {
    advice: "resize it there, where its guest is",
  });
}

function changed(name: string): ApiError {
  return new ApiError("volume_busy", `volume ${name} was changed meanwhile`, {
    advice: "try again",
  });
}

async function takeBack(
  context: ClusterContext,
  { id, name }: VolumeRecord,
  sizeBytes: number,
): Promise<void> {
  try {
    await changeVolume(context, id, `cannot take back a resize of ${name}`, (record) => {
      if (record.growToBytes !== sizeBytes) return null;
      const { growToBytes: _, ...rest } = record;
      return rest;
    });
  } catch (error) {
    const fields = { volume: name, message: (error as Error).message };
    context.host.modules.log.log("warn", "cluster.resize-not-taken-back", fields);
  }
}

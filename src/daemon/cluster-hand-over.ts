// Moving a volume that is attached, and serves no guest, to another node: by any node, through the
// record. The wish is a standby that is asked for there; the two nodes do the rest
// (cluster-standby.ts), and whoever has a guest's rings running says no.

import type { VolumeRecord } from "../meta/records.ts";
import { ApiError } from "../model/errors.ts";
import type { HandOverReply } from "../model/move-types.ts";
import { requireReady } from "./cluster-attach.ts";
import { type ClusterContext, changeVolume } from "./cluster-context.ts";
import { isReady } from "./cluster-standby.ts";
import { unitText } from "./scsi-attach.ts";

export async function handOverVolume(
  context: ClusterContext,
  { id, name }: VolumeRecord,
  nodeName: string,
): Promise<HandOverReply> {
  const { inventory, timings, host } = context;
  host.requireRunning();
  const target = inventory.nodeByName(nodeName);
  if (target === null) {
    throw new ApiError("node_not_found", `node ${nodeName} does not exist`, {
      advice: "see: ringstore node list",
    });
  }
  const what = `cannot hand volume ${name} over`;
  const asked = await changeVolume(context, id, what, (record) => {
    const { attachment } = record;
    if (attachment.node === target.id) return null;
    check(context, record, target.id);
    const { standby } = attachment;
    const nobody = { node: target.id, incarnation: 0 };
    const known = standby?.node === target.id ? standby : null;
    // Two nodes that have a target between them change places.
    const isSwap = known?.portal !== undefined && !known.isMove;
    const wish = { ...(known ?? nobody), isWanted: true, isMove: !isSwap };
    return { ...record, attachment: { ...attachment, standby: wish } };
  });
  const reply = { volume: name, node: nodeName };
  if (asked.attachment.node === target.id) return { ...reply, changed: false };
  const attachmentOf = (): VolumeRecord["attachment"] | undefined =>
    inventory.volumes.get(id)?.record.attachment;
  const isDecided = (): boolean => {
    const now = attachmentOf();
    return now?.node !== asked.attachment.node || now.standby?.isWanted !== true;
  };
  context.look();
  const isInTime = await inventory.until(isDecided, timings.handOverMs);
  if (attachmentOf()?.node === target.id) return { ...reply, changed: true };
  const taken = await takeBack(context, id, what, target.id);
  if (taken.attachment.node === target.id) return { ...reply, changed: true };
  const where = inventory.nodeName(asked.attachment.node ?? "");
  if (!isInTime) {
    throw new ApiError("timed_out", `volume ${name} is still on node ${where}`, {
      advice: "see whether both nodes are well: ringstore node list",
    });
  }
  const isTarget = asked.attachment.target !== undefined;
  const attach = `on node ${nodeName}, ringstore volume attach ${name}`;
  const user = isTarget ? "is an iSCSI target" : "serves a guest";
  throw new ApiError("volume_attached", `volume ${name} ${user} on node ${where}`, {
    advice: isTarget
      ? `let that node stand by for it: ${attach} --classic --standby`
      : `move the guest: ${attach} --standby`,
  });
}

function check(context: ClusterContext, record: VolumeRecord, targetId: string): void {
  const { inventory } = context;
  requireReady(record);
  const { name, attachment } = record;
  const { node, standby, unit } = attachment;
  if (unit !== undefined) {
    const where = inventory.nodeName(node ?? "");
    throw new ApiError("volume_attached", `volume ${name} is ${unitText(unit)} on node ${where}`, {
      advice:
        `units do not move by themselves: ringstore volume detach ${name}, then on the other ` +
        `node ringstore volume attach ${name} --bus scsi --controller ${unit.controller}`,
    });
  }
  if (node === null) {
    throw new ApiError("invalid_request", `volume ${name} is attached nowhere`, {
      advice: "attach it where it is needed: ringstore volume attach",
    });
  }
  for (const id of [node, targetId]) {
    if (inventory.isAlive(id)) continue;
    throw new ApiError("volume_unavailable", `node ${inventory.nodeName(id)} is missing`, {
      advice: "see: ringstore node list; of a node that is gone, attach the volume elsewhere",
    });
  }
  if (inventory.nodes.get(targetId)?.record.phase !== "active") {
    const message = `node ${inventory.nodeName(targetId)} is not to get anything now`;
    throw new ApiError("volume_unavailable", message, { advice: "see: ringstore node list" });
  }
  if (standby === undefined || standby.node === targetId || !isReady(context, standby)) return;
  const other = inventory.nodeName(standby.node);
  throw new ApiError("volume_busy", `node ${other} stands by for volume ${name}`, {
    advice: `hand it over to that one, or detach it there: ringstore volume detach ${name}`,
  });
}

/** The wish, where it was not granted; whoever stood by before goes on to. */
async function takeBack(
  context: ClusterContext,
  id: string,
  what: string,
  targetId: string,
): Promise<VolumeRecord> {
  return await changeVolume(context, id, what, (record) => {
    const { standby, ...attachment } = record.attachment;
    if (standby?.node !== targetId) return null;
    if (standby.isMove) return { ...record, attachment };
    if (!standby.isWanted) return null;
    return { ...record, attachment: { ...attachment, standby: { ...standby, isWanted: false } } };
  });
}

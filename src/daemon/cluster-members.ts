// Tells the owners in the data plane what others have changed in their records: members that came,
// members that went, and the one that is to go. Repeated until it was heard.

import { leavingOf } from "../meta/repair-plan.ts";
import type { VolumeMembers } from "../ports/cluster-plane.ts";
import type { ClusterContext } from "./cluster-context.ts";
import type { ServedVolume } from "./cluster-served.ts";

export async function tellMembers(context: ClusterContext): Promise<void> {
  for (const entry of [...context.served.values()]) {
    if (entry.open) await tellOf(context, entry);
  }
}

async function tellOf({ inventory, plane }: ClusterContext, entry: ServedVolume): Promise<void> {
  const record = inventory.volumes.get(entry.id)?.record;
  if (record === undefined) return;
  const members: VolumeMembers = {
    members: record.members.map((diskId) => ({
      diskId,
      // Of a disk that nobody knows: it cannot be reached.
      nodeId: inventory.nodeOf(diskId) ?? "",
    })),
    leaving: leavingOf(record),
  };
  const text = JSON.stringify(members);
  if (text === entry.toldMembers) return;
  try {
    await plane.setMembers(entry.id, members);
    entry.toldMembers = text;
  } catch (error) {
    // Closed meanwhile.
    if ((error as { code?: unknown }).code !== "VOLUME_NOT_FOUND") throw error;
  }
}

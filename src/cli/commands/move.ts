// volume hand-over; node maintenance.

import { ClientError } from "../../client/index.ts";
import type { NodeMaintenanceReply } from "../../model/move-types.ts";
import { checkVolumeName } from "../../model/volume-rules.ts";
import type { CommandRun } from "../command-spec.ts";

export const handOver: CommandRun = async (context, { arguments: [name = "", node = ""] }) => {
  checkVolumeName(name);
  checkVolumeName(node, "node");
  const reply = await context.client.handOverVolume(name, { node });
  const verb = reply.changed ? "is on" : "was already on";
  return { data: reply, shown: `volume ${name} ${verb} node ${node}`, names: [name] };
};

export const maintain: CommandRun = async (
  context,
  { arguments: [word = "", name = ""], options },
) => {
  if (word !== "on" && word !== "off") {
    throw new ClientError("usage", `${word} is neither on nor off`, {
      advice: "say: ringstore node maintenance on NAME, or off NAME",
    });
  }
  checkVolumeName(name, "node");
  const dryRun = options["dryRun"] === true;
  const reply = await context.client.setNodeMaintenance(name, { on: word === "on" }, { dryRun });
  return { data: reply, shown: shownMaintenance(reply, dryRun), names: [name] };
};

function shownMaintenance(reply: NodeMaintenanceReply, dryRun: boolean): string {
  const { node, phase, handedOver, kept } = reply;
  const verb = dryRun ? "would be" : "is";
  const lines = [`node ${node} ${verb} ${phase === "maintenance" ? "in maintenance" : phase}`];
  for (const one of handedOver) lines.push(`volume ${one.volume} ${verb} on node ${one.node}`);
  for (const { volume, reason } of kept) lines.push(`volume ${volume} stays there: ${reason}`);
  return lines.join("\n");
}

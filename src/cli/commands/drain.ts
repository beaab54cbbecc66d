// node drain, disk drain: copies move off. The daemon answers when that has begun; we look until
// nothing is left there. Whoever interrupts that ends the looking, not the moving.

import type { DrainReply, PlannedCopy } from "../../model/cluster-types.ts";
import { checkVolumeName } from "../../model/volume-rules.ts";
import type { CommandRun } from "../command-spec.ts";
import type { Context } from "../context.ts";
import { countOf } from "../format.ts";
import type { Result } from "../output.ts";

const LOOK_MS = 500;

/** A line for each copy. */
export function describeCopies(copies: readonly PlannedCopy[]): string {
  return copies
    .map(({ volume, from, to, why }) => {
      const source = from === null ? "a further copy" : `${from.node} ${from.disk}`;
      const target = to === null ? `nowhere: ${why}` : `${to.node} ${to.disk}`;
      return `\n  ${volume}: ${source} -> ${target}`;
    })
    .join("");
}

/** Copies that are still there. */
type Left = () => Promise<number>;

async function drain(
  context: Context,
  what: string,
  options: Readonly<Record<string, unknown>>,
  ask: (call: { cancel: boolean; dryRun: boolean }) => Promise<DrainReply>,
  left: Left,
): Promise<Result> {
  const cancel = options["cancel"] === true;
  const dryRun = options["dryRun"] === true;
  const reply = await ask({ cancel, dryRun });
  const names = [reply.disk ?? reply.node];
  const count = countOf(reply.copies.length, "copy", "copies");
  if (cancel) {
    const shown = `${what} ${dryRun ? "would keep" : "keeps"} what is on it: ${count}`;
    return { data: reply, shown, names };
  }
  const planned = describeCopies(reply.copies);
  if (dryRun) return { data: reply, shown: `${what} would lose ${count}${planned}`, names };
  if (options["noWait"] === true) {
    return { data: reply, shown: `${what} is being emptied: ${count} to move${planned}`, names };
  }
  await follow(context, what, left);
  return { data: reply, shown: `${what} is empty`, names };
}

async function follow(context: Context, what: string, left: Left): Promise<void> {
  let told = "";
  for (;;) {
    const count = await left();
    if (count === 0) return;
    const text = `${what}: ${countOf(count, "copy", "copies")} left`;
    if (text !== told) context.note(text);
    told = text;
    await new Promise((done) => setTimeout(done, LOOK_MS));
  }
}

export const drainNode: CommandRun = async (context, { arguments: [name = ""], options }) => {
  checkVolumeName(name, "node");
  const { client } = context;
  return await drain(
    context,
    `node ${name}`,
    options,
    ({ cancel, dryRun }) => client.drainNode(name, { cancel }, { dryRun }),
    async () => (await client.showNode(name)).copiesOf.length,
  );
};

export const drainDisk: CommandRun = async (context, { arguments: [name = ""], options }) => {
  checkVolumeName(name, "disk");
  const { client } = context;
  return await drain(
    context,
    `disk ${name}`,
    options,
    ({ cancel, dryRun }) => client.drainDisk(name, { cancel }, { dryRun }),
    async () => (await client.showDisk(name)).volumeCount,
  );
};

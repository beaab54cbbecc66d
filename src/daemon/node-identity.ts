// DATA/node.json: who this daemon is, made at the first start and never changed.

import { randomUUID } from "node:crypto";
import { dirname } from "node:path";
import type { DeclaredNode } from "../model/declared.ts";
import { quote } from "../model/volume-rules.ts";
import { StartError } from "./data-directory.ts";
import type { StateFs } from "./state-fs.ts";

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

export async function readOrMakeIdentity(
  path: string,
  fs: StateFs,
  now: () => Date,
): Promise<DeclaredNode> {
  let text: string;
  try {
    text = fs.read(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw damaged(path, String(error));
    const node = { id: randomUUID(), createdAt: now().toISOString() };
    await fs.writeDurably(`${path}.new`, `${JSON.stringify(node, null, 2)}\n`);
    await fs.rename(`${path}.new`, path);
    await fs.syncDirectory(dirname(path));
    return node;
  }
  let node: Partial<DeclaredNode> | null;
  try {
    node = JSON.parse(text) as Partial<DeclaredNode> | null;
  } catch (error) {
    throw damaged(path, `is not JSON: ${(error as Error).message}`);
  }
  // Two fields, on the start path: checked by hand, so that the schema library can wait.
  if (typeof node?.id !== "string" || !UUID.test(node.id)) {
    throw damaged(path, `field id is ${quote(String(node?.id))}, but must be a UUID`);
  }
  if (typeof node.createdAt !== "string" || Number.isNaN(Date.parse(node.createdAt))) {
    throw damaged(path, `field createdAt is ${quote(String(node.createdAt))}, but must be a time`);
  }
  return { id: node.id, createdAt: node.createdAt };
}

function damaged(path: string, problem: string): StartError {
  return new StartError("cannot_start", `${path} ${problem}`, {
    advice: "repair the file; to give this daemon a new identity, remove it",
  });
}

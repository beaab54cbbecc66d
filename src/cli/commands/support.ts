// support-bundle: everything that can be seen of a daemon and its cluster, in one file to send.
//
// Invariants: no secret is asked for, and what looks like one is taken out before anything is
// written; what could not be had is named in the bundle and keeps nothing else from it.

import { writeFileSync } from "node:fs";
import { version as kernelVersion, release } from "node:os";
import { resolve } from "node:path";
import { gzipSync } from "node:zlib";
import { ClientError } from "../../client/index.ts";
import type { SupportReply } from "../../model/support-types.ts";
import type { CommandRun } from "../command-spec.ts";
import type { Context } from "../context.ts";
import { countOf } from "../format.ts";
import { type TarFile, tarOf } from "../tar.ts";
import { readVersion } from "../version.ts";

/** Files of the bundle, and where each comes from. */
const PARTS: readonly (readonly [file: string, path: string])[] = [
  ["version.json", "/v1/version"],
  ["status.json", "/v1/status"],
  ["advise.json", "/v1/advise"],
  ["events.json", "/v1/events"],
  ["stats.json", "/v1/stats"],
  ["metrics.txt", "/metrics"],
  ["disks.json", "/v1/disks"],
  ["volumes.json", "/v1/volumes"],
  ["cluster.json", "/v1/cluster"],
  ["nodes.json", "/v1/nodes"],
  ["rebuilds.json", "/v1/rebuilds"],
];

const REMOVED = "[removed]";

/** Values of fields that are secrets wherever they stand, credentials in addresses, keys in PEM. */
const SECRETS: readonly (readonly [pattern: RegExp, instead: string])[] = [
  [
    /("?\b(?:token|password|passwd|secret|key)\b"?\s*[:=]\s*)("[^"]*"|[^\s",}]+)/gi,
    `$1"${REMOVED}"`,
  ],
  [/(\bbearer\s+)[!-~]+/gi, `$1${REMOVED}`],
  [/(:\/\/)[^\s/@"]+@/g, `$1${REMOVED}@`],
  [/-----BEGIN [^-]*PRIVATE KEY-----[\s\S]*?-----END [^-]*-----/g, REMOVED],
];

export function redacted(text: string): string {
  return SECRETS.reduce((done, [pattern, instead]) => done.replace(pattern, instead), text);
}

export const supportBundle: CommandRun = async (context, { arguments: [file] }) => {
  const now = new Date();
  const stamp = now.toISOString().slice(0, 19).replaceAll(":", "");
  const path = resolve(file ?? `ringstore-support-${stamp}.tar.gz`);
  const missing: string[] = [];
  const found = await collect(context, missing);
  found.set("bundle.txt", describe(now, missing));
  const files: TarFile[] = [...found].map(([name, text]) => ({
    name: `ringstore-support/${name}`,
    content: Buffer.from(redacted(text)),
  }));
  const bytes = gzipSync(tarOf(files, Math.floor(now.getTime() / 1000)));
  try {
    writeFileSync(path, bytes, { mode: 0o600, flag: "wx" });
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    throw new ClientError("usage", `cannot write ${path}: ${code}`, {
      advice: "give a file that does not exist yet",
    });
  }
  for (const one of missing) context.note(`not in the bundle: ${one}`);
  const shown = `${countOf(files.length, "file")} in ${path}; read it before you send it`;
  return { data: { path, files: files.map(({ name }) => name), missing }, shown, names: [path] };
};

async function collect(context: Context, missing: string[]): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for (const [file, path] of PARTS) {
    try {
      found.set(file, await context.client.get(path));
    } catch (error) {
      missing.push(`${file}: ${(error as Error).message}`);
    }
  }
  try {
    const { config, log, machine } = JSON.parse(
      await context.client.get("/v1/support"),
    ) as SupportReply;
    found.set("config.json", `${JSON.stringify(config, null, 2)}\n`);
    found.set("log.jsonl", log.map((line) => `${line}\n`).join(""));
    const facts = Object.entries(machine).map(([name, text]) => `== ${name}\n${text.trimEnd()}\n`);
    found.set("machine.txt", facts.join(""));
  } catch (error) {
    missing.push(`config, log and machine: ${(error as Error).message}`);
  }
  return found;
}

function describe(now: Date, missing: readonly string[]): string {
  const lines = [
    `made ${now.toISOString()} by ringstore ${readVersion()}`,
    `here: Linux ${release()} ${kernelVersion()}, Node ${process.version}`,
    ...missing.map((one) => `missing: ${one}`),
  ];
  return `${lines.join("\n")}\n`;
}

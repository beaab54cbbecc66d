// Runs bin/ringstore as a user would, and gives back what it said.

import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";

export interface ToolResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

const ENTRY: string = fileURLToPath(new URL("../../cli/main.js", import.meta.url));

export async function runTool(data: string, args: readonly string[]): Promise<ToolResult> {
  return await new Promise((resolve) => {
    execFile(process.execPath, [ENTRY, "--data", data, ...args], (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === "number" ? error.code : 1;
      resolve({ exitCode: code, stdout, stderr });
    });
  });
}

/** Of a command that must succeed: its JSON. */
export async function askTool(data: string, args: readonly string[]): Promise<unknown> {
  const { exitCode, stdout, stderr } = await runTool(data, [...args, "-o", "json"]);
  if (exitCode !== 0) throw new Error(`ringstore ${args.join(" ")}: ${stderr.trim()}`);
  return JSON.parse(stdout);
}

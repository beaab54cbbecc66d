// What initiators must prove before a portal lists its targets to them (discovery sessions, RFC
// 7143 section 4.3), from the settings --discovery-chap-*. Targets have proofs of their own
// (classic-attach.ts): nobody gets at a volume by this.
//
// Invariants:
//  - a setting that cannot hold stops the start: no portal is more open than it was meant to be;
//  - secrets are in files of the operator's, read at the start; they are in no message or log.

import { readFileSync } from "node:fs";
import { checkChap } from "../model/classic-rules.ts";
import type { DaemonConfig } from "../model/config.ts";
import { ApiError } from "../model/errors.ts";
import type { ClassicChap, ClassicProof } from "../ports/classic-plane.ts";
import type { Log } from "../ports/log.ts";
import { StartError } from "./data-directory.ts";
import { openModeOf } from "./secret-mode.ts";

const USER = "--discovery-chap-user";
const SECRET_FILE = "--discovery-chap-secret-file";
const TARGET_USER = "--discovery-chap-target-user";
const TARGET_SECRET_FILE = "--discovery-chap-target-secret-file";

/** Null: nobody has to prove anything. Throws StartError. */
export function discoveryChapOf(config: DaemonConfig, log: Log): ClassicChap | null {
  const {
    discoveryChapUser,
    discoveryChapSecretFile,
    discoveryChapTargetUser,
    discoveryChapTargetSecretFile,
  } = config;
  requireBoth([USER, discoveryChapUser], [SECRET_FILE, discoveryChapSecretFile]);
  requireBoth(
    [TARGET_USER, discoveryChapTargetUser],
    [TARGET_SECRET_FILE, discoveryChapTargetSecretFile],
  );
  if (discoveryChapUser === "") {
    if (discoveryChapTargetUser === "") return null;
    throw refusal(`${TARGET_USER} ${discoveryChapTargetUser} needs ${USER}`, {
      advice: `a portal proves itself to initiators that have proved themselves: give ${USER} too`,
    });
  }
  const proofOf = (user: string, file: string, flag: string): ClassicProof => {
    return { user, secret: readSecret(file, flag, log) };
  };
  const own = proofOf(discoveryChapUser, discoveryChapSecretFile, SECRET_FILE);
  const target =
    discoveryChapTargetUser === ""
      ? null
      : proofOf(discoveryChapTargetUser, discoveryChapTargetSecretFile, TARGET_SECRET_FILE);
  try {
    checkChap(target === null ? own : { ...own, target });
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    const { message, advice = "" } = error;
    throw refusal(`${USER} ${own.user}: ${message}`, { advice });
  }
  return { ...own, target };
}

type Given = readonly [flag: string, value: string];

function requireBoth(one: Given, other: Given): void {
  const [[given, value], [missing]] = one[1] === "" ? [other, one] : [one, other];
  if (value === "" || (one[1] !== "" && other[1] !== "")) return;
  throw refusal(`${given} ${value} needs ${missing}`, { advice: "give both, or neither" });
}

/** Without the newline at its end, as `volume attach` reads one. */
function readSecret(path: string, flag: string, log: Log): string {
  let text: string;
  let mode: string | null;
  try {
    text = readFileSync(path, "utf8");
    mode = openModeOf(path);
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    throw refusal(`${flag} ${path} cannot be read: ${code}`, {
      advice: "name a file that holds the secret and nothing else",
    });
  }
  if (mode !== null) log.log("warn", "iscsi.secret-readable-by-others", { path, mode });
  return text.replace(/\r?\n$/, "");
}

function refusal(message: string, options: { readonly advice: string }): StartError {
  return new StartError("cannot_start", message, options);
}

// What a classic attachment may ask for: names of initiators (RFC 7143 section 4.2.7) and what CHAP
// wants of names and secrets (section 9.2.1), with errors that say what to type instead. Used by
// the daemon, and by the CLI before it sends a request.

import { ApiError } from "./errors.ts";
import {
  CHAP_SECRET_LENGTH_MAX,
  CHAP_SECRET_LENGTH_MIN,
  CHAP_USER_PATTERN,
  INITIATOR_COUNT_MAX,
  ISCSI_NAME_LENGTH_MAX,
} from "./limits.ts";
import type { ChapProof, ClassicAttach } from "./types.ts";
import { quote } from "./volume-rules.ts";

const IQN = /^iqn\.\d{4}-\d{2}\.[a-z0-9.-]+(:[a-z0-9.:-]+)?$/;
const EUI_OR_NAA = /^(eui|naa)\.[0-9a-f]{16}([0-9a-f]{16})?$/;
const USER = new RegExp(CHAP_USER_PATTERN);
const SECRET = /^[!-~]+$/;

function refuse(message: string, advice: string): never {
  throw new ApiError("invalid_request", message, { advice });
}

/** As it is compared: in lower case. */
function checkInitiator(name: string): string {
  const lower = name.toLowerCase();
  const isName = IQN.test(lower) || EUI_OR_NAA.test(lower);
  if (isName && lower.length <= ISCSI_NAME_LENGTH_MAX) return lower;
  return refuse(
    `${quote(name)} is not the name of an iSCSI initiator`,
    "use an iqn., eui. or naa. name, e.g. iqn.2026-01.com.example:host1",
  );
}

/** The secret is in none of its errors. */
function checkProof({ user, secret }: ChapProof): void {
  if (!USER.test(user)) {
    refuse(`${quote(user)} is not a CHAP name`, "use 1 to 64 printable characters, no spaces");
  }
  const isLong = secret.length >= CHAP_SECRET_LENGTH_MIN && secret.length <= CHAP_SECRET_LENGTH_MAX;
  if (isLong && SECRET.test(secret)) return;
  refuse(
    `the CHAP secret of ${quote(user)} has ${secret.length} characters, or some that are not ASCII`,
    `use ${CHAP_SECRET_LENGTH_MIN} to ${CHAP_SECRET_LENGTH_MAX} printable characters, no spaces; ` +
      "Windows wants 12 to 16",
  );
}

/** Throws ApiError. Secrets are in none of its errors. */
export function checkChap(chap: NonNullable<ClassicAttach["chap"]>): void {
  checkProof(chap);
  if (chap.target === undefined) return;
  checkProof(chap.target);
  if (chap.secret !== chap.target.secret) return;
  refuse(
    `initiators (${quote(chap.user)}) and the target (${quote(chap.target.user)}) ` +
      "have the same CHAP secret",
    "give the target a secret of its own: with one for both, whoever may log in could pass for it",
  );
}

/** Throws ApiError; the initiators' names come back as they are compared, sorted. */
export function checkClassic({ chap, initiators = [] }: ClassicAttach): readonly string[] {
  if (chap !== undefined) checkChap(chap);
  if (initiators.length > INITIATOR_COUNT_MAX) {
    refuse(`${initiators.length} initiators are too many`, `name at most ${INITIATOR_COUNT_MAX}`);
  }
  return [...new Set(initiators.map(checkInitiator))].sort();
}

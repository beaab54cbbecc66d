// Operational keys (RFC 7143 section 13): what each offer is answered with, and what holds then.
//
// Invariants:
//  - a key is negotiated once in a login; a second time is an error of the initiator;
//  - what is not offered keeps the specification's default, and every default suits us: nothing
//    is proposed by this side, only declared.

import { DEFAULT_SEGMENT_BYTES } from "./limits.ts";
import { parseNumber } from "./text.ts";

/** What this side wants; see TARGET_WISHES for what it wants by default. */
export interface TargetWishes {
  readonly headerDigests: readonly Digest[];
  readonly dataDigests: readonly Digest[];
  readonly initialR2T: boolean;
  readonly immediateData: boolean;
  /** Longest data segment that we take; declared to the initiator. */
  readonly maxRecvDataSegmentLength: number;
  readonly maxBurstLength: number;
  readonly firstBurstLength: number;
  readonly maxOutstandingR2T: number;
}

export type Digest = "None" | "CRC32C";

/** What both sides have agreed on. Lengths in bytes, times in seconds. */
export interface SessionParameters {
  headerDigest: boolean;
  dataDigest: boolean;
  initialR2T: boolean;
  immediateData: boolean;
  /** Longest data segment that the initiator takes. */
  peerSegmentBytes: number;
  /** Longest that we take: what we have declared, or the default where we had no chance to. */
  ownSegmentBytes: number;
  maxBurstLength: number;
  firstBurstLength: number;
  maxOutstandingR2T: number;
  defaultTime2Wait: number;
  defaultTime2Retain: number;
}

export function defaultParameters(): SessionParameters {
  return {
    headerDigest: false,
    dataDigest: false,
    initialR2T: true,
    immediateData: true,
    peerSegmentBytes: DEFAULT_SEGMENT_BYTES,
    ownSegmentBytes: DEFAULT_SEGMENT_BYTES,
    maxBurstLength: 262144,
    firstBurstLength: 65536,
    maxOutstandingR2T: 1,
    defaultTime2Wait: 2,
    defaultTime2Retain: 20,
  };
}

const SEGMENT_MAX = 16777215;
const NOT_UNDERSTOOD = "NotUnderstood";
const REJECT = "Reject";
const IRRELEVANT = "Irrelevant";

interface Offer {
  readonly value: string;
  readonly wishes: TargetWishes;
  readonly result: SessionParameters;
}

/** Answers an offer and notes what it means; null = a declaration, which has no answer. */
type KeyRule = (offer: Offer) => string | null;

type NumberKey =
  | "maxBurstLength"
  | "firstBurstLength"
  | "maxOutstandingR2T"
  | "defaultTime2Wait"
  | "defaultTime2Retain";

/** The smaller (or larger) of both sides' numbers. */
function numberRule(
  low: number,
  high: number,
  choose: (a: number, b: number) => number,
  own: (wishes: TargetWishes) => number,
  field: NumberKey | null,
): KeyRule {
  return ({ value, wishes, result }) => {
    const offered = parseNumber(value);
    if (offered < low || offered > high) return REJECT;
    const chosen = choose(offered, own(wishes));
    if (field !== null) result[field] = chosen;
    return String(chosen);
  };
}

/** Yes or No: both must want it ("and"), or one is enough ("or"). */
function booleanRule(
  join: "and" | "or",
  own: (wishes: TargetWishes) => boolean,
  field: "initialR2T" | "immediateData" | null,
): KeyRule {
  return ({ value, wishes, result }) => {
    if (value !== "Yes" && value !== "No") return REJECT;
    const offered = value === "Yes";
    const chosen = join === "and" ? offered && own(wishes) : offered || own(wishes);
    if (field !== null) result[field] = chosen;
    return chosen ? "Yes" : "No";
  };
}

/** The first of the initiator's list that we take too. */
function digestRule(
  own: (wishes: TargetWishes) => readonly Digest[],
  field: "headerDigest" | "dataDigest",
): KeyRule {
  return ({ value, wishes, result }) => {
    const known: readonly string[] = own(wishes);
    const chosen = value.split(",").find((one) => known.includes(one));
    if (chosen === undefined) return REJECT;
    result[field] = chosen === "CRC32C";
    return chosen;
  };
}

const RULES: ReadonlyMap<string, KeyRule> = new Map<string, KeyRule>([
  ["HeaderDigest", digestRule((own) => own.headerDigests, "headerDigest")],
  ["DataDigest", digestRule((own) => own.dataDigests, "dataDigest")],
  ["MaxConnections", numberRule(1, 65535, Math.min, () => 1, null)],
  ["InitialR2T", booleanRule("or", (own) => own.initialR2T, "initialR2T")],
  ["ImmediateData", booleanRule("and", (own) => own.immediateData, "immediateData")],
  [
    "MaxBurstLength",
    numberRule(512, SEGMENT_MAX, Math.min, (own) => own.maxBurstLength, "maxBurstLength"),
  ],
  [
    "FirstBurstLength",
    numberRule(512, SEGMENT_MAX, Math.min, (own) => own.firstBurstLength, "firstBurstLength"),
  ],
  ["DefaultTime2Wait", numberRule(0, 3600, Math.max, () => 2, "defaultTime2Wait")],
  ["DefaultTime2Retain", numberRule(0, 3600, Math.min, () => 0, "defaultTime2Retain")],
  [
    "MaxOutstandingR2T",
    numberRule(1, 65535, Math.min, (own) => own.maxOutstandingR2T, "maxOutstandingR2T"),
  ],
  ["DataPDUInOrder", booleanRule("or", () => true, null)],
  ["DataSequenceInOrder", booleanRule("or", () => true, null)],
  ["ErrorRecoveryLevel", numberRule(0, 2, Math.min, () => 0, null)],
  ["TaskReporting", ({ value }) => (value.split(",").includes("RFC3373") ? "RFC3373" : REJECT)],
  ["iSCSIProtocolLevel", numberRule(0, 31, Math.min, () => 1, null)],
  // Obsoleted keys must be understood all the same (13.25).
  ["IFMarker", () => "No"],
  ["OFMarker", () => "No"],
  ["IFMarkInt", () => REJECT],
  ["OFMarkInt", () => REJECT],
  ["InitiatorAlias", () => null],
]);

/** Keys about data that a discovery session does not move. */
const IRRELEVANT_IN_DISCOVERY: ReadonlySet<string> = new Set([
  "MaxConnections",
  "InitialR2T",
  "ImmediateData",
  "MaxBurstLength",
  "FirstBurstLength",
  "MaxOutstandingR2T",
  "DataPDUInOrder",
  "DataSequenceInOrder",
]);

export class Negotiation {
  readonly parameters: SessionParameters = defaultParameters();
  private readonly wishes: TargetWishes;
  private readonly seen: Set<string> = new Set();

  constructor(wishes: TargetWishes) {
    this.wishes = wishes;
  }

  /** False: the key was there before in this login. */
  noteKey(key: string): boolean {
    if (this.seen.has(key)) return false;
    this.seen.add(key);
    return true;
  }

  /** The answer to one offer; null = it has none; undefined = the login cannot go on. */
  answer(key: string, value: string, isDiscovery: boolean): string | null | undefined {
    if (key === "MaxRecvDataSegmentLength") {
      return this.declare(value) ? null : undefined;
    }
    const rule = RULES.get(key);
    if (rule === undefined) return NOT_UNDERSTOOD;
    if (isDiscovery && IRRELEVANT_IN_DISCOVERY.has(key)) return IRRELEVANT;
    // What the initiator answers to nothing that we have asked.
    if (value === REJECT || value === IRRELEVANT || value === NOT_UNDERSTOOD) return REJECT;
    return rule({ value, wishes: this.wishes, result: this.parameters });
  }

  /** The initiator's longest data segment; false where it is not one. */
  private declare(value: string): boolean {
    const bytes = parseNumber(value);
    if (bytes < 512 || bytes > SEGMENT_MAX) return false;
    this.parameters.peerSegmentBytes = bytes;
    return true;
  }

  /** Of ours; we have told the initiator. */
  declareOwn(): string {
    this.parameters.ownSegmentBytes = this.wishes.maxRecvDataSegmentLength;
    return String(this.parameters.ownSegmentBytes);
  }

  /** What holds when the login is over. */
  finish(): SessionParameters {
    const { parameters } = this;
    parameters.firstBurstLength = Math.min(parameters.firstBurstLength, parameters.maxBurstLength);
    return parameters;
  }
}

/** A text negotiation of the full feature phase: only the initiator's segment may still change. */
export function answerInFullFeature(
  key: string,
  value: string,
  parameters: SessionParameters,
): string | null {
  if (key === "MaxRecvDataSegmentLength") {
    const bytes = parseNumber(value);
    if (bytes < 512 || bytes > SEGMENT_MAX) return REJECT;
    parameters.peerSegmentBytes = bytes;
    return null;
  }
  if (key === "InitiatorAlias") return null;
  return RULES.has(key) ? REJECT : NOT_UNDERSTOOD;
}

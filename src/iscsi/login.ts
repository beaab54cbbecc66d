// The login phase (RFC 7143 sections 6.3 and 11.12-11.13): one request in, one response out, until
// the full feature phase or the end. Knows nothing of sockets.
//
//   first PDU: CSG 0 or 1 --> [0: security, CHAP] --> [1: operational keys] --> 3: full feature
//
// Invariants:
//  - whoever must authenticate passes no transition before he has;
//  - a request that says two things at once, or something else than before, ends the login;
//  - no status says more than the specification wants, and none names a secret.

import { getU16, getU32 } from "../base/index.ts";
import { ChapExchange, type ChapOutcome, type OutstandingChallenges } from "./chap.ts";
import {
  FLAG_CONTINUE,
  LOGIN_AUTHENTICATION_FAILURE,
  LOGIN_AUTHORIZATION_FAILURE,
  LOGIN_CSG_SHIFT,
  LOGIN_INITIATOR_ERROR,
  LOGIN_MISSING_PARAMETER,
  LOGIN_MOVED_PERMANENTLY,
  LOGIN_MOVED_TEMPORARILY,
  LOGIN_NOT_FOUND,
  LOGIN_REQUEST,
  LOGIN_SERVICE_UNAVAILABLE,
  LOGIN_SESSION_TYPE_NOT_SUPPORTED,
  LOGIN_STAGE_MASK,
  LOGIN_SUCCESS,
  LOGIN_TRANSIT,
  LOGIN_UNSUPPORTED_VERSION,
  STAGE_FULL_FEATURE,
  STAGE_OPERATIONAL,
  STAGE_SECURITY,
} from "./layouts.ts";
import { LOGIN_REQUESTS_MAX } from "./limits.ts";
import { Negotiation, type TargetWishes } from "./negotiation.ts";
import type { IscsiTarget, TargetDirectory } from "./target.ts";
import { encodeText, parseText, TextGatherer, type TextPair } from "./text.ts";

export interface LoginReply {
  /** Class and detail, see LOGIN_*. Anything but LOGIN_SUCCESS ends the connection. */
  readonly status: number;
  readonly flags: number;
  readonly text: Uint8Array;
  readonly isFullFeature: boolean;
}

/** What a login knows of the portal around it. */
export interface LoginModules {
  readonly directory: TargetDirectory;
  readonly wishes: TargetWishes;
  readonly challenges: OutstandingChallenges;
  /** Decides on a session that is complete; LOGIN_SUCCESS, or why not. */
  readonly admit: (login: Login) => number;
}

/** A status that ends the login. Thrown and caught in this file only. */
class LoginRefusal extends Error {
  readonly status: number;
  readonly pairs: readonly TextPair[];

  constructor(status: number, reason: string, pairs: readonly TextPair[] = []) {
    super(reason);
    this.status = status;
    this.pairs = pairs;
  }
}

const NAME_PATTERN = /^(?:iqn\.|eui\.|naa\.)[^\s\p{Cc}]{1,219}$/u;
const NAME_BYTES_MAX = 223;
const EMPTY: Uint8Array = new Uint8Array(0);
const STAGE_UNKNOWN = -1;

const AUTH_OFF = 0;
const AUTH_CHAP = 1;
const AUTH_DONE = 2;

export class Login {
  initiatorName = "";
  isDiscovery = false;
  target: IscsiTarget | null = null;
  /** Of the CHAP user, for logs; empty where nobody had to prove anything. */
  userName = "";
  isid = "";
  tsih = 0;
  cid = 0;
  /** What the first command of the session will carry. */
  cmdSn = 0;
  initiatorTaskTag = 0;
  /** Why the login was refused: for logs, never for the peer. */
  refusal = "";
  readonly negotiation: Negotiation;
  private readonly modules: LoginModules;
  private readonly gatherer: TextGatherer = new TextGatherer();
  private stage: number = STAGE_UNKNOWN;
  private requestCount = 0;
  private isNamed = false;
  /** Until the first whole text has been answered. */
  private isFirst = true;
  private auth = AUTH_OFF;
  private exchange: ChapExchange | null = null;
  private hasDeclaredSegment = false;

  constructor(modules: LoginModules) {
    this.modules = modules;
    this.negotiation = new Negotiation(modules.wishes);
  }

  /** Takes a login request: its header at the start of `header`, and its data segment. */
  step(header: Uint8Array, data: Uint8Array): LoginReply {
    const flags = header[LOGIN_REQUEST.flags];
    try {
      this.checkHeader(header, flags);
      return this.take(flags, data);
    } catch (error) {
      if (!(error instanceof LoginRefusal)) throw error;
      this.refusal = error.message;
      return this.reply(error.status, 0, error.pairs, false);
    }
  }

  /** Gives back what the portal keeps for it. */
  end(): void {
    this.exchange?.end();
    this.exchange = null;
  }

  private reply(
    status: number,
    flags: number,
    pairs: readonly TextPair[],
    isFullFeature: boolean,
  ): LoginReply {
    return {
      status,
      flags,
      text: pairs.length === 0 ? EMPTY : encodeText(pairs),
      isFullFeature,
    };
  }

  private checkHeader(header: Uint8Array, flags: number): void {
    const isid = Buffer.from(header.subarray(LOGIN_REQUEST.isid, LOGIN_REQUEST.tsih)).toString(
      "hex",
    );
    const tsih = getU16(header, LOGIN_REQUEST.tsih);
    const cid = getU16(header, LOGIN_REQUEST.cid);
    const csg = (flags >>> LOGIN_CSG_SHIFT) & LOGIN_STAGE_MASK;
    this.requestCount += 1;
    if (this.requestCount > LOGIN_REQUESTS_MAX) refuse("too many login requests");
    if (header[LOGIN_REQUEST.versionMin] > 0) {
      throw new LoginRefusal(LOGIN_UNSUPPORTED_VERSION, "only version 0 is spoken here");
    }
    if (this.stage === STAGE_UNKNOWN) {
      if (csg !== STAGE_SECURITY && csg !== STAGE_OPERATIONAL) refuse("a login from no stage");
      this.stage = csg;
      this.isid = isid;
      this.tsih = tsih;
      this.cid = cid;
    } else if (this.isid !== isid || this.tsih !== tsih || this.cid !== cid) {
      refuse("a login that changes its session");
    }
    this.initiatorTaskTag = getU32(header, LOGIN_REQUEST.initiatorTaskTag);
    this.cmdSn = getU32(header, LOGIN_REQUEST.cmdSn);
    if (csg !== this.stage) refuse("a login in another stage than agreed");
    if ((flags & LOGIN_TRANSIT) === 0) return;
    const nsg = flags & LOGIN_STAGE_MASK;
    if (nsg !== STAGE_OPERATIONAL && nsg !== STAGE_FULL_FEATURE) refuse("a login to no stage");
    if (nsg <= csg) refuse("a login to a stage that is over");
    if ((flags & FLAG_CONTINUE) !== 0) refuse("a login request with both T and C");
  }

  private take(flags: number, data: Uint8Array): LoginReply {
    if (!this.gatherer.add(data)) refuse("more text than a login may have");
    if ((flags & FLAG_CONTINUE) !== 0) {
      return this.reply(LOGIN_SUCCESS, this.stage << LOGIN_CSG_SHIFT, [], false);
    }
    const pairs = parseText(this.gatherer.take());
    if (typeof pairs === "string") return refuse(pairs);
    const answers: TextPair[] = [];
    const chapKeys = new Map<string, string>();
    if (!this.isNamed) this.takeNames(pairs, answers);
    for (const [key, value] of pairs) {
      if (!this.negotiation.noteKey(key)) refuse(`the key ${key} came twice`);
      if (key.startsWith("CHAP_")) chapKeys.set(key, value);
      else this.takeKey(key, value, answers);
    }
    if (this.auth === AUTH_CHAP && chapKeys.size > 0) this.takeChap(chapKeys, answers);
    else if (chapKeys.size > 0) refuse("CHAP keys that nobody has asked for");
    return this.finish(flags, answers);
  }

  /** The keys of the first request: who it is, and what he wants. */
  private takeNames(pairs: readonly TextPair[], answers: TextPair[]): void {
    const keys = new Map(pairs);
    const initiatorName = keys.get("InitiatorName");
    const sessionType = keys.get("SessionType") ?? "Normal";
    if (initiatorName === undefined) missing("InitiatorName");
    if (!isName(initiatorName)) refuse("an initiator's name that is none");
    if (sessionType !== "Normal" && sessionType !== "Discovery") {
      throw new LoginRefusal(LOGIN_SESSION_TYPE_NOT_SUPPORTED, "an unknown type of session");
    }
    this.initiatorName = initiatorName.toLowerCase();
    this.isDiscovery = sessionType === "Discovery";
    this.isNamed = true;
    if (this.isDiscovery) {
      this.demandProof();
      return;
    }
    const targetName = keys.get("TargetName");
    if (targetName === undefined) missing("TargetName");
    const target = this.modules.directory.find(targetName.toLowerCase());
    if (target === null) throw new LoginRefusal(LOGIN_NOT_FOUND, "no such target");
    if (target.initiators !== null && !target.initiators.has(this.initiatorName)) {
      throw new LoginRefusal(LOGIN_AUTHORIZATION_FAILURE, "the initiator is not on the list");
    }
    if (target.redirect !== null) {
      const { address, isPermanent } = target.redirect;
      if (address === null) {
        throw new LoginRefusal(LOGIN_SERVICE_UNAVAILABLE, "served nowhere at the moment");
      }
      const status = isPermanent ? LOGIN_MOVED_PERMANENTLY : LOGIN_MOVED_TEMPORARILY;
      throw new LoginRefusal(status, "served elsewhere", [["TargetAddress", address]]);
    }
    this.target = target;
    answers.push(["TargetPortalGroupTag", String(target.portalGroupTag)]);
    if (target.alias !== "") answers.push(["TargetAlias", target.alias]);
    this.demandProof();
  }

  /** An initiator that skips the security stage has nothing to prove itself with. */
  private demandProof(): void {
    if (this.credentials === null || this.stage === STAGE_SECURITY) return;
    throw new LoginRefusal(LOGIN_AUTHENTICATION_FAILURE, "the security stage was skipped");
  }

  private get credentials(): TargetDirectory["discoveryChap"] {
    return this.target === null ? this.modules.directory.discoveryChap : this.target.chap;
  }

  private takeKey(key: string, value: string, answers: TextPair[]): void {
    switch (key) {
      case "InitiatorName":
      case "TargetName":
      case "SessionType":
        // Taken with the first request, by takeNames; later they would be somebody else's.
        if (this.isFirst) return;
        return void refuse(`the key ${key} came late`);
      case "AuthMethod":
        answers.push(["AuthMethod", this.chooseMethod(value)]);
        return;
      default: {
        const answer = this.negotiation.answer(key, value, this.isDiscovery);
        if (answer === undefined) refuse(`a value that ${key} cannot have`);
        if (answer !== null) answers.push([key, answer]);
      }
    }
  }

  private chooseMethod(value: string): string {
    if (this.stage !== STAGE_SECURITY) refuse("AuthMethod outside the security stage");
    const offered = value.split(",");
    const { credentials } = this;
    if (credentials === null) {
      if (offered.includes("None")) return "None";
      throw new LoginRefusal(LOGIN_AUTHENTICATION_FAILURE, "the initiator wants to authenticate");
    }
    if (!offered.includes("CHAP")) {
      throw new LoginRefusal(LOGIN_AUTHENTICATION_FAILURE, "the initiator offers no CHAP");
    }
    this.auth = AUTH_CHAP;
    this.exchange = new ChapExchange(credentials, this.modules.challenges);
    return "CHAP";
  }

  private takeChap(keys: ReadonlyMap<string, string>, answers: TextPair[]): void {
    const outcome = (this.exchange as ChapExchange).step(keys) as ChapOutcome;
    if (outcome.kind === "failed") {
      this.end();
      throw new LoginRefusal(LOGIN_AUTHENTICATION_FAILURE, outcome.reason);
    }
    answers.push(...outcome.pairs);
    if (outcome.kind !== "done") return;
    this.auth = AUTH_DONE;
    this.userName = outcome.name;
    this.end();
  }

  /** The flags of the response: does the stage change, as the initiator wants? */
  private finish(flags: number, answers: TextPair[]): LoginReply {
    const stays = this.stage << LOGIN_CSG_SHIFT;
    this.isFirst = false;
    if (this.stage === STAGE_OPERATIONAL && !this.hasDeclaredSegment) {
      this.hasDeclaredSegment = true;
      answers.push(["MaxRecvDataSegmentLength", this.negotiation.declareOwn()]);
    }
    const isProven = this.credentials === null || this.auth === AUTH_DONE;
    if ((flags & LOGIN_TRANSIT) === 0) return this.reply(LOGIN_SUCCESS, stays, answers, false);
    if (!isProven) {
      if (this.auth === AUTH_OFF) {
        throw new LoginRefusal(LOGIN_AUTHENTICATION_FAILURE, "no proof was offered");
      }
      return this.reply(LOGIN_SUCCESS, stays, answers, false);
    }
    const next = flags & LOGIN_STAGE_MASK;
    const moves = LOGIN_TRANSIT | stays | next;
    this.stage = next;
    if (next !== STAGE_FULL_FEATURE) return this.reply(LOGIN_SUCCESS, moves, answers, false);
    const status = this.modules.admit(this);
    if (status !== LOGIN_SUCCESS) throw new LoginRefusal(status, "the session was not admitted");
    return this.reply(LOGIN_SUCCESS, moves, answers, true);
  }
}

function refuse(reason: string): never {
  throw new LoginRefusal(LOGIN_INITIATOR_ERROR, reason);
}

function missing(key: string): never {
  throw new LoginRefusal(LOGIN_MISSING_PARAMETER, `no ${key}`);
}

function isName(name: string): boolean {
  return Buffer.byteLength(name) <= NAME_BYTES_MAX && NAME_PATTERN.test(name.toLowerCase());
}

// Attaching a volume as an iSCSI target: what is declared, and what the data plane is told of it.
//
// Invariants:
//  - the target's name and the unit's NAA identifier follow from the volume's id: the same after
//    every restart, another for a volume of the same name that is made later;
//  - secrets pass through here from a request to the keeper and from the keeper to the data plane;
//    errors and events name users alone.

import { createHash, timingSafeEqual } from "node:crypto";
import { isIP } from "node:net";
import type { AttachedTarget } from "../meta/records.ts";
import { checkClassic } from "../model/classic-rules.ts";
import type { DaemonConfig } from "../model/config.ts";
import type { DeclaredAttachment, DeclaredClassic, DeclaredVolume } from "../model/declared.ts";
import { ApiError } from "../model/errors.ts";
import type { ClassicAttach, ClassicAttachment, VolumeAttach } from "../model/types.ts";
import type { ClassicChap, ClassicSpec, PortalSettings } from "../ports/classic-plane.ts";
import type { Log } from "../ports/log.ts";
import { parseListen } from "./api-listener.ts";
import type { ChapSecrets, ClassicKeeper, KeptReservations } from "./classic-keeper.ts";
import { StartError } from "./data-directory.ts";
import { discoveryChapOf } from "./discovery-chap.ts";

const NAMING_AUTHORITY = "iqn.2024-01.io.ringstore";
const ID_DIGITS = 12;
const LUN = 0;

type Identity = Pick<DeclaredVolume, "id" | "name">;

/** Whoever sees two nodes' targets must not take one for the other: the id is part of it. */
export function targetNameOf({ id, name }: Identity): string {
  return `${NAMING_AUTHORITY}:${name}.${id.replaceAll("-", "").slice(0, ID_DIGITS)}`;
}

/** NAA 3h, locally assigned: 60 bits of the id's hash (SPC-4 7.8.6.6.4). */
export function naaOf(id: string): string {
  return `3${createHash("sha256").update(id).digest("hex").slice(0, 15)}`;
}

export function shownClassic(
  identity: Identity,
  { chapUser, chapTargetUser, initiators }: DeclaredClassic,
  portal: string | null,
): ClassicAttachment {
  const target = targetNameOf(identity);
  const url = portal === null ? null : `iscsi://${portal}/${target}/${LUN}`;
  const shown = { target, lun: LUN, portal, url, chapUser, initiators };
  return { ...shown, chapTargetUser: chapTargetUser ?? null };
}

/** Of the portal that serves it; 1 where nothing has been told. */
export function portTagOf(target: Pick<AttachedTarget, "portTag"> | undefined): number {
  return target?.portTag ?? 1;
}

/** Of the portal that has it in standby: a target has two ports, whichever nodes they are on. */
export function standbyTagOf(target: Pick<AttachedTarget, "portTag"> | undefined): number {
  return 3 - portTagOf(target);
}

/** The target where the standby serves it. */
export function targetAtStandby(target: AttachedTarget, portal: string): AttachedTarget {
  const { portTag, ...rest } = target;
  const moved = { ...rest, portal };
  return portTag === 2 ? moved : { ...moved, portTag: 2 };
}

/** As a record that every node reads has it. */
export function classicOf({
  chapUser,
  chapTargetUser,
  initiators,
}: DeclaredClassic): DeclaredClassic {
  if (chapTargetUser === undefined) return { chapUser, initiators };
  return { chapUser, chapTargetUser, initiators };
}

/** Throws ApiError for what an iSCSI target has not got. */
export function planClassic(request: VolumeAttach, classic: ClassicAttach): DeclaredClassic {
  for (const field of ["queueCountMax", "packedAllowed", "vmMemoryBytes"] as const) {
    if (request[field] === undefined) continue;
    throw new ApiError("invalid_request", `${field} does not go with classic`, {
      advice: "queues, packed rings and VM memory are of vhost-user: leave them out",
    });
  }
  const initiators = checkClassic(classic);
  const { chap } = classic;
  if (chap?.target === undefined) return { chapUser: chap?.user ?? null, initiators };
  return { chapUser: chap.user, chapTargetUser: chap.target.user, initiators };
}

/** What the keeper keeps of a request. */
export function secretsOf({ secret, target }: NonNullable<ClassicAttach["chap"]>): ChapSecrets {
  return { secret, targetSecret: target?.secret ?? null };
}

/** Asked again, with what it has or with nothing. Throws ApiError for anything else. */
export function requireSameClassic(
  { id, name }: Identity,
  present: DeclaredClassic | undefined,
  request: VolumeAttach,
  keeper: ClassicKeeper,
): void {
  const wanted = request.classic;
  if (present === undefined) {
    if (wanted !== undefined) throw differs(name, "by vhost-user, not as an iSCSI target");
    return;
  }
  if (wanted === undefined) throw differs(name, "as an iSCSI target, not by vhost-user");
  const { initiators, chapTargetUser } = planClassic(request, wanted);
  const isSame = initiators.join(" ") === present.initiators.join(" ");
  if (wanted.initiators !== undefined && !isSame) throw differs(name, "for other initiators");
  if (wanted.chap === undefined) return;
  if (wanted.chap.user !== present.chapUser) throw differs(name, "with another CHAP name");
  if (chapTargetUser !== present.chapTargetUser) throw differs(name, howProven(present));
  const given = secretsOf(wanted.chap);
  const kept = keeper.secretsOf(id, name, present);
  if (!isSameSecret(given.secret, kept?.secret)) throw differs(name, "with another CHAP secret");
  if (chapTargetUser === undefined) return;
  if (isSameSecret(given.targetSecret ?? "", kept?.targetSecret ?? "")) return;
  throw differs(name, "with another CHAP secret of the target");
}

/** For a refusal: "volume v is attached …". */
export function howProven({ chapTargetUser }: Pick<DeclaredClassic, "chapTargetUser">): string {
  if (chapTargetUser === undefined) return "without a CHAP name of the target";
  return `with CHAP name ${chapTargetUser} of the target`;
}

function isSameSecret(a: string, b: string = ""): boolean {
  const digest = (text: string): Buffer => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(a), digest(b));
}

function differs(name: string, how: string): ApiError {
  return new ApiError("attachment_differs", `volume ${name} is attached ${how}`, {
    advice: `detach it first: ringstore volume detach ${name}`,
  });
}

/** Where a target's secrets and its reservations are kept. */
export interface ClassicParts {
  readonly keeper: ClassicKeeper;
  readonly reservationsOf: (volumeId: string, name: string) => Promise<KeptReservations>;
  /** See ClassicSpec; 1, the only one, for a volume of one node. */
  readonly portTag?: number;
}

function chapOf(
  { chapUser, chapTargetUser }: DeclaredClassic,
  secrets: ChapSecrets | null,
): ClassicChap | null {
  if (chapUser === null || secrets === null) return null;
  const { secret, targetSecret } = secrets;
  if (chapTargetUser === undefined || targetSecret === null) {
    return { user: chapUser, secret, target: null };
  }
  return { user: chapUser, secret, target: { user: chapTargetUser, secret: targetSecret } };
}

/** Rejects with ApiError where what is kept for it cannot be read. */
export async function classicSpecOf(
  { id, name }: Identity,
  { readOnly }: Pick<DeclaredAttachment, "readOnly">,
  classic: DeclaredClassic,
  { keeper, reservationsOf, portTag = 1 }: ClassicParts,
): Promise<ClassicSpec> {
  const chap = chapOf(classic, keeper.secretsOf(id, name, classic));
  const { record, powerWasLost } = await reservationsOf(id, name);
  return {
    volumeId: id,
    targetName: targetNameOf({ id, name }),
    initiators: classic.initiators,
    chap,
    portTag,
    readOnly,
    naa: naaOf(id),
    reservations: record,
    powerWasLost,
  };
}

/** Null: `--iscsi-listen ""`. Throws StartError for what nobody can listen on, or prove. */
export function portalSettingsOf(config: DaemonConfig, log: Log): PortalSettings | null {
  const discovery = discoveryChapOf(config, log);
  if (config.iscsiListen === "") return null;
  const { host, port } = parseListen(config.iscsiListen, "--iscsi-listen");
  const isWildcard = /^[0.:]*$/.test(host);
  if (isIP(host) === 0 || isWildcard) {
    const what = isWildcard ? "stands for every address" : "is no IP address";
    throw new StartError("cannot_start", `--iscsi-listen ${config.iscsiListen}: ${host} ${what}`, {
      advice: "give the IP address of this node at which initiators reach it, which they are told",
    });
  }
  const { iscsiConnections, iscsiConnectionsPerAddress } = config;
  return {
    host,
    port,
    connectionsMax: iscsiConnections,
    connectionsPerAddressMax: Math.min(iscsiConnections, iscsiConnectionsPerAddress),
    discovery,
  };
}

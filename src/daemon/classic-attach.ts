// Attaching a volume as an iSCSI target: what is declared, and what the data plane is told of it.
//
// Invariants:
//  - the target's name and the unit's NAA identifier follow from the volume's id: the same after
//    every restart, another for a volume of the same name that is made later;
//  - a secret passes through here from a request to the keeper and from the keeper to the data
//    plane; errors and events name the user alone.

import { createHash, timingSafeEqual } from "node:crypto";
import { isIP } from "node:net";
import type { AttachedTarget } from "../meta/records.ts";
import { checkClassic } from "../model/classic-rules.ts";
import type { DaemonConfig } from "../model/config.ts";
import type { DeclaredAttachment, DeclaredClassic, DeclaredVolume } from "../model/declared.ts";
import { ApiError } from "../model/errors.ts";
import type { ClassicAttach, ClassicAttachment, VolumeAttach } from "../model/types.ts";
import type { ClassicSpec, PortalSettings } from "../ports/classic-plane.ts";
import { parseListen } from "./api-listener.ts";
import type { ClassicKeeper, KeptReservations } from "./classic-keeper.ts";
import { StartError } from "./data-directory.ts";

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
  { chapUser, initiators }: DeclaredClassic,
  portal: string | null,
): ClassicAttachment {
  const target = targetNameOf(identity);
  const url = portal === null ? null : `iscsi://${portal}/${target}/${LUN}`;
  return { target, lun: LUN, portal, url, chapUser, initiators };
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
  return { ...target, portal, portTag: standbyTagOf(target) };
}

/** As a record that every node reads has it. */
export function classicOf({ chapUser, initiators }: DeclaredClassic): DeclaredClassic {
  return { chapUser, initiators };
}

/** Throws ApiError for what an iSCSI target has not got. */
export function planClassic(request: VolumeAttach, classic: ClassicAttach): DeclaredClassic {
  for (const field of ["queueCountMax", "packedAllowed", "vmMemoryBytes"] as const) {
    if (request[field] === undefined) continue;
    throw new ApiError("invalid_request", `${field} does not go with classic`, {
      advice: "queues, packed rings and VM memory are of vhost-user: leave them out",
    });
  }
  return { chapUser: classic.chap?.user ?? null, initiators: checkClassic(classic) };
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
  const { initiators } = planClassic(request, wanted);
  const isSame = initiators.join(" ") === present.initiators.join(" ");
  if (wanted.initiators !== undefined && !isSame) throw differs(name, "for other initiators");
  if (wanted.chap === undefined) return;
  if (wanted.chap.user !== present.chapUser) throw differs(name, "with another CHAP name");
  const isKnown = isSameSecret(wanted.chap.secret, keeper.secretOf(id, name));
  if (!isKnown) throw differs(name, "with another CHAP secret");
}

function isSameSecret(a: string, b: string): boolean {
  const digest = (text: string): Buffer => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(a), digest(b));
}

function differs(name: string, how: string): ApiError {
  return new ApiError("attachment_differs", `volume ${name} is attached ${how}`, {
    advice: `detach it first: ringstore volume detach ${name}`,
  });
}

/** Where a target's secret and its reservations are kept. */
export interface ClassicParts {
  readonly keeper: ClassicKeeper;
  readonly reservationsOf: (volumeId: string, name: string) => Promise<KeptReservations>;
  /** See ClassicSpec; 1, the only one, for a volume of one node. */
  readonly portTag?: number;
}

/** Rejects with ApiError where what is kept for it cannot be read. */
export async function classicSpecOf(
  { id, name }: Identity,
  { readOnly }: Pick<DeclaredAttachment, "readOnly">,
  { chapUser, initiators }: DeclaredClassic,
  { keeper, reservationsOf, portTag = 1 }: ClassicParts,
): Promise<ClassicSpec> {
  const chap = chapUser === null ? null : { user: chapUser, secret: keeper.secretOf(id, name) };
  const { record, powerWasLost } = await reservationsOf(id, name);
  return {
    volumeId: id,
    targetName: targetNameOf({ id, name }),
    initiators,
    chap,
    portTag,
    readOnly,
    naa: naaOf(id),
    reservations: record,
    powerWasLost,
  };
}

/** Null: `--iscsi-listen ""`. Throws StartError for what nobody can listen on. */
export function portalSettingsOf(config: DaemonConfig): PortalSettings | null {
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
  };
}

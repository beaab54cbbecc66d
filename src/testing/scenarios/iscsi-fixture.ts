// What the scenarios of the classic path share: a daemon with a store and a portal of its own port,
// volumes attached as targets, and disks of guests that reach them through QEMU's own initiator.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { MIB } from "../../base/index.ts";
import type { AttachReply } from "../../model/types.ts";
import { freePort } from "../../sys/index.ts";
import type { Daemon } from "../daemon.ts";
import type { GuestHost } from "./guest-fixture.ts";

const DISK_BYTES = 1024 * MIB;
export const CHAP = { user: "guest", secret: "correct-horse-1" } as const;

/** With a disk of the store, on which its volumes live. */
export async function classicDaemon(
  host: GuestHost,
  flags: readonly string[] = [],
): Promise<Daemon> {
  const listen = `127.0.0.1:${freePort("127.0.0.1")}`;
  const daemon = await host.daemon({ flags: ["--iscsi-listen", listen, ...flags] });
  const path = join(host.folder(), "disk");
  const how = ["--size", `${DISK_BYTES}`, "--allocation", "sparse", "--label", "d1"];
  await daemon.json(["disk", "init", path, ...how]);
  return daemon;
}

/**
 * Creates a volume and attaches it with CHAP, and with more words to both commands; the reply is
 * what a user is told.
 */
export async function classicVolume(
  host: GuestHost,
  daemon: Daemon,
  name: string,
  size: string,
  more: { readonly create?: readonly string[]; readonly attach?: readonly string[] } = {},
): Promise<AttachReply> {
  const file = join(host.folder(), "secret");
  writeFileSync(file, CHAP.secret, { mode: 0o600 });
  await daemon.json(["volume", "create", name, "--size", size, ...(more.create ?? [])]);
  const how = ["--chap-user", CHAP.user, "--chap-secret-file", file, ...(more.attach ?? [])];
  return (await daemon.json(["volume", "attach", name, "--classic", ...how])) as AttachReply;
}

/** The URL as libiscsi's programs take it. */
export function urlWithSecret(reply: AttachReply): string {
  return `${reply.classic?.url}`.replace("iscsi://", `iscsi://${CHAP.user}%${CHAP.secret}@`);
}

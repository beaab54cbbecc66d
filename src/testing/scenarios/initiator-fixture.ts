// Guests that are Linux hosts on the classic path: open-iscsi over the kernel's own initiator, and
// multipathd where it is asked for, configured as docs/classic.md tells operators to.
//
// Portals of tests are on 127.0.0.1, and initiators are told so: by discovery, by redirections. So
// this address means the host in the guest as well. Its own loopback device stays down, nothing
// here needs it, and 127.0.0.0/8 is routed to QEMU's user network, which takes a destination
// outside its own network for one of the host's.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import {
  EXTRA_MODULES,
  GUEST_PROGRAMS,
  type Guest,
  ISCSI_MODULES,
  MULTIPATH,
  MULTIPATH_FILES,
  MULTIPATH_MODULES,
  OPEN_ISCSI,
} from "../../vm/index.ts";
import { PROJECT_FOLDER } from "../daemon.ts";
import { type GuestHost, until } from "./guest-fixture.ts";

const INITIATOR = "iqn.1993-08.org.debian:01:guest";
const NETWORK = ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="];
const JOIN_NETWORK = [
  `modprobe -a ${ISCSI_MODULES.join(" ")}`,
  "ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up",
  "for d in all eth0; do echo 1 >/proc/sys/net/ipv4/conf/$d/route_localnet; done",
  "ip route add 127.0.0.0/8 via 10.0.2.2",
];
const START_ISCSID = ["mkdir -p /run/lock/iscsi", "iscsid"];
const START_MULTIPATHD = [
  "mkdir -p /etc/multipath",
  "systemd-udevd --daemon --resolve-names=never",
  "multipathd",
];
/** iscsiadm's word for a secret or a name that was refused. */
export const LOGIN_REFUSED = 24;

export interface InitiatorOptions {
  /** With udev and multipathd. */
  readonly hasMultipath?: boolean;
}

export interface Place {
  readonly target: string;
  readonly portal: string;
  /** 1 by default. */
  readonly portalGroup?: number;
}

export interface Login extends Place {
  readonly chap?: { readonly user: string; readonly secret: string };
  /** Command lines before the login, when there is a record of the target. */
  readonly more?: string;
}

/** How the block of docs/classic.md begins by which a target db1 must prove itself. */
export const MUTUAL_CHAP =
  "iscsiadm -m node -T TARGET -p PORTAL -o update -n node.session.auth.username_in -v db1";

/** Where the command lines of docs/classic.md find files with secrets. */
const SECRETS_FOLDER = "/etc/iscsi/secrets";

/** The block of docs/classic.md that begins so. */
function documented(start: string): string {
  const page = readFileSync(join(PROJECT_FOLDER, "docs/classic.md"), "utf8");
  const blocks = [...page.matchAll(/^```\n([\s\S]*?)^```$/gm)].map(([, block = ""]) => block);
  const found = blocks.filter((block) => block.startsWith(start));
  assert.equal(found.length, 1, `docs/classic.md has one block that begins with ${start}`);
  return found[0] as string;
}

/** The same as one command that fails where one of its lines does. */
export function documentedCommand(start: string, { target, portal }: Place): string {
  const lines = documented(start).replaceAll("TARGET", target).replaceAll("PORTAL", portal);
  return [`cd ${SECRETS_FOLDER}`, ...lines.trim().split("\n")].join(" && ");
}

/** Files as the lines of docs/classic.md name them: `db1.secret` for what db1 proves itself with. */
export async function keepSecrets(
  guest: Guest,
  secrets: Readonly<Record<string, string>>,
): Promise<void> {
  const files = Object.entries(secrets).map(
    ([user, secret]) => `printf %s '${secret}' >${SECRETS_FOLDER}/${user}.secret`,
  );
  await guest.must([`mkdir -p ${SECRETS_FOLDER}`, ...files].join(" && "));
}

/** A guest with iscsid running, and no session yet. */
export async function initiatorGuest(
  host: GuestHost,
  { hasMultipath = false }: InitiatorOptions = {},
): Promise<Guest> {
  const name = { content: `InitiatorName=${INITIATOR}\n` };
  const conf = { "/etc/multipath.conf": { content: hasMultipath ? documented("defaults {") : "" } };
  const guest = await host.guest({
    cpuCount: 2,
    memoryMiB: 384,
    kernel: hasMultipath ? "usual" : "cloud",
    extraArguments: NETWORK,
    initramfs: {
      programs: [...GUEST_PROGRAMS, ...OPEN_ISCSI, ...(hasMultipath ? MULTIPATH : [])],
      extraModules: [
        ...EXTRA_MODULES,
        ...ISCSI_MODULES,
        ...(hasMultipath ? MULTIPATH_MODULES : []),
      ],
      files: {
        "/etc/iscsi/initiatorname.iscsi": name,
        ...(hasMultipath ? { ...MULTIPATH_FILES, ...conf } : {}),
      },
    },
  });
  await guest.must([...JOIN_NETWORK, ...START_ISCSID].join(" && "));
  if (hasMultipath) {
    await guest.must(
      [`modprobe -a ${MULTIPATH_MODULES.join(" ")}`, ...START_MULTIPATHD].join(" && "),
    );
    const ask = async (): Promise<string> => (await guest.run("multipathd show daemon")).stdout;
    await until(ask, (word) => /^pid \d+ (idle|running)/.test(word), "multipathd at work");
  }
  return guest;
}

/** Waits until the portal lists the target. */
export async function targetSoon(guest: Guest, portal: string, target: string): Promise<void> {
  const discover = `iscsiadm -m discovery -t sendtargets -p ${portal}`;
  const ask = async (): Promise<string> => (await guest.run(discover)).stdout;
  await until(ask, (listed) => listed.includes(target), `${target} at ${portal}`);
}

/** As operators do: a record of the portal, what it needs, the login. Returns iscsiadm's status. */
export async function tryLogin(guest: Guest, login: Login): Promise<number> {
  const { target, portal, portalGroup = 1, chap, more } = login;
  const node = `iscsiadm -m node -T ${target} -p ${portal}`;
  const set = (name: string, value: string): string =>
    `${node} -o update -n node.session.auth.${name} -v ${value}`;
  const secret =
    chap === undefined
      ? []
      : [set("authmethod", "CHAP"), set("username", chap.user), set("password", chap.secret)];
  // With its portal group: discovery may have made this very record, and must not have it twice.
  const asked = more === undefined ? [] : [more];
  await guest.must([`${node},${portalGroup} -o new`, ...secret, ...asked].join(" && "));
  return (await guest.run(`${node} --login`)).exitCode;
}

export async function logIn(guest: Guest, login: Login): Promise<void> {
  assert.equal(await tryLogin(guest, login), 0, `the login at ${login.portal}`);
}

/** The states of the guest's sessions, in the order of their making. */
export async function sessionStates(guest: Guest): Promise<readonly string[]> {
  const printed = await guest.must("cat /sys/class/iscsi_session/*/state 2>/dev/null || true");
  return printed.split("\n").filter((line) => line !== "");
}

/** Waits until the guest has that many disks by iSCSI. */
export async function disksSoon(guest: Guest, count: number): Promise<void> {
  const ask = async (): Promise<number> =>
    Number(await guest.must("ls /dev | grep -c '^sd[a-z]$' || true"));
  await until(ask, (seen) => seen === count, `${count} disks`);
}

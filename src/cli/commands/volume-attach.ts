// volume attach: by vhost-user; with --bus scsi, as a unit of a virtio-scsi controller; with
// --classic, as an iSCSI target.
//
// Invariant: a CHAP secret is read from a file or standard input and goes into the request's body;
// it is in no message and on no screen.

import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { ClientError } from "../../client/index.ts";
import { checkClassic } from "../../model/classic-rules.ts";
import { CHAP_SECRET_FILE } from "../../model/limits.ts";
import { checkScsi } from "../../model/scsi-rules.ts";
import type {
  AttachReply,
  ChapProof,
  ClassicAttach,
  ScsiAttach,
  VolumeAttach,
} from "../../model/types.ts";
import { checkVolumeName } from "../../model/volume-rules.ts";
import type { CommandRun, OptionValues } from "../command-spec.ts";
import type { Context } from "../context.ts";
import { quoteForShell } from "../shell.ts";

const STDIN = 0;
const SECRET_PLACE = `file=${CHAP_SECRET_FILE}`;
const OF_VHOST_USER = ["queues", "noPacked", "vmMemory", "bus"];
const OF_INITIATORS = ["chapUser", "chapSecretFile"] as const;
const OF_TARGET = ["chapTargetUser", "chapTargetSecretFile"] as const;
const OF_CLASSIC = [...OF_INITIATORS, ...OF_TARGET, "initiator"];

/** Of volumes of the cluster, which are units of no controller. */
const OF_BLK = ["standby"];
const OF_SCSI = ["controller", "lun"];

function optionName(key: string): string {
  return `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

/** Undefined: by vhost-user. */
function classicOf(context: Context, options: OptionValues): ClassicAttach | undefined {
  const isClassic = options["classic"] === true;
  const stray = (isClassic ? OF_VHOST_USER : OF_CLASSIC).find((key) => options[key] !== undefined);
  if (stray !== undefined) {
    const message = `${optionName(stray)} ${isClassic ? "does not go with" : "needs"} --classic`;
    throw new ClientError("usage", message, { advice: "leave one out, or see --help" });
  }
  if (!isClassic) return undefined;
  const initiators = options["initiator"] as readonly string[] | undefined;
  const classic: ClassicAttach = {
    ...chapOf(context, options),
    ...(initiators === undefined ? {} : { initiators }),
  };
  checkClassic(classic);
  return classic;
}

/** Undefined: with a socket of its own. */
function scsiOf(options: OptionValues): ScsiAttach | undefined {
  const isScsi = options["bus"] === "scsi";
  const stray = (isScsi ? OF_BLK : OF_SCSI).find((key) => options[key] !== undefined);
  if (stray !== undefined) {
    const message = `${optionName(stray)} ${isScsi ? "does not go with" : "needs"} --bus scsi`;
    throw new ClientError("usage", message, { advice: "leave one out, or see --help" });
  }
  if (!isScsi) return undefined;
  const controller = options["controller"] as string | undefined;
  if (controller === undefined) {
    throw new ClientError("usage", "--bus scsi needs --controller", {
      advice: "name one, new or there already, e.g. --controller vm1-scsi",
    });
  }
  const lun = options["lun"] as number | undefined;
  const scsi = lun === undefined ? { controller } : { controller, lun: Number(lun) };
  checkScsi(scsi);
  return scsi;
}

/** A name of CHAP and the file of its secret, as two options say; undefined: neither is given. */
function proofOf(
  context: Context,
  options: OptionValues,
  [userKey, fileKey]: readonly [string, string],
): ChapProof | undefined {
  const user = options[userKey] as string | undefined;
  const file = options[fileKey] as string | undefined;
  if (user === undefined && file === undefined) return undefined;
  if (user === undefined || file === undefined) {
    const both = `${optionName(userKey)} and ${optionName(fileKey)}`;
    throw new ClientError("usage", `${both} are given together`, {
      advice: "give both, or neither: then that side has to prove nothing",
    });
  }
  return { user, secret: readSecret(context, file) };
}

function readSecret(context: Context, file: string): string {
  if (file === "-" && context.streams.canAsk) {
    context.note("reading the CHAP secret from standard input");
  }
  let text: string;
  try {
    text = readFileSync(file === "-" ? STDIN : file, "utf8");
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    throw new ClientError("usage", `cannot read the CHAP secret from ${file}: ${code}`, {
      advice: "give the file that holds the secret and nothing else, or - for standard input",
    });
  }
  const secret = text.replace(/\r?\n$/, "");
  if (secret !== text && file !== "-") {
    context.note(
      `the newline at the end of ${file} is no part of the secret; QEMU takes it for one`,
    );
  }
  return secret;
}

function chapOf(context: Context, options: OptionValues): Pick<ClassicAttach, "chap"> {
  const ofTarget = OF_TARGET.find((key) => options[key] !== undefined);
  if (ofTarget !== undefined && options["chapUser"] === undefined) {
    throw new ClientError("usage", `${optionName(ofTarget)} needs --chap-user`, {
      advice: "a target proves itself to initiators that have proved themselves: give both pairs",
    });
  }
  if (options["chapSecretFile"] === "-" && options["chapTargetSecretFile"] === "-") {
    throw new ClientError("usage", "both secrets cannot be read from standard input", {
      advice: "give a file for --chap-secret-file or --chap-target-secret-file",
    });
  }
  const own = proofOf(context, options, OF_INITIATORS);
  if (own === undefined) return {};
  const target = proofOf(context, options, OF_TARGET);
  return { chap: target === undefined ? own : { ...own, target } };
}

export const attach: CommandRun = async (context, { arguments: [name = ""], options }) => {
  checkVolumeName(name);
  const classic = classicOf(context, options);
  const scsi = scsiOf(options);
  const request: VolumeAttach = {
    ...(scsi === undefined ? {} : { scsi }),
    ...(classic === undefined ? {} : { classic }),
    ...(options["queues"] === undefined ? {} : { queueCountMax: Number(options["queues"]) }),
    ...(options["noPacked"] === true ? { packedAllowed: false } : {}),
    ...(options["readOnly"] === true ? { readOnly: true } : {}),
    ...(options["takeOver"] === true ? { takeOver: true } : {}),
    ...(options["standby"] === true ? { standby: true } : {}),
    ...(options["vmMemory"] === undefined ? {} : { vmMemoryBytes: Number(options["vmMemory"]) }),
  };
  if (request.takeOver === true) await confirmTakeOver(context, name);
  const answer = await context.client.attachVolume(name, request);
  const reply = withSecretFile(answer, options["chapSecretFile"] as string | undefined);
  if (!reply.changed) context.note(`volume ${name} was attached already`);
  const version = options["qemu"] as "7.2" | "9.2" | undefined;
  let shown = describeAttachment(reply);
  if (options["libvirtXml"] === true) shown = reply.libvirtXml;
  else if (version !== undefined) shown = reply.qemu[version].map(quoteForShell).join(" ");
  return { data: reply, shown, names: [reply.volume] };
};

/** The command lines with the caller's own file, so that they can be used as they are. */
function withSecretFile(reply: AttachReply, file: string | undefined): AttachReply {
  if (file === undefined || file === "-") return reply;
  const own = `file=${resolve(file).replaceAll(",", ",,")}`;
  const fill = (words: readonly string[]): string[] =>
    words.map((word) => word.replace(SECRET_PLACE, () => own));
  const both = (all: AttachReply["qemu"]): AttachReply["qemu"] => {
    return { "7.2": fill(all["7.2"]), "9.2": fill(all["9.2"]) };
  };
  return { ...reply, qemu: both(reply.qemu), qemuDevice: both(reply.qemuDevice) };
}

async function confirmTakeOver(context: Context, name: string): Promise<void> {
  if (context.global.yes || !context.streams.canAsk) return;
  const { backing, attachment } = await context.client.showVolume(name);
  const holder = backing.kind === "cluster" && attachment === null ? backing.attachedTo : null;
  if (holder === null) return;
  await context.confirm(`Take volume ${name} from node ${holder}? A guest there loses the disk.`);
}

function qemuCommand(words: readonly string[]): string {
  return ["qemu-system-x86_64 ...", ...pairs(words)].join(" \\\n    ");
}

/** Hypervisors' own initiators do not ask for it. */
function mutualText(chapTargetUser: string | null): string {
  if (chapTargetUser === null) return "";
  const who = "to initiators that ask: open-iscsi (username_in), not QEMU";
  return `proof   as ${chapTargetUser}, ${who}\n`;
}

function describeClassic(reply: AttachReply): string {
  const { classic } = reply;
  return `url     ${classic?.url}
target  ${classic?.target}
${mutualText(classic?.chapTargetUser ?? null)}
QEMU with its iSCSI driver (Debian: qemu-block-extra):
  ${qemuCommand(reply.qemu["7.2"])}

libvirt:
${indent(reply.libvirtXml)}
`;
}

function describeController(reply: AttachReply): string {
  const { controller, lun } = reply.scsi ?? {};
  return `socket      ${reply.socket}
controller  ${controller}
lun         ${lun}

A VM that has the controller sees the volume at once. For one that does not:

QEMU 7.2 and later (for its memory size see --vm-memory):
  ${qemuCommand(reply.qemu["7.2"])}

QEMU 9.2 and later; from 10.0 on it connects again when the daemon was restarted:
  ${qemuCommand(reply.qemu["9.2"])}

libvirt has no element for it: the domain needs
${indent(reply.libvirtMemoryXml)}
and
${indent(reply.libvirtXml)}
`;
}

function describeAttachment(reply: AttachReply): string {
  if (reply.socket === null) return describeClassic(reply);
  if ((reply.scsi ?? null) !== null) return describeController(reply);
  return `socket  ${reply.socket}

QEMU 7.2 and later (for its memory size see --vm-memory):
  ${qemuCommand(reply.qemu["7.2"])}

QEMU 9.2 and later:
  ${qemuCommand(reply.qemu["9.2"])}

libvirt: the domain needs
${indent(reply.libvirtMemoryXml)}
and the disk is
${indent(reply.libvirtXml)}
`;
}

/** One option with its value per line. */
function pairs(words: readonly string[]): string[] {
  const lines: string[] = [];
  for (let at = 0; at < words.length; at += 2) {
    lines.push(
      words
        .slice(at, at + 2)
        .map(quoteForShell)
        .join(" "),
    );
  }
  return lines;
}

function indent(text: string): string {
  return text.replace(/^/gm, "  ");
}

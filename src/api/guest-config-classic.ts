// What to give a hypervisor so that its guest reaches a volume over iSCSI: QEMU's own initiator
// (libiscsi, Debian's qemu-block-extra) with a virtio-blk disk in front, and libvirt's form of it.
//
// No secret is in it: QEMU reads it from a file that its caller names, libvirt from a secret that
// its caller has defined. QEMU takes such a file to the letter, a final newline included.

import { CHAP_SECRET_FILE } from "../model/limits.ts";
import type { AttachReply, ClassicAttachment, Volume } from "../model/types.ts";

export function classicReply(
  volume: Volume,
  classic: ClassicAttachment,
  changed: boolean,
): AttachReply {
  const portal = classic.portal ?? "";
  const device = qemuArguments(volume.name, classic, portal);
  const qemu = { "7.2": device, "9.2": device } as const;
  return {
    volume: volume.name,
    socket: null,
    classic,
    generation: volume.attachment?.generation ?? 0,
    changed,
    qemu,
    qemuDevice: qemu,
    libvirtXml: libvirtDisk(classic, portal, volume.attachment?.readOnly === true),
    libvirtMemoryXml: "",
  };
}

/** QEMU's names of block nodes are no longer than this. */
const NODE_NAME_LENGTH_MAX = 31;

/** A name may begin with a digit, a QEMU id may not; one that is too long gives way to the id. */
function nodeNameOf(name: string, target: string): string {
  const full = `ringstore-${name}`;
  return full.length <= NODE_NAME_LENGTH_MAX ? full : `ringstore-${target.slice(-12)}`;
}

function qemuArguments(name: string, classic: ClassicAttachment, portal: string): string[] {
  const id = nodeNameOf(name, classic.target);
  const words: string[] = [];
  const driver = [
    `driver=iscsi,node-name=${id},transport=tcp,portal=${portal}`,
    `target=${classic.target},lun=${classic.lun}`,
  ];
  if (classic.chapUser !== null) {
    words.push("-object", `secret,id=${id}-chap,file=${CHAP_SECRET_FILE}`);
    driver.push(`user=${classic.chapUser.replaceAll(",", ",,")},password-secret=${id}-chap`);
  }
  const [initiator] = classic.initiators;
  if (initiator !== undefined) driver.push(`initiator-name=${initiator}`);
  // The volume is kept by Ringstore: nothing is gained by the host's page cache.
  words.push("-blockdev", `${driver.join(",")},cache.direct=on`);
  words.push("-device", `virtio-blk-pci,id=${id}-disk,drive=${id},write-cache=on`);
  return words;
}

function libvirtDisk(classic: ClassicAttachment, portal: string, isReadOnly: boolean): string {
  const colon = portal.lastIndexOf(":");
  const host = portal.slice(0, colon).replace(/^\[|\]$/g, "");
  const [initiator] = classic.initiators;
  const lines = [
    `<disk type='network' device='disk'>`,
    `  <driver name='qemu' type='raw' cache='none'/>`,
    `  <source protocol='iscsi' name='${classic.target}/${classic.lun}'>`,
    `    <host name='${host}' port='${portal.slice(colon + 1)}'/>`,
  ];
  if (initiator !== undefined) lines.push(`    <initiator><iqn name='${initiator}'/></initiator>`);
  if (classic.chapUser !== null) {
    const user = classic.chapUser.replace(/[&<>'"]/g, (one) => `&#${one.charCodeAt(0)};`);
    lines.push(
      `    <auth username='${user}'>`,
      `      <secret type='iscsi' usage='${classic.target}'/>`,
      `    </auth>`,
    );
  }
  lines.push("  </source>", "  <target dev='vdb' bus='virtio'/>");
  if (isReadOnly) lines.push("  <readonly/>");
  return [...lines, "</disk>"].join("\n");
}

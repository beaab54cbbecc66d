// What to give a hypervisor so that its guest gets a virtio-scsi controller of ours: one device,
// whatever volumes are its units now and later.
//
// QEMU 7.2 has no reconnection for this device: without one it ends its start when the socket is
// not there, which is better than a guest without disks. libvirt has no element for the device: its
// form is a <qemu:commandline>, which belongs into the <domain> and not to virsh attach-device.

import type { Attachment, AttachReply, ScsiAttachment, Volume } from "../model/types.ts";
import { escapeOption, escapeXml, queueHint } from "./guest-config-parts.ts";

const LIBVIRT_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0";

export interface ScsiReplyParts {
  /** The controller's. */
  readonly socket: string;
  readonly scsi: ScsiAttachment;
  readonly memory: readonly string[];
  readonly libvirtMemoryXml: string;
  readonly changed: boolean;
}

export function scsiReply(
  volume: Volume,
  attachment: Attachment,
  { socket, scsi, memory, libvirtMemoryXml, changed }: ScsiReplyParts,
): AttachReply {
  const device = (reconnect: string): string[] =>
    deviceArguments(scsi, socket, attachment, reconnect);
  const qemuDevice = { "7.2": device(""), "9.2": device(",reconnect-ms=1000") };
  return {
    volume: volume.name,
    socket,
    classic: null,
    scsi,
    generation: attachment.generation,
    changed,
    qemu: {
      "7.2": [...memory, ...qemuDevice["7.2"]],
      "9.2": [...memory, ...qemuDevice["9.2"]],
    },
    qemuDevice,
    libvirtXml: libvirtCommandLine(qemuDevice["7.2"]),
    libvirtMemoryXml,
  };
}

function deviceArguments(
  { controller }: ScsiAttachment,
  socket: string,
  attachment: Attachment,
  reconnect: string,
): string[] {
  const id = `ringstore-${controller}-scsi`;
  // No volume's is called so, whatever its name: names have no dots.
  const chardev = `ringstore-${controller}.scsi`;
  return [
    "-chardev",
    `socket,id=${chardev},path=${escapeOption(socket)}${reconnect}`,
    "-device",
    // QEMU spells the queues so for SCSI.
    `vhost-user-scsi-pci,id=${id},chardev=${chardev},num_queues=${queueHint(attachment)}`,
  ];
}

function libvirtCommandLine(words: readonly string[]): string {
  const lines = words.map((word) => `  <qemu:arg value='${escapeXml(word)}'/>`);
  return [
    `<qemu:commandline xmlns:qemu='${LIBVIRT_NAMESPACE}'>`,
    ...lines,
    "</qemu:commandline>",
  ].join("\n");
}

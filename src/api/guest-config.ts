// What to give a hypervisor so that its guest gets the volume: QEMU arguments and libvirt XML.
//
// QEMU connects to our socket and must reconnect when the daemon was restarted: `reconnect` in
// seconds, which 9.2 renames to `reconnect-ms` (the old name is deprecated there). vhost-user needs
// guest memory that can be shared: memory-backend-memfd, share=on.

import type { AttachReply, Volume } from "../model/types.ts";
import { classicReply } from "./guest-config-classic.ts";
import { escapeOption, escapeXml, queueHint, sharedMemory } from "./guest-config-parts.ts";
import { scsiReply } from "./guest-config-scsi.ts";

const VM_MEMORY_DEFAULT_BYTES: number = 1024 ** 3;
const RECONNECT_SECONDS = 1;

export function attachReply(
  volume: Volume,
  changed: boolean,
  vmMemoryBytes: number = VM_MEMORY_DEFAULT_BYTES,
): AttachReply {
  const { attachment } = volume;
  if (attachment === null) throw new Error(`volume ${volume.name} is not attached`);
  const { socket, classic = null, scsi = null } = attachment;
  if (socket === null) {
    if (classic === null) throw new Error(`volume ${volume.name} is attached in no known way`);
    return classicReply(volume, classic, changed);
  }
  const memory = sharedMemory(vmMemoryBytes);
  if (scsi !== null) {
    const parts = { socket, scsi, memory, libvirtMemoryXml: LIBVIRT_MEMORY, changed };
    return scsiReply(volume, attachment, parts);
  }
  const queueCount = queueHint(attachment);
  const qemuDevice = {
    "7.2": device(volume.name, socket, queueCount, `reconnect=${RECONNECT_SECONDS}`),
    "9.2": device(volume.name, socket, queueCount, `reconnect-ms=${RECONNECT_SECONDS * 1000}`),
  };
  return {
    volume: volume.name,
    socket,
    classic: null,
    scsi: null,
    generation: attachment.generation,
    changed,
    qemu: {
      "7.2": [...memory, ...qemuDevice["7.2"]],
      "9.2": [...memory, ...qemuDevice["9.2"]],
    },
    qemuDevice,
    libvirtXml: libvirtDisk(socket, queueCount),
    libvirtMemoryXml: LIBVIRT_MEMORY,
  };
}

function device(name: string, socket: string, queueCount: number, reconnect: string): string[] {
  // A name may begin with a digit, a QEMU id may not.
  const id = `ringstore-${name}`;
  return [
    "-chardev",
    `socket,id=${id},path=${escapeOption(socket)},${reconnect}`,
    "-device",
    `vhost-user-blk-pci,id=${id}-disk,chardev=${id},num-queues=${queueCount}`,
  ];
}

const LIBVIRT_MEMORY = `<memoryBacking>
  <source type='memfd'/>
  <access mode='shared'/>
</memoryBacking>`;

function libvirtDisk(socket: string, queueCount: number): string {
  return `<disk type='vhostuser' device='disk'>
  <driver name='qemu' type='raw' queues='${queueCount}'/>
  <source type='unix' path='${escapeXml(socket)}'>
    <reconnect enabled='yes' timeout='${RECONNECT_SECONDS}'/>
  </source>
  <target dev='vdb' bus='virtio'/>
</disk>`;
}

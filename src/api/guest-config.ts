// What to give a hypervisor so that its guest gets the volume: QEMU arguments and libvirt XML.
//
// QEMU connects to our socket and must reconnect when the daemon was restarted: `reconnect` in
// seconds, which 9.2 renames to `reconnect-ms` (the old name is deprecated there). vhost-user needs
// guest memory that can be shared: memory-backend-memfd, share=on.

import { QUEUE_COUNT_HINT } from "../model/limits.ts";
import type { AttachReply, Volume } from "../model/types.ts";
import { classicReply } from "./guest-config-classic.ts";

const VM_MEMORY_DEFAULT_BYTES: number = 1024 ** 3;
const RECONNECT_SECONDS = 1;
const MEMORY_ID = "ringstore-mem";

export function attachReply(
  volume: Volume,
  changed: boolean,
  vmMemoryBytes: number = VM_MEMORY_DEFAULT_BYTES,
): AttachReply {
  const { attachment } = volume;
  if (attachment === null) throw new Error(`volume ${volume.name} is not attached`);
  const { socket, classic = null } = attachment;
  if (socket === null) {
    if (classic === null) throw new Error(`volume ${volume.name} is attached in no known way`);
    return classicReply(volume, classic, changed);
  }
  const queueCount = Math.min(attachment.queueCountMax, QUEUE_COUNT_HINT);
  const qemuDevice = {
    "7.2": device(volume.name, socket, queueCount, `reconnect=${RECONNECT_SECONDS}`),
    "9.2": device(volume.name, socket, queueCount, `reconnect-ms=${RECONNECT_SECONDS * 1000}`),
  };
  const memory = sharedMemory(vmMemoryBytes);
  return {
    volume: volume.name,
    socket,
    classic: null,
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

/** Without `-m`, QEMU takes the machine's memory size from this backend. */
function sharedMemory(bytes: number): string[] {
  return [
    "-object",
    `memory-backend-memfd,id=${MEMORY_ID},size=${sizeForQemu(bytes)},share=on`,
    "-machine",
    `memory-backend=${MEMORY_ID}`,
  ];
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

/** In a QEMU option a comma is written twice. */
function escapeOption(text: string): string {
  return text.replaceAll(",", ",,");
}

function sizeForQemu(bytes: number): string {
  for (const [unit, suffix] of [
    [1024 ** 3, "G"],
    [1024 ** 2, "M"],
    [1024, "K"],
  ] as const) {
    if (bytes % unit === 0) return `${bytes / unit}${suffix}`;
  }
  return String(bytes);
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

function escapeXml(text: string): string {
  return text
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll("'", "&apos;")
    .replaceAll('"', "&quot;");
}

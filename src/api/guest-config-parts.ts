// What the forms for a hypervisor have in common: how many queues to ask for, memory that can be
// shared with a back-end, and how text is written into an option of QEMU's or into XML.

import { QUEUE_COUNT_HINT } from "../model/limits.ts";
import type { Attachment } from "../model/types.ts";

const MEMORY_ID = "ringstore-mem";

export function queueHint({ queueCountMax }: Pick<Attachment, "queueCountMax">): number {
  return Math.min(queueCountMax, QUEUE_COUNT_HINT);
}

/** Without `-m`, QEMU takes the machine's memory size from this backend. */
export function sharedMemory(bytes: number): string[] {
  return [
    "-object",
    `memory-backend-memfd,id=${MEMORY_ID},size=${sizeForQemu(bytes)},share=on`,
    "-machine",
    `memory-backend=${MEMORY_ID}`,
  ];
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

/** In a QEMU option a comma is written twice. */
export function escapeOption(text: string): string {
  return text.replaceAll(",", ",,");
}

export function escapeXml(text: string): string {
  return text
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll("'", "&apos;")
    .replaceAll('"', "&quot;");
}

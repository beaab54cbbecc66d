// The commands on disks of the store: a part of the command table (command-table.ts).

import { DRAIN_OPTIONS } from "./cluster-commands.ts";
import type { ArgumentSpec, CommandSpec, OptionSpec } from "./command-spec.ts";

const NAME: ArgumentSpec = { name: "name", description: "the disk's name", completes: "disk" };

const DRY_RUN: OptionSpec = {
  long: "dry-run",
  kind: "switch",
  description: "check everything and change nothing",
};

export const DISK_COMMANDS: readonly CommandSpec[] = [
  {
    path: ["disk", "init"],
    summary: "format a block device or a file for the store",
    details: [
      "Volumes then live on it: thin, checksummed, crash-proof. A disk that holds something " +
        "else is refused, unless --force says that it may be lost. A file is made, or extended, " +
        "with --size.",
      "What makes a write durable is found out from the device and printed: write-through (no " +
        "volatile cache), volatile (the cache is flushed for every group of writes). A cache " +
        "that survives a power loss (plp) cannot be found out, only said.",
    ],
    arguments: [{ name: "path", description: "block device, or file", completes: "file" }],
    options: [
      {
        long: "size",
        metavar: "SIZE",
        kind: "size",
        description: "make a file of this size, or extend the one that is there, e.g. 100G",
      },
      {
        long: "label",
        metavar: "NAME",
        kind: "text",
        description: "the disk's name (default: made from the path)",
      },
      { long: "force", kind: "switch", description: "whatever is on it now is lost" },
      {
        long: "allocation",
        metavar: "MODE",
        kind: "text",
        choices: ["full", "sparse"],
        description: "full (default): write a file through once, for speed; sparse: do not",
      },
      {
        long: "durability",
        metavar: "MODE",
        kind: "text",
        choices: ["auto", "plp", "volatile", "write-through"],
        description: "what makes a write durable; auto (default) finds it out and prints it",
      },
      DRY_RUN,
    ],
    examples: [
      "ringstore disk init /dev/disk/by-id/nvme-7",
      "ringstore disk init /srv/ringstore/disk1.img --size 200G",
      "ringstore disk init /dev/nvme1n1 --label fast1 --durability plp",
    ],
    load: async () => (await import("./commands/disk.ts")).init,
  },
  {
    path: ["disk", "list"],
    summary: "list disks",
    arguments: [],
    options: [],
    examples: ["ringstore disk list -o wide"],
    load: async () => (await import("./commands/disk.ts")).list,
  },
  {
    path: ["disk", "show"],
    summary: "show one disk",
    arguments: [NAME],
    options: [],
    examples: ["ringstore disk show nvme0n1"],
    load: async () => (await import("./commands/disk.ts")).show,
  },
  {
    path: ["disk", "check"],
    summary: "verify every page, journal entry and block of a disk",
    details: [
      "The disk is closed for it, so its volumes must be detached; it is opened again after. " +
        "Exits with 1 when something is wrong. Without a daemon: ringstored --role disk-check " +
        "--path PATH.",
    ],
    arguments: [NAME],
    options: [],
    examples: ["ringstore disk check nvme0n1"],
    load: async () => (await import("./commands/disk.ts")).check,
  },
  {
    path: ["disk", "drain"],
    summary: "move all copies of the cluster's volumes off a disk of this node",
    details: [
      "As node drain does it. Then the disk can be removed. Volumes that are on this disk alone " +
        "stay.",
    ],
    arguments: [NAME],
    options: DRAIN_OPTIONS,
    examples: ["ringstore disk drain nvme0n1 --dry-run", "ringstore disk drain nvme0n1"],
    load: async () => (await import("./commands/drain.ts")).drainDisk,
  },
  {
    path: ["disk", "remove"],
    summary: "let go of a disk; what is on it stays on it",
    details: [
      "A disk that holds volumes is refused. One that is gone for good (missing, exchanged, " +
        "failing) is removed with --force, which names the volumes that lived only there and " +
        "deletes them with it. They must be detached.",
    ],
    arguments: [NAME],
    options: [
      {
        long: "force",
        kind: "switch",
        description: "the disk is gone for good: its volumes are deleted with it",
      },
      DRY_RUN,
    ],
    examples: ["ringstore disk remove nvme0n1", "ringstore disk remove nvme0n1 --force"],
    load: async () => (await import("./commands/disk.ts")).remove,
  },
];

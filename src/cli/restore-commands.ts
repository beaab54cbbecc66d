// The commands that save, put back and make again a cluster's metadata, and the bundle for
// support: a part of the command table (command-table.ts).

import type { CommandSpec, OptionSpec } from "./command-spec.ts";

const DRY_RUN: OptionSpec = {
  long: "dry-run",
  kind: "switch",
  description: "check everything and change nothing",
};

export const RESTORE_COMMANDS: readonly CommandSpec[] = [
  {
    path: ["cluster", "export"],
    summary: "save the cluster's metadata to a file",
    details: [
      "Everything that the nodes must agree on, of one moment, checksummed; no data of volumes, " +
        "and no secret. The daemon writes the file, as its own user.",
    ],
    arguments: [{ name: "file", description: "the archive to write", completes: "file" }],
    options: [],
    examples: ["ringstore cluster export /var/backups/ringstore-$(date +%F)"],
    load: async () => (await import("./commands/restore.ts")).exportMetadata,
  },
  {
    path: ["cluster", "import"],
    summary: "put a saved archive back where the metadata is lost",
    details: [
      "Only where the metadata holds no cluster. Volumes whose disks have seen newer records " +
        "than the archive has are not served, and cluster show names them: their records have " +
        "to be made again from the disks (cluster recover).",
    ],
    arguments: [{ name: "file", description: "an archive of this cluster", completes: "file" }],
    options: [DRY_RUN],
    examples: ["ringstore cluster import /var/backups/ringstore-2026-11-27 --dry-run"],
    load: async () => (await import("./commands/restore.ts")).importMetadata,
  },
  {
    path: ["cluster", "recover"],
    summary: "make the records of the cluster again from what its disks say",
    details: [
      "Only where the metadata holds no cluster. Start the daemons of all nodes first: each " +
        "tells what its disks know. Of every volume the newest copy that is known to be whole " +
        "counts, the others are resynced from it; what cannot be known is listed.",
      "Where copies are missing nothing is done without --partial: the newest may be among them.",
    ],
    arguments: [],
    options: [
      {
        long: "from-disks",
        kind: "switch",
        description: "must be given: there is nothing else to recover from",
      },
      {
        long: "partial",
        kind: "switch",
        description: "go on although copies are missing; what comes back may be an older state",
      },
      DRY_RUN,
    ],
    examples: [
      "ringstore cluster recover --from-disks --dry-run",
      "ringstore cluster recover --from-disks",
    ],
    load: async () => (await import("./commands/restore.ts")).recover,
  },
  {
    path: ["support-bundle"],
    summary: "collect what there is to see of this daemon into one file",
    details: [
      "A tar.gz of version, settings, status, advice, events, the end of the log, metrics, " +
        "disks, volumes, the cluster as this node sees it, and facts of the machine. No data " +
        "of volumes and no secret; names of volumes, nodes and files are in it.",
      "What cannot be had, because the daemon does not answer, is named in it.",
    ],
    arguments: [
      {
        name: "file",
        description: "where to write it (default: ringstore-support-TIME.tar.gz here)",
        completes: "file",
        optional: true,
      },
    ],
    options: [],
    examples: ["ringstore support-bundle", "ringstore support-bundle /tmp/bundle.tar.gz"],
    load: async () => (await import("./commands/support.ts")).supportBundle,
  },
];

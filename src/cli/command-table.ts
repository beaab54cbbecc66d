// The command table: every command of `ringstore` in one place. Parsing, --help, completion and man
// pages are made from it (program.ts, completion.ts, man.ts).

import { LUN_MAX, QUEUE_COUNT_MAX, REPLICA_COUNT_MAX } from "../model/limits.ts";
import { CLUSTER_COMMANDS } from "./cluster-commands.ts";
import type { ArgumentSpec, CommandSpec, CommandTable, OptionSpec } from "./command-spec.ts";
import { DISK_COMMANDS } from "./disk-commands.ts";
import { MOVE_COMMANDS } from "./move-commands.ts";
import { OUTPUT_FORMS } from "./output.ts";
import { REBUILD_COMMANDS } from "./rebuild-commands.ts";
import { RESTORE_COMMANDS } from "./restore-commands.ts";

const NAME: ArgumentSpec = {
  name: "name",
  description: "the volume's name",
  completes: "volume",
};
const NEW_NAME: ArgumentSpec = { ...NAME, completes: "nothing" };

const DRY_RUN: OptionSpec = {
  long: "dry-run",
  kind: "switch",
  description: "check everything and change nothing",
};

/** Options that every command takes, before or after its name. */
const GLOBAL_OPTIONS: readonly OptionSpec[] = [
  {
    long: "data",
    metavar: "DIR",
    kind: "directory",
    description: "data directory of the daemon to talk to, over its unix socket [RINGSTORE_DATA]",
  },
  {
    long: "url",
    metavar: "URL",
    kind: "text",
    description:
      "address of a daemon to talk to over TCP, e.g. http://127.0.0.1:8040 [RINGSTORE_URL]",
  },
  {
    long: "token-file",
    metavar: "FILE",
    kind: "path",
    description: "file whose first token is sent to --url [RINGSTORE_TOKEN_FILE]",
  },
  {
    long: "ca-file",
    metavar: "FILE",
    kind: "path",
    description: "certificate of who signed that of an https --url [RINGSTORE_CA_FILE]",
  },
  {
    long: "output",
    short: "o",
    metavar: "FORM",
    kind: "text",
    choices: OUTPUT_FORMS,
    description: `what to print: ${OUTPUT_FORMS.join(", ")}`,
  },
  { long: "json", kind: "switch", description: "the same as -o json" },
  { long: "no-headers", kind: "switch", description: "tables without their first line" },
  { long: "no-color", kind: "switch", description: "no colours, as with NO_COLOR set" },
  { long: "yes", short: "y", kind: "switch", description: "do not ask before something is lost" },
  {
    long: "timeout",
    metavar: "SECONDS",
    kind: "seconds",
    minimum: 0.1,
    maximum: 86_400,
    description: "give up when there is no answer for this long (default 30)",
  },
  {
    long: "curl",
    kind: "switch",
    description: "print the request as a curl command, do not send it",
  },
];

const VOLUME_COMMANDS: readonly CommandSpec[] = [
  {
    path: ["volume", "create"],
    summary: "declare a volume and make its backing",
    details: [
      "The backing is the store, where the node has a disk that is ready (see disk init): thin, " +
        "checksummed, crash-proof. Otherwise, or with --backing file, it is a sparse file in the " +
        "data directory, or what --path names. Memory is lost when the daemon stops; null reads " +
        "zeroes and keeps nothing: for measuring.",
      "With --replicas it is a volume of the cluster: so many copies, each on another node. " +
        "--dry-run says where they would go.",
    ],
    arguments: [NEW_NAME],
    options: [
      {
        long: "size",
        metavar: "SIZE",
        kind: "size",
        description: "e.g. 20G; powers of 1024; may be left out with --path",
      },
      {
        long: "backing",
        metavar: "KIND",
        kind: "text",
        choices: ["file", "memory", "null", "store"],
        description: "store (default on a node with disks), file, memory or null",
      },
      {
        long: "disk",
        metavar: "NAME",
        kind: "text",
        description: "disk of the store to live on (default: the one with most free space)",
      },
      {
        long: "replicas",
        metavar: "N",
        kind: "integer",
        minimum: 1,
        maximum: REPLICA_COUNT_MAX,
        description: "copies in the cluster; not with --backing, --disk, --path or --direct",
      },
      {
        long: "path",
        metavar: "FILE",
        kind: "path",
        description: "serve this existing file or block device; it is never deleted",
      },
      {
        long: "block-size",
        metavar: "BYTES",
        kind: "text",
        choices: ["512", "4096"],
        description: "logical block: 512 (default) or 4096",
      },
      {
        long: "direct",
        metavar: "MODE",
        kind: "text",
        choices: ["auto", "on", "off"],
        description: "O_DIRECT: auto (default: where the filesystem can), on, off",
      },
      {
        long: "serial",
        metavar: "TEXT",
        kind: "text",
        description: "serial number that the guest sees, at most 20 characters",
      },
      { long: "read-only", kind: "switch", description: "no front-end may ever write" },
      DRY_RUN,
    ],
    examples: [
      "ringstore volume create db1 --size 20G",
      "ringstore volume create scratch --size 1G --backing memory",
      "ringstore volume create db2 --size 20G --disk nvme0n1",
      "ringstore volume create db3 --size 100G --replicas 2 --dry-run",
      "ringstore volume create disk7 --path /dev/disk/by-id/nvme-7 --block-size 4096",
    ],
    load: async () => (await import("./commands/volume.ts")).create,
  },
  {
    path: ["volume", "list"],
    summary: "list volumes",
    arguments: [],
    options: [],
    examples: ["ringstore volume list -o wide", "ringstore volume list -o name"],
    load: async () => (await import("./commands/volume.ts")).list,
  },
  {
    path: ["volume", "show"],
    summary: "show one volume",
    arguments: [NAME],
    options: [],
    examples: ["ringstore volume show db1"],
    load: async () => (await import("./commands/volume.ts")).show,
  },
  {
    path: ["volume", "resize"],
    summary: "change a volume's size; a running guest sees it",
    arguments: [
      NAME,
      { name: "size", description: "the new size, e.g. 40G", completes: "nothing" },
    ],
    options: [
      {
        long: "allow-data-loss",
        kind: "switch",
        description: "make the volume smaller; everything beyond the new size is lost",
      },
      DRY_RUN,
    ],
    examples: ["ringstore volume resize db1 40G"],
    load: async () => (await import("./commands/volume.ts")).resize,
  },
  {
    path: ["volume", "delete"],
    summary: "delete a detached volume and its data",
    details: ["A file or device that was named with --path is kept."],
    arguments: [NAME],
    options: [DRY_RUN],
    examples: ["ringstore volume delete db1 --yes"],
    load: async () => (await import("./commands/volume.ts")).remove,
  },
  {
    path: ["volume", "attach"],
    summary: "serve a volume by vhost-user or iSCSI, now and after every restart",
    details: [
      "Prints the socket, the QEMU command line and the libvirt XML. Attaching an attached " +
        "volume changes nothing and prints the same.",
      "A volume of the cluster is attached to one node. With --take-over it is taken from a node " +
        "that is alive: that node is cut off, and a guest of its own loses the disk.",
      "With --standby the node gets ready for a VM that is about to move here: its socket takes " +
        "connections, and serves when the VM has stopped on the node that has the volume. Detach " +
        "the volume there afterwards.",
      "With --classic the volume is an iSCSI target instead, LUN 0, where --iscsi-listen of the " +
        "daemon says: for hypervisors without vhost-user. Prints its URL, and the forms for QEMU " +
        "and libvirt.",
      "With --classic --standby the node's portal has the target in standby, as a second path to " +
        "it, and takes it over when the node that has it is seen to be gone.",
      "With --bus scsi the volume is a unit of a virtio-scsi controller: one socket and one " +
        "device of the VM for up to 256 volumes, which come and go while the VM runs. The first " +
        "volume makes the controller, with --queues and --no-packed for all of them, the last " +
        "detach removes it. Volumes of the node and of the cluster may share one; --standby does " +
        "not go with it.",
    ],
    arguments: [NAME],
    options: [
      {
        long: "queues",
        metavar: "N",
        kind: "integer",
        minimum: 1,
        maximum: QUEUE_COUNT_MAX,
        description: `the most queues a front-end may use (default ${QUEUE_COUNT_MAX})`,
      },
      { long: "no-packed", kind: "switch", description: "do not offer packed virtqueues" },
      { long: "read-only", kind: "switch", description: "this front-end may not write" },
      {
        long: "take-over",
        kind: "switch",
        description: "of a volume of the cluster: also from a node that is alive",
      },
      {
        long: "standby",
        kind: "switch",
        description: "of a volume of the cluster: for a VM that moves here, or a node that is lost",
      },
      {
        long: "vm-memory",
        metavar: "SIZE",
        kind: "size",
        description: "memory size of the VM in the printed command line (default 1G)",
      },
      {
        long: "qemu",
        metavar: "VERSION",
        kind: "text",
        choices: ["7.2", "9.2"],
        description: "print only the arguments for this QEMU version or later, on one line",
      },
      { long: "libvirt-xml", kind: "switch", description: "print only the <disk> element" },
      {
        long: "bus",
        metavar: "BUS",
        kind: "text",
        choices: ["blk", "scsi"],
        description:
          "blk (default): a socket of its own, virtio-blk; scsi: with --controller, virtio-scsi",
      },
      {
        long: "controller",
        metavar: "NAME",
        kind: "text",
        description: "with --bus scsi: the controller whose unit the volume becomes",
      },
      {
        long: "lun",
        metavar: "N",
        kind: "integer",
        minimum: 0,
        maximum: LUN_MAX,
        description: "with --bus scsi: its number (default: the lowest that is free)",
      },
      { long: "classic", kind: "switch", description: "as an iSCSI target, not by vhost-user" },
      {
        long: "chap-user",
        metavar: "NAME",
        kind: "text",
        description: "with --classic: what initiators prove themselves as (CHAP)",
      },
      {
        long: "chap-secret-file",
        metavar: "FILE",
        kind: "path",
        description:
          "with --chap-user: the file that holds the secret, 12 to 64 characters; - = stdin",
      },
      {
        long: "chap-target-user",
        metavar: "NAME",
        kind: "text",
        description:
          "with --chap-user: what the target proves itself as to initiators that ask (mutual CHAP)",
      },
      {
        long: "chap-target-secret-file",
        metavar: "FILE",
        kind: "path",
        description: "with --chap-target-user: the file that holds that secret, another one",
      },
      {
        long: "initiator",
        metavar: "IQN",
        kind: "text",
        repeats: true,
        description: "with --classic: only this initiator may log in; may be given more than once",
      },
    ],
    examples: [
      "ringstore volume attach db1",
      "ringstore volume attach db1 --classic --chap-user vm1 --chap-secret-file vm1.secret",
      "ringstore volume attach db1 --libvirt-xml > disk.xml && virsh attach-device vm1 disk.xml",
      "qemu-system-x86_64 -cpu host -enable-kvm $(ringstore volume attach db1 --qemu 7.2)",
      "ringstore volume attach db1 --standby",
      "ringstore volume attach db1 --classic --standby",
      "ringstore volume attach db1 --bus scsi --controller vm1-scsi",
    ],
    load: async () => (await import("./commands/volume-attach.ts")).attach,
  },
  {
    path: ["volume", "detach"],
    summary: "stop serving a volume after finishing what is in flight",
    arguments: [NAME],
    options: [],
    examples: ["ringstore volume detach db1"],
    load: async () => (await import("./commands/volume.ts")).detach,
  },
  {
    path: ["volume", "top"],
    summary: "live rates and latencies of attached volumes",
    arguments: [{ ...NAME, optional: true }],
    options: [
      {
        long: "interval",
        metavar: "SECONDS",
        kind: "seconds",
        minimum: 0.1,
        maximum: 3600,
        description: "time between readings (default 1)",
      },
      {
        long: "count",
        short: "n",
        metavar: "N",
        kind: "integer",
        minimum: 1,
        maximum: 1_000_000,
        description: "stop after N tables (default: 1 into a pipe, for ever on a terminal)",
      },
    ],
    examples: ["ringstore volume top", "ringstore volume top db1 --interval 5 -n 1 -o json"],
    load: async () => (await import("./commands/top.ts")).top,
  },
];

const OTHER_COMMANDS: readonly CommandSpec[] = [
  {
    path: ["status"],
    summary: "health on one screen, quiet when all is well",
    arguments: [],
    options: [],
    examples: ["ringstore status"],
    load: async () => (await import("./commands/daemon.ts")).status,
  },
  {
    path: ["advise"],
    summary: "each problem with the command that fixes it",
    arguments: [],
    options: [],
    examples: ["ringstore advise"],
    load: async () => (await import("./commands/daemon.ts")).advise,
  },
  {
    path: ["events"],
    summary: "what happened lately",
    arguments: [],
    options: [
      { long: "watch", short: "w", kind: "switch", description: "go on printing as it happens" },
    ],
    examples: ["ringstore events -w", "ringstore events -w -o json"],
    load: async () => (await import("./commands/daemon.ts")).events,
  },
  {
    path: ["version"],
    summary: "versions of this program and of the daemon",
    arguments: [],
    options: [],
    examples: ["ringstore version"],
    load: async () => (await import("./commands/daemon.ts")).version,
  },
  {
    path: ["api", "get"],
    summary: "print the reply to GET PATH as it is",
    arguments: [
      { name: "path", description: "path of the API, e.g. /v1/status", completes: "nothing" },
    ],
    options: [],
    examples: ["ringstore api get /v1/openapi.json", "ringstore api get /metrics"],
    load: async () => (await import("./commands/daemon.ts")).apiGet,
  },
  {
    path: ["bench"],
    summary: "drive load at a socket or an iSCSI target; all words go to the load generator",
    arguments: [
      {
        name: "words",
        description: "its options, e.g. --socket PATH or --url URL; see bench --help",
        completes: "file",
        optional: true,
        rest: true,
      },
    ],
    options: [],
    examples: ["ringstore bench --socket /var/lib/ringstore/vhost/db1.sock"],
    raw: true,
    load: async () => (await import("./commands/bench.ts")).bench,
  },
  {
    path: ["completion"],
    summary: "print the completion script of a shell",
    details: [
      "For bash: source <(ringstore completion bash). For zsh, save it as _ringstore in a " +
        "directory of fpath. For fish: ringstore completion fish | source.",
    ],
    arguments: [{ name: "shell", description: "bash, zsh or fish", completes: "nothing" }],
    options: [],
    examples: ["ringstore completion bash > /etc/bash_completion.d/ringstore"],
    load: async () => (await import("./completion.ts")).completion,
  },
  {
    path: ["man"],
    summary: "print a man page, or write them all",
    arguments: [
      {
        name: "page",
        description: "a command, e.g. volume create, or ringstored; default the overview",
        completes: "nothing",
        optional: true,
        rest: true,
      },
    ],
    options: [
      {
        long: "write",
        metavar: "DIR",
        kind: "directory",
        description: "write every page into this directory",
      },
    ],
    examples: ["ringstore man volume create | man -l -", "ringstore man --write /usr/share/man"],
    load: async () => (await import("./man.ts")).man,
  },
];

export const COMMAND_TABLE: CommandTable = {
  commands: [
    ...VOLUME_COMMANDS,
    ...DISK_COMMANDS,
    ...CLUSTER_COMMANDS,
    ...MOVE_COMMANDS,
    ...REBUILD_COMMANDS,
    ...RESTORE_COMMANDS,
    ...OTHER_COMMANDS,
  ],
  groups: [
    { path: ["volume"], summary: "create, attach and look at volumes" },
    { path: ["disk"], summary: "make, examine and look at disks of the store" },
    { path: ["cluster"], summary: "make, join and look at a cluster" },
    { path: ["node"], summary: "look at the nodes of the cluster, forget one that is gone" },
    { path: ["rebuild"], summary: "look at copies being brought up to date, and limit their rate" },
    { path: ["api"], summary: "talk to the REST API directly" },
  ],
  globalOptions: GLOBAL_OPTIONS,
};

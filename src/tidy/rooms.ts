// The import table: every room of src/, its contract in one line, and what it may import. This
// file is the law; ARCHITECTURE.md explains it, and imports-rule.ts enforces it.
//
// Invariants (checked by rooms.test.ts): every named room exists in the table, and the table has
// no cycle, so that a room can be read, tested and replaced knowing only the rooms below it.

/**
 * Where a room's code must be able to run.
 * - "pure": anywhere, in the simulator too: no node: modules, no ambient clock, timer or chance.
 * - "browser": no node: modules.
 * - "node": no restriction.
 */
export type RoomSetting = "pure" | "browser" | "node";

export interface Room {
  readonly name: string;
  readonly contract: string;
  /**
   * Rooms it may import. "*" is every room, "-name" takes one away again, and "room/prefix" allows
   * only that room's files whose name starts with the prefix.
   */
  readonly imports: readonly string[];
  /** npm packages it may import. Rooms on the data path have none; sys has koffi. */
  readonly packages: readonly string[];
  readonly setting: RoomSetting;
}

export const ROOMS: readonly Room[] = [
  {
    name: "base",
    contract: "pure tools: assert, units, layout tables, fixed pools, rings, bitsets, PRNG, errors",
    imports: [],
    packages: [],
    setting: "pure",
  },
  {
    name: "ports",
    contract: "types of the seams; a submit takes a slot and returns at once",
    imports: ["base"],
    packages: [],
    setting: "pure",
  },
  {
    name: "model",
    contract: "schemas of every object, request, event and configuration key",
    imports: ["base"],
    packages: ["typebox"],
    setting: "browser",
  },
  {
    name: "sys",
    contract: "the only room that loads koffi: system calls, mappings, descriptors, ISA-L",
    imports: ["base", "ports"],
    packages: ["koffi"],
    setting: "node",
  },
  {
    name: "uring",
    contract: "io_uring as typed arrays; implements Disk and Stream; never interprets data",
    imports: ["base", "ports", "sys"],
    packages: [],
    setting: "node",
  },
  {
    name: "reactor",
    contract: "one worker thread's loop: rings, mailboxes, timer wheel, pollers",
    imports: ["base", "ports", "sys", "uring"],
    packages: [],
    setting: "node",
  },
  {
    name: "telemetry",
    contract: "shared-memory counters and histograms, Prometheus text, structured logs",
    imports: ["base", "ports", "model"],
    packages: ["pino", "prom-client"],
    setting: "node",
  },
  {
    name: "virtio",
    contract: "virtqueues and virtio-blk requests; a chain becomes a BlockDevice submit",
    imports: ["base", "ports"],
    packages: [],
    setting: "pure",
  },
  {
    name: "vhost-user",
    contract: "the socket protocol: sessions, memory table, rings, inflight, reconnect, log",
    imports: ["base", "ports", "sys", "reactor", "virtio", "scsi", "telemetry"],
    packages: [],
    setting: "node",
  },
  {
    name: "scsi",
    contract: "CDBs, sense, mode pages and reservations over a BlockDevice; no transport",
    imports: ["base", "ports"],
    packages: [],
    setting: "pure",
  },
  {
    name: "iscsi",
    contract: "PDUs, login, sessions, digests, portals",
    imports: ["base", "ports", "reactor", "scsi", "telemetry"],
    packages: [],
    setting: "node",
  },
  {
    name: "wire",
    contract: "node-to-node message layouts, versions, framing, checksums; pure encode and decode",
    imports: ["base", "ports"],
    packages: [],
    setting: "pure",
  },
  {
    name: "peer",
    contract: "links between daemons: handshake, remote replicas and their server, read grants",
    imports: ["base", "ports", "wire", "telemetry"],
    packages: [],
    setting: "pure",
  },
  {
    name: "volume",
    contract: "the owner of a volume: epochs, leases, fan-out, read choice, snapshots, QoS",
    imports: ["base", "ports", "wire", "telemetry"],
    packages: [],
    setting: "pure",
  },
  {
    name: "chunk",
    contract: "the store: implements Replica on Disk; journal, allocator, checksums, scrub",
    imports: ["base", "ports", "wire", "telemetry"],
    packages: [],
    setting: "pure",
  },
  {
    name: "local",
    contract: "a BlockDevice over one file or block device, over memory, over nothing",
    imports: ["base", "ports", "telemetry"],
    packages: [],
    setting: "node",
  },
  {
    name: "meta",
    contract: "etcd client, key schema, watches, election, placement; never in the data path",
    imports: ["base", "ports", "model", "telemetry"],
    packages: ["@grpc/grpc-js", "classic-level", "typebox"],
    setting: "node",
  },
  {
    name: "api",
    contract: "REST routes from model/, authentication, server-sent events, OpenAPI",
    imports: ["base", "ports", "model", "meta", "telemetry"],
    packages: ["fastify", "@fastify/swagger", "typebox"],
    setting: "node",
  },
  {
    name: "client",
    contract: "typed REST client; the transport is handed to it",
    imports: ["base", "model"],
    packages: ["typebox"],
    setting: "browser",
  },
  {
    name: "cli",
    contract: "one command table; talks only through client/",
    imports: ["base", "model", "client"],
    packages: ["commander", "typebox", "yaml"],
    setting: "node",
  },
  {
    name: "csi",
    contract: "the Kubernetes storage interface; talks only through client/",
    imports: ["base", "model", "client"],
    packages: ["@grpc/grpc-js"],
    setting: "node",
  },
  {
    name: "web",
    contract: "the console; talks only through client/",
    imports: ["model", "client"],
    packages: [],
    setting: "browser",
  },
  {
    name: "daemon",
    contract: "entry points and wiring, configuration, signals, systemd, worker start",
    imports: ["*", "-testing", "-bench", "-tidy"],
    packages: ["commander", "fastify", "pino", "prom-client", "typebox", "yaml"],
    setting: "node",
  },
  {
    name: "load",
    contract: "the driving side: virtio driver, vhost-user front-end, load generators",
    imports: [
      "base",
      "ports",
      "sys",
      "uring",
      "reactor",
      "virtio",
      // Message layouts only: what is written twice is understood twice.
      "vhost-user/messages",
      "vhost-user/layout",
      "iscsi/messages",
      "iscsi/layout",
    ],
    packages: [],
    setting: "node",
  },
  {
    name: "vm",
    contract: "the guest: kernel, initramfs, QEMU processes",
    imports: ["base"],
    packages: [],
    setting: "node",
  },
  {
    name: "testing",
    contract: "simulated disk, network and clock; checkers; scenarios; imported only by tests",
    imports: ["*", "-bench", "-tidy"],
    packages: ["fast-check"],
    setting: "node",
  },
  {
    name: "bench",
    contract: "paired benchmarks; may import everything and is imported by nobody",
    imports: ["*", "-tidy"],
    packages: [],
    setting: "node",
  },
  {
    name: "tidy",
    contract: "the rules of the house, run as tests over the whole tree",
    imports: ["base"],
    packages: ["acorn"],
    setting: "node",
  },
];

/** What every test file may import besides its own room and what that room may import. */
export const TEST_IMPORTS: readonly string[] = [
  "base",
  "ports",
  "sys",
  "uring",
  "reactor",
  "load",
  "testing",
];
export const TEST_PACKAGES: readonly string[] = ["fast-check"];

export function findRoom(name: string): Room | undefined {
  return ROOMS.find((room) => room.name === name);
}

/** May code of a room with these `imports` entries import the file `room/fileName`? */
export function allowsImport(imports: readonly string[], room: string, fileName: string): boolean {
  if (imports.includes(`-${room}`)) return false;
  if (imports.includes("*") || imports.includes(room)) return true;
  return imports.some((entry) => entry.includes("/") && `${room}/${fileName}`.startsWith(entry));
}

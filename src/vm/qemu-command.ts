// QEMU's command line for a guest, and the QMP arguments for the same devices added later. Both
// come from one description per disk, so that a plugged disk equals a disk from the start.
//
// Guest memory is a shared memfd: what vhost-user needs, without hugepages or root.

import { assert, KIB, MIB } from "../base/index.ts";
import { VmError } from "./error.ts";
import { requireOnSystem, runHostProgram } from "./host-program.ts";

/** A disk served over a vhost-user socket. */
export interface VhostUserBlkDisk {
  readonly kind: "vhost-user-blk";
  readonly socket: string;
  /** Default `disk0`, `disk1`, … */
  readonly id?: string;
  /** Default: QEMU's, one per CPU. */
  readonly queueCount?: number;
  /** Entries per queue. Default: QEMU's, 128. */
  readonly queueSize?: number;
  readonly packed?: boolean;
  /** 0 boots first. */
  readonly bootIndex?: number;
  /** Connect again when the back-end goes away. Default true. */
  readonly reconnect?: boolean;
  /** Further properties of the device, e.g. `{ "config-wce": false }`. */
  readonly properties?: Properties;
}

/** A virtio-scsi controller served over a vhost-user socket; its disks are the back-end's. */
export interface VhostUserScsiController {
  readonly kind: "vhost-user-scsi";
  readonly socket: string;
  /** Default `disk0`, `disk1`, … */
  readonly id?: string;
  /** Request queues. Default: QEMU's, one per CPU. */
  readonly queueCount?: number;
  /** Entries per queue. Default: QEMU's, 128. */
  readonly queueSize?: number;
  readonly packed?: boolean;
  readonly bootIndex?: number;
  /** Connect again when the back-end goes away: QEMU 10.0 and later can. Default false. */
  readonly reconnect?: boolean;
  readonly properties?: Properties;
}

/** A file served by QEMU itself as virtio-blk. */
export interface FileDisk {
  readonly kind: "file";
  readonly path: string;
  readonly id?: string;
  /** Default raw. */
  readonly format?: "raw" | "qcow2";
  readonly readOnly?: boolean;
  /** Give discarded space back to the file system. Default true. */
  readonly discard?: boolean;
  readonly queueCount?: number;
  readonly bootIndex?: number;
  /** Two QEMUs open the file at once, as in a migration. Default false. */
  readonly shared?: boolean;
  readonly properties?: Properties;
}

export type GuestDisk = VhostUserBlkDisk | VhostUserScsiController | FileDisk;
export type Properties = Readonly<Record<string, string | number | boolean>>;
export type Accelerator = "kvm" | "tcg";

export interface QemuVersion {
  readonly major: number;
  readonly minor: number;
  readonly text: string;
}

export interface QemuProgram {
  readonly path: string;
  readonly version: QemuVersion;
}

export interface MemorySlots {
  readonly count: number;
  /** Boot memory and everything plugged later. */
  readonly maxMiB: number;
}

export interface MachineOptions {
  readonly accelerator: Accelerator;
  readonly memoryMiB: number;
  /** A little more memory, so that a migration loses none of it; see migration.ts. */
  readonly spareKiB: number;
  readonly cpuCount: number;
  readonly memorySlots: MemorySlots | undefined;
  readonly hotplugPortCount: number;
  readonly allowReboot: boolean;
  readonly qmpSocket: string | undefined;
  readonly agentSocket: string | undefined;
  readonly incoming: boolean;
}

export const AGENT_PORT = "ttyS1";
const HOTPLUG_PORTS_MAX = 16;
const MEMORY_MIB_MIN = 128;
const CPU_COUNT_MAX = 64;
const RECONNECT_SECONDS = 1;
const ID = /^[A-Za-z][A-Za-z0-9_.-]{0,63}$/;

export async function findQemu(): Promise<QemuProgram> {
  const path = requireOnSystem("qemu-system-x86_64", "qemu-system-x86");
  const printed = (await runHostProgram(path, ["--version"])).stdout;
  const match = /version ((\d+)\.(\d+)[0-9.]*)/.exec(printed);
  if (match === null) {
    throw new VmError("unsupported", `${path} --version says nothing known: ${printed}`);
  }
  return { path, version: { text: match[1]!, major: Number(match[2]), minor: Number(match[3]) } };
}

/** Everything but disks, kernel and what the caller adds. */
export function machineArguments(options: MachineOptions): string[] {
  checkMachine(options);
  const slots = options.memorySlots;
  const size = `${options.memoryMiB * (MIB / KIB) + options.spareKiB}K`;
  const memory = slots === undefined ? "" : `,slots=${slots.count},maxmem=${slots.maxMiB}M`;
  const args = [
    "-nodefaults",
    "-no-user-config",
    ...["-display", "none"],
    ...["-machine", "q35,memory-backend=ram"],
    ...["-accel", options.accelerator === "kvm" ? "kvm" : "tcg,thread=multi"],
    ...["-cpu", options.accelerator === "kvm" ? "host" : "max"],
    ...["-smp", `${options.cpuCount}`],
    ...["-m", `${size}${memory}`],
    ...["-object", `memory-backend-memfd,id=ram,size=${size},share=on`],
    ...["-chardev", "stdio,id=console,signal=off"],
    ...["-serial", "chardev:console"],
  ];
  if (options.agentSocket !== undefined) {
    const chardev = { id: "agent", path: options.agentSocket };
    args.push("-chardev", optionText("socket", chardev), "-serial", "chardev:agent");
  }
  if (options.qmpSocket !== undefined) {
    args.push("-chardev", optionText("socket", { id: "qmp", path: options.qmpSocket }));
    args.push("-mon", "chardev=qmp,mode=control");
  }
  for (let port = 0; port < options.hotplugPortCount; port++) {
    const properties = { id: hotplugPort(port), chassis: port + 1, slot: port + 1 };
    args.push("-device", optionText("pcie-root-port", properties));
  }
  if (!options.allowReboot) args.push("-no-reboot");
  // The destination stays stopped until the migration is over and checked; see migration.ts.
  if (options.incoming) args.push("-incoming", "defer", "-S");
  return args;
}

export function hotplugPort(index: number): string {
  return `port${index}`;
}

/** The arguments for disks that are there from the start. */
export function diskArguments(disk: GuestDisk, index: number, version: QemuVersion): string[] {
  const id = diskId(disk, index);
  const args: string[] = [];
  switch (disk.kind) {
    case "vhost-user-scsi":
    case "vhost-user-blk": {
      const reconnect = reconnectProperty(disk, version);
      const chardev = { id: backendId(id), path: disk.socket, ...reconnect };
      args.push("-chardev", optionText("socket", chardev));
      break;
    }
    case "file":
      args.push("-blockdev", JSON.stringify(blockNode(disk, id)));
      break;
  }
  const { driver, ...properties } = diskDevice(disk, id);
  args.push("-device", optionText(driver, properties));
  return args;
}

/** QMP `device_add` arguments of the front half of a disk, the device the guest sees. */
export function diskDevice(
  disk: GuestDisk,
  id: string,
): Record<string, string | number | boolean> & { driver: string } {
  const common = {
    id,
    ...(disk.bootIndex === undefined ? {} : { bootindex: disk.bootIndex }),
  };
  const queues = disk.queueCount === undefined ? {} : { "num-queues": disk.queueCount };
  switch (disk.kind) {
    case "vhost-user-blk":
      return {
        driver: "vhost-user-blk-pci",
        chardev: backendId(id),
        ...common,
        ...queues,
        ...(disk.queueSize === undefined ? {} : { "queue-size": disk.queueSize }),
        ...(disk.packed === undefined ? {} : { packed: disk.packed }),
        ...disk.properties,
      };
    case "vhost-user-scsi":
      return {
        driver: "vhost-user-scsi-pci",
        chardev: backendId(id),
        ...common,
        // QEMU spells it so for SCSI.
        ...(disk.queueCount === undefined ? {} : { num_queues: disk.queueCount }),
        ...(disk.queueSize === undefined ? {} : { virtqueue_size: disk.queueSize }),
        ...(disk.packed === undefined ? {} : { packed: disk.packed }),
        ...disk.properties,
      };
    case "file":
      return {
        driver: "virtio-blk-pci",
        drive: backendId(id),
        ...common,
        ...queues,
        ...(disk.shared === true ? { "share-rw": true } : {}),
        ...disk.properties,
      };
  }
}

/** The QMP command and arguments that make the back half of a disk. */
export function diskBackend(
  disk: GuestDisk,
  id: string,
  version: QemuVersion,
): { command: string; args: Record<string, unknown> } {
  if (disk.kind === "file") return { command: "blockdev-add", args: blockNode(disk, id) };
  const data = {
    addr: { type: "unix", data: { path: disk.socket } },
    server: false,
    ...reconnectProperty(disk, version),
  };
  return {
    command: "chardev-add",
    args: { id: backendId(id), backend: { type: "socket", data } },
  };
}

/** The QMP command and arguments that remove it again. */
export function diskBackendRemoval(
  disk: GuestDisk,
  id: string,
): { command: string; args: Record<string, unknown> } {
  if (disk.kind === "file") {
    return { command: "blockdev-del", args: { "node-name": backendId(id) } };
  }
  return { command: "chardev-remove", args: { id: backendId(id) } };
}

export function diskId(disk: GuestDisk, index: number): string {
  const id = disk.id ?? `disk${index}`;
  if (!ID.test(id)) {
    throw new VmError("option", `"${id}" cannot be the id of a disk: letters, digits, _ . -`);
  }
  return id;
}

/** `driver,name=value,…` with commas in values doubled, as QEMU's parser wants them. */
export function optionText(driver: string, properties: Properties): string {
  const parts = Object.entries(properties).map(([name, value]) => {
    const text = typeof value === "boolean" ? (value ? "on" : "off") : `${value}`;
    return `${name}=${text.replaceAll(",", ",,")}`;
  });
  return [driver, ...parts].join(",");
}

/** QEMU 9.2 renamed the option to milliseconds; 7.2 knows only seconds. */
function reconnectProperty(
  disk: VhostUserBlkDisk | VhostUserScsiController,
  version: QemuVersion,
): Record<string, number> {
  if (!(disk.reconnect ?? disk.kind === "vhost-user-blk")) return {};
  const inMilliseconds = version.major > 9 || (version.major === 9 && version.minor >= 2);
  return inMilliseconds
    ? { "reconnect-ms": RECONNECT_SECONDS * 1000 }
    : { reconnect: RECONNECT_SECONDS };
}

function blockNode(disk: FileDisk, id: string): Record<string, unknown> {
  const file: Record<string, unknown> = { driver: "file", filename: disk.path };
  if (disk.shared === true) file["locking"] = "off";
  return {
    driver: disk.format ?? "raw",
    "node-name": backendId(id),
    "read-only": disk.readOnly ?? false,
    discard: disk.discard === false ? "ignore" : "unmap",
    file,
  };
}

function backendId(id: string): string {
  return `${id}-backend`;
}

function checkMachine(options: MachineOptions): void {
  if (!Number.isInteger(options.memoryMiB) || options.memoryMiB < MEMORY_MIB_MIN) {
    const wanted = `a whole number of MiB, at least ${MEMORY_MIB_MIN}`;
    throw new VmError("option", `The guest's memory is ${wanted}, not ${options.memoryMiB}.`);
  }
  const cpuCount = options.cpuCount;
  if (!Number.isInteger(cpuCount) || cpuCount < 1 || cpuCount > CPU_COUNT_MAX) {
    throw new VmError("option", `A guest has 1 to ${CPU_COUNT_MAX} CPUs, not ${cpuCount}.`);
  }
  if (options.hotplugPortCount > HOTPLUG_PORTS_MAX) {
    throw new VmError("option", `A guest has at most ${HOTPLUG_PORTS_MAX} ports for plugging.`);
  }
  assert(options.hotplugPortCount >= 0, "a count of ports is not negative");
}

// Boots a guest: kernel and initramfs are prepared, the accelerator is chosen, QEMU is started
// and its control and agent connections are made. Either a running Guest is returned, or QEMU is
// gone and the error says what was on the console.
//
// We listen on the sockets and QEMU connects while it starts, so that there is nothing to poll.

import { createServer, type Server, type Socket } from "node:net";
import { withTimeout } from "./_wait.ts";
import { type AcceleratorChoice, chooseAccelerator } from "./accelerator.ts";
import { type CacheOptions, defaultCacheDirectory } from "./cache.ts";
import { VmError } from "./error.ts";
import { Guest } from "./guest.ts";
import { GuestAgent } from "./guest-agent.ts";
import { ensureInitramfs, type InitramfsOptions } from "./initramfs.ts";
import { ensureKernel, type KernelFlavour } from "./kernel.ts";
import { kernelLine } from "./kernel-line.ts";
import { losesDirtyPages, WHOLE_BITMAP_SPARE_KIB } from "./migration.ts";
import {
  type Accelerator,
  AGENT_PORT,
  diskArguments,
  findQemu,
  type GuestDisk,
  type MemorySlots,
  machineArguments,
  type QemuProgram,
} from "./qemu-command.ts";
import { QemuProcess } from "./qemu-process.ts";
import { QmpClient } from "./qmp.ts";

export interface BootOptions extends CacheOptions {
  readonly disks?: readonly GuestDisk[];
  /** Default 256. */
  readonly memoryMiB?: number;
  /** Default 1. */
  readonly cpuCount?: number;
  /** Default: chosen by {@link chooseAccelerator}. */
  readonly accelerator?: Accelerator;
  /**
   * `kernel`: QEMU loads our kernel and initramfs. `disk`: the firmware boots the disk with the
   * lowest bootIndex, which must hold an image of boot-image.ts. Default `kernel`.
   */
  readonly bootFrom?: "kernel" | "disk";
  /** Default `cloud`. */
  readonly kernel?: KernelFlavour;
  /** What goes into the initramfs; see there. */
  readonly initramfs?: Omit<InitramfsOptions, "kernel" | "cacheDirectory" | "log">;
  /** Shell text /init runs before the agent starts; see kernel-line.ts. */
  readonly script?: string;
  /** Default true. Without agent the guest powers off after `script`. */
  readonly agent?: boolean;
  /** Further kernel parameters. */
  readonly append?: string;
  /** Modules loaded at boot beside virtio_pci and virtio_blk. */
  readonly modules?: readonly string[];
  /** Default false: a reboot or a panic ends QEMU. */
  readonly allowReboot?: boolean;
  /** PCIe ports for {@link Guest.addDisk}; they cost no boot time. Default 1. */
  readonly hotplugPortCount?: number;
  /** Room for {@link Guest.addMemory}. */
  readonly memorySlots?: MemorySlots;
  /**
   * The guest can be the source of a migration. Under TCG with QEMU before 9.0, which would lose
   * writes, its memory is 8 KiB larger; see migration.ts.
   */
  readonly migratable?: boolean;
  /** The destination of a migration: does not boot, waits for {@link Guest.migrateTo}. */
  readonly incoming?: boolean;
  /** Default 5 min, for kernel and agent together. */
  readonly bootTimeoutMs?: number;
  /** Put at the end of QEMU's command line. */
  readonly extraArguments?: readonly string[];
}

const BOOT_TIMEOUT_MS = 300_000;
/** From the start of the process to the greeting; a loaded machine takes many seconds. */
const QMP_TIMEOUT_MS = 120_000;
const MEMORY_MIB = 256;
const HOTPLUG_PORT_COUNT = 1;

interface Prepared {
  readonly qemu: QemuProgram;
  readonly choice: AcceleratorChoice;
  readonly kernelArguments: readonly string[];
}

/** Starts a guest and waits until its agent answers (or, without agent, until QEMU runs). */
export async function bootGuest(options: BootOptions = {}): Promise<Guest> {
  const prepared = await prepare(options);
  options.log?.(
    `Starting a guest with QEMU ${prepared.qemu.version.text} under ` +
      `${prepared.choice.accelerator.toUpperCase()}. ${prepared.choice.reason}`,
  );
  const process = new QemuProcess();
  const incoming = options.incoming ?? false;
  const agent = options.agent === false ? undefined : new GuestAgent({ incoming });
  const listeners: Server[] = [];
  let qmp: QmpClient | undefined;
  const startedAtMs = performance.now();
  try {
    const qmpSocket = process.socketPath("qmp");
    const agentSocket = agent === undefined ? undefined : process.socketPath("agent");
    const connections = {
      qmp: await listen(qmpSocket, listeners),
      agent: agentSocket === undefined ? undefined : await listen(agentSocket, listeners),
    };
    process.start(prepared.qemu.path, [
      ...machineArguments(machineOptions(options, prepared, qmpSocket, agentSocket)),
      ...(options.disks ?? []).flatMap((disk, index) =>
        diskArguments(disk, index, prepared.qemu.version),
      ),
      ...prepared.kernelArguments,
      ...(options.extraArguments ?? []),
    ]);
    const unlessGone = <T>(promise: Promise<T>): Promise<T> => unlessEnded(process, promise);
    if (connections.agent !== undefined) agent?.attach(await unlessGone(connections.agent.first));
    qmp = new QmpClient(await unlessGone(connections.qmp.first));
    await unlessGone(qmp.negotiate(QMP_TIMEOUT_MS));
    const guest = new Guest({
      process,
      qmp,
      agent,
      startedAtMs,
      version: prepared.qemu.version,
      accelerator: prepared.choice.accelerator,
      hotplugPortCount: options.hotplugPortCount ?? HOTPLUG_PORT_COUNT,
      disks: options.disks ?? [],
      migratable: options.migratable ?? false,
    });
    if (agent !== undefined && !incoming) {
      await guest.waitForBoot({ timeoutMs: options.bootTimeoutMs ?? BOOT_TIMEOUT_MS });
    }
    return guest;
  } catch (error) {
    await process.kill();
    // What still waits for an answer would keep our process alive until its limit.
    qmp?.close("The guest did not start.");
    agent?.close("The guest did not start.");
    throw withContext(error, process);
  } finally {
    // QEMU connects once; later connections would be somebody else's.
    for (const listener of listeners) listener.close();
  }
}

async function prepare(options: BootOptions): Promise<Prepared> {
  const cacheDirectory = options.cacheDirectory ?? defaultCacheDirectory();
  const cache = { cacheDirectory, ...(options.log === undefined ? {} : { log: options.log }) };
  const qemu = await findQemu();
  const kernel = await ensureKernel({ ...cache, flavour: options.kernel ?? "cloud" });
  const initramfsPath = await ensureInitramfs({ kernel, ...options.initramfs, ...cache });
  const choice =
    options.accelerator === undefined
      ? await chooseAccelerator({ qemu, kernel, initramfsPath, ...cache })
      : { accelerator: options.accelerator, reason: "As asked." };
  if (options.bootFrom === "disk") return { qemu, choice, kernelArguments: [] };
  const line = kernelLine({
    agentPort: options.agent === false ? undefined : AGENT_PORT,
    script: options.script,
    allowReboot: options.allowReboot ?? false,
    append: options.append ?? "",
    ...(options.modules === undefined ? {} : { modules: options.modules }),
  });
  const kernelArguments = ["-kernel", kernel.vmlinuzPath, "-initrd", initramfsPath];
  return { qemu, choice, kernelArguments: [...kernelArguments, "-append", line] };
}

function machineOptions(
  options: BootOptions,
  prepared: Prepared,
  qmpSocket: string,
  agentSocket: string | undefined,
): Parameters<typeof machineArguments>[0] {
  const { accelerator } = prepared.choice;
  const loses = losesDirtyPages(prepared.qemu.version, accelerator);
  return {
    accelerator,
    memoryMiB: options.memoryMiB ?? MEMORY_MIB,
    spareKiB: options.migratable === true && loses ? WHOLE_BITMAP_SPARE_KIB : 0,
    cpuCount: options.cpuCount ?? 1,
    memorySlots: options.memorySlots,
    hotplugPortCount: options.hotplugPortCount ?? HOTPLUG_PORT_COUNT,
    allowReboot: options.allowReboot ?? false,
    incoming: options.incoming ?? false,
    qmpSocket,
    agentSocket,
  };
}

/** Listens on `path`; `first` resolves with the first connection. */
async function listen(path: string, listeners: Server[]): Promise<{ first: Promise<Socket> }> {
  const server = createServer();
  listeners.push(server);
  const first = new Promise<Socket>((resolve) => server.once("connection", resolve));
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, resolve);
  });
  return { first };
}

async function unlessEnded<T>(process: QemuProcess, promise: Promise<T>): Promise<T> {
  const ended = process.exited.then(() => {
    throw new VmError("gone", "QEMU ended before the guest started.");
  });
  return withTimeout(Promise.race([promise, ended]), QMP_TIMEOUT_MS, () => {
    return new VmError("timeout", `QEMU did not connect within ${QMP_TIMEOUT_MS} ms.`);
  });
}

function withContext(error: unknown, process: QemuProcess): unknown {
  if (!(error instanceof VmError)) return error;
  return new VmError(error.code, `${error.message}\n${process.describe()}`, {
    cause: error,
    ...(error.advice === undefined ? {} : { advice: error.advice }),
  });
}

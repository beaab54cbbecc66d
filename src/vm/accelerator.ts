// KVM or TCG? The only proof that KVM works is a kernel that has booted: on nested hosts
// /dev/kvm may open, `-cpu host` abort, and other models hang after the boot loader. So the
// guest's own kernel is booted once under KVM, with a time limit, and the answer remembered in
// the cache for this kernel, QEMU and machine.

import { createHash } from "node:crypto";
import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import { cpus, release } from "node:os";
import { join } from "node:path";
import { publishFile, type VmLog } from "./cache.ts";
import { VmError } from "./error.ts";
import { SCRIPT_EXIT_MARK } from "./guest-scripts.ts";
import type { Kernel } from "./kernel.ts";
import { kernelLine } from "./kernel-line.ts";
import { type Accelerator, machineArguments, type QemuProgram } from "./qemu-command.ts";
import { QemuProcess } from "./qemu-process.ts";

export interface AcceleratorChoice {
  readonly accelerator: Accelerator;
  /** A sentence for people. */
  readonly reason: string;
}

export interface AcceleratorOptions {
  readonly qemu: QemuProgram;
  readonly kernel: Kernel;
  readonly initramfsPath: string;
  readonly cacheDirectory: string;
  readonly log?: VmLog | undefined;
  /** Default /dev/kvm. For tests. */
  readonly kvmDevice?: string;
  /** Default 20 s: a boot under KVM takes one. */
  readonly probeTimeoutMs?: number;
}

interface Remembered extends AcceleratorChoice {
  readonly probedAtMs: number;
}

/** Overrides everything: `kvm` or `tcg`. */
export const ACCELERATOR_VARIABLE = "RINGSTORE_ACCEL";
const KVM_DEVICE = "/dev/kvm";
const PROBE_TIMEOUT_MS = 20_000;
const PROBE_MEMORY_MIB = 256;
/** Hosts are updated and repaired: ask again after a week. */
const REMEMBER_MS = 7 * 24 * 60 * 60 * 1000;

/** Decides, by booting when that has not been tried yet on this machine. */
export async function chooseAccelerator(options: AcceleratorOptions): Promise<AcceleratorChoice> {
  const forced = process.env[ACCELERATOR_VARIABLE];
  if (forced !== undefined && forced !== "") {
    if (forced !== "kvm" && forced !== "tcg") {
      throw new VmError("option", `${ACCELERATOR_VARIABLE} is kvm or tcg, not "${forced}".`);
    }
    return { accelerator: forced, reason: `${ACCELERATOR_VARIABLE} says so.` };
  }
  const device = options.kvmDevice ?? KVM_DEVICE;
  const unusable = whyUnusable(device);
  if (unusable !== undefined) return { accelerator: "tcg", reason: unusable };
  const path = join(options.cacheDirectory, "accelerator", `${machineKey(options)}.json`);
  const remembered = recall(path);
  if (remembered !== undefined) return remembered;
  options.log?.("Trying whether KVM boots a kernel here (once)");
  const choice = await probe(options);
  const record: Remembered = { ...choice, probedAtMs: Date.now() };
  await publishFile(path, `${JSON.stringify(record, undefined, 2)}\n`);
  return choice;
}

function whyUnusable(device: string): string | undefined {
  if (!existsSync(device)) return `There is no ${device}.`;
  try {
    accessSync(device, constants.R_OK | constants.W_OK);
    return undefined;
  } catch {
    return `${device} may not be opened by this user (join the group kvm to use it).`;
  }
}

async function probe(options: AcceleratorOptions): Promise<AcceleratorChoice> {
  const timeoutMs = options.probeTimeoutMs ?? PROBE_TIMEOUT_MS;
  const qemu = new QemuProcess();
  const startedAtMs = performance.now();
  try {
    const machine = machineArguments({
      accelerator: "kvm",
      memoryMiB: PROBE_MEMORY_MIB,
      spareKiB: 0,
      cpuCount: 1,
      memorySlots: undefined,
      hotplugPortCount: 0,
      allowReboot: false,
      qmpSocket: undefined,
      agentSocket: undefined,
      incoming: false,
    });
    const line = kernelLine({ script: "true", allowReboot: false });
    const boot = ["-kernel", options.kernel.vmlinuzPath, "-initrd", options.initramfsPath];
    qemu.start(options.qemu.path, [...machine, ...boot, "-append", line]);
    await qemu.console.waitFor(`${SCRIPT_EXIT_MARK} 0`, { timeoutMs });
    const seconds = ((performance.now() - startedAtMs) / 1000).toFixed(1);
    return { accelerator: "kvm", reason: `It booted a kernel here in ${seconds} s.` };
  } catch (error) {
    if (!(error instanceof VmError)) throw error;
    return { accelerator: "tcg", reason: whyProbeFailed(error, qemu, device(options), timeoutMs) };
  } finally {
    await qemu.kill();
  }
}

function whyProbeFailed(error: VmError, qemu: QemuProcess, kvm: string, timeoutMs: number): string {
  if (error.code === "timeout") {
    return `${kvm} opens, but no kernel booted with it within ${timeoutMs / 1000} s.`;
  }
  const said = qemu.stderr.trim().split("\n").pop() ?? "";
  return `${kvm} opens, but QEMU ended at once${said === "" ? "" : `: ${said}`}.`;
}

function device(options: AcceleratorOptions): string {
  return options.kvmDevice ?? KVM_DEVICE;
}

function recall(path: string): AcceleratorChoice | undefined {
  if (!existsSync(path)) return undefined;
  try {
    const record = JSON.parse(readFileSync(path, "utf8")) as Partial<Remembered>;
    const { accelerator, reason, probedAtMs } = record;
    const fresh = typeof probedAtMs === "number" && Date.now() - probedAtMs < REMEMBER_MS;
    if (!fresh || (accelerator !== "kvm" && accelerator !== "tcg")) return undefined;
    return { accelerator, reason: `${reason} (Tried before; forget: rm ${path})` };
  } catch {
    return undefined; // A cache file that does not parse is no answer.
  }
}

/** What the answer depends on: guest kernel, QEMU, host kernel, CPU. */
function machineKey(options: AcceleratorOptions): string {
  const parts = [
    options.kernel.release,
    options.kernel.version,
    options.qemu.version.text,
    options.kvmDevice ?? KVM_DEVICE,
    release(),
    cpus()[0]?.model ?? "unknown",
  ];
  return createHash("sha256").update(parts.join("\n")).digest("hex").slice(0, 16);
}

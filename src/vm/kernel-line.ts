// The kernel's parameters: a quiet console on the first serial port, and what /init is to do.

import { VmError } from "./error.ts";
import { PARAMETER_AGENT, PARAMETER_MODULES, PARAMETER_SCRIPT } from "./guest-scripts.ts";

export interface KernelLineOptions {
  /** Serial port of the agent, e.g. `ttyS1`. Without agent the guest powers off after `script`. */
  agentPort?: string | undefined;
  /** Shell text run by /init before the agent starts. Its output goes to the console. */
  script?: string | undefined;
  /** Loaded at boot beside the initramfs' own list. */
  modules?: readonly string[];
  allowReboot: boolean;
  /** Further parameters, as they are. */
  append?: string | undefined;
}

/** COMMAND_LINE_SIZE of x86 minus the final NUL; the kernel cuts silently what is longer. */
export const KERNEL_LINE_BYTES_MAX = 2047;

export function kernelLine(options: KernelLineOptions): string {
  const words = [
    "console=ttyS0",
    // Errors are still printed: tests look for them.
    "quiet",
    // After a panic: with -no-reboot a reboot ends QEMU, which is noticed at once. A guest that
    // may reboot stops instead, so that it does not panic for ever.
    options.allowReboot ? "panic=0" : "panic=-1",
    // An emulated CPU that waits for one of the machine's sees no tick while the kernel counts
    // them, and the kernel panics: "IO-APIC + timer doesn't work!". KVM's guests do not count.
    "no_timer_check",
    "memhp_default_state=online_movable",
  ];
  if (options.modules !== undefined && options.modules.length > 0) {
    words.push(`${PARAMETER_MODULES}=${options.modules.join(",")}`);
  }
  if (options.script !== undefined) {
    const encoded = Buffer.from(`${options.script}\n`, "utf8").toString("base64");
    words.push(`${PARAMETER_SCRIPT}=${encoded}`);
  }
  if (options.agentPort !== undefined) words.push(`${PARAMETER_AGENT}=${options.agentPort}`);
  if (options.append !== undefined && options.append !== "") words.push(options.append);
  const line = words.join(" ");
  if (Buffer.byteLength(line) > KERNEL_LINE_BYTES_MAX) {
    const limit = `${KERNEL_LINE_BYTES_MAX} bytes; these are ${Buffer.byteLength(line)}`;
    throw new VmError("option", `The kernel takes parameters of ${limit}.`, {
      advice: "Run a long script through the guest's agent, or put it into the initramfs.",
    });
  }
  return line;
}

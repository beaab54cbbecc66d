// What can go wrong with a guest and what prepares one, as a closed list of codes.

import { RingstoreError } from "../base/index.ts";

export type VmErrorCode =
  /** This machine cannot run guests: another architecture, or a program that must be installed. */
  | "unsupported"
  /** A Debian package, or something inside one, is not to be had. */
  | "package"
  /** An option of ours has a value that cannot work. */
  | "option"
  /** A file is not what its name promises (ELF, kernel module, image). */
  | "format"
  /** A host program failed or took too long. */
  | "program"
  /** The guest did not reach the point waited for in time. */
  | "timeout"
  /** QEMU ended, or the guest rebooted or panicked, while something was awaited from it. */
  | "gone"
  /** A command in the guest that had to succeed did not. */
  | "command"
  /** QEMU refused a QMP command. */
  | "qmp";

export class VmError extends RingstoreError<VmErrorCode> {
  override readonly name = "VmError";
}

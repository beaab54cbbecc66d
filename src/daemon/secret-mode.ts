// Files of operators that hold secrets: may others read them?

import { statSync } from "node:fs";

/** The mode of a file that others may read, as `ls` has it in digits; null: nobody else may. */
export function openModeOf(path: string): string | null {
  const mode = statSync(path).mode & 0o777;
  return (mode & 0o077) === 0 ? null : mode.toString(8).padStart(4, "0");
}

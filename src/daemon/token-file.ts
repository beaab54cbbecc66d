// The bearer tokens of the TCP listener, read from a file; made with one token when the default
// file is missing, so that `--listen` alone is enough to begin with.

import { randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { parseTokens, type Token } from "../api/tokens.ts";
import type { Log } from "../ports/log.ts";
import { StartError } from "./data-directory.ts";
import { openModeOf } from "./secret-mode.ts";

export class TokenFile {
  readonly #path: string;
  readonly #log: Log;
  #tokens: readonly Token[] = [];

  constructor(path: string, log: Log) {
    this.#path = path;
    this.#log = log;
  }

  get path(): string {
    return this.#path;
  }

  current(): readonly Token[] {
    return this.#tokens;
  }

  /** `mayMake`: the default file is made when it is missing, one that was named is not. */
  read(mayMake: boolean): void {
    let text: string;
    try {
      text = readFileSync(this.#path, "utf8");
      this.#warnWhenOpen();
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code ?? String(error);
      if (code !== "ENOENT" || !mayMake) {
        throw new StartError("cannot_start", `cannot read the token file ${this.#path}: ${code}`, {
          advice: "write one `name:token` line into it, e.g. with a token of openssl rand -hex 32",
        });
      }
      const token = randomBytes(32).toString("hex");
      text = `# name:token, one per line; read again on SIGHUP\nadmin:${token}\n`;
      writeFileSync(this.#path, text, { mode: 0o600, flag: "wx" });
      this.#log.log("info", "tokens.made", { path: this.#path });
    }
    this.#tokens = parseTokens(text, this.#path);
  }

  #warnWhenOpen(): void {
    const mode = openModeOf(this.#path);
    if (mode === null) return;
    this.#log.log("warn", "tokens.readable-by-others", { path: this.#path, mode });
  }
}

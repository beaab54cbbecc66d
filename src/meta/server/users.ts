// Who may talk to the embedded server: one user with a password, or everybody who can connect to
// the loopback address. Authenticate gives a token; other calls carry it as etcd's do.

import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import type { Metadata } from "@grpc/grpc-js";
import { invalidToken, noUser, wrongPassword } from "./rpc-error.ts";

export interface MetaUser {
  readonly name: string;
  readonly password: string;
}

export class Users {
  readonly #user: MetaUser | null;
  /** Dies with the process: clients authenticate again. */
  readonly #secret: Buffer = randomBytes(32);

  constructor(user: MetaUser | null) {
    this.#user = user;
  }

  authenticate(name: string, password: string): string {
    if (this.#user === null) throw wrongPassword();
    const isRight = this.#same(name, this.#user.name) && this.#same(password, this.#user.password);
    if (!isRight) throw wrongPassword();
    return this.#token(name);
  }

  /** Throws where the call may not be made. */
  check(metadata: Metadata): void {
    if (this.#user === null) return;
    const [token] = metadata.get("token");
    if (token === undefined) throw noUser();
    if (!this.#same(String(token), this.#token(this.#user.name))) throw invalidToken();
  }

  #token(name: string): string {
    return this.#digest(`token ${name}`).toString("hex");
  }

  /** In the same time whatever differs. */
  #same(given: string, wanted: string): boolean {
    return timingSafeEqual(this.#digest(given), this.#digest(wanted));
  }

  #digest(text: string): Buffer {
    return createHmac("sha256", this.#secret).update(text).digest();
  }
}

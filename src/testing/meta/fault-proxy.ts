// A TCP proxy that misbehaves on demand: between a client and a server, or between two of anything.
//
//   pass          bytes go both ways
//   drop-answers  requests arrive, answers do not
//   stall         nothing goes either way, and nobody is told
//   refuse        connections are closed at once, old ones too
//
// What does not arrive is held, and comes when all passes again, unless the connection is cut.

import { type AddressInfo, createServer, type Server } from "node:net";
import { FaultPath } from "../nodes/fault-path.ts";

export type FaultMode = "pass" | "drop-answers" | "stall" | "refuse";

export class FaultProxy {
  /** Finer faults than a mode: delays, slow lines, one direction alone. */
  readonly path: FaultPath = new FaultPath();
  readonly #listener: Server;
  #isRefusing = false;

  private constructor(targetPort: number) {
    this.#listener = createServer((client) => {
      if (this.#isRefusing) client.destroy();
      else this.path.join(client, targetPort);
    });
  }

  static async start(targetPort: number): Promise<FaultProxy> {
    const proxy = new FaultProxy(targetPort);
    await new Promise<void>((resolve) => proxy.#listener.listen(0, "127.0.0.1", resolve));
    return proxy;
  }

  get endpoint(): string {
    return `127.0.0.1:${(this.#listener.address() as AddressInfo).port}`;
  }

  setMode(mode: FaultMode): void {
    this.#isRefusing = mode === "refuse";
    if (this.#isRefusing) this.cut();
    if (mode === "stall") this.path.there.hold();
    if (mode === "stall" || mode === "drop-answers") this.path.back.hold();
    if (mode === "pass") this.path.heal();
  }

  /** Ends all connections; new ones are taken. */
  cut(): void {
    this.path.cut();
  }

  async close(): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.#listener.close(resolve));
  }
}

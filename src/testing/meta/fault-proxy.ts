// A TCP proxy that misbehaves on demand: between a client and a server, or between two of anything.
//
//   pass          bytes go both ways
//   drop-answers  what the server says is swallowed: requests arrive, answers do not
//   stall         nothing goes either way, and nobody is told
//   refuse        connections are closed at once, old ones too

import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

export type FaultMode = "pass" | "drop-answers" | "stall" | "refuse";

interface Pair {
  readonly client: Socket;
  readonly server: Socket;
}

export class FaultProxy {
  readonly #listener: Server;
  readonly #pairs = new Set<Pair>();
  #mode: FaultMode = "pass";
  #targetPort: number;

  private constructor(targetPort: number) {
    this.#targetPort = targetPort;
    this.#listener = createServer((client) => this.#accept(client));
  }

  static async start(targetPort: number): Promise<FaultProxy> {
    const proxy = new FaultProxy(targetPort);
    await new Promise<void>((resolve) => proxy.#listener.listen(0, "127.0.0.1", resolve));
    return proxy;
  }

  get endpoint(): string {
    return `127.0.0.1:${(this.#listener.address() as AddressInfo).port}`;
  }

  get mode(): FaultMode {
    return this.#mode;
  }

  setMode(mode: FaultMode): void {
    this.#mode = mode;
    if (mode === "refuse") this.cut();
  }

  /** Ends all connections; new ones are taken. */
  cut(): void {
    for (const { client, server } of this.#pairs) {
      client.destroy();
      server.destroy();
    }
    this.#pairs.clear();
  }

  async close(): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.#listener.close(resolve));
  }

  #accept(client: Socket): void {
    if (this.#mode === "refuse") {
      client.destroy();
      return;
    }
    const server = connect(this.#targetPort, "127.0.0.1");
    const pair = { client, server };
    this.#pairs.add(pair);
    const end = (): void => {
      this.#pairs.delete(pair);
      client.destroy();
      server.destroy();
    };
    for (const socket of [client, server]) {
      socket.setNoDelay(true);
      socket.on("error", end);
      socket.on("close", end);
    }
    // What is swallowed is gone: such a connection is good for nothing but to be cut.
    client.on("data", (bytes) => {
      if (this.#mode !== "stall") server.write(bytes);
    });
    server.on("data", (bytes) => {
      if (this.#mode === "pass") client.write(bytes);
    });
  }
}

// The network of a cluster of real processes, with faults: what one node sends to another, and what
// it and the metadata say to each other, passes a proxy of ours.
//
// Each node has one address that all others know, so there is one listener for each; who has
// connected stands in the first message, the hello of the wire's handshake. A link from a to b
// carries packets both ways: to cut off what a sends to b, a's own link is held there and b's back.

import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { decodeHello, HEADER_BYTES, HELLO } from "../../wire/index.ts";
import { FaultProxy } from "../meta/fault-proxy.ts";
import { FaultPath } from "./fault-path.ts";

const FIRST_BYTES: number = HEADER_BYTES + HELLO.BYTES;

export class FaultNetwork {
  /** Of each node, to the metadata. */
  readonly #metadata: readonly FaultProxy[];
  readonly #listeners: Server[] = [];
  readonly #paths: Map<string, FaultPath> = new Map();
  readonly #nodeIds: string[] = [];
  readonly #ports: number[] = [];

  private constructor(metadata: readonly FaultProxy[]) {
    this.#metadata = metadata;
  }

  static async start(nodeCount: number, metadataPort: number): Promise<FaultNetwork> {
    const metadata: FaultProxy[] = [];
    while (metadata.length < nodeCount) metadata.push(await FaultProxy.start(metadataPort));
    const network = new FaultNetwork(metadata);
    for (let to = 0; to < nodeCount; to++) {
      const listener = createServer((socket) => network.#greet(socket, to));
      network.#listeners.push(listener);
      await new Promise<void>((resolve) => listener.listen(0, "127.0.0.1", resolve));
      for (let from = 0; from < nodeCount; from++) {
        network.#paths.set(`${from}>${to}`, new FaultPath());
      }
    }
    return network;
  }

  /** The metadata, as that node reaches it. */
  metadataEndpoint(index: number): string {
    return (this.#metadata[index] as FaultProxy).endpoint;
  }

  /** Where others reach that node, which listens on `port` itself. */
  place(index: number, nodeId: string, port: number): string {
    this.#nodeIds[index] = nodeId;
    this.#ports[index] = port;
    return `127.0.0.1:${((this.#listeners[index] as Server).address() as AddressInfo).port}`;
  }

  #greet(socket: Socket, to: number): void {
    let first: Buffer = Buffer.alloc(0);
    const more = (bytes: Buffer): void => {
      first = Buffer.concat([first, bytes]);
      if (first.length < FIRST_BYTES) return;
      socket.off("data", more);
      const hello = decodeHello(first.subarray(HEADER_BYTES, FIRST_BYTES));
      const path = this.#paths.get(`${this.#nodeIds.indexOf(hello?.nodeId ?? "")}>${to}`);
      if (path === undefined) socket.destroy();
      else path.join(socket, this.#ports[to] as number, first);
    };
    socket.on("data", more);
    socket.on("error", () => undefined);
  }

  /** The way of the link that `from` has dialled. */
  path(from: number, to: number): FaultPath {
    return this.#paths.get(`${from}>${to}`) as FaultPath;
  }

  metadata(index: number): FaultPath {
    return (this.#metadata[index] as FaultProxy).path;
  }

  /** Nothing that `from` sends arrives at `to`; the other direction is as it was. */
  block(from: number, to: number): void {
    this.path(from, to).there.hold();
    this.path(to, from).back.hold();
  }

  /** Neither hears of the other. */
  part(one: number, other: number): void {
    this.block(one, other);
    this.block(other, one);
  }

  cutMetadata(index: number): void {
    const { there, back } = this.metadata(index);
    there.hold();
    back.hold();
  }

  /** The node hears of nobody, and nobody of it; its guests are on its own host. */
  isolate(index: number): void {
    for (let other = 0; other < this.#listeners.length; other++) this.part(index, other);
    this.cutMetadata(index);
  }

  heal(): void {
    for (const path of this.#paths.values()) path.heal();
    for (const proxy of this.#metadata) proxy.path.heal();
  }

  async close(): Promise<void> {
    for (const path of this.#paths.values()) path.cut();
    for (const listener of this.#listeners) listener.close();
    for (const proxy of this.#metadata) await proxy.close();
  }
}

// Metadata servers as processes of the test's own: the embedded server and etcd, each on a free port
// of 127.0.0.1 with a data folder of its own, killed by its process id at the latest when the test
// process ends.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { EtcdMetaStore, type EtcdOptions } from "../../meta/index.ts";
import { freePort } from "../../sys/index.ts";
import { requireOnSystem } from "../../vm/index.ts";
import { builtFile } from "../daemon.ts";
import { type Certificate, makeCertificate } from "./certificate.ts";
import { enableEtcdAuth } from "./etcd-auth.ts";

export type MetaKind = "embedded" | "etcd";

export interface MetaProcessOptions {
  readonly hasTls?: boolean;
  /** Of etcd: its clients need a certificate; the server's own does. */
  readonly asksForCertificate?: boolean;
  readonly user?: { readonly name: string; readonly password: string };
}

const START_TIMEOUT_MS = 60_000;
const LOG_CHARS_MAX = 20_000;

export class MetaProcess {
  readonly kind: MetaKind;
  readonly directory: string;
  readonly certificate: Certificate | null;
  log = "";
  port = 0;
  readonly #options: MetaProcessOptions;
  #child: ChildProcess | null = null;
  readonly #endWithUs = (): void => void this.#child?.kill("SIGKILL");

  private constructor(kind: MetaKind, options: MetaProcessOptions) {
    this.kind = kind;
    this.#options = options;
    this.directory = mkdtempSync(join(tmpdir(), `rs-meta-${kind}-`));
    this.certificate = options.hasTls === true ? makeCertificate("ringstore test") : null;
    process.on("exit", this.#endWithUs);
  }

  static async start(kind: MetaKind, options: MetaProcessOptions = {}): Promise<MetaProcess> {
    const server = new MetaProcess(kind, options);
    try {
      server.port = freePort("127.0.0.1");
      await server.launch();
      if (kind === "etcd" && options.user !== undefined) {
        await enableEtcdAuth(
          { ...server.clientOptions(), endpoints: [server.endpoint] },
          options.user,
        );
      }
      return server;
    } catch (error) {
      await server.stop();
      throw error;
    }
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  get endpoint(): string {
    return `127.0.0.1:${this.port}`;
  }

  /** What a client needs besides endpoints. */
  clientOptions(): Omit<EtcdOptions, "endpoints"> {
    const { certificate } = this;
    return {
      timeoutMs: 20_000,
      ...(certificate === null ? {} : { tls: { ca: certificate.certificate, ...certificate } }),
    };
  }

  connect(options: Partial<EtcdOptions> = {}): EtcdMetaStore {
    const user = this.#options.user === undefined ? {} : { user: this.#options.user };
    const endpoints = [this.endpoint];
    return new EtcdMetaStore({ ...this.clientOptions(), ...user, endpoints, ...options });
  }

  /** Starts it, again, on the same data and port, and waits until it answers. */
  async launch(): Promise<void> {
    const [program, args] = this.kind === "etcd" ? this.#etcd() : this.#embedded();
    const child = spawn(program, args, { cwd: this.directory, stdio: ["ignore", "pipe", "pipe"] });
    this.#child = child;
    for (const stream of [child.stdout!, child.stderr!]) {
      stream.setEncoding("utf8").on("data", (text: string) => {
        this.log = (this.log + text).slice(-LOG_CHARS_MAX);
      });
    }
    const client = new EtcdMetaStore({ ...this.clientOptions(), endpoints: [this.endpoint] });
    try {
      const endMs = performance.now() + START_TIMEOUT_MS;
      for (;;) {
        if (child.exitCode !== null) throw new Error(`${this.kind} ended at once: ${this.log}`);
        const isUp = await client.client.status().then(
          (status) => status.hasLeader,
          // With authentication it answers, and says no.
          (error: Error) => /user name is empty/.test(error.message),
        );
        if (isUp) return;
        if (performance.now() > endMs) throw new Error(`${this.kind} does not start: ${this.log}`);
        await sleep(50);
      }
    } finally {
      client.close();
    }
  }

  async kill(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, "exit");
    child.kill(signal);
    if (signal !== "SIGSTOP" && signal !== "SIGCONT") await gone;
  }

  /** Ends it and removes its data; the exit code is null when a signal ended it. */
  async stop(): Promise<number | null> {
    await this.kill("SIGTERM");
    process.off("exit", this.#endWithUs);
    rmSync(this.directory, { recursive: true, force: true });
    return this.#child?.exitCode ?? null;
  }

  #embedded(): [string, string[]] {
    const args = [builtFile("bundle/main.js"), "--role", "meta", "--data", this.directory];
    args.push("--listen", this.endpoint);
    const { user } = this.#options;
    if (user !== undefined) {
      const path = this.#write("user", Buffer.from(`${user.name}:${user.password}\n`));
      args.push("--user-file", path);
    }
    args.push(...this.#tlsFlags("--tls-cert", "--tls-key"));
    return [process.execPath, args];
  }

  #etcd(): [string, string[]] {
    const scheme = this.certificate === null ? "http" : "https";
    const url = `${scheme}://${this.endpoint}`;
    // A member of one has no peers: it listens on a socket in its own folder.
    const peer = `unix://127.0.0.1:${this.port + 1}`;
    const args = ["--name", "m", "--data-dir", join(this.directory, "etcd")];
    args.push("--listen-client-urls", url, "--advertise-client-urls", url);
    args.push("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer);
    args.push("--initial-cluster", `m=${peer}`, "--log-level", "error", "--logger", "zap");
    args.push(...this.#tlsFlags("--cert-file", "--key-file"));
    if (this.#options.asksForCertificate === true) {
      args.push("--client-cert-auth", "--trusted-ca-file", this.certificatePath);
    }
    return [requireOnSystem("etcd", "etcd-server"), args];
  }

  #tlsFlags(certificateFlag: string, keyFlag: string): string[] {
    if (this.certificate === null) return [];
    const { certificate, key } = this.certificate;
    return [certificateFlag, this.#write("cert", certificate), keyFlag, this.#write("key", key)];
  }

  /** Of the server, with TLS: it is its own authority. */
  get certificatePath(): string {
    return join(this.directory, "cert");
  }

  get keyPath(): string {
    return join(this.directory, "key");
  }

  #write(name: string, content: Buffer): string {
    const path = join(this.directory, name);
    writeFileSync(path, content, { mode: 0o600 });
    return path;
  }
}

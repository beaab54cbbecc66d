// What systemd is told (sd_notify(3), Type=notify): ready, reloading, stopping, alive. Nothing when
// the daemon was not started by a service manager.

import { sendDatagram } from "../sys/index.ts";

export class ServiceManager {
  readonly #socket: string;
  readonly #watchdogUs: number;
  #timer: NodeJS.Timeout | null = null;

  constructor(environment: NodeJS.ProcessEnv) {
    this.#socket = environment["NOTIFY_SOCKET"] ?? "";
    const watchdog = environment["WATCHDOG_USEC"] ?? "";
    const pid = environment["WATCHDOG_PID"] ?? String(process.pid);
    const forUs = pid === String(process.pid);
    this.#watchdogUs = forUs && /^\d{1,15}$/.test(watchdog) ? Number(watchdog) : 0;
  }

  ready(status: string): void {
    this.#tell(`READY=1\nSTATUS=${status}`);
    if (this.#watchdogUs === 0 || this.#timer !== null) return;
    // Half the time, as sd_watchdog_enabled(3) advises. A main thread that hangs misses it.
    this.#timer = setInterval(() => this.#tell("WATCHDOG=1"), this.#watchdogUs / 2000);
    this.#timer.unref();
  }

  reloading(): void {
    // CLOCK_MONOTONIC, which hrtime is on Linux.
    this.#tell(`RELOADING=1\nMONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`);
  }

  stopping(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
    this.#tell("STOPPING=1");
  }

  /** A service manager that does not listen is its own problem. */
  #tell(text: string): void {
    if (this.#socket !== "") sendDatagram(this.#socket, text);
  }
}

// What systemd is told (sd_notify(3), Type=notify): ready, reloading, stopping, alive. Nothing when
// the daemon was not started by a service manager.
//
// Alive means that the main thread turns and that every reactor has just answered it: a daemon of
// which one thread is stuck is not notified for, and the watchdog ends it.

import { sendDatagram } from "../sys/index.ts";

/** Have all threads answered within that time? Rejects never. */
export type SignOfLife = (timeoutMs: number) => Promise<boolean>;

/**
 * The daemon is asked this often per watchdog interval. An answer may take as long as the time to
 * the next question, and one question may go wrong, before half of the interval is over.
 */
const ASKED_PER_INTERVAL = 4;

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

  ready(status: string, signOfLife: SignOfLife): void {
    this.#tell(`READY=1\nSTATUS=${status}`);
    if (this.#watchdogUs === 0 || this.#timer !== null) return;
    const periodMs = this.#watchdogUs / 1000 / ASKED_PER_INTERVAL;
    // A main thread that hangs asks nobody, and says nothing.
    this.#timer = setInterval(() => void this.#notifyIfAlive(signOfLife, periodMs), periodMs);
    this.#timer.unref();
  }

  async #notifyIfAlive(signOfLife: SignOfLife, timeoutMs: number): Promise<void> {
    const isAlive = await signOfLife(timeoutMs);
    // Asked before the stop, answered after it: the stop has limits of its own.
    if (isAlive && this.#timer !== null) this.#tell("WATCHDOG=1");
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

// Whether the rings of a volume's front-ends may run at all: shut while another node has the
// volume. Sessions negotiate all the same; their rings start when the gate opens.
//
//   open --hold()--> held --open()--> open
//          '-- false while rings run: who holds it must not cut a guest off
//
// Invariant: while it is held no ring runs, and none starts.

/** What stands behind the gate: the device with its sessions. */
export interface GatedFront {
  /** A front-end has rings running. */
  readonly connected: boolean;
  /** A front-end has rings that could run. */
  readonly isWaiting: boolean;
  gateOpened(): void;
  /** The gate has been shut: nothing new may reach the volume from here on. */
  gateHeld?(): void;
  /** What it submits may wait until the volume that is being taken over serves. */
  readonly isPatient?: boolean;
  cutWaiting(): void;
}

export class FrontGate {
  private held: boolean;
  private front: GatedFront | null = null;
  private readonly told: (isRunning: boolean, isWaiting: boolean) => void;
  private last = 0;

  /** `told`: rings have begun or ceased to run, or to wait for the gate. */
  constructor(isHeld: boolean, told: (isRunning: boolean, isWaiting: boolean) => void) {
    this.held = isHeld;
    this.told = told;
  }

  get isHeld(): boolean {
    return this.held;
  }

  /** null: the socket is closed. */
  guard(front: GatedFront | null): void {
    this.front = front;
    this.changed();
  }

  /** False: rings run. */
  hold(): boolean {
    if (this.front?.connected === true) return false;
    if (this.held) return true;
    this.held = true;
    this.front?.gateHeld?.();
    return true;
  }

  /** The volume is being taken over. */
  taking(): void {
    if (this.front?.isPatient === true) this.open();
  }

  open(): void {
    if (!this.held) return;
    this.held = false;
    this.front?.gateOpened();
    this.changed();
  }

  /** Ends the sessions whose rings wait. */
  cutWaiting(): void {
    this.front?.cutWaiting();
  }

  changed(): void {
    const isRunning = this.front?.connected === true;
    const isWaiting = this.held && this.front?.isWaiting === true;
    const now = (isRunning ? 1 : 0) + (isWaiting ? 2 : 0);
    if (now === this.last) return;
    this.last = now;
    this.told(isRunning, isWaiting);
  }
}

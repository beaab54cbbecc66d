// One way between two processes, as TCP over a network that misbehaves: each direction can be held,
// slow in answering or in delivering. What is held is not lost: when the way is open again it
// arrives, late, as what TCP repeats after a partition does, and as what a sender that is long gone
// had said. Of an end the other side hears no sooner than of the bytes before it.
//
// Invariants: bytes of one direction keep their order; a connection that is cut is cut on both
// sides, and what was on its way is gone.

import { connect, type Socket } from "node:net";

/** Beyond it the sender is not read from: it sees a full window. */
const HELD_BYTES_MAX = 16 << 20;
const DRIP_MS = 10;

/** One direction of a way; what is set counts for all connections, also those that are there. */
class FaultDirection {
  readonly #pipes: Set<FaultPipe> = new Set();
  #isHeld = false;
  #delayMs = 0;
  #bytesPerSecond = Infinity;

  get isHeld(): boolean {
    return this.#isHeld;
  }

  get delayMs(): number {
    return this.#delayMs;
  }

  get bytesPerSecond(): number {
    return this.#bytesPerSecond;
  }

  /** Nothing arrives; nobody is told. */
  hold(): void {
    this.#isHeld = true;
  }

  delay(milliseconds: number): void {
    this.#delayMs = milliseconds;
  }

  drip(bytesPerSecond: number): void {
    this.#bytesPerSecond = bytesPerSecond;
  }

  /** All is well again: what was held goes on its way. */
  heal(): void {
    this.#isHeld = false;
    this.#delayMs = 0;
    this.#bytesPerSecond = Infinity;
    for (const pipe of this.#pipes) pipe.pump();
  }

  pipe(from: Socket, to: Socket): FaultPipe {
    const pipe = new FaultPipe(this, from, to, () => this.#pipes.delete(pipe));
    this.#pipes.add(pipe);
    return pipe;
  }
}

interface Held {
  bytes: Buffer;
  readonly dueMs: number;
}

class FaultPipe {
  readonly #direction: FaultDirection;
  readonly #from: Socket;
  readonly #to: Socket;
  readonly #ended: () => void;
  readonly #queue: Held[] = [];
  #queuedBytes = 0;
  #timer: NodeJS.Timeout | null = null;
  #isEnd = false;

  constructor(direction: FaultDirection, from: Socket, to: Socket, ended: () => void) {
    this.#direction = direction;
    this.#from = from;
    this.#to = to;
    this.#ended = ended;
    from.on("data", (bytes) => this.push(bytes));
    // An end, an error: the same to the other side, when it hears of it.
    from.on("close", () => {
      this.#isEnd = true;
      this.pump();
    });
    to.on("close", () => this.drop());
  }

  push(bytes: Buffer): void {
    this.#queue.push({ bytes, dueMs: performance.now() + this.#direction.delayMs });
    this.#queuedBytes += bytes.length;
    if (this.#queuedBytes > HELD_BYTES_MAX) this.#from.pause();
    this.pump();
  }

  pump(): void {
    const { isHeld, bytesPerSecond } = this.#direction;
    if (isHeld || this.#timer !== null) return;
    const nowMs = performance.now();
    let allowed = Math.max(1, (bytesPerSecond * DRIP_MS) / 1000);
    for (let first = this.#queue[0]; first !== undefined; first = this.#queue[0]) {
      if (first.dueMs > nowMs || allowed < 1) {
        this.#later(allowed < 1 ? DRIP_MS : first.dueMs - nowMs);
        return;
      }
      const part = first.bytes.subarray(0, Math.min(first.bytes.length, allowed));
      this.#to.write(part);
      allowed -= part.length;
      this.#queuedBytes -= part.length;
      if (part.length === first.bytes.length) this.#queue.shift();
      else first.bytes = first.bytes.subarray(part.length);
    }
    if (this.#queuedBytes < HELD_BYTES_MAX) this.#from.resume();
    if (!this.#isEnd) return;
    this.#to.end(() => this.#to.destroy());
    this.drop();
  }

  #later(milliseconds: number): void {
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.pump();
    }, Math.ceil(milliseconds));
  }

  drop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    this.#queue.length = 0;
    this.#queuedBytes = 0;
    this.#ended();
  }
}

export class FaultPath {
  /** From whoever connects, and back to it. */
  readonly there: FaultDirection = new FaultDirection();
  readonly back: FaultDirection = new FaultDirection();
  readonly #sockets: Set<Socket> = new Set();
  connectionCount = 0;

  /** A connection that came for this way; `first` was read from it already. */
  join(near: Socket, targetPort: number, first: Buffer | null = null): void {
    const far = connect(targetPort, "127.0.0.1");
    this.connectionCount += 1;
    for (const socket of [near, far]) {
      this.#sockets.add(socket);
      socket.setNoDelay(true);
      socket.on("error", () => undefined);
      socket.on("close", () => this.#sockets.delete(socket));
    }
    const there = this.there.pipe(near, far);
    this.back.pipe(far, near);
    if (first !== null) there.push(first);
  }

  heal(): void {
    this.there.heal();
    this.back.heal();
  }

  /** Ends all connections, and what was on its way; new ones are taken. */
  cut(): void {
    for (const socket of [...this.#sockets]) socket.resetAndDestroy();
  }
}

// A client whose every request is told to the model, which checks every read.
//
// Invariant: the model hears of a request before the device does, and of its end when the client
// does. A violation is thrown out of the scheduler's step.

import type { ModelVolume } from "./model-volume.ts";
import type { RequestDone, SimClient } from "./sim-client.ts";

export interface CheckedClientOptions {
  readonly client: SimClient;
  readonly model: ModelVolume;
  /** Is shown each completion after the model. */
  readonly done?: RequestDone;
}

export class CheckedClient {
  private readonly client: SimClient;
  private readonly model: ModelVolume;
  private readonly done: RequestDone | null;

  constructor(options: CheckedClientOptions) {
    this.client = options.client;
    this.model = options.model;
    this.done = options.done ?? null;
  }

  get inflightCount(): number {
    return this.client.inflightCount;
  }

  write(offsetBytes: number, bytes: number, isDurable = false): void {
    const { id, data } = this.model.startWrite(offsetBytes, bytes);
    this.client.write(offsetBytes, data, this.endOfWrite(id), isDurable);
  }

  discard(offsetBytes: number, bytes: number): void {
    const id = this.model.startDiscard(offsetBytes, bytes);
    this.client.discard(offsetBytes, bytes, this.endOfWrite(id));
  }

  writeZeroes(offsetBytes: number, bytes: number, mayUnmap = false): void {
    const id = this.model.startWriteZeroes(offsetBytes, bytes);
    this.client.writeZeroes(offsetBytes, bytes, this.endOfWrite(id), mayUnmap);
  }

  read(offsetBytes: number, bytes: number): void {
    const id = this.model.startRead(offsetBytes, bytes);
    this.client.read(offsetBytes, bytes, (request) => {
      this.model.endRead(id, request.result as number, request.data);
      this.done?.(request);
    });
  }

  flush(): void {
    this.client.flush(this.done);
  }

  private endOfWrite(id: number): RequestDone {
    return (request) => {
      this.model.endWrite(id, request.result as number);
      this.done?.(request);
    };
  }
}

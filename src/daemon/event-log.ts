// What happened, for `ringstore events`: the latest few in memory, and a live feed. History beyond
// that is the log's business.

import { EVENT_HISTORY_MAX } from "../model/limits.ts";
import type { Event, EventType } from "../model/types.ts";

export type EventListener = (event: Event) => void;

export class EventLog {
  readonly #now: () => Date;
  readonly #events: Event[] = [];
  readonly #listeners = new Set<EventListener>();
  #seq = 0;

  constructor(now: () => Date) {
    this.#now = now;
  }

  /** About a volume, or with null about the daemon. */
  add(type: EventType, volume: string | null, message: string): void {
    this.#add(type, volume, null, message);
  }

  addDisk(type: EventType, disk: string, message: string): void {
    this.#add(type, null, disk, message);
  }

  #add(type: EventType, volume: string | null, disk: string | null, message: string): void {
    this.#seq += 1;
    const event: Event = {
      seq: this.#seq,
      at: this.#now().toISOString(),
      type,
      volume,
      disk,
      message,
    };
    this.#events.push(event);
    if (this.#events.length > EVENT_HISTORY_MAX) this.#events.shift();
    for (const listener of this.#listeners) listener(event);
  }

  /**
   * Events with a greater number than `seq`, oldest first. A number that is still to come is from
   * before a restart: all events are new to that caller.
   */
  since(seq: number): readonly Event[] {
    const known = seq > this.#seq ? 0 : seq;
    return this.#events.filter((event) => event.seq > known);
  }

  /** The returned function ends it. */
  subscribe(listener: EventListener): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }
}

// The message fuzzer: plausible conversations with a device, in which single messages are damaged.
// Valid messages carry the session into its states (memory, rings that run, logs, inflight regions,
// I/O in flight); a damaged one must be refused, ignored or end the session, and at most one
// well-formed reply may come of it.

import assert from "node:assert/strict";
import type { Prng } from "../../base/index.ts";
import { FrontEnd, LoadError } from "../../load/index.ts";
import * as sys from "../../sys/index.ts";
import * as m from "../../vhost-user/messages.ts";
import { HostileMemory, type HostileRegion } from "../hostile/guest.ts";
import { putDescriptor } from "../hostile/rings.ts";
import { pickWeighted } from "./coverage.ts";
import {
  type Conversation,
  type Draft,
  makeDraft,
  makeOpening,
  RING_AVAIL_OFFSET,
  RING_COUNT,
  RING_STRIDE_BYTES,
  RING_USED_OFFSET,
} from "./message-grammar.ts";
import { MUTATION_NAMES, mutate } from "./message-mutations.ts";
import { ATTACKED, type Fuzzer, type RoundContext } from "./stage.ts";

const STEPS_MIN = 20;
const STEPS_MAX = 80;
/** A mutation that the profile emphasises is so much more likely than the others. */
const EMPHASIS = 12;
/** Most messages must be good ones, or no session gets anywhere. */
const MUTATED_SHARE = 0.25;
const OPENING_MUTATED_SHARE = 0.02;
/** Sessions that begin in good order. */
const OPENING_SHARE = 0.8;

class MessageRound {
  private readonly context: RoundContext;
  private readonly prng: Prng;
  private readonly fds: number[] = [];
  private readonly conversation: Conversation;
  private frontEnd: FrontEnd;
  private readonly others: FrontEnd[] = [];
  private held = false;
  private pending: Exchange | null = null;
  /** What is left of the messages that a session in good order begins with. */
  private opening: Draft[] = [];

  constructor(context: RoundContext) {
    this.context = context;
    this.prng = context.prng;
    this.frontEnd = this.connect();
    const kinds = ["memfd", "memfd-unsealable"] as const;
    this.conversation = {
      prng: this.prng,
      memory: new HostileMemory(
        Array.from({ length: 5 }, (_, index) => ({
          guestAddress: (index + 1) * 0x1000_0000,
          bytes: 128 * 1024,
          kind: kinds[index % 2] as (typeof kinds)[number],
        })),
      ),
      own: (fd) => {
        this.fds.push(fd);
        return fd;
      },
      kickFds: [],
    };
    // Rings begin empty.
    this.conversation.memory.regions[0]?.u8.fill(0);
    this.open();
  }

  private connect(): FrontEnd {
    const { path, patienceMs } = this.context.stage;
    return FrontEnd.connect(path, { timeoutMs: patienceMs });
  }

  async run(): Promise<void> {
    const steps = this.prng.between(STEPS_MIN, STEPS_MAX);
    try {
      for (let step = 0; step < steps; step++) await this.step();
    } finally {
      if (this.held) await this.setHeld(false);
      this.end();
    }
  }

  private end(): void {
    this.frontEnd.close();
    for (const other of this.others) other.close();
    // No look at the guards: a damaged message may name them, as a log for example.
    this.conversation.memory.close();
    for (const fd of this.fds) sys.close(fd);
  }

  private async step(): Promise<void> {
    const { prng } = this;
    const what = prng.below(100);
    if (what < 4) await this.disturb();
    else if (what < 16) this.kick();
    else this.talk();
  }

  /** Something that is no message: I/O held back, a resize, another front-end. */
  private async disturb(): Promise<void> {
    const { prng } = this;
    const { target } = this.context.stage;
    const what = prng.below(4);
    if (what === 0) {
      await this.setHeld(!this.held);
    } else if (what === 1) {
      await target.resize(ATTACKED, prng.between(8, 16) * 1024 * 1024);
    } else if (what === 2 && this.others.length < 2) {
      this.others.push(this.frontEnd);
      this.renew();
    } else {
      this.others.pop()?.close();
    }
  }

  private async setHeld(held: boolean): Promise<void> {
    const { target } = this.context.stage;
    this.held = held;
    if (held) {
      await target.hold(ATTACKED);
      return;
    }
    await target.release(ATTACKED);
    const { pending } = this;
    this.pending = null;
    if (pending !== null) this.finish(pending);
  }

  /** Puts a read into some ring, as if it were a split one of four entries or more, and kicks. */
  private kick(): void {
    const { kickFds, memory } = this.conversation;
    const region = memory.regions[0] as HostileRegion;
    const ring = region.guestAddress + this.prng.below(RING_COUNT) * RING_STRIDE_BYTES;
    const header = region.guestAddress + RING_COUNT * RING_STRIDE_BYTES;
    const put = putDescriptor.bind(null, memory);
    put(ring, { addr: header, len: 16, third: 1, fourth: 1 });
    put(ring + 16, { addr: header + 64, len: 4096, third: 3, fourth: 2 });
    put(ring + 32, { addr: header + 32, len: 1, third: 2, fourth: 0 });
    const avail = memory.u16(ring + RING_AVAIL_OFFSET, 2);
    const used = memory.u16(ring + RING_USED_OFFSET, 2);
    avail[1] = (used[1] as number) + 1;
    if (kickFds.length > 0) sys.eventSignal(this.prng.pick(kickFds));
  }

  private open(): void {
    this.opening = this.prng.chance(OPENING_SHARE) ? makeOpening(this.conversation) : [];
  }

  private renew(): void {
    this.frontEnd = this.connect();
    this.pending = null;
    this.open();
  }

  private talk(): void {
    // While I/O is held, one message may wait for it, and holds up those behind it.
    if (this.pending !== null) return;
    const { prng, conversation } = this;
    const next = this.opening.shift();
    let draft: Draft = next ?? makeDraft(conversation);
    let mutation = "none";
    if (prng.chance(next === undefined ? MUTATED_SHARE : OPENING_MUTATED_SHARE)) {
      const weights = MUTATION_NAMES.map((_, at) => (at === this.context.profile ? EMPHASIS : 1));
      mutation = MUTATION_NAMES[pickWeighted(prng, weights)] as string;
      draft = mutate(mutation, draft, conversation);
    }
    const exchange = { draft, mutation };
    if (this.held) {
      this.pending = exchange;
      this.begin(draft);
    } else {
      this.begin(draft);
      this.finish(exchange);
    }
  }

  /** Sends a message, and a question of another kind behind it. */
  private begin(draft: Draft): void {
    try {
      this.send(draft);
      if (draft.cutAfter === undefined)
        this.frontEnd.sendMessage({ request: questionAfter(draft) });
    } catch (error) {
      if (!isClosed(error)) throw error;
    }
  }

  /** Collects what comes before the answer to the question. */
  private finish({ draft, mutation }: Exchange): void {
    let outcome = "closed";
    try {
      if (draft.cutAfter === undefined) outcome = this.collect(draft);
    } catch (error) {
      if (!isClosed(error)) throw error;
    }
    this.context.coverage.note(`${m.requestName(draft.request)}/${mutation}/${outcome}`);
    if (outcome !== "closed") return;
    this.frontEnd.close();
    this.renew();
  }

  private send(draft: Draft): void {
    const header = new DataView(new ArrayBuffer(m.HEADER.BYTES));
    header.setUint32(m.HEADER.request, draft.request, true);
    header.setUint32(m.HEADER.flags, draft.flags, true);
    header.setUint32(m.HEADER.size, draft.declaredBytes ?? draft.payload.length, true);
    const bytes = Uint8Array.of(...new Uint8Array(header.buffer), ...draft.payload);
    const end = draft.cutAfter ?? bytes.length;
    let fds: readonly number[] = draft.fds;
    for (let at = 0; at < end; ) {
      const piece = Math.min(draft.pieceBytes ?? end, end - at);
      this.frontEnd.sendRaw(bytes.subarray(at, at + piece), fds);
      fds = [];
      at += piece;
    }
  }

  private collect(draft: Draft): string {
    const question = questionAfter(draft);
    let outcome = "silent";
    for (let replies = 0; ; replies++) {
      const reply = this.frontEnd.receiveMessage();
      for (const fd of reply.fds) this.fds.push(fd);
      assert.equal(reply.flags, m.REPLY_FLAGS, "a reply with wrong flags");
      if (reply.request === question) return outcome;
      assert.equal(reply.request, draft.request, "a reply to something else");
      assert.equal(replies, 0, "two replies to one message");
      outcome = describe(reply.request, reply.payload);
    }
  }
}

interface Exchange {
  readonly draft: Draft;
  readonly mutation: string;
}

/** Another request than the draft's, so that their answers can be told apart. */
function questionAfter({ request }: Draft): number {
  return request === m.GET_FEATURES ? m.GET_PROTOCOL_FEATURES : m.GET_FEATURES;
}

function isClosed(error: unknown): boolean {
  return error instanceof LoadError && error.code === "CLOSED";
}

function describe(request: number, payload: Uint8Array): string {
  const info = m.requestInfo(request);
  if (info?.answer === m.ANSWER_REPLY) return `replied ${payload.length}`;
  assert.equal(payload.length, 8, "an acknowledgement of another size");
  return payload[0] === 0 ? "ok" : "refused";
}

export const MESSAGE_FUZZER: Fuzzer = {
  name: "messages",
  profileCount: MUTATION_NAMES.length,
  async round(context: RoundContext): Promise<void> {
    await new MessageRound(context).run();
  },
};

// What can be wrong with a message: one kind of damage each, done to a plausible one.

import { openSync } from "node:fs";
import { devNull } from "node:os";
import type { Prng } from "../../base/index.ts";
import * as sys from "../../sys/index.ts";
import * as m from "../../vhost-user/messages.ts";
import type { Conversation, Draft } from "./message-grammar.ts";

type Mutation = (draft: Draft, conversation: Conversation) => Draft;

const EDGES = [
  0n,
  1n,
  2n,
  7n,
  15n,
  0xffn,
  0x100n,
  0xffffn,
  0x10000n,
  0x7fff_ffffn,
  0x8000_0000n,
  0xffff_ffffn,
  0x1_0000_0000n,
  2n ** 47n,
  2n ** 52n - 1n,
  2n ** 52n,
  2n ** 53n,
  2n ** 63n - 1n,
  2n ** 63n,
  2n ** 64n - 4096n,
  2n ** 64n - 1n,
];

function changed(draft: Draft, change: (payload: Uint8Array) => void): Draft {
  const payload = draft.payload.slice();
  if (payload.length > 0) change(payload);
  return { ...draft, payload };
}

/** A descriptor of some kind that nobody expects here. */
function strangeFd({ prng, own, memory }: Conversation): number {
  const what = prng.below(8);
  if (what === 0) return own(sys.check(sys.eventfd(), "eventfd"));
  if (what === 1) return own(openSync(devNull, "r+"));
  if (what === 2) return own(openSync("/dev/zero", "r+"));
  if (what === 3) return own(openSync("/", "r"));
  if (what === 4) return own(sys.check(sys.memfd("strange", prng.below(3) * 4096), "memfd"));
  if (what === 5) return memory.regions[0]?.fd ?? -1;
  const [one, two] = what === 6 ? sys.pipe() : sys.socketPair(true);
  own(two);
  return own(one);
}

function flipByte(payload: Uint8Array, prng: Prng): void {
  const at = prng.below(payload.length);
  payload[at] = (payload[at] as number) ^ (1 << prng.below(8));
}

const MUTATIONS: Readonly<Record<string, Mutation>> = {
  "flip a bit": (draft, { prng }) => changed(draft, (payload) => flipByte(payload, prng)),
  "random bytes": (draft, { prng }) =>
    changed(draft, (payload) => {
      for (let count = prng.between(1, 8); count > 0; count--) {
        payload[prng.below(payload.length)] = prng.below(256);
      }
    }),
  "edge u32": (draft, { prng }) =>
    changed(draft, (payload) => {
      if (payload.length < 4) return;
      const at = prng.below(Math.floor(payload.length / 4)) * 4;
      const value = Number(BigInt.asUintN(32, prng.pick(EDGES)));
      new DataView(payload.buffer).setUint32(at, value, true);
    }),
  "edge u64": (draft, { prng }) =>
    changed(draft, (payload) => {
      if (payload.length < 8) return;
      const at = prng.below(Math.floor(payload.length / 8)) * 8;
      new DataView(payload.buffer).setBigUint64(at, prng.pick(EDGES), true);
    }),
  "other size": (draft, { prng }) => {
    const bytes = prng.pick([0, 1, 7, 8, 12, 40, 264, 268]);
    const payload = new Uint8Array(bytes);
    payload.set(draft.payload.subarray(0, bytes));
    return { ...draft, payload };
  },
  "too large": (draft, { prng }) => {
    return { ...draft, declaredBytes: prng.pick([269, 4096, 0x7fffffff, 0xffffffff]) };
  },
  flags: (draft, { prng }) => ({ ...draft, flags: prng.pick([0, 2, 3, 5, 0xd, 0x11, 0x80000001]) }),
  "other request": (draft, { prng }) => ({ ...draft, request: prng.below(m.REQUEST_LIMIT + 2) }),
  "no such request": (draft, { prng }) => ({
    ...draft,
    request: prng.pick([0, 45, 255, 0x10000, 0xffffffff]),
  }),
  "no descriptors": (draft) => ({ ...draft, fds: [] }),
  "strange descriptors": (draft, conversation) => ({
    ...draft,
    fds: draft.fds.map(() => strangeFd(conversation)),
  }),
  "more descriptors": (draft, conversation) => {
    const more = Array.from({ length: conversation.prng.between(1, 9) }, () =>
      strangeFd(conversation),
    );
    return { ...draft, fds: [...draft.fds, ...more] };
  },
  pieces: (draft, { prng }) => ({ ...draft, pieceBytes: prng.between(1, 13) }),
  "cut off": (draft, { prng }) => ({
    ...draft,
    cutAfter: prng.between(1, m.HEADER.BYTES + draft.payload.length),
  }),
  "no ack": (draft) => ({ ...draft, flags: m.FLAG_VERSION }),
};

export const MUTATION_NAMES: readonly string[] = Object.keys(MUTATIONS);

export function mutate(name: string, draft: Draft, conversation: Conversation): Draft {
  return (MUTATIONS[name] as Mutation)(draft, conversation);
}

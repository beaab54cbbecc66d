// The steps of the protocol model in words. {o} is the owner's incarnation, {r} the replica, {a} the
// step's argument: a write or a block. The list is also the list of all kinds of steps.

import { EPOCH, ownerAt } from "./state.ts";

const OWNER_NAMES = ["A", "B"];

const SENTENCES: Readonly<Record<string, string>> = {
  arrives: "write {w} passes the gate of replica {r}",
  "is durable": "write {w} becomes durable on replica {r}, and its owner hears of it",
  "arrives late": "write {w} of an old session passes the gate of replica {r}",
  "is durable, unheard": "write {w} of an old session becomes durable on replica {r}",
  crashes: "replica {r} crashes",
  restarts: "replica {r} is back",
  "session breaks": "the session of {o} with replica {r} breaks",
  applies: "the metadata store applies the swap of {o}",
  refuses: "the metadata store refuses the swap of {o}",
  "applies a late swap": "the metadata store applies a swap of an incarnation of {o} that is gone",
  "learns that it was applied": "{o} learns that its swap was applied",
  "learns that it lost": "{o} learns that the record is another's, and ends",
  "gives up": "{o} waits no longer for the answer to its swap, which is still on its way",
  "takes it for applied": "{o} takes the swap for applied",
  "takes it for refused": "{o} takes the swap for refused",
  "owner crashes": "{o} crashes",
  claims: "{o} reads the record and asks for the next epoch",
  fences: "{o} fences replica {r}, which answers",
  "fences, unheard": "{o} fences replica {r}, whose answer is lost",
  "reads the slab": "{o} reads the slab from replica {r}",
  "rewrites the slab": "{o} rewrites the slab of replica {r}",
  serves: "{o} begins to serve",
  "resumes the session": "{o} resumes its session with replica {r}, and sends again",
  "asks to exclude": "{o} asks the metadata store to put replica {r} out",
  writes: "{o} issues a write to block {a}",
  answers: "{o} answers write {w}",
  "loses the grant": "the grant of replica {r} to {o} expires",
  "begins to read": "{o} begins to read block {a}",
  reads: "{o} gets block {a} from replica {r}",
  "answers the read": "{o} answers the read with {v}",
  surrenders: "{o} lets go of the volume",
  "hands over": "{o} asks the metadata store to hand the volume over, and ends",
  takes: "{o} reads that the volume was handed to it, and asks to take it",
  "takes what it is given": "{o} finds that the volume was handed to it, and asks to take it",
  "goes back": "the metadata is put back from a backup: the record is as it was at first",
  "hears what is durable": "replica {r} hears from {o} what is durable on all members",
  "is refused": "{o} is refused by replica {r}, which has seen newer metadata, and gives up",
  "starts a resync": "{o} begins the resync of replica {r}",
  "copies from": "{o} reads the slab of replica {r} for the resync",
  "copies to": "{o} writes the slab of replica {r}",
  "asks to take in": "{o} asks the metadata store to take replica {r} in",
  "is added": "replica {r}, an empty disk, is added to the record",
  "is taken away": "replica {r} is taken away from the record",
  "looks at the record": "{o} looks at the record",
  "asks again": "{o} finds the record changed by others, and sends its swap again",
  "gives the resync up": "{o} gives up the resync of replica {r}",
};

export const KINDS: readonly string[] = Object.keys(SENTENCES);

export function sentenceOf(before: Uint8Array, action: number, after: Uint8Array): string {
  const owner = (action >> 4) & 3;
  const argument = action & 3;
  const at = ownerAt(owner) + EPOCH;
  const epoch = before[at] === 0 ? after[at] : before[at];
  const name = epoch === 0 ? OWNER_NAMES[owner] : `${OWNER_NAMES[owner]} (epoch ${epoch})`;
  return SENTENCES[KINDS[action >> 6]]
    .replace("{o}", name)
    .replace("{r}", String(1 + ((action >> 2) & 3)))
    .replace("{w}", `w${argument + 1}`)
    .replace("{a}", String(argument))
    .replace("{v}", argument === 0 ? "what was there at first" : `w${argument}`);
}

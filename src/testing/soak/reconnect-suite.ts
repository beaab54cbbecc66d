// Front-ends come and go at one living back-end, in every manner: orderly, in the middle of a
// request, in the middle of the negotiation. Afterwards the back-end holds exactly what it held
// before: descriptors, mappings, watches, timers, pollers, request slots.

import { setTimeout as sleep } from "node:timers/promises";
import { MIB, Prng } from "../../base/index.ts";
import { FrontEnd } from "../../load/index.ts";
import { Daemon } from "../daemon.ts";
import { Target, type TargetCounts } from "../target.ts";
import { apiOf, attachVolumes } from "./api.ts";
import { Cleanup } from "./cleanup.ts";
import { kernelHoldings } from "./process-figures.ts";
import { QuietGuest } from "./quiet-guest.ts";
import { messageOf, type SuiteContext, type SuiteResult } from "./suite.ts";

/** Until then pools and lists grow to the size they keep. */
const WARM_UP_ROUNDS = 40;
const CHECK_EVERY = 100;
const NAME = "disk";
const VOLUME_BYTES: number = 64 * MIB;
/** The daemon lets go of the last session a moment after its front-end has gone. */
const SETTLE_TIMEOUT_MS = 10_000;
const POLL_MS = 10;
const SETTLE_MS = 500;
const HELD = [
  "fdCount",
  "sharedMapCount",
  "arenaCount",
  "watchCount",
  "timerCount",
  "pollerCount",
  "freeSlotCount",
  "threadCount",
] as const satisfies readonly (keyof TargetCounts)[];

type Holdings = Readonly<Record<string, number>>;

interface BackEnd {
  readonly socketPath: string;
  /** What it holds now that no front-end is connected. */
  holdings(): Promise<Holdings>;
}

/** A bare target tells of its watches and timers too. */
async function targetBackEnd(cleanup: Cleanup): Promise<BackEnd> {
  const target = new Target();
  cleanup.after(() => target.stop());
  const socketPath = await target.add({ name: NAME, backing: { kind: "memory" } });
  const isQuiet = ({ devices }: TargetCounts): boolean => devices[NAME]?.sessionCount === 0;
  return {
    socketPath,
    async holdings() {
      const counts = await target.until(isQuiet, "without sessions");
      return Object.fromEntries(HELD.map((name) => [name, counts[name]]));
    },
  };
}

/** The whole daemon, as the kernel sees it. */
async function daemonBackEnd(cleanup: Cleanup): Promise<BackEnd> {
  const daemon = await Daemon.start();
  cleanup.after(() => daemon.stop());
  const api = apiOf(daemon);
  const [socketPath = ""] = await attachVolumes(api, [{ name: NAME, sizeBytes: VOLUME_BYTES }]);
  return {
    socketPath,
    async holdings() {
      const deadline = Date.now() + SETTLE_TIMEOUT_MS;
      while ((await api.stats()).volumes.some((volume) => volume.sessionCount > 0)) {
        if (Date.now() > deadline) throw new Error("a session is left in the daemon");
        await sleep(POLL_MS);
      }
      return kernelHoldings(daemon.pid);
    },
  };
}

/** One front-end's whole life. */
async function visit(socketPath: string, prng: Prng): Promise<void> {
  if (prng.chance(0.2)) {
    const frontEnd = FrontEnd.connect(socketPath);
    if (prng.chance(0.5)) frontEnd.getFeatures();
    if (prng.chance(0.5)) frontEnd.setOwner();
    frontEnd.close();
    return;
  }
  const guest = QuietGuest.connect(socketPath, {
    queueCount: prng.between(1, 4),
    packed: prng.chance(0.5),
    blockBytes: prng.pick([4096, 65536]),
  });
  if (prng.chance(0.7)) await guest.write(0, prng.below(256));
  if (prng.chance(0.3)) guest.setWriteback(prng.chance(0.5));
  // Some leave while the device still has a request of theirs.
  const manner = prng.below(4);
  if (manner < 2) guest.beginRead(0);
  else if (manner === 2) guest.stop();
  guest.close();
}

/** Names of what grew or shrank. */
function differences(before: Holdings, now: Holdings): string[] {
  const changed = Object.keys(before).filter((name) => before[name] !== now[name]);
  return changed.map((name) => `${name} was ${before[name]} and is ${now[name]}`);
}

/** What is still different when the back-end has had time to tidy up after the last session. */
async function leftOver(backEnd: BackEnd, before: Holdings): Promise<string[]> {
  const deadline = Date.now() + SETTLE_TIMEOUT_MS;
  for (;;) {
    const changed = differences(before, await backEnd.holdings());
    if (changed.length === 0 || Date.now() > deadline) return changed;
    await sleep(POLL_MS);
  }
}

/** Lets `roundCount` front-ends come and go; returns what changed. */
async function visitOften(
  backEnd: BackEnd,
  prng: Prng,
  plan: { readonly roundCount: number; readonly expired: () => boolean },
): Promise<{ readonly done: number; readonly broken: readonly string[] }> {
  const { socketPath } = backEnd;
  for (let round = 0; round < WARM_UP_ROUNDS; round++) await visit(socketPath, prng);
  await sleep(SETTLE_MS);
  const before = await backEnd.holdings();
  let done = 0;
  let broken: string[] = [];
  while (done < plan.roundCount && broken.length === 0 && !plan.expired()) {
    await visit(socketPath, prng);
    done += 1;
    if (done % CHECK_EVERY !== 0 && done !== plan.roundCount) continue;
    broken = await leftOver(backEnd, before);
  }
  return { done, broken };
}

export async function reconnectSuite(
  context: Pick<SuiteContext, "seed" | "expired">,
  roundCount: number,
): Promise<SuiteResult> {
  const broken: string[] = [];
  const counts: string[] = [];
  for (const [name, start] of [
    ["the daemon", daemonBackEnd],
    ["a bare target", targetBackEnd],
  ] as const) {
    const cleanup = new Cleanup();
    try {
      const backEnd = await start(cleanup);
      const plan = { roundCount, expired: context.expired };
      const outcome = await visitOften(backEnd, new Prng(context.seed), plan);
      counts.push(`${outcome.done} front-ends came to ${name} and went`);
      broken.push(...outcome.broken.map((problem) => `${name}: ${problem}`));
    } catch (error) {
      broken.push(`${name}: ${messageOf(error)}`);
    }
    await cleanup.run();
  }
  return { counts: counts.join(", "), broken };
}

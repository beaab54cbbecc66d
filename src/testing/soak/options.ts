// The soak's command line. Every count can be lowered, because sessions have an end; what was
// really done is what the log says.

import { parseArgs } from "node:util";

const SUITES = [
  "restarts",
  "late-dma",
  "reconnects",
  "fuzz",
  "guests",
  "store-restarts",
  "store-power-cuts",
  "store-crash-points",
  "failovers",
  "cluster-faults",
] as const;
export type SuiteName = (typeof SUITES)[number];

export interface SoakOptions {
  readonly suites: readonly SuiteName[];
  /** Times that a daemon under load is killed, stopped or paused. */
  readonly roundCount: number;
  /** Times that a daemon is killed with large reads in flight. */
  readonly lateCount: number;
  /** Front-ends that come and go at one living back-end. */
  readonly reconnectCount: number;
  /** Crash states of the store that are recovered and checked. */
  readonly crashStates: number;
  readonly fuzzMinutes: number;
  readonly rebootCount: number;
  readonly guestKillCount: number;
  /** Times that a daemon with a loaded disk of the store is killed, and the disk checked. */
  readonly storeRoundCount: number;
  /** Power cuts of a store on a real file. */
  readonly cutCount: number;
  /** Daemons of a cluster that are killed under load. */
  readonly failoverCount: number;
  /** Faults that a cluster of real processes meets under load. */
  readonly faultCount: number;
  /** No suite begins, and none goes on for long, after so much time. */
  readonly minutesMax: number;
  readonly seed: number;
  /** "" = docs/soak.md of the checkout. */
  readonly logPath: string;
}

export const HELP: string = `Usage: npm run soak -- [options]

Tries the promises that npm test tries a few times as often as they are worth, and adds a line per
suite to docs/soak.md. Exit code 0: every promise was kept.

  --suite NAME       ${SUITES.slice(0, 5).join(", ")},
                     ${SUITES.slice(5).join(", ")}; again for more (default all)
  --rounds N         disturbances of a daemon under load (default 1000)
  --late N           kills with large reads in flight (default 100)
  --reconnects N     front-ends that come and go (default 1000)
  --crash-states N   crashes of the store that are enumerated (default 2000000)
  --fuzz-minutes N   for the fuzzers (default 30)
  --reboots N        reboots of a guest (default 100)
  --guest-kills N    kills of the daemon under a guest (default 100)
  --store-rounds N   kills under load of a disk that is checked after each (default 500)
  --cuts N           power cuts of a store on a real file (default 1000)
  --failovers N      daemons of a cluster that are killed under load (default 50)
  --faults N         faults of network, metadata, processes, disks that a cluster meets (default 200)
  --minutes N        stop early after so long; the log says what was done (default 1440)
  --seed N           default: from the clock
  --log FILE         default docs/soak.md
`;

export class UsageError extends Error {}

function count(text: string | undefined, name: string, fallback: number): number {
  if (text === undefined) return fallback;
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new UsageError(`--${name} is ${JSON.stringify(text)}, but must be a whole number`);
}

function isSuite(name: string): name is SuiteName {
  return (SUITES as readonly string[]).includes(name);
}

/** null: help was asked for. Throws UsageError. */
export function parseSoakOptions(argv: readonly string[]): SoakOptions | null {
  const text = { type: "string" } as const;
  let values: Record<string, string | boolean | string[] | undefined>;
  try {
    ({ values } = parseArgs({
      args: [...argv],
      options: {
        suite: { type: "string", multiple: true },
        rounds: text,
        late: text,
        reconnects: text,
        "crash-states": text,
        "fuzz-minutes": text,
        reboots: text,
        "guest-kills": text,
        "store-rounds": text,
        cuts: text,
        failovers: text,
        faults: text,
        minutes: text,
        seed: text,
        log: text,
        help: { type: "boolean", short: "h" },
      },
    }));
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  if (values["help"] === true) return null;
  const names = (values["suite"] as string[] | undefined) ?? [...SUITES];
  const unknown = names.find((name) => !isSuite(name));
  if (unknown !== undefined) {
    throw new UsageError(`there is no suite ${unknown}; there are ${SUITES.join(", ")}`);
  }
  const number = (name: string, fallback: number): number =>
    count(values[name] as string | undefined, name, fallback);
  return {
    suites: SUITES.filter((name) => names.includes(name)),
    roundCount: number("rounds", 1000),
    lateCount: number("late", 100),
    reconnectCount: number("reconnects", 1000),
    crashStates: number("crash-states", 2_000_000),
    fuzzMinutes: number("fuzz-minutes", 30),
    rebootCount: number("reboots", 100),
    guestKillCount: number("guest-kills", 100),
    storeRoundCount: number("store-rounds", 500),
    cutCount: number("cuts", 1000),
    failoverCount: number("failovers", 50),
    faultCount: number("faults", 200),
    minutesMax: number("minutes", 1440),
    seed: number("seed", Math.floor(Date.now() / 1000) % 1_000_000_000),
    logPath: (values["log"] as string | undefined) ?? "",
  };
}

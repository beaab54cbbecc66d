// npm run sim: clusters of real code in virtual time, seed after seed, for as long as one likes.
//
// Exit code 0: nothing was found; 1: something was, and the last line says how to see it again;
// 2: the command line was not understood.

import { parseArgs } from "node:util";
import { ClusterSim } from "./cluster-sim.ts";

const HELP = `Usage: npm run sim -- [options]

  --seed N         one seed only; without it, seed after seed from --from on
  --from N         the first seed (default: another one each time)
  --minutes N      how long (default 5)
`;

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

interface Options {
  readonly seed: number | null;
  readonly from: number;
  readonly limitMs: number;
}

function numberOf(name: string, text: string): number {
  const value = Number(text);
  if (!(value >= 0)) throw new RangeError(`--${name} ${text}: a number is needed`);
  return value;
}

function readOptions(): Options | null {
  const { values } = parseArgs({
    options: {
      seed: { type: "string" },
      from: { type: "string" },
      minutes: { type: "string", default: "5" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) return null;
  const from = values.from === undefined ? Date.now() % 2 ** 31 : numberOf("from", values.from);
  const seed = values.seed === undefined ? null : numberOf("seed", values.seed);
  return { seed, from, limitMs: numberOf("minutes", values.minutes) * 60_000 };
}

/** True when nothing was found. */
function runSeed(seed: number): boolean {
  const startMs = Date.now();
  try {
    const outcome = new ClusterSim(seed).run();
    say(`seed ${seed}, ${Date.now() - startMs} ms: ${JSON.stringify(outcome)}`);
    return true;
  } catch (error) {
    say(`seed ${seed} found: ${(error as Error).stack}`);
    say(`again: npm run sim -- --seed ${seed}`);
    return false;
  }
}

function main(): number {
  let options: Options | null;
  try {
    options = readOptions();
  } catch (error) {
    say((error as Error).message);
    return 2;
  }
  if (options === null) {
    say(HELP);
    return 0;
  }
  if (options.seed !== null) return runSeed(options.seed) ? 0 : 1;
  const endMs = Date.now() + options.limitMs;
  let isSound = true;
  for (let seed = options.from; Date.now() < endMs; seed++) isSound = runSeed(seed) && isSound;
  return isSound ? 0 : 1;
}

process.exitCode = main();

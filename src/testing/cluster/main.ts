// npm run sim: clusters of real code in virtual time, seed after seed, for as long as one likes.
//
// Exit code 0: nothing was found; 1: something was, and the last line says how to see it again;
// 2: the command line was not understood.

import { parseArgs } from "node:util";
import { ClusterSim, optionsOf } from "./cluster-sim.ts";

const HELP = `Usage: npm run sim -- [options]

  --seed N         one seed only; without it, seed after seed from --from on
  --from N         the first seed (default: another one each time)
  --minutes N      how long (default 5)
  --lines N        of each process's log, shown when a seed that was named finds something
`;

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

interface Options {
  readonly seed: number | null;
  readonly from: number;
  readonly limitMs: number;
  /** Of each process's log, shown with a failure. */
  readonly lineCount: number;
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
      lines: { type: "string", default: "12" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) return null;
  const from = values.from === undefined ? Date.now() % 2 ** 31 : numberOf("from", values.from);
  const seed = values.seed === undefined ? null : numberOf("seed", values.seed);
  const lineCount = numberOf("lines", values.lines);
  return { seed, from, limitMs: numberOf("minutes", values.minutes) * 60_000, lineCount };
}

/** True when nothing was found. */
function runSeed(seed: number, lineCount: number): boolean {
  const startMs = Date.now();
  const sim = new ClusterSim(seed, optionsOf(seed));
  try {
    const outcome = sim.run();
    say(`seed ${seed}, ${Date.now() - startMs} ms: ${JSON.stringify(outcome)}`);
    return true;
  } catch (error) {
    for (const line of sim.lastLines(lineCount)) say(line);
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
  if (options.seed !== null) return runSeed(options.seed, options.lineCount) ? 0 : 1;
  const endMs = Date.now() + options.limitMs;
  let isSound = true;
  for (let seed = options.from; Date.now() < endMs; seed++) isSound = runSeed(seed, 0) && isSound;
  return isSound ? 0 : 1;
}

process.exitCode = main();

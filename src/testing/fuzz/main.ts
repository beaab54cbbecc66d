// npm run fuzz: the fuzzers over messages and chains, for as long as one likes.
//
// Exit code 0: nothing was found; 1: something was, and the last lines say how to see it again;
// 2: the command line was not understood.

import { parseArgs } from "node:util";
import { FUZZERS, replay, runCampaign } from "./campaign.ts";
import type { Fuzzer } from "./stage.ts";

const HELP = `Usage: npm run fuzz -- [options]

  --minutes N      how long, for each fuzzer (default 5)
  --seed N         where to begin (default: another one each time)
  --only NAME      messages or chains (default both, in turns)
  --smoke          ten seconds for each
  --round NAME     one round again, as a failure named it
  --rare           show the outcomes that were reached least often
`;
const SMOKE_MS = 10_000;
const RARE_COUNT = 40;

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

class UsageError extends Error {}

interface Options {
  readonly limitMs: number;
  readonly seed: number;
  readonly fuzzers: readonly Fuzzer[];
  readonly round: string | undefined;
  readonly rare: boolean;
}

function readOptions(argv: readonly string[]): Options | null {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      minutes: { type: "string", default: "5" },
      seed: { type: "string" },
      only: { type: "string" },
      smoke: { type: "boolean", default: false },
      round: { type: "string" },
      rare: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) return null;
  const minutes = Number(values.minutes);
  if (!(minutes > 0)) throw new UsageError(`--minutes ${values.minutes}: more than 0 are needed`);
  const seed = values.seed === undefined ? Date.now() % 2 ** 31 : Number(values.seed);
  if (!Number.isSafeInteger(seed) || seed < 0) {
    throw new UsageError(`--seed ${values.seed}: a whole number is needed`);
  }
  const fuzzers = FUZZERS.filter(({ name }) => values.only === undefined || name === values.only);
  if (fuzzers.length === 0) {
    const names = FUZZERS.map(({ name }) => name).join(" or ");
    throw new UsageError(`--only ${values.only}: ${names}`);
  }
  const limitMs = values.smoke ? SMOKE_MS : minutes * 60_000;
  return { limitMs, seed, fuzzers, round: values.round, rare: values.rare };
}

async function main(argv: readonly string[]): Promise<number> {
  let options: Options | null;
  try {
    options = readOptions(argv);
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : error}\n\n${HELP}`);
    return 2;
  }
  if (options === null) {
    process.stdout.write(HELP);
    return 0;
  }
  if (options.round !== undefined) {
    const failure = await replay(options.round);
    say(failure === null ? `${options.round}: nothing wrong` : failure.reason);
    return failure === null ? 0 : 1;
  }
  const said: string[] = [];
  for (const fuzzer of options.fuzzers) {
    const { seed, limitMs } = options;
    const result = await runCampaign({ fuzzer, seed, limitMs, progress: say });
    if (options.rare) {
      for (const [key, count] of result.coverage.entries().slice(0, RARE_COUNT)) {
        say(`  ${String(count).padStart(8)}  ${key}`);
      }
    }
    said.push(`${fuzzer.name}: ${result.rounds} rounds, ${result.coverage.size} outcomes`);
    if (result.failure === null) continue;
    say(result.failure.reason);
    say(`\n${fuzzer.name}: round ${result.rounds} failed (seed ${seed}). To see it again:`);
    for (const name of result.failure.round.split(" ")) say(`  npm run fuzz -- --round ${name}`);
    return 1;
  }
  say(`seed ${options.seed}; ${said.join("; ")}; nothing wrong`);
  return 0;
}

process.exitCode = await main(process.argv.slice(2));

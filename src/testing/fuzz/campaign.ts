// Runs rounds of a fuzzer until a time or a count is reached, or something is wrong. A round is
// named FUZZER/PROFILE/SEED, and does the same again when it is named again.

import { Prng } from "../../base/index.ts";
import { CHAIN_FUZZER } from "./chains.ts";
import { Coverage, ProfileChooser } from "./coverage.ts";
import { MESSAGE_FUZZER } from "./messages.ts";
import { type Fuzzer, Stage, type StageOptions } from "./stage.ts";

export const FUZZERS: readonly Fuzzer[] = [MESSAGE_FUZZER, CHAIN_FUZZER];

/** Leaks are looked for after so many rounds; when there is one, each of them is run alone. */
const LEAK_CHECK_EVERY = 8;
/** Mixed into a campaign's seed, so that neighbouring ones share no round. */
const SEED_STEP = 0x9e3779b9;

export interface CampaignOptions extends StageOptions {
  readonly fuzzer: Fuzzer;
  readonly seed: number;
  readonly limitMs: number;
  readonly roundsMax?: number;
  /** Called now and then with a line of progress. */
  readonly progress?: (line: string) => void;
}

export interface Failure {
  /** Names the round; see above. */
  readonly round: string;
  readonly reason: string;
}

export interface CampaignResult {
  readonly rounds: number;
  readonly coverage: Coverage;
  readonly failure: Failure | null;
}

const PROGRESS_MS = 10_000;

function roundName(fuzzer: Fuzzer, profile: number, seed: number): string {
  return `${fuzzer.name}/${profile}/${seed}`;
}

class Campaign {
  private readonly options: CampaignOptions;
  private readonly coverage = new Coverage();
  private stage: Stage | null = null;
  private readonly sinceCheck: { profile: number; seed: number }[] = [];

  constructor(options: CampaignOptions) {
    this.options = options;
  }

  private async openStage(): Promise<Stage> {
    this.stage ??= await Stage.open(this.options);
    return this.stage;
  }

  async closeStage(): Promise<void> {
    await this.stage?.close();
    this.stage = null;
  }

  /** One round; the reason when it fails. */
  async round(profile: number, seed: number): Promise<string | null> {
    const stage = await this.openStage();
    const { fuzzer } = this.options;
    const context = { stage, prng: new Prng(seed), coverage: this.coverage, profile };
    try {
      await fuzzer.round(context);
      stage.probe();
      return null;
    } catch (error) {
      // A target that has ended says why.
      const last = await stage.target.counts().then(
        () => "",
        (ending: Error) => `\n${ending.message}`,
      );
      return `${error instanceof Error ? (error.stack ?? error.message) : String(error)}${last}`;
    }
  }

  async leaks(): Promise<string | null> {
    const stage = await this.openStage();
    try {
      await stage.checkLeaks();
      return null;
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
  }

  /** Of the last rounds, the first that leaves something behind when it is run alone. */
  private async blame(reason: string): Promise<Failure> {
    const { fuzzer } = this.options;
    for (const { profile, seed } of this.sinceCheck) {
      await this.closeStage();
      const alone = (await this.round(profile, seed)) ?? (await this.leaks());
      if (alone !== null) return { round: roundName(fuzzer, profile, seed), reason: alone };
    }
    const names = this.sinceCheck.map(({ profile, seed }) => roundName(fuzzer, profile, seed));
    return { round: names.join(" "), reason: `only all of these together: ${reason}` };
  }

  async run(): Promise<CampaignResult> {
    const { fuzzer, seed, limitMs, roundsMax = Infinity } = this.options;
    const prng = new Prng(seed);
    const chooser = new ProfileChooser(fuzzer.profileCount);
    const endMs = Date.now() + limitMs;
    let rounds = 0;
    let saidMs = Date.now();
    const result = (failure: Failure | null): CampaignResult => ({
      rounds,
      coverage: this.coverage,
      failure,
    });
    while (Date.now() < endMs && rounds < roundsMax) {
      const profile = chooser.choose(prng);
      const roundSeed = (prng.u32() ^ Math.imul(seed, SEED_STEP)) >>> 0;
      const before = this.coverage.size;
      const reason = await this.round(profile, roundSeed);
      rounds += 1;
      if (reason !== null) {
        return result({ round: roundName(fuzzer, profile, roundSeed), reason });
      }
      chooser.learn(profile, this.coverage.size - before);
      this.sinceCheck.push({ profile, seed: roundSeed });
      if (rounds % LEAK_CHECK_EVERY === 0) {
        const left = await this.leaks();
        if (left !== null) return result(await this.blame(left));
        this.sinceCheck.length = 0;
      }
      if (Date.now() - saidMs < PROGRESS_MS) continue;
      saidMs = Date.now();
      this.options.progress?.(`${fuzzer.name}: ${rounds} rounds, ${this.coverage.size} outcomes`);
    }
    const left = await this.leaks();
    return result(left === null ? null : await this.blame(left));
  }
}

export async function runCampaign(options: CampaignOptions): Promise<CampaignResult> {
  const campaign = new Campaign(options);
  try {
    return await campaign.run();
  } finally {
    await campaign.closeStage();
  }
}

/** Runs one round again, named as a failure names it. */
export async function replay(name: string, options: StageOptions = {}): Promise<Failure | null> {
  const [fuzzerName, profile, seed] = name.split("/");
  const fuzzer = FUZZERS.find((one) => one.name === fuzzerName);
  if (fuzzer === undefined || !/^\d+$/.test(profile ?? "") || !/^\d+$/.test(seed ?? "")) {
    throw new Error(`"${name}" names no round: FUZZER/PROFILE/SEED, with messages or chains`);
  }
  const campaign = new Campaign({ ...options, fuzzer, seed: 0, limitMs: 0 });
  try {
    const reason = await campaign.round(Number(profile), Number(seed));
    if (reason !== null) return { round: name, reason };
    const left = await campaign.leaks();
    return left === null ? null : { round: name, reason: left };
  } finally {
    await campaign.closeStage();
  }
}

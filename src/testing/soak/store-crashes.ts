// Crash-point enumeration of the store at its full count: other programs than npm test runs, until so
// many crash states have been recovered and checked. Ends at the first that was not.

import { CrashEnumeration } from "../store/crash-points.ts";
import { messageOf, type SuiteContext, type SuiteResult } from "./suite.ts";

const SAY_EVERY = 20;
/** Programs of one seed's soak follow each other; those of two seeds do not meet. */
const PROGRAMS_APART = 100_000;

export function storeCrashSuite(context: SuiteContext, stateCount: number): SuiteResult {
  const enumeration = new CrashEnumeration({
    isOver: () => context.expired() || enumeration.counts.states >= stateCount,
  });
  const { counts } = enumeration;
  const first = (context.seed % 20_000) * PROGRAMS_APART + 1;
  const broken: string[] = [];
  for (let seed = first; counts.states < stateCount && !context.expired(); seed++) {
    try {
      enumeration.run(seed);
    } catch (error) {
      broken.push(messageOf(error));
      break;
    }
    if (counts.programs % SAY_EVERY === 0) {
      context.say(`store-crash-points: ${counts.programs} programs, ${counts.states} states`);
    }
  }
  const { states, secondStates, points, programs, uncertainWrites } = counts;
  const said =
    `${states} crash states at ${points} points of ${programs} programs from ${first} on, ` +
    `${secondStates} of them a crash after a crash, ${uncertainWrites} uncertain writes dropped`;
  return { counts: said, broken };
}

// Do the tests test? A hole is put back by a flag; a finder must throw for one of its seeds.

/** Runs a seed with holes; throws when it finds something. */
export type HoleFinder<Bugs> = (seed: number, bugs: Bugs) => void;

/** The first of `seeds` seeds, from `first` on, with which `finder` throws, and what; or null. */
export function findHole<Bugs>(
  finder: HoleFinder<Bugs>,
  bugs: Bugs,
  seeds: number,
  first = 1,
): readonly [seed: number, error: Error] | null {
  for (let seed = first; seed < first + seeds; seed++) {
    try {
      finder(seed, bugs);
    } catch (error) {
      return [seed, error as Error];
    }
  }
  return null;
}

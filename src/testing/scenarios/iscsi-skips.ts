// Tests of libiscsi's conformance suite that do not test anything against our targets, each with
// the reason. The scenario compares this list with what the suite says: a test that is skipped and
// is not here fails it, and so does one that is here and is not skipped.

/** By `Suite.Test`; a suite alone stands for all of its tests. */
export const EXPECTED_SKIPS: Readonly<Record<string, string>> = {
  Sanitize: "SANITIZE is not offered: no disk of the store erases one volume's blocks",
};

// What libiscsi's conformance suite (1.19) does not find good about our targets, each with the
// reason. The scenario compares these lists with what the suite says: a test that is skipped or
// fails and is not here fails it, and so does one that is here and passes.

/** Reasons by `Suite.Test`, or by `Suite` for all of its tests. */
export type KnownTests = Readonly<Record<string, string>>;

/** Tests that test nothing. */
export const EXPECTED_SKIPS: KnownTests = {
  PreventAllow: "for media that can be ejected; a volume cannot be",
  "StartStopUnit.Simple": "the same",
  "ReadOnly.ReadOnlySBC": "for a unit that cannot be written; this one can",
  WriteAtomic16:
    "WRITE ATOMIC is offered where the device says how much it writes atomically: none",
  "WriteSame10.ZeroBlocks": "no blocks mean all that are left, which is more than WSNZ 1 allows",
  "WriteSame16.ZeroBlocks": "the same",
  Sanitize: "SANITIZE is not offered: no disk of the store erases one volume's blocks",
};

/** Tests that ask for what they should not. */
export const SUITE_MISTAKES: KnownTests = {
  "CompareAndWrite.Simple":
    "asks for 256 blocks to be refused; the field has one byte, so that what arrives is 0 blocks",
  "CompareAndWrite.Miscompare": "the same",
  "GetLBAStatus.UnmapSingle":
    "asks about block i + 1 and expects the answer for i + 8, with 8 blocks in a physical one",
};

/** Mistakes about media that can be ejected. */
export const SPECIAL_MISTAKES: KnownTests = {
  "PreventAllow.Eject":
    "asks for the loading of a medium to be refused where only its removal is prevented",
};

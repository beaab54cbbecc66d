// What libiscsi's conformance suite (1.19) does not find good about our targets, each with the
// reason. The scenario compares these lists with what the suite says: a test that is skipped or
// fails and is not here fails it, and so does one that is here and passes.

/** Tests that test nothing, by `Suite.Test`; a suite alone stands for all of its tests. */
export const EXPECTED_SKIPS: Readonly<Record<string, string>> = {
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
export const SUITE_MISTAKES: Readonly<Record<string, string>> = {
  "CompareAndWrite.Simple":
    "asks for 256 blocks to be refused; the field has one byte, so that what arrives is 0 blocks",
  "CompareAndWrite.Miscompare": "the same",
  "GetLBAStatus.UnmapSingle":
    "asks about block i + 1 and expects the answer for i + 8, with 8 blocks in a physical one",
};

/** Tests that are right, or may be: work that is left. */
export const OPEN_FAILURES: Readonly<Record<string, string>> = {
  "ExtendedCopy.ValidTgtDescr":
    "a target descriptor that we refuse with INVALID FIELD IN CDB is to be refused otherwise",
  "iSCSIResiduals.WriteVerify10Residuals":
    "WRITE AND VERIFY with more or less data than its CDB says is refused whole, where WRITE " +
    "writes the whole blocks that it was given",
  "iSCSIResiduals.WriteVerify12Residuals": "the same",
  "iSCSIResiduals.WriteVerify16Residuals": "the same",
};

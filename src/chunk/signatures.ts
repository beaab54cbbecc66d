// What the first bytes of a disk look like, so that a refusal can say what would be lost. Not a
// complete list: whatever is not all zeroes is somebody's.

interface Signature {
  readonly offset: number;
  readonly bytes: readonly number[];
  readonly what: string;
}

const text = (value: string): number[] => Array.from(value, (character) => character.charCodeAt(0));

const SIGNATURES: readonly Signature[] = [
  { offset: 1080, bytes: [0x53, 0xef], what: "an ext2, ext3 or ext4 file system" },
  { offset: 0, bytes: text("XFSB"), what: "an XFS file system" },
  { offset: 65600, bytes: text("_BHRfS_M"), what: "a Btrfs file system" },
  { offset: 0, bytes: text("LUKS"), what: "a LUKS volume" },
  { offset: 536, bytes: text("LVM2 001"), what: "an LVM physical volume" },
  { offset: 512, bytes: text("EFI PART"), what: "a GPT partition table" },
  { offset: 4096, bytes: text("EFI PART"), what: "a GPT partition table" },
  { offset: 0, bytes: text("QFI"), what: "a qcow2 image" },
  { offset: 0, bytes: text("SQLite format 3"), what: "an SQLite database" },
  { offset: 4086, bytes: text("SWAPSPACE2"), what: "swap space" },
  { offset: 4096, bytes: [0xfc, 0x4e, 0x2b, 0xa9], what: "a Linux RAID member" },
  { offset: 32769, bytes: text("CD001"), what: "an ISO 9660 image" },
  { offset: 510, bytes: [0x55, 0xaa], what: "a partition table or boot sector" },
];

/** What begins with these bytes; null when all of them are zero. */
export function guessContent(bytes: Uint8Array): string | null {
  for (const { offset, bytes: wanted, what } of SIGNATURES) {
    if (wanted.every((byte, index) => bytes[offset + index] === byte)) return what;
  }
  return bytes.every((byte) => byte === 0) ? null : "data of an unknown kind";
}

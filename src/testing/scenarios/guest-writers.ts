// What writes inside a guest while something is cut off under it: SQLite transactions and files that
// are synced. Each says on the console what has been acknowledged to it, as `W17/17;`, so that the
// host knows what must be there even when QEMU is gone. Words on the console may be lost or mixed
// with the kernel's: then less is demanded, never more.

import assert from "node:assert/strict";
import { EXT4_TOOLS, type Guest, type InitramfsOptions, SQLITE } from "../../vm/index.ts";
import { until } from "./guest-fixture.ts";

const STOP_FILE = "/tmp/stop";

/**
 * transactions JOURNAL-MODE SYNCHRONOUS MARK DATABASE. Each is padded to 4 KiB, so that the pipe
 * holds few of those to come and the end comes soon after the stop.
 */
const TRANSACTIONS = `#!/bin/sh
pad=$(printf '%4000s' '')
n=$(sqlite3 $4 'SELECT ifnull(max(n), 0) FROM entries') || exit 1
{
  echo "PRAGMA journal_mode=$1; PRAGMA synchronous=$2;"
  while [ ! -e ${STOP_FILE} ]; do
    n=$((n + 1))
    echo "BEGIN; INSERT INTO entries VALUES($n, randomblob($((n * 617 % 9000))));$pad"
    echo "UPDATE total SET sum = sum + $n; COMMIT; SELECT '$3$n/$n;';"
  done
} | sqlite3 -batch -bail $4 >/dev/console
`;

/** The file that number $n has. */
const FILE = `file() { yes "$1" | head -c $((1000 + $1 * 731 % 60000)); }
path() { echo /mnt/files/$(($1 % 8))/$1; }
`;

/** files LAST: makes those after LAST. */
const FILES = `#!/bin/sh
${FILE}
n=$1
while [ ! -e ${STOP_FILE} ]; do
  n=$((n + 1))
  mkdir -p /mnt/files/$((n % 8))
  file $n | dd of=$(path $n) conv=fsync 2>/dev/null || exit 1
  echo "F$n/$n;" >/dev/console
done
`;

/** files-are-there LAST */
const FILES_ARE_THERE = `#!/bin/sh
${FILE}
n=0
while [ $n -lt $1 ]; do
  n=$((n + 1))
  file $n | cmp - $(path $n) || exit 1
done
`;

/** What a guest needs for the writers. */
export const WRITERS: Pick<InitramfsOptions, "programs" | "files"> = {
  programs: [...EXT4_TOOLS, SQLITE],
  files: {
    "/bin/transactions": { content: TRANSACTIONS, mode: 0o755 },
    "/bin/files": { content: FILES, mode: 0o755 },
    "/bin/files-are-there": { content: FILES_ARE_THERE, mode: 0o755 },
  },
};

export type Mark = "W" | "D" | "F";

/** The highest number that the writer with this mark was told is safe; 0 for none. */
function acknowledged(guest: Guest, mark: Mark): number {
  let last = 0;
  for (const [, first, second] of guest.console.text.matchAll(
    new RegExp(`${mark}(\\d+)/(\\d+);`, "g"),
  )) {
    if (first === second) last = Math.max(last, Number(first));
  }
  return last;
}

export type Acknowledged = Readonly<Record<Mark, number>>;

/** What each writer was told of, in this life of the guest or, where `before` has more, earlier. */
export function acknowledgedIn(guest: Guest, before: Acknowledged = NOTHING): Acknowledged {
  const last = (mark: Mark): number => Math.max(before[mark], acknowledged(guest, mark));
  return { W: last("W"), D: last("D"), F: last("F") };
}

export const NOTHING: Acknowledged = { W: 0, D: 0, F: 0 };

/** Waits until each of these writers has been told of `count` more than `before`. */
export async function untilMore(
  guest: Guest,
  marks: readonly Mark[],
  count: number,
  before: Acknowledged = acknowledgedIn(guest),
): Promise<void> {
  await until(
    async () => JSON.stringify(acknowledgedIn(guest)),
    () => marks.every((mark) => acknowledged(guest, mark) >= before[mark] + count),
    `${count} more of ${marks.join(", ")} than ${JSON.stringify(before)}`,
  );
}

export async function makeDatabase(guest: Guest, path: string): Promise<void> {
  const tables =
    "CREATE TABLE entries (n INTEGER PRIMARY KEY, data BLOB); " +
    "CREATE TABLE total (sum INTEGER); INSERT INTO total VALUES (0);";
  await guest.must(`sqlite3 ${path} '${tables}'`);
}

/** The database is whole, and holds every transaction up to one that is not before `last`. */
export async function assertDatabase(guest: Guest, path: string, last: number): Promise<number> {
  const questions =
    "PRAGMA integrity_check; SELECT ifnull(max(n), 0), count(*), ifnull(sum(n), 0) FROM entries; " +
    "SELECT sum FROM total;";
  const answer = await guest.must(`sqlite3 -batch -bail ${path} '${questions}'`);
  const [integrity, numbers = "", total] = answer.trim().split("\n");
  const [highest = 0, count, sum] = numbers.split("|").map(Number);
  assert.equal(integrity, "ok", answer);
  assert.equal(count, highest, `${path}: a transaction is missing: ${answer}`);
  assert.equal(sum, Number(total), `${path}: half a transaction: ${answer}`);
  assert.ok(highest >= last, `${path}: transaction ${last} was acknowledged: ${answer}`);
  return highest;
}

/** Asks every writer to end; the command that it is ends soon after, with 0 when all went well. */
export async function stopWriters(guest: Guest): Promise<void> {
  await guest.must(`touch ${STOP_FILE}`);
}

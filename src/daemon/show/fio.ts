// The guest's short fio jobs and what is read from their terse output (fio(1), "Terse output").

export interface FioResult {
  readonly name: string;
  readonly iops: number;
  readonly bytesPerSecond: number;
  readonly meanUs: number;
  readonly p99Us: number;
}

function job(options: string): string {
  return (
    "fio --name=j --filename=/dev/vda --direct=1 --ioengine=libaio --time_based --runtime=3 " +
    `--size=256M --minimal --terse-version=3 --percentile_list=99 ${options}`
  );
}

export const fioJob: Readonly<Record<string, string>> = {
  "4 KiB random read, depth 32": job("--rw=randread --bs=4k --iodepth=32"),
  "4 KiB random write, depth 32": job("--rw=randwrite --bs=4k --iodepth=32"),
  "4 KiB random read, depth 1": job("--rw=randread --bs=4k --iodepth=1"),
  "256 KiB sequential read, depth 8": job("--rw=read --bs=256k --iodepth=8"),
};

/** First field of the read and of the write group in terse version 3, counted from 0. */
const READ_GROUP = 5;
const WRITE_GROUP = 46;
const BANDWIDTH_KIB = 1;
const IOPS = 2;
const MEAN_US = 34;
const FIRST_PERCENTILE = 12;

/** Reads one line of `fio --minimal`. Throws when it is not one. */
export function parseFio(name: string, text: string): FioResult {
  const line = text.split("\n").find((candidate) => candidate.startsWith("3;fio")) ?? "";
  const fields = line.split(";");
  if (fields.length < WRITE_GROUP + MEAN_US + 1) throw new Error(`fio said: ${text.slice(0, 500)}`);
  const group = Number(fields[READ_GROUP]) > 0 ? READ_GROUP : WRITE_GROUP;
  const number = (index: number): number => Number(fields[group + index]);
  const percentile = /^99(?:\.0+)?%=(\d+(?:\.\d+)?)/.exec(fields[group + FIRST_PERCENTILE] ?? "");
  return {
    name,
    iops: number(IOPS),
    bytesPerSecond: number(BANDWIDTH_KIB) * 1024,
    meanUs: number(MEAN_US),
    p99Us: percentile === null ? Number.NaN : Number(percentile[1]),
  };
}

// The comparison of paths: medians, ratios round by round, bars, and that nothing in it is taken for
// HTML.

import assert from "node:assert/strict";
import { test } from "node:test";
import { renderVmHtml } from "./vm-html.ts";
import { renderVm } from "./vm-report.ts";
import { fioWords, VM_ROWS, type VmFigures, type VmResult, type VmRow } from "./vm-rows.ts";
import { readsGainMost, summarize, type VmRun } from "./vm-summary.ts";

function figures(iops: number, blockBytes = 4096): VmFigures {
  const times = { meanUs: 1e6 / iops, p50Us: 1, p99Us: 2, p999Us: 3 };
  return { iops, bytesPerSecond: iops * blockBytes, ...times, storageCpuUs: 4, clientCpuUs: 5 };
}

function result(row: VmRow, boost: number, classic: number): VmResult {
  const rounds = [1, 3, 2].map((factor) => ({
    boost: figures(boost * factor, row.blockBytes),
    classic: figures(classic * factor, row.blockBytes),
  }));
  return { row, place: "disk", where: "guest", rounds };
}

const [read, write] = [VM_ROWS[0], VM_ROWS[3]] as [VmRow, VmRow];
const MACHINE = {
  cpu: "<cpu>",
  cpuCount: 2,
  memory: "1 GiB",
  kernel: "6",
  node: "v20",
  qemu: "7.2",
  commit: "abc",
  date: "2026-01-01",
};

function run(results: readonly VmResult[]): VmRun {
  const rest = { machine: MACHINE, load: "Idle.", guest: "Linux & co", roundCount: 3, sliceMs: 1 };
  return { ...rest, results, missing: { qsd: "not <installed>" } };
}

test("the rows: three depths of reads, writes and both; large ones", () => {
  assert.equal(VM_ROWS.length, 11);
  assert.equal(fioWords(read), "--rw=randread --bs=4k --iodepth=1");
  assert.equal(fioWords(VM_ROWS[8] as VmRow), "--rw=randrw --rwmixread=70 --bs=4k --iodepth=128");
  assert.equal(fioWords(VM_ROWS[10] as VmRow), "--rw=write --bs=256k --iodepth=8");
});

test("medians of the figures, and the median of the ratios", () => {
  const { figures: medians, ratios, isMet } = summarize(result(read, 300, 200));
  assert.equal(medians.boost?.iops, 600);
  assert.equal(medians.classic?.iops, 400);
  assert.equal(medians.qsd, undefined);
  assert.equal(ratios.iops, 1.5);
  assert.equal(isMet, true);
  assert.equal(summarize(result(write, 94, 100)).isMet, false);
  assert.equal(summarize(result(write, 96, 100)).isMet, true);
  const onTmpfs = { ...result(write, 96, 100), place: "tmpfs" } as const;
  assert.equal(summarize(onTmpfs).isMet, false, "no slower at all there");
});

test("the claim that reads gain most is said either way", () => {
  const gain = (reads: number, writes: number): boolean =>
    readsGainMost([result(read, reads, 100), result(write, writes, 100)].map(summarize)).isTrue;
  assert.equal(gain(200, 150), true);
  assert.equal(gain(150, 200), false);
  const text = renderVm(run([result(read, 150, 100), result(write, 200, 100)]));
  assert.match(text, /do \*\*not\*\* gain most here/);
  assert.match(text, /Bars met: 2 of 2/);
});

test("the HTML needs nothing else, and escapes what it was given", () => {
  const html = renderVmHtml(run([result(read, 90, 100)]));
  assert.doesNotMatch(html, /<script|src=|href=|@import|url\(/);
  assert.doesNotMatch(html, /<cpu>|<installed>/);
  assert.match(html, /class="missed">0\.90/);
  assert.match(html, /class="bar boost"><i style="width:63\.0%"/);
});

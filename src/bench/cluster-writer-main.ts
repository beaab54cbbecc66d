// A plain process that reads or writes its own file durably: what the cluster is compared with. It
// is told what to do over the parent's channel and answers with what it measured.

import { BenchRig, type Measured, type Work } from "../testing/store/real-rig.ts";

export interface WriterOrder {
  readonly work: Work;
  readonly rangeBytes: number;
  readonly seed: number;
}

export type WriterAnswer = Measured | "ready";

const POLL_US = 50;
const [path = "", sizeText = "0"] = process.argv.slice(2);
const sizeBytes = Number(sizeText);
const rig = new BenchRig(POLL_US);
const device = rig.openRaw(path, sizeBytes);
const send = (answer: WriterAnswer): void => void process.send?.(answer);
process.on("message", ({ work, rangeBytes, seed }: WriterOrder) => {
  send(rig.measure(device, rangeBytes, work, seed));
});
process.on("disconnect", () => process.exit(0));
send("ready");

// Run by store.ts in a process of its own, whose memory nothing else has touched: the facts about
// large disks, as JSON on stdout. Arguments: the folder, and how many GiB of data.

import { GIB } from "../base/index.ts";
import { measureLarge } from "./store-large.ts";

const [folder, dataGib] = process.argv.slice(2) as [string, string];
process.stdout.write(JSON.stringify(measureLarge(folder, Number(dataGib) * GIB)));

// INQUIRY (SPC-4 6.6): standard data, and which VPD page is asked for.

import { putU16 } from "../base/index.ts";
import { putAscii } from "./bytes.ts";
import type { CommandRun } from "./command-run.ts";
import { buildVpdPage } from "./vpd.ts";

const STANDARD_BYTES = 96;
/** PERIPHERAL QUALIFIER 011b, device type 1Fh: no logical unit can be here. */
const NO_UNIT = 0x7f;
const PROTOCOL_ISCSI = 5;

/** Version descriptors (SPC-4 table D.5). */
const VERSION_SAM_5 = 0x00a0;
const VERSION_SPC_4 = 0x0460;
const VERSION_SBC_3 = 0x04c0;
const VERSION_ISCSI = 0x0960;

export function inquiry(run: CommandRun): void {
  const flags = run.u8(1);
  const page = run.u8(2);
  const allocation = run.u16(3);
  if ((flags & 2) !== 0) {
    run.refuseField(1, 1);
    return;
  }
  if ((flags & 1) === 0) {
    if (page !== 0) {
      run.refuseField(2);
      return;
    }
    buildStandardData(run);
    run.reply(STANDARD_BYTES, allocation);
    return;
  }
  const bytes = run.link.isAbsent ? -1 : buildVpdPage(run, page);
  if (bytes < 0) run.refuseField(2);
  else run.reply(bytes, allocation);
}

function buildStandardData(run: CommandRun): void {
  const data = run.page(STANDARD_BYTES);
  const { unit } = run;
  const { identity } = unit;
  data[0] = run.link.isAbsent ? NO_UNIT : 0;
  data[1] = unit.isRemovable ? 0x80 : 0;
  data[2] = 0x06;
  // HISUP: REPORT LUNS uses the LUN formats it says it does; response data format 2.
  data[3] = 0x12;
  data[4] = STANDARD_BYTES - 5;
  // TPGS 01b: access states change by themselves. 3PC: EXTENDED COPY.
  data[5] = (unit.groups.length > 0 ? 0x10 : 0) | (run.link.isAbsent ? 0 : 0x08);
  // MULTIP, CMDQUE.
  data[6] = 0x10;
  data[7] = 0x02;
  putAscii(data, 8, 8, identity.vendor);
  putAscii(data, 16, 16, identity.product);
  putAscii(data, 32, 4, identity.revision);
  putU16(data, 58, VERSION_SAM_5);
  putU16(data, 60, VERSION_SPC_4);
  putU16(data, 62, VERSION_SBC_3);
  const protocol = run.link.nexus.identity.transportId[0] & 0xf;
  if (protocol === PROTOCOL_ISCSI) putU16(data, 64, VERSION_ISCSI);
}

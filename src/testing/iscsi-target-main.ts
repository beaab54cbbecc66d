// A process that serves one iSCSI target whose unit is what no volume is: its medium can be
// ejected, and it writes atomically. For conformance suites; started by iscsi-target.ts, which is
// told the port. Ends when the test does.
//
// Invariant: the reactor's thread is the main thread and never returns to Node's event loop.

import { writeSync } from "node:fs";
import { ClassicService } from "../daemon/classic-service.ts";
import { type IscsiTarget, Portal } from "../iscsi/index.ts";
import { MemoryDevice, Workspace } from "../local/index.ts";
import { Reactor } from "../reactor/index.ts";
import {
  LogicalUnit,
  Reservations,
  ScsiEngine,
  ScsiTarget,
  VolatileReservationStore,
} from "../scsi/index.ts";
import * as sys from "../sys/index.ts";
import { cPrctl } from "../sys/libc.ts";
import { VolumeMeter } from "../telemetry/index.ts";
import { UringListener } from "../uring/index.ts";

const PR_SET_PDEATHSIG = 1;
const SIZE_BYTES = 64 * 1024 * 1024;
const ATOMIC_BYTES = 128 * 1024;
const TASK_COUNT = 512;
const QUIET = { log(): void {} };

function makeTarget(reactor: Reactor, name: string): IscsiTarget {
  const { requests, memory } = reactor;
  const workspace = new Workspace({}, { requests, memory });
  const engine = new ScsiEngine({ requests, memory, copier: workspace.copier }, TASK_COUNT);
  const scsi = new ScsiTarget(engine);
  const unit = new LogicalUnit({
    identity: {
      naa: Uint8Array.of(0x30, 0, 0, 0, 0, 0, 0, 1),
      vendor: "RINGSTOR",
      product: "VOLUME",
      revision: "1",
      serial: "special",
    },
    reservations: new Reservations(new VolatileReservationStore()),
    groups: [{ id: 1, state: 0, isPreferred: true, ports: [1] }],
    isRemovable: true,
    atomicBytesMax: ATOMIC_BYTES,
  });
  const facts = { capacityBytes: SIZE_BYTES, blockBytes: 512, readOnly: false, serial: "special" };
  unit.setDevice(new MemoryDevice(facts, { workspace }));
  scsi.addUnit(0, unit);
  return {
    name,
    alias: "",
    portalGroupTag: 1,
    addresses: [],
    initiators: null,
    chap: null,
    redirect: null,
    scsi: new ClassicService(engine, scsi, { meter: new VolumeMeter(), gate: null }),
  };
}

function serve(name: string): void {
  const memory = new sys.SystemMemory();
  const reactor = new Reactor(
    { requestSlots: 1024, ringEntries: 256, watchesMax: 64, timersMax: 256, pollMaxUs: 0 },
    { memory, clock: new sys.SystemClock(), log: QUIET },
  );
  const target = makeTarget(reactor, name);
  const fd = sys.check(sys.listenTcp({ host: "127.0.0.1", port: 0 }, 64), "listen");
  const port = sys.boundPort(fd);
  const portal = new Portal(reactor, QUIET, {
    address: `127.0.0.1:${port}`,
    directory: {
      find: (wanted) => (wanted === name ? target : null),
      list: () => [target],
      discoveryChap: null,
    },
  });
  new UringListener(reactor.ring, memory, fd, portal);
  writeSync(1, `${port}\n`);
  reactor.run();
}

cPrctl(PR_SET_PDEATHSIG, sys.SIGKILL, 0, 0, 0);
serve(process.argv[2] ?? "");

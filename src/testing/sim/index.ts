// The simulator: everything below the ports, from one seed. Imported by tests only.
//
// A device under test:
//   const scheduler = new SimScheduler(seed);
//   const memory = new SimMemory();
//   const media = new SimMedia({ capacityBytes, volatileCache: true });
//   const disk = new SimDisk({ media, memory, scheduler });        // disk.setHandler(engine)
//   const reactor = new SimReactor({ scheduler, memory });
//   const client = new CheckedClient({ client: new SimClient({ reactor, memory, device }), model });
//   client.write(0, 4096); scheduler.runUntil(() => client.inflightCount === 0);
//
// A crash: disk.crash({ kind: "power" }); reactor.stop(); model.crashed(); memory.reset(); then a
// new scheduler, disk and reactor over the same medium and model.
//
// Every crash: const trace = media.startTrace() before, trace.mark(model.fork()) whenever the model
// changes; then for each point of crashPoints(trace), for each state of crashStates(trace, point),
// recover on state.media and check against a fork of the last of trace.marks(point).

export * from "./checked-client.ts";
export * from "./crash-choice.ts";
export * from "./crash-states.ts";
export * from "./model-volume.ts";
export * from "./sim-blocks.ts";
export * from "./sim-client.ts";
export * from "./sim-clock.ts";
export * from "./sim-disk.ts";
export * from "./sim-faults.ts";
export * from "./sim-media.ts";
export * from "./sim-memory.ts";
export * from "./sim-network.ts";
export * from "./sim-reactor.ts";
export * from "./sim-scheduler.ts";
export * from "./sim-trace.ts";
export * from "./trace-replay.ts";
export * from "./write-history.ts";

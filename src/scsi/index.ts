// scsi/: the SPC and SBC command sets over a BlockDevice. No transport.

export { type EngineModules, ScsiEngine } from "./engine.ts";
export {
  ACCESS_NON_OPTIMIZED,
  ACCESS_OPTIMIZED,
  ACCESS_STANDBY,
  ACCESS_TRANSITIONING,
  ACCESS_UNAVAILABLE,
  LogicalUnit,
  type NexusLink,
  type TargetPortGroup,
  type UnitIdentity,
  type UnitMeter,
  type UnitOptions,
} from "./logical-unit.ts";
export { type ManagementRequest, manage } from "./management.ts";
export {
  type ReservationStore,
  Reservations,
  VolatileReservationStore,
} from "./reservations.ts";
export { writeSense } from "./sense.ts";
export { LUNS_MAX, ScsiTarget } from "./target.ts";
export * from "./task.ts";
export * from "./transport-id.ts";

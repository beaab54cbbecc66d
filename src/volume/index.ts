// volume/: what stands between a front end and the stores that keep a volume's blocks.

export { SectorDevice, type WholeBlockDevice } from "./sector-device.ts";
export { SectorWorkspace } from "./sector-workspace.ts";

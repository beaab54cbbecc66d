// What a front end (virtio-blk, SCSI) sees of a volume. Requests are slots of the reactor's
// RequestTable (base/request-table.ts): the front end fills a slot, calls submit, and hears of the
// result through its RequestOwner. Implemented by `local/` (one file, memory, nothing) and by
// `volume/` (replicated).

export interface BlockDeviceInfo {
  /** Multiple of blockBytes. May grow or shrink while open: see BlockDevice.resized. */
  readonly capacityBytes: number;
  /** Logical block: 512 or 4096. Offsets and lengths of every request are multiples of it. */
  readonly blockBytes: number;
  /** What the device writes without read-modify-write; power of two >= blockBytes. */
  readonly physicalBlockBytes: number;
  readonly optimalIoBytes: number;
  readonly readOnly: boolean;
  readonly canDiscard: boolean;
  readonly discardGranularityBytes: number;
  /** At most 20 bytes of ASCII: what GET_ID tells the guest. */
  readonly serial: string;
}

export interface BlockDevice {
  /** A fresh or live view; front ends read it again after a resize event. */
  readonly info: BlockDeviceInfo;
  /**
   * Starts the request in `slot`: op, flags, offsetBytes, lengthBytes and (read, write) segments
   * are set and in range. Returns at once; completes exactly once through RequestTable.complete.
   *
   * READ/WRITE complete with 0 when every byte moved, otherwise a negated errno. FLUSH covers
   * every write that completed before it was submitted.
   */
  submit(slot: number): void;
  /** Requests submitted and not yet completed. */
  readonly inflightCount: number;
}

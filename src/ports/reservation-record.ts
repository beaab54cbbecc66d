// Persistent reservations as they are kept with a volume's metadata (SPC-4 5.12): plain JSON, so
// that it crosses threads and lies in files. What it means is scsi/reservations.ts.

/** One registration: bytes as hexadecimal text. */
export interface RegistrationRecord {
  readonly transportId: string;
  readonly relativePort: number;
  /** 16 hexadecimal digits. */
  readonly key: string;
}

/** What is kept with the volume. */
export interface ReservationRecord {
  readonly generation: number;
  /** Persist through power loss: without it the record does not outlive the volume's power. */
  readonly aptpl: boolean;
  /** A PR type, or 0 without a reservation. */
  readonly type: number;
  /** Index of the holder in registrations, -1 without one and for all registrants types. */
  readonly holder: number;
  readonly registrations: readonly RegistrationRecord[];
}

// What the classic path keeps on disk beside the declared state, in files that only the daemon's
// user can read: secrets of CHAP, one file each (ID.chap: what initiators prove themselves with;
// ID.chap-target: what the target does), and persistent reservations.
//
// Invariants:
//  - a secret is written before the attachment that needs it is declared, and removed after that is
//    declared gone; it is in no other file, message or log;
//  - reservations are safe before the initiator hears that they hold;
//  - reservations without APTPL end with the volume's power (SPC-4 5.12.5): when it is detached, or
//    the machine has booted since. A daemon that restarts is no loss of power.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { DeclaredClassic, DeclaredReservations } from "../model/declared.ts";
import { ApiError } from "../model/errors.ts";
import type { ReservationRecord } from "../ports/reservation-record.ts";
import type { StateFs } from "./state-fs.ts";
import { isDamaged, RESERVATION_STATE, StateStore } from "./state-store.ts";

export interface KeptReservations {
  readonly record: ReservationRecord | null;
  readonly powerWasLost: boolean;
}

/** Of one volume. */
export interface ChapSecrets {
  readonly secret: string;
  /** Null: the target proves nothing. */
  readonly targetSecret: string | null;
}

const OF_INITIATORS = "chap";
const OF_TARGET = "chap-target";
type SecretKind = typeof OF_INITIATORS | typeof OF_TARGET;

const NOTHING: KeptReservations = { record: null, powerWasLost: false };

export class ClassicKeeper {
  readonly #directory: string;
  readonly #fs: StateFs;
  readonly #store: StateStore<DeclaredReservations>;
  readonly #bootId: string;
  /** By the volume's id; read at the first use. */
  #kept: Map<string, DeclaredReservations> | null = null;
  /** What is wrong with a file, by the volume's id. */
  readonly #damaged = new Map<string, string>();

  constructor(directory: string, fs: StateFs, bootId: string = readBootId()) {
    this.#directory = directory;
    this.#fs = fs;
    this.#store = new StateStore(directory, fs, RESERVATION_STATE);
    this.#bootId = bootId;
  }

  // Secrets ---------------------------------------------------------------------------------------

  #secretPath(volumeId: string, kind: SecretKind): string {
    return join(this.#directory, `${volumeId}.${kind}`);
  }

  async saveSecrets(volumeId: string, { secret, targetSecret }: ChapSecrets): Promise<void> {
    await this.#write(volumeId, OF_INITIATORS, secret);
    if (targetSecret === null) await this.#fs.remove(this.#secretPath(volumeId, OF_TARGET));
    else await this.#write(volumeId, OF_TARGET, targetSecret);
    await this.#fs.syncDirectory(this.#directory);
  }

  async #write(volumeId: string, kind: SecretKind, secret: string): Promise<void> {
    const temporary = join(this.#directory, `.${volumeId}.${kind}.new`);
    await this.#fs.writeDurably(temporary, secret);
    await this.#fs.rename(temporary, this.#secretPath(volumeId, kind));
  }

  /** Those that the declaration needs; null: none. Throws ApiError when one of them is gone. */
  secretsOf(
    volumeId: string,
    name: string,
    { chapUser, chapTargetUser }: DeclaredClassic,
  ): ChapSecrets | null {
    if (chapUser === null) return null;
    const secret = this.#read(volumeId, name, OF_INITIATORS);
    if (chapTargetUser === undefined) return { secret, targetSecret: null };
    return { secret, targetSecret: this.#read(volumeId, name, OF_TARGET) };
  }

  #read(volumeId: string, name: string, kind: SecretKind): string {
    const path = this.#secretPath(volumeId, kind);
    try {
      return this.#fs.read(path);
    } catch (error) {
      const { code = "" } = error as NodeJS.ErrnoException;
      const whose = kind === OF_TARGET ? `the target of volume ${name}` : `volume ${name}`;
      const message = `the CHAP secret of ${whose} cannot be read from ${path}: ${code}`;
      throw new ApiError("volume_unavailable", message, {
        advice: `attach it again with its secrets, after: ringstore volume detach ${name}`,
      });
    }
  }

  async forgetSecrets(volumeId: string): Promise<void> {
    await this.#fs.remove(this.#secretPath(volumeId, OF_INITIATORS));
    await this.#fs.remove(this.#secretPath(volumeId, OF_TARGET));
    await this.#fs.syncDirectory(this.#directory);
  }

  // Reservations ----------------------------------------------------------------------------------

  /** Throws ApiError where the file is damaged: nobody may be let in who was shut out. */
  async reservationsOf(volumeId: string, name: string): Promise<KeptReservations> {
    const kept = (await this.#load()).get(volumeId);
    const problem = this.#damaged.get(volumeId);
    if (problem !== undefined) {
      const path = this.#store.pathOf(volumeId);
      throw new ApiError("volume_unavailable", `${path} ${problem}`, {
        advice:
          `it holds the persistent reservations of volume ${name}: repair it, or remove it to do ` +
          "without, then restart ringstored",
      });
    }
    if (kept === undefined) return NOTHING;
    return { record: kept.record, powerWasLost: kept.bootId !== this.#bootId };
  }

  async #load(): Promise<Map<string, DeclaredReservations>> {
    if (this.#kept !== null) return this.#kept;
    const kept = new Map<string, DeclaredReservations>();
    this.#kept = kept;
    const { declared, suspects, damaged } = this.#store.load();
    for (const one of declared) kept.set(one.name, one);
    for (const { name, problem } of damaged) this.#damaged.set(name, problem);
    for (const suspect of suspects) {
      const found = await this.#store.examine(suspect);
      if (isDamaged(found)) this.#damaged.set(found.name, found.problem);
      else kept.set(found.name, found);
    }
    return kept;
  }

  async save(volumeId: string, record: ReservationRecord): Promise<void> {
    const declared = { name: volumeId, bootId: this.#bootId, record };
    await this.#store.save(declared);
    (await this.#load()).set(volumeId, declared);
  }

  /** The volume is detached: what does not outlive its power is forgotten. */
  async powerOff(volumeId: string): Promise<void> {
    const kept = (await this.#load()).get(volumeId);
    if (kept === undefined || kept.record.aptpl) return;
    await this.#forgetReservations(volumeId);
  }

  /** The volume is deleted: nothing of it stays, also of what a crash has left half written. */
  async forget(volumeId: string): Promise<void> {
    const files = this.#fs.list(this.#directory).filter((file) => file.includes(volumeId));
    for (const file of files) await this.#fs.remove(join(this.#directory, file));
    if (files.length > 0) await this.#fs.syncDirectory(this.#directory);
    this.#kept?.delete(volumeId);
    this.#damaged.delete(volumeId);
  }

  async #forgetReservations(volumeId: string): Promise<void> {
    await this.#store.remove(volumeId);
    this.#kept?.delete(volumeId);
  }
}

/** Another after each boot; the same text where the kernel does not say. */
function readBootId(): string {
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  } catch {
    return "";
  }
}

// Notes on replicas: what the volume's record said when it was last seen, kept beside the replica
// so that records can be made again from disks alone (ports/replica-note.ts).
//
//   volume entry   flags: is there one, is the copy out, block size, how many replicas; its version
//   note entry     in a free place of the same table: whose, and the volume's name
//
// A note raises the metadata version of the entry, as a fence does: an owner whose metadata is
// older is refused from then on, and so is an older note.
//
// Invariants: a disk names the feature in its superblock before it has a note; a name goes before
// its volume's entry does, so that none is left to whoever gets that place next; where there is no
// place for a name, the rest of the note is kept without it.

import type { ReplicaNote, StoredNote } from "../ports/index.ts";
import { StoreError } from "./errors.ts";
import {
  FEATURE_NOTES,
  NOTE_COUNT_SHIFT,
  NOTE_ENTRY,
  NOTE_OUT,
  NOTE_SECTORS,
  NOTE_THERE,
  VOLUME_NONE,
  VOLUME_NOTE,
  VOLUME_REPLICA,
} from "./layouts.ts";
import type { VolumeEntry, VolumeTable } from "./tables.ts";

type Done = (error: StoreError | null) => void;

export interface NotesHost {
  entryOf(volume: number): VolumeEntry;
  update(volume: number, change: Partial<VolumeEntry>, done: Done): void;
  /** Puts these words into that place of the table, after everything that was asked for before. */
  writeWords(slot: number, words: Uint32Array, done: Done): void;
  /** Runs it when the superblock on the disk names the feature. */
  whenAnnounced(feature: number, action: () => void): void;
}

interface NamePlace {
  readonly slot: number;
  readonly name: string;
}

/** Half of the name, before and after the words that a record of an entry leaves out. */
const HEAD_BYTES = 32;
const NAME_BYTES_MAX: number = 2 * HEAD_BYTES;
const COUNT_MAX = 15;

export class ReplicaNotes {
  private readonly volumes: VolumeTable;
  private readonly host: NotesHost;
  /** By volume, as asked for, durable or not. Read from the table at first use. */
  private places: Map<number, NamePlace> | null = null;

  constructor(volumes: VolumeTable, host: NotesHost) {
    this.volumes = volumes;
    this.host = host;
  }

  private get names(): Map<number, NamePlace> {
    if (this.places !== null) return this.places;
    this.places = new Map();
    for (const [slot, words] of this.volumes.notes()) {
      const { volume, name } = decodeName(words);
      this.places.set(volume, { slot, name });
    }
    return this.places;
  }

  noteOf(volume: number, entry: VolumeEntry): StoredNote | null {
    const { flags, noteVersion } = entry;
    if ((flags & NOTE_THERE) === 0) return null;
    return {
      name: this.names.get(volume)?.name ?? null,
      blockBytes: (flags & NOTE_SECTORS) === 0 ? 4096 : 512,
      replicaCount: (flags >>> NOTE_COUNT_SHIFT) & COUNT_MAX,
      isOut: (flags & NOTE_OUT) !== 0,
      membershipVersion: noteVersion,
    };
  }

  /** ROLLED_BACK when the disk has seen newer metadata; `done` when it is durable. */
  write(volume: number, note: ReplicaNote, done: Done): void {
    const older = olderThan(this.host.entryOf(volume), note);
    if (older !== null) {
      done(older);
      return;
    }
    this.host.whenAnnounced(FEATURE_NOTES, () => {
      this.writeName(volume, note.name);
      const entry = this.host.entryOf(volume);
      const { membershipVersion, clusterGeneration } = note;
      const change = {
        membershipVersion,
        clusterGeneration,
        noteVersion: membershipVersion,
        flags: flagsOf(note),
      };
      // A newer owner or note may have come meanwhile.
      const isLate = olderThan(entry, note);
      if (isLate !== null) done(isLate);
      else if (isSame(entry, change)) done(null);
      else this.host.update(volume, change, done);
    });
  }

  private writeName(volume: number, name: string): void {
    const known = this.names.get(volume);
    const bytes = new TextEncoder().encode(name);
    if (known?.name === name || bytes.length > NAME_BYTES_MAX) return;
    const slot = known?.slot ?? this.volumes.promiseFree();
    if (slot === -1) return;
    this.names.set(volume, { slot, name });
    this.host.writeWords(slot, encodeName(volume, bytes), () => undefined);
  }

  /** Before the volume's own entry goes. */
  forget(volume: number): void {
    const known = this.names.get(volume);
    if (known === undefined) return;
    this.names.delete(volume);
    const nothing = new Uint32Array(NOTE_ENTRY.BYTES / 4).fill(VOLUME_NONE);
    this.host.writeWords(known.slot, nothing, () => undefined);
  }
}

function flagsOf({ isOut, blockBytes, replicaCount }: ReplicaNote): number {
  const count = Math.min(replicaCount, COUNT_MAX) << NOTE_COUNT_SHIFT;
  const out = isOut ? NOTE_OUT : 0;
  const sectors = blockBytes === 512 ? NOTE_SECTORS : 0;
  return VOLUME_REPLICA | NOTE_THERE | out | sectors | count;
}

function isSame(entry: VolumeEntry, change: Partial<VolumeEntry>): boolean {
  const fields = ["membershipVersion", "clusterGeneration", "noteVersion", "flags"] as const;
  return fields.every((field) => entry[field] === change[field]);
}

function olderThan(entry: VolumeEntry, note: ReplicaNote): StoreError | null {
  const { epoch, clusterGeneration, membershipVersion } = note;
  const isOlder =
    clusterGeneration < entry.clusterGeneration ||
    (clusterGeneration === entry.clusterGeneration &&
      (membershipVersion < entry.membershipVersion || epoch < entry.epoch));
  if (!isOlder) return null;
  const told = `generation ${clusterGeneration}, members ${membershipVersion}, epoch ${epoch}`;
  const { clusterGeneration: generation, membershipVersion: members } = entry;
  const seen = `generation ${generation}, members ${members}, epoch ${entry.epoch}`;
  return new StoreError("ROLLED_BACK", `the metadata says ${told}; the disk has seen ${seen}`);
}

function encodeName(volume: number, name: Uint8Array): Uint32Array {
  const words = new Uint32Array(NOTE_ENTRY.BYTES / 4);
  words[NOTE_ENTRY.state >>> 2] = VOLUME_NOTE;
  words[NOTE_ENTRY.volume >>> 2] = volume + 1;
  const bytes = new Uint8Array(words.buffer);
  bytes.set(name.subarray(0, HEAD_BYTES), NOTE_ENTRY.nameHead);
  bytes.set(name.subarray(HEAD_BYTES), NOTE_ENTRY.nameTail);
  return words;
}

function decodeName(words: Uint32Array): { readonly volume: number; readonly name: string } {
  const bytes = new Uint8Array(words.buffer, words.byteOffset, NOTE_ENTRY.BYTES);
  const name = new Uint8Array(NAME_BYTES_MAX);
  name.set(bytes.subarray(NOTE_ENTRY.nameHead, NOTE_ENTRY.nameHead + HEAD_BYTES));
  name.set(bytes.subarray(NOTE_ENTRY.nameTail, NOTE_ENTRY.nameTail + HEAD_BYTES), HEAD_BYTES);
  const end = name.indexOf(0);
  const text = new TextDecoder().decode(end === -1 ? name : name.subarray(0, end));
  return { volume: (words[NOTE_ENTRY.volume >>> 2] as number) - 1, name: text };
}

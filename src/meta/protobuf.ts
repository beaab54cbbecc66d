// Protocol Buffers (proto3) for the few messages of etcd's API that we speak: a message is a table
// of fields, checked by the compiler against its interface. Reads what any encoder writes: fields
// in any order, unknown ones skipped, absent ones as their default.
//
// "int" fields are JS numbers: revisions and counts stay far below 2^53, and a value beyond is an
// error, never a rounded number. "id" fields (cluster, member, lease) use all 64 bits: bigint.

import { MetaError } from "./errors.ts";

export interface FieldCodec<T> {
  readonly number: number;
  readonly absent: T;
  /** With its tag; writes nothing for what needs no telling. */
  write(writer: Writer, value: T): void;
  read(reader: Reader, before: T): T;
}

type FieldTable<T> = { readonly [K in keyof T]-?: FieldCodec<T[K]> };

export interface MessageType<T> {
  readonly name: string;
  /** With defaults where nothing is given. */
  make(value: Partial<T>): T;
  encode(value: Partial<T>): Buffer;
  decode(bytes: Uint8Array): T;
}

const VARINT = 0;
const FIXED64 = 1;
const LENGTH_DELIMITED = 2;
const FIXED32 = 5;

class Writer {
  readonly #parts: Uint8Array[] = [];
  #lengthBytes = 0;
  readonly #scratch: number[] = [];

  tag(number: number, wireType: number): void {
    this.varint(number * 8 + wireType);
  }

  varint(value: number): void {
    let rest = value;
    while (rest > 127) {
      this.#scratch.push((rest % 128) + 128);
      rest = Math.floor(rest / 128);
    }
    this.#scratch.push(rest);
  }

  varint64(value: bigint): void {
    let rest = BigInt.asUintN(64, value);
    while (rest > 127n) {
      this.#scratch.push(Number(rest & 127n) + 128);
      rest >>= 7n;
    }
    this.#scratch.push(Number(rest));
  }

  delimited(number: number, bytes: Uint8Array): void {
    this.tag(number, LENGTH_DELIMITED);
    this.varint(bytes.length);
    this.#flush();
    this.#parts.push(bytes);
    this.#lengthBytes += bytes.length;
  }

  end(): Buffer {
    this.#flush();
    return Buffer.concat(this.#parts, this.#lengthBytes);
  }

  #flush(): void {
    if (this.#scratch.length === 0) return;
    this.#parts.push(Uint8Array.from(this.#scratch));
    this.#lengthBytes += this.#scratch.length;
    this.#scratch.length = 0;
  }
}

class Reader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  get isAtEnd(): boolean {
    return this.#at >= this.#bytes.length;
  }

  varint(): number {
    const from = this.#at;
    let value = 0;
    let scale = 1;
    for (let count = 0; count < 7; count++) {
      const byte = this.#byte();
      value += (byte & 127) * scale;
      if (byte < 128) return value;
      scale *= 128;
    }
    this.#at = from;
    const whole = BigInt.asIntN(64, this.varint64());
    const number = Number(whole);
    if (!Number.isSafeInteger(number)) throw malformed(`the integer ${whole} is beyond 2^53`);
    return number;
  }

  varint64(): bigint {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = this.#byte();
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return BigInt.asUintN(64, value);
    }
    throw malformed("an integer has more than 10 bytes");
  }

  delimited(): Buffer {
    const length = this.varint();
    const end = this.#at + length;
    if (length < 0 || end > this.#bytes.length)
      throw malformed("a field is longer than its message");
    const bytes = this.#bytes.subarray(this.#at, end);
    this.#at = end;
    return bytes;
  }

  skip(wireType: number): void {
    if (wireType === VARINT) this.varint64();
    else if (wireType === LENGTH_DELIMITED) this.delimited();
    else if (wireType === FIXED64) this.#at += 8;
    else if (wireType === FIXED32) this.#at += 4;
    else throw malformed(`wire type ${wireType} does not exist`);
    if (this.#at > this.#bytes.length) throw malformed("a field is longer than its message");
  }

  #byte(): number {
    if (this.#at >= this.#bytes.length) throw malformed("it ends inside an integer");
    return this.#bytes[this.#at++]!;
  }
}

function malformed(what: string): MetaError {
  return new MetaError("protocol", `A message is not understood: ${what}.`);
}

const EMPTY = Buffer.alloc(0);

export function bytes(number: number): FieldCodec<Uint8Array> {
  return {
    number,
    absent: EMPTY,
    write: (writer, value) => {
      if (value.length > 0) writer.delimited(number, value);
    },
    read: (reader) => reader.delimited(),
  };
}

export function text(number: number): FieldCodec<string> {
  return {
    number,
    absent: "",
    write: (writer, value) => {
      if (value !== "") writer.delimited(number, Buffer.from(value));
    },
    read: (reader) => reader.delimited().toString("utf8"),
  };
}

export function int(number: number): FieldCodec<number> {
  return {
    number,
    absent: 0,
    write: (writer, value) => {
      if (value === 0) return;
      writer.tag(number, VARINT);
      if (value < 0) writer.varint64(BigInt(value));
      else writer.varint(value);
    },
    read: (reader) => reader.varint(),
  };
}

export function id(number: number): FieldCodec<bigint> {
  return {
    number,
    absent: 0n,
    write: (writer, value) => {
      if (value === 0n) return;
      writer.tag(number, VARINT);
      writer.varint64(value);
    },
    read: (reader) => reader.varint64(),
  };
}

export function flag(number: number): FieldCodec<boolean> {
  return {
    number,
    absent: false,
    write: (writer, value) => {
      if (!value) return;
      writer.tag(number, VARINT);
      writer.varint(1);
    },
    read: (reader) => reader.varint64() !== 0n,
  };
}

/** A message within a message; null = not there, which an empty one is not. */
export function nested<T>(number: number, type: () => MessageType<T>): FieldCodec<T | null> {
  return {
    number,
    absent: null,
    write: (writer, value) => {
      if (value !== null) writer.delimited(number, type().encode(value));
    },
    read: (reader) => type().decode(reader.delimited()),
  };
}

export function many<T>(number: number, type: () => MessageType<T>): FieldCodec<readonly T[]> {
  return {
    number,
    absent: [],
    write: (writer, values) => {
      for (const value of values) writer.delimited(number, type().encode(value));
    },
    read: (reader, before) => {
      // The list that `absent` shares must stay empty; a list of our own grows in place.
      const list = before.length === 0 ? [] : (before as T[]);
      list.push(type().decode(reader.delimited()));
      return list;
    },
  };
}

export function message<T extends object>(name: string, table: FieldTable<T>): MessageType<T> {
  const fields = Object.entries(table) as [string & keyof T, FieldCodec<unknown>][];
  const byNumber = new Map(fields.map(([key, codec]) => [codec.number, { key, codec }]));
  const make = (): T => Object.fromEntries(fields.map(([key, codec]) => [key, codec.absent])) as T;
  return {
    name,
    make: (value) => ({ ...make(), ...value }),
    encode: (value) => {
      const writer = new Writer();
      for (const [key, codec] of fields) {
        const given = value[key];
        if (given !== undefined) codec.write(writer, given);
      }
      return writer.end();
    },
    decode: (encoded) => {
      const value = make();
      const reader = new Reader(encoded);
      while (!reader.isAtEnd) {
        const tag = reader.varint();
        const field = byNumber.get(Math.floor(tag / 8));
        if (field === undefined) reader.skip(tag % 8);
        else value[field.key] = field.codec.read(reader, value[field.key]) as never;
      }
      return value;
    },
  };
}

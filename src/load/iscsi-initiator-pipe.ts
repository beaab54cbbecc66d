// PDUs over one Stream as an initiator sees them, for tests: plain objects, with digests where they
// were negotiated, and raw bytes for whatever no initiator would send.

import { assert, crc32cTable, getU24, putU24, TWO_32 } from "../base/index.ts";
import { getDigest, headerBytes, padBytes, putDigest } from "../iscsi/layout-bytes.ts";
import { BHS, BHS_BYTES, DIGEST_BYTES } from "../iscsi/layouts.ts";
import type { Arena, Memory, Stream, StreamHandler } from "../ports/index.ts";

export interface Pdu {
  /** The basic header segment. */
  readonly header: Uint8Array;
  readonly data: Uint8Array;
}

export interface PduPipeOwner {
  pipeOpened(result: number): void;
  pduArrived(pdu: Pdu): void;
  /** The stream is closed; `reason` = 0 or a negated errno. */
  pipeEnded(reason: number): void;
}

const OUT_BYTES = 262144;
const IN_BYTES = 262144;

export class PduPipe implements StreamHandler {
  hasHeaderDigest = false;
  hasDataDigest = false;
  /** Digests that did not match what came. */
  badDigestCount = 0;
  isEnded = false;
  /** While set nothing is received: a peer that does not read. */
  isDeaf = false;
  private readonly memory: Memory;
  private readonly owner: PduPipeOwner;
  private stream: Stream | null = null;
  private readonly in: Arena;
  private readonly out: Arena;
  private readonly iovec: Arena;
  private queue: Uint8Array[] = [];
  private received: Uint8Array = new Uint8Array(0);
  private isSending = false;
  private sendingAt = 0;
  private sendingBytes = 0;
  private isReceiving = false;
  private isClosing = false;
  private reason = 0;

  constructor(memory: Memory, owner: PduPipeOwner) {
    this.memory = memory;
    this.owner = owner;
    this.in = memory.allocate(IN_BYTES);
    this.out = memory.allocate(OUT_BYTES);
    this.iovec = memory.allocate(4096);
  }

  /** Of a dialled stream, before anything happens on it. */
  setStream(stream: Stream): void {
    this.stream = stream;
  }

  streamOpened(result: number): void {
    this.owner.pipeOpened(result);
    if (result === 0) this.receiveMore();
  }

  /** A PDU of a header and its data; the length in the header is set here. */
  send(header: Uint8Array, data: Uint8Array = new Uint8Array(0)): void {
    this.sendRaw(this.encode(header, data));
  }

  encode(header: Uint8Array, data: Uint8Array): Uint8Array {
    assert(header.length >= BHS_BYTES, "a header without its basic segment");
    putU24(header, BHS.dataSegmentLength, data.length);
    const headBytes = header.length + (this.hasHeaderDigest ? DIGEST_BYTES : 0);
    const pad = padBytes(data.length);
    const tail = data.length > 0 && this.hasDataDigest ? DIGEST_BYTES : 0;
    const bytes = new Uint8Array(headBytes + data.length + pad + tail);
    bytes.set(header);
    if (this.hasHeaderDigest) putDigest(bytes, header.length, crc32cTable(header, 0));
    bytes.set(data, headBytes);
    const end = headBytes + data.length + pad;
    if (tail > 0) putDigest(bytes, end, crc32cTable(bytes, 0, headBytes, end));
    return bytes;
  }

  sendRaw(bytes: Uint8Array): void {
    this.queue.push(bytes);
    this.pump();
  }

  /** Bytes that have not been taken by the stream. */
  get hasQueued(): boolean {
    return this.queue.length > 0 || this.isSending;
  }

  private pump(): void {
    if (this.isSending || this.isClosing || this.stream === null) return;
    let bytes = 0;
    while (this.queue.length > 0 && bytes < OUT_BYTES) {
      const first = this.queue[0] as Uint8Array;
      const piece = first.subarray(0, OUT_BYTES - bytes);
      this.out.u8.set(piece, bytes);
      bytes += piece.length;
      if (piece.length === first.length) this.queue.shift();
      else this.queue[0] = first.subarray(piece.length);
    }
    if (bytes === 0) return;
    this.sendFrom(0, bytes);
  }

  private sendFrom(at: number, bytes: number): void {
    const words = this.iovec.u32;
    const address = this.out.address + at;
    words[0] = address >>> 0;
    words[1] = Math.floor(address / TWO_32);
    words[2] = bytes;
    words[3] = 0;
    this.isSending = true;
    this.sendingAt = at;
    this.sendingBytes = bytes;
    (this.stream as Stream).send(this.iovec.address, 1);
  }

  streamSent(result: number): void {
    this.isSending = false;
    if (result <= 0) {
      this.close(result);
      return;
    }
    if (this.isClosing) return;
    if (result < this.sendingBytes) {
      this.sendFrom(this.sendingAt + result, this.sendingBytes - result);
      return;
    }
    this.pump();
  }

  /** Receives again after isDeaf. */
  listen(): void {
    this.isDeaf = false;
    this.receiveMore();
  }

  private receiveMore(): void {
    if (this.isReceiving || this.isClosing || this.isDeaf || this.stream === null) return;
    this.isReceiving = true;
    this.stream.receive(this.in.address, IN_BYTES);
  }

  streamReceived(result: number): void {
    this.isReceiving = false;
    if (result <= 0) {
      this.close(result);
      return;
    }
    const all = new Uint8Array(this.received.length + result);
    all.set(this.received);
    all.set(this.in.u8.subarray(0, result), this.received.length);
    this.received = all;
    this.parse();
    this.receiveMore();
  }

  private parse(): void {
    while (!this.isClosing && this.received.length >= BHS_BYTES) {
      const bytes = this.received;
      const head = headerBytes(bytes, 0, this.hasHeaderDigest);
      const length = getU24(bytes, BHS.dataSegmentLength);
      const pad = padBytes(length);
      const tail = length > 0 && this.hasDataDigest ? DIGEST_BYTES : 0;
      const whole = head + length + pad + tail;
      if (bytes.length < whole) return;
      this.checkDigests(bytes, head, head + length + pad, tail);
      this.received = bytes.slice(whole);
      this.owner.pduArrived({
        header: bytes.slice(0, BHS_BYTES),
        data: bytes.slice(head, head + length),
      });
    }
  }

  private checkDigests(bytes: Uint8Array, head: number, end: number, tail: number): void {
    if (this.hasHeaderDigest) {
      const at = head - DIGEST_BYTES;
      if (crc32cTable(bytes, 0, 0, at) !== getDigest(bytes, at)) this.badDigestCount += 1;
    }
    if (tail === 0) return;
    if (crc32cTable(bytes, 0, head, end) !== getDigest(bytes, end)) this.badDigestCount += 1;
  }

  close(reason: number = 0): void {
    if (this.isClosing) return;
    this.isClosing = true;
    this.reason = reason;
    this.stream?.close();
  }

  streamClosed(): void {
    this.isEnded = true;
    for (const arena of [this.in, this.out, this.iovec]) this.memory.free(arena);
    this.owner.pipeEnded(this.reason);
  }
}

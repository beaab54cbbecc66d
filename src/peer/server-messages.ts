// The cold messages about one session's slabs: decoded, given to the local replica, answered.

import type { Memory } from "../ports/index.ts";
import {
  decodeImage,
  decodeList,
  encodeImage,
  encodePage,
  IMAGE,
  MESSAGE_LIST_SLABS,
  MESSAGE_READ_SLAB,
  MESSAGE_WRITE_SLAB,
  PAGE_STAMPS_MAX,
  PAYLOAD_BYTES_MAX,
  SLAB_BYTES_ON_WIRE,
} from "../wire/index.ts";
import type { ServerLink } from "./server-link.ts";
import type { ServerSession } from "./server-session.ts";

const NOTHING = new Uint8Array(0);

/** Where a cold message is, and the operation that answers it. */
export interface ColdMessage {
  readonly link: ServerLink;
  readonly op: number;
  readonly type: number;
  readonly payloadAt: number;
  readonly payloadBytes: number;
}

/** Writes a long payload into the operation's buffer; returns its window. */
export function bufferWindow(link: ServerLink, op: number): Uint8Array {
  const from = link.bufferAt(op) - link.buffers.address;
  return link.buffers.u8.subarray(from, from + PAYLOAD_BYTES_MAX);
}

/** False when the message makes no sense: the connection ends. */
export function slabMessage(message: ColdMessage, session: ServerSession, memory: Memory): boolean {
  if (session.replica === null) {
    message.link.answerFailure(message.op, { code: "lost", message: "the session is not fenced" });
    return true;
  }
  if (message.type === MESSAGE_LIST_SLABS) return listSlabs(message, session);
  if (message.type === MESSAGE_READ_SLAB) return readSlab(message, session);
  if (message.type === MESSAGE_WRITE_SLAB) return writeSlab(message, session, memory);
  return false;
}

function listSlabs(message: ColdMessage, session: ServerSession): boolean {
  const { link, op, payloadAt, payloadBytes } = message;
  const request = decodeList(link.stream.in.u8, payloadAt, payloadBytes);
  if (request === null) return false;
  session.began(0);
  session.replica?.listSlabs(request.since, request.cursor, (page) => {
    if ("code" in page) {
      link.answerFailure(op, page);
    } else if (page.slabs.length > PAGE_STAMPS_MAX) {
      const text = `a page of ${page.slabs.length} slabs, at most ${PAGE_STAMPS_MAX} can be sent`;
      link.answerFailure(op, { code: "limit", message: text });
    } else {
      link.answerCold(op, NOTHING, encodePage(bufferWindow(link, op), 0, page));
    }
    session.ended();
  });
  return true;
}

function readSlab(message: ColdMessage, session: ServerSession): boolean {
  const { link, op, payloadAt, payloadBytes } = message;
  const place = decodeImage(link.stream.in.u8, payloadAt, payloadBytes, 0);
  if (place === null) return false;
  session.began(0);
  session.replica?.readSlab(place, link.bufferAt(op), (image) => {
    if ("code" in image) {
      link.answerFailure(op, image);
    } else {
      const head = new Uint8Array(IMAGE.BYTES);
      encodeImage(head, 0, place, image);
      link.answerCold(op, head, SLAB_BYTES_ON_WIRE);
    }
    session.ended();
  });
  return true;
}

function writeSlab(message: ColdMessage, session: ServerSession, memory: Memory): boolean {
  const { link, op, payloadAt, payloadBytes } = message;
  const image = decodeImage(link.stream.in.u8, payloadAt, payloadBytes, SLAB_BYTES_ON_WIRE);
  if (image === null) return false;
  const data = link.bufferAt(op);
  memory.copy(data, link.stream.in.address + payloadAt + IMAGE.BYTES, SLAB_BYTES_ON_WIRE);
  session.began(0);
  session.replica?.writeSlab(image, image, data, (failure) => {
    if (failure !== null) link.answerFailure(op, failure);
    else link.answerCold(op, NOTHING, 0);
    session.ended();
  });
  return true;
}

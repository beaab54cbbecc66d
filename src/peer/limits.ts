// Everything a peer can make us hold or wait for, in one place; docs/wire.md explains each.

import { PAYLOAD_BYTES_MAX } from "../wire/index.ts";

/** Connections that have not proved themselves: the oldest is hung up on when more come. */
export const HANDSHAKES_MAX = 32;
/** From accept or dial to the end of the handshake. */
export const HANDSHAKE_MS = 2000;

/** Unanswered messages a peer may have with us; one with a payload above SMALL_BYTES is large. */
export const SMALL_CREDITS = 128;
/**
 * Owners send slabs of 64 KiB: with 16, eight requests of 256 KiB waited for credits half the time
 * and reached two thirds of what they reach with 32.
 */
export const LARGE_CREDITS = 32;
export const SMALL_BYTES = 16384;

/** Messages waiting to be sent on one connection. */
export const OUTBOX_SLOTS = 512;
/** Received bytes of one connection: the longest message fits in either half. */
export const INBOX_BYTES: number = 2 * (PAYLOAD_BYTES_MAX + 4096);

/** Requests of all replicas behind one link that are queued or under way. */
export const REQUESTS_MAX = 4096;

export const HEARTBEAT_MS = 200;
/** Nothing heard for so long: the peer is dead, the connection is closed. */
export const DEAD_MS = 1500;
/** A grant, as the giver counts it. */
export const GRANT_MS = 2000;
/** What the taker counts of it: clocks may drift apart by the rest. */
export const GRANT_PART = 0.9;

/** Between attempts to connect; doubled after each failure. */
export const BACK_OFF_MIN_MS = 20;
export const BACK_OFF_MAX_MS = 2000;
/** Whoever wants the connection now, or has heard of the peer, shortens that to this. */
export const DIAL_SOON_MS = 100;

/** A session whose connection is gone waits for its owner so long. */
export const SESSION_KEEP_MS = 30_000;
/** Sessions of all peers that one server holds. */
export const SERVER_SESSIONS_MAX = 65536;
/** Completed writes a session remembers, to answer what is sent again. */
export const REMEMBERED_WRITES: number = 2 * (SMALL_CREDITS + LARGE_CREDITS);

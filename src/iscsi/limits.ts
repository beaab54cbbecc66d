// Everything that a peer can make us hold or wait for, in one place. What comes before a login
// has succeeded is small: anybody who reaches the port can make us hold it.

import { KIB, MIB } from "../base/index.ts";

// Before the login -------------------------------------------------------------------------------

/** From accept to the end of the login phase. */
export const LOGIN_MS = 10_000;
/** Login requests of one connection, continuations included. */
export const LOGIN_REQUESTS_MAX = 24;
/** Text of one negotiation step, over all its PDUs, and its keys. */
export const TEXT_BYTES_MAX: number = 16 * KIB;
export const TEXT_PAIRS_MAX = 64;
export const TEXT_VALUE_BYTES_MAX: number = 4 * KIB;
/** Data segment that either side takes before it has declared anything (RFC 7143 13.12). */
export const DEFAULT_SEGMENT_BYTES: number = 8 * KIB;
/** Inbox of a connection that has not logged in: one login PDU with all its headers fits. */
export const LOGIN_INBOX_BYTES: number = 12 * KIB;
/** Half-open logins of all addresses: the oldest is hung up on when more come. */
export const LOGINS_MAX = 64;
export const LOGINS_PER_ADDRESS_MAX = 16;

// Connections ------------------------------------------------------------------------------------

/** Logged in or not, of one portal; more are hung up on at once. */
export const CONNECTIONS_MAX = 256;
export const CONNECTIONS_PER_ADDRESS_MAX = 64;

// A session --------------------------------------------------------------------------------------

/** Commands that MaxCmdSN lets an initiator have open; a power of two. */
export const COMMANDS_MAX = 128;
/** Commands for immediate delivery, which no window holds back. */
export const IMMEDIATE_MAX = 16;
/** PDUs that wait to be sent. */
export const OUTBOX_SLOTS = 512;
/** Longest data segment that we take, and longest that we send. */
export const SEGMENT_BYTES_MAX: number = 256 * KIB;
export const INBOX_BYTES: number = 128 * KIB;
/** Data of commands lies in pieces of these sizes. */
export const SMALL_PIECE_BYTES: number = 8 * KIB;
export const LARGE_PIECE_BYTES: number = 64 * KIB;
/** The most that one command can transfer; the SCSI layer announces it in VPD page B0. */
export const TRANSFER_BYTES_MAX: number = 4 * MIB;
/** Tasks of a session, those included whose answer is on its way. */
export const TASKS_MAX = 256;
/**
 * Pieces of a session. Every open command can have its first piece at once, so that its data never
 * waits in the stream in front of another's; what it needs beyond that comes from the rest, to the
 * oldest first, which is enough for the longest command.
 */
export const SMALL_PIECES: number = COMMANDS_MAX + IMMEDIATE_MAX;
export const FIRST_PIECES: number = COMMANDS_MAX + IMMEDIATE_MAX;
export const REST_PIECES: number = (2 * TRANSFER_BYTES_MAX) / LARGE_PIECE_BYTES;
export const PIECES_PER_TASK: number = TRANSFER_BYTES_MAX / LARGE_PIECE_BYTES;
/** No send is taken by the peer for so long: it is gone. */
export const SEND_MS = 30_000;
/** Data that was asked for does not come for so long. */
export const DATA_OUT_MS = 30_000;
/** Nothing is heard for so long: a NOP-In asks, and after NOP_ANSWER_MS the connection ends. */
export const NOP_AFTER_MS = 15_000;
export const NOP_ANSWER_MS = 10_000;
/** How often the clocks above are looked at. */
export const TICK_MS = 500;

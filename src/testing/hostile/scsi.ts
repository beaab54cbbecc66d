// virtio-scsi requests of a hostile guest: queue 0 of a Victim is then the control ring, queue 1
// the event ring, queue 2 and on take requests.

import assert from "node:assert/strict";
import {
  COMMAND_REQUEST,
  COMMAND_RESPONSE,
  FIRST_REQUEST_RING,
  TMF_REQUEST,
} from "../../vhost-user/layouts-scsi.ts";
import type { Buf } from "./rings.ts";
import type { Queue, Victim } from "./victim.ts";

const UNANSWERED = 0xee;
export const UNIT_ZERO: readonly number[] = [1, 0, 0, 0, 0, 0, 0, 0];
const READ_10: readonly number[] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];

export interface ScsiRequest {
  readonly chain: readonly Buf[];
  readonly responseGpa: number;
}

export interface ScsiRequestOptions {
  readonly lun?: readonly number[];
  readonly cdb?: readonly number[];
  readonly attribute?: number;
  readonly requestBytes?: number;
  readonly responseBytes?: number;
  readonly outBytes?: number;
  readonly inBytes?: number;
}

/** A command in its usual shape, or not; a READ of one block where nothing else is said. */
export function scsiRequest(victim: Victim, options: ScsiRequestOptions = {}): ScsiRequest {
  const { memory } = victim;
  const request = new Uint8Array(COMMAND_REQUEST.BYTES);
  request.set(options.lun ?? UNIT_ZERO, COMMAND_REQUEST.lun);
  request[COMMAND_REQUEST.task_attr] = options.attribute ?? 0;
  request.set(options.cdb ?? READ_10, COMMAND_REQUEST.cdb);
  const requestBytes = options.requestBytes ?? request.length;
  const requestGpa = memory.allocate(request.length);
  memory.write(requestGpa, request);
  const responseBytes = options.responseBytes ?? COMMAND_RESPONSE.BYTES;
  const responseGpa = memory.allocate(COMMAND_RESPONSE.BYTES);
  memory.write(responseGpa, new Uint8Array(COMMAND_RESPONSE.BYTES).fill(UNANSWERED));
  const chain: Buf[] = [{ addr: requestGpa, len: requestBytes }];
  const { outBytes = 0, inBytes = 512 } = options;
  if (outBytes > 0) chain.push({ addr: memory.allocate(outBytes), len: outBytes });
  if (responseBytes > 0) chain.push({ addr: responseGpa, len: responseBytes, write: true });
  if (inBytes > 0) chain.push({ addr: memory.allocate(inBytes), len: inBytes, write: true });
  return { chain, responseGpa };
}

export interface ScsiAnswer {
  readonly response: number;
  readonly status: number;
  readonly usedBytes: number;
}

export function runScsi(victim: Victim, request: ScsiRequest): ScsiAnswer {
  const queue = victim.queue(FIRST_REQUEST_RING);
  const usedBytes = runChain(victim, queue, request.chain);
  const bytes = victim.memory.read(request.responseGpa, COMMAND_RESPONSE.BYTES);
  return {
    response: bytes[COMMAND_RESPONSE.response] as number,
    status: bytes[COMMAND_RESPONSE.status] as number,
    usedBytes,
  };
}

export function runChain(victim: Victim, queue: Queue, chain: readonly Buf[]): number {
  const head = queue.ring.offer(chain);
  victim.go(queue);
  const [used] = victim.waitUsed(1, queue);
  assert.equal(used?.id, head, "another chain was used");
  return used.len;
}

/** Takes the unit attentions of a new nexus; then a READ must be served. */
export function readyScsi(victim: Victim): void {
  for (let tries = 0; tries < 10; tries++) {
    const { response, status } = runScsi(victim, scsiRequest(victim));
    assert.equal(response, 0);
    if (status === 0) return;
  }
  assert.fail("the unit does not become ready");
}

/** Sends a control request; its response bytes. */
export function control(
  victim: Victim,
  request: Uint8Array,
  responseBytes: number,
): { readonly response: Uint8Array; readonly usedBytes: number } {
  const { memory } = victim;
  const requestGpa = memory.allocate(Math.max(1, request.length));
  memory.write(requestGpa, request);
  const responseGpa = memory.allocate(responseBytes);
  memory.write(responseGpa, new Uint8Array(responseBytes).fill(UNANSWERED));
  const usedBytes = runChain(victim, victim.queue(0), [
    { addr: requestGpa, len: request.length },
    { addr: responseGpa, len: responseBytes, write: true },
  ]);
  return { response: memory.read(responseGpa, responseBytes), usedBytes };
}

export function tmf(victim: Victim, subtype: number, lun: readonly number[], id: bigint): number {
  const request = new Uint8Array(TMF_REQUEST.BYTES);
  const view = new DataView(request.buffer);
  view.setUint32(TMF_REQUEST.subtype, subtype, true);
  request.set(lun, TMF_REQUEST.lun);
  view.setBigUint64(TMF_REQUEST.id, id, true);
  return control(victim, request, 1).response[0] as number;
}

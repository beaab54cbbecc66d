// The front-end's end of the back-end's own channel (SET_BACKEND_REQ_FD): requests that travel the
// other way, of which a disk needs one, CONFIG_CHANGE_MSG after a resize. With NEED_REPLY set the
// front-end answers with a u64, and it may send GET_CONFIG on the main socket before it does.

import * as sys from "../sys/index.ts";
import { backendRequestName, FLAG_NEED_REPLY, REPLY_FLAGS } from "../vhost-user/messages.ts";
import { LoadError } from "./errors.ts";
import { type Message, MessageStream } from "./message-stream.ts";

const ANSWER_TIMEOUT_MS = 1000;

export class BackendChannel {
  private readonly stream: MessageStream;
  /** What SET_BACKEND_REQ_FD is given. Closed by handedOver(). */
  private peerFd: number;

  constructor() {
    const [ours, theirs] = sys.socketPair(true);
    sys.check(ours, "socketpair");
    this.stream = new MessageStream(ours);
    this.peerFd = theirs;
  }

  get fd(): number {
    return this.stream.fd;
  }

  get backendFd(): number {
    return this.peerFd;
  }

  /** The back-end has its copy: closing ours lets us see it hang up. */
  handedOver(): void {
    if (this.peerFd >= 0) sys.close(this.peerFd);
    this.peerFd = -1;
  }

  /** The back-end's next request, or null when none came within `timeoutMs`. */
  next(timeoutMs: number): Message | null {
    if (!this.stream.readable(timeoutMs)) return null;
    return this.stream.receiveMessage(ANSWER_TIMEOUT_MS, "its own request");
  }

  /** As next(), and an error when it is another request than `request`, or none. */
  expect(request: number, timeoutMs: number): Message {
    const message = this.next(timeoutMs);
    const name = backendRequestName(request);
    if (message === null) throw new LoadError("TIMEOUT", `The back-end did not send ${name}.`);
    if (message.request !== request) {
      throw new LoadError(
        "BAD_REPLY",
        `The back-end sent ${backendRequestName(message.request)}, not ${name}.`,
      );
    }
    return message;
  }

  /** Answers `message` if it asked for an answer; 0 means success. */
  answer(message: Message, value: number): void {
    if ((message.flags & FLAG_NEED_REPLY) === 0) return;
    const payload = new Uint8Array(8);
    new DataView(payload.buffer).setUint32(0, value, true);
    this.stream.sendMessage(
      { request: message.request, flags: REPLY_FLAGS, payload, fds: [] },
      ANSWER_TIMEOUT_MS,
    );
  }

  close(): void {
    this.handedOver();
    this.stream.close();
  }
}

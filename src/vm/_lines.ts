// Splits a byte stream into lines, with a limit on the length of one.

/** Feeds on chunks, yields whole lines without their line feed (and without a carriage return). */
export class LineSplitter {
  readonly #onLine: (line: string) => void;
  readonly #lineBytesMax: number;
  /** The chunks of a line whose end has not come yet. */
  #parts: Buffer[] = [];
  #partBytes = 0;

  constructor(lineBytesMax: number, onLine: (line: string) => void) {
    this.#lineBytesMax = lineBytesMax;
    this.#onLine = onLine;
  }

  /** Returns false when a line exceeds the limit; its bytes are dropped. */
  push(chunk: Buffer): boolean {
    let ok = true;
    let start = 0;
    for (;;) {
      const end = chunk.indexOf(10, start);
      const piece = chunk.subarray(start, end < 0 ? chunk.length : end);
      this.#partBytes += piece.length;
      if (this.#partBytes <= this.#lineBytesMax) this.#parts.push(piece);
      else ok = false;
      if (end < 0) return ok;
      const line = Buffer.concat(this.takeParts()).toString("utf8");
      this.#onLine(line.endsWith("\r") ? line.slice(0, -1) : line);
      start = end + 1;
    }
  }

  /** Takes away the unfinished line, so that another splitter can go on with it. */
  takeParts(): Buffer[] {
    const parts = this.#partBytes <= this.#lineBytesMax ? this.#parts : [];
    this.#parts = [];
    this.#partBytes = 0;
    return parts;
  }
}

// Pauses between attempts: each twice as long as the one before, up to a bound, and none quite as
// long as another client's, so that a server that comes back is not met by all at once.

const FIRST_MS = 250;
const LONGEST_MS = 8000;

export class Backoff {
  #attempts = 0;

  /** The next pause, ms. */
  next() {
    const pause = Math.min(LONGEST_MS, FIRST_MS * 2 ** this.#attempts);
    this.#attempts += 1;
    return pause * (0.75 + Math.random() / 2);
  }

  /** How many pauses there have been since the last success. */
  get attempts() {
    return this.#attempts;
  }

  reset() {
    this.#attempts = 0;
  }
}

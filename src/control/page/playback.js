// Makes others heard: an audio element for each, since a browser plays a remote track only through
// one.
//
// Events: "blocked" when the browser wants a click before it plays anything.

export class Playback extends EventTarget {
  #elements = new Map();
  #deafened = false;

  play(user, track) {
    const known = this.#elements.get(user);
    if (!track) {
      if (known) known.srcObject = null;
      this.#elements.delete(user);
      return;
    }
    if (known?.srcObject.getAudioTracks()[0] === track) return;
    const element = known ?? new Audio();
    this.#elements.set(user, element);
    element.srcObject = new MediaStream([track]);
    element.muted = this.#deafened;
    this.#start(element);
  }

  /** What is played of a user, for measurements. */
  track(user) {
    return this.#elements.get(user)?.srcObject?.getAudioTracks()[0] ?? null;
  }

  set deafened(deafened) {
    this.#deafened = deafened;
    for (const element of this.#elements.values()) element.muted = deafened;
  }

  /** Tries again, from within a click. */
  resume() {
    for (const element of this.#elements.values()) this.#start(element);
  }

  stop() {
    for (const user of [...this.#elements.keys()]) this.play(user, null);
  }

  #start(element) {
    element.play().catch((error) => {
      if (error.name === "NotAllowedError") this.dispatchEvent(new Event("blocked"));
    });
  }
}

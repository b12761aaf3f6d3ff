// How loud a microphone is, and whether its owner speaks.
//
// Events: "level" {level} several times a second, 0 to 1; "speaking" {speaking} when it changes.

/** Between two looks. */
const PERIOD_MS = 50;

/** Louder than this, dB below full scale, is speech; quieter than the second is not. */
const SPEECH_DB = -45;
const SILENCE_DB = -50;

/** Pauses shorter than this belong to a sentence. */
const HOLD_MS = 400;

/** The quietest and the loudest that the meter tells apart, dB below full scale. */
const FLOOR_DB = -60;
const CEILING_DB = -6;

export class Level extends EventTarget {
  #context = null;
  #source = null;
  #analyser = null;
  #samples = null;
  #timer = 0;
  #loudAt = -Infinity;
  #speaking = false;

  get speaking() {
    return this.#speaking;
  }

  /** Listens to another track; null: to none. */
  follow(track) {
    clearInterval(this.#timer);
    this.#source?.disconnect();
    this.#source = null;
    this.#set(false);
    this.#tell("level", { level: 0 });
    if (!track) return;
    this.#context ??= new AudioContext();
    this.#context.resume();
    if (!this.#analyser) {
      this.#analyser = new AnalyserNode(this.#context, { fftSize: 2048 });
      this.#samples = new Float32Array(this.#analyser.fftSize);
    }
    this.#source = this.#context.createMediaStreamSource(new MediaStream([track]));
    this.#source.connect(this.#analyser);
    this.#timer = setInterval(() => this.#look(), PERIOD_MS);
  }

  #look() {
    this.#analyser.getFloatTimeDomainData(this.#samples);
    const power = this.#samples.reduce((sum, sample) => sum + sample * sample, 0);
    const decibels = 10 * Math.log10(power / this.#samples.length + 1e-12);
    const level = (decibels - FLOOR_DB) / (CEILING_DB - FLOOR_DB);
    this.#tell("level", { level: Math.min(1, Math.max(0, level)) });
    const now = performance.now();
    if (decibels > (this.#speaking ? SILENCE_DB : SPEECH_DB)) {
      this.#loudAt = now;
      this.#set(true);
    } else if (now - this.#loudAt > HOLD_MS) {
      this.#set(false);
    }
  }

  #set(speaking) {
    if (speaking === this.#speaking) return;
    this.#speaking = speaking;
    this.#tell("speaking", { speaking });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

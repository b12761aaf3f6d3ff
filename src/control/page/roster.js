// Who is in the channel: what the gateway says of each, their names, and who speaks.
//
// Events: "joined" and "left" {member}; "changed" {member} when anything about one has changed.

/** Louder than this, of 1, is speech. */
const SPEECH_LEVEL = 0.006;

/** Pauses shorter than this belong to a sentence. */
const HOLD_MS = 300;

/** Bit of the speaking flags that means voice. */
const VOICE = 1;

export class Roster extends EventTarget {
  #members = new Map();
  #names = new Map();

  [Symbol.iterator]() {
    return this.#members.values();
  }

  get(user) {
    return this.#members.get(user);
  }

  /** Finds or makes the member: news of somebody may come before the news that they came. */
  admit(user) {
    const known = this.#members.get(user);
    if (known) return known;
    const member = {
      user,
      name: this.#names.get(user) ?? `user ${user}`,
      flags: 0,
      audio: 0,
      video: 0,
      level: null,
      loudAt: -Infinity,
      speaking: false,
    };
    this.#members.set(user, member);
    this.#tell("joined", member);
    return member;
  }

  dismiss(user) {
    const member = this.#members.get(user);
    if (!member) return;
    this.#members.delete(user);
    this.#tell("left", member);
  }

  clear() {
    for (const user of [...this.#members.keys()]) this.dismiss(user);
  }

  /** Whether somebody's name is yet to be asked for. */
  lacksNames() {
    return [...this.#members.keys()].some((user) => !this.#names.has(user));
  }

  setNames(names) {
    for (const [user, name] of names) {
      this.#names.set(user, name);
      this.#change(user, { name });
    }
  }

  setSpeaking(user, flags, ssrc) {
    const member = this.admit(user);
    this.#change(user, ssrc ? { flags, audio: ssrc } : { flags });
    this.#judge(member);
  }

  setVideo(user, audio, video) {
    this.admit(user);
    this.#change(user, audio ? { audio, video } : { video });
  }

  /** Takes how loud everyone is: a map from users to levels. */
  setLevels(levels) {
    for (const member of this.#members.values()) {
      member.level = levels.get(member.user) ?? null;
      if (member.level > SPEECH_LEVEL) member.loudAt = performance.now();
      this.#judge(member);
    }
  }

  /** What is heard counts; what the gateway says only while nothing is. */
  #judge(member) {
    const heard = performance.now() - member.loudAt < HOLD_MS;
    const speaking = heard || (member.level === null && (member.flags & VOICE) !== 0);
    this.#change(member.user, { speaking });
  }

  #change(user, news) {
    const member = this.#members.get(user);
    if (!member || Object.entries(news).every(([key, value]) => member[key] === value)) return;
    Object.assign(member, news);
    this.#tell("changed", member);
  }

  #tell(type, member) {
    this.dispatchEvent(new CustomEvent(type, { detail: { member } }));
  }
}

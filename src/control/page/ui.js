// The page's elements: shows a call and passes on what people do. Decides nothing about the call.

import { Call } from "./call.js";
import { readLink } from "./link.js";
import { NoDevice, listDevices } from "./media.js";
import { Tiles } from "./tiles.js";

const $ = (id) => document.getElementById(id);

/** What is remembered between visits. */
const REMEMBERED = ["name", "channel"];

const STATES = {
  idle: "Not in a channel",
  joining: "Joining…",
  connected: "Connected",
  unstable: "Media interrupted",
  reconnecting: "Reconnecting…",
  ended: "Not in a channel",
};

/** Says so on a server that lets nobody in who brings no link. */
const NO_LINK =
  "This server lets in whoever opens a link. Whoever runs it prints one with: " +
  "stentor grant --server-id 1 --channel 2 --user 10 --link";

export class Ui {
  #call = null;
  #grant = readLink(location.hash, location.origin);
  #name = "";
  #tiles = new Tiles();
  #grade = null;
  #self = null;

  constructor() {
    const query = new URLSearchParams(location.search);
    this.server = query.get("server") || undefined;
    for (const id of REMEMBERED) $(id).value = query.get(id) ?? recall(id) ?? $(id).value;
    this.#openDoor();
    $("join").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#join({ listening: false });
    });
    $("listen-button").addEventListener("click", () => {
      if ($("join").reportValidity()) this.#join({ listening: true });
    });
    $("mute").addEventListener("click", () => this.#mute());
    $("deafen").addEventListener("click", () => this.#call?.setDeafened(!this.#call.deafened));
    $("camera").addEventListener("click", () => this.#toggleCamera());
    $("leave").addEventListener("click", () => this.#call?.leave());
    $("alert-close").addEventListener("click", () => this.#hideAlert());
    $("microphone").addEventListener("change", () => this.#changeMicrophone());
    $("processed").addEventListener("change", () => this.#changeMicrophone());
    $("camera-device").addEventListener("change", () => {
      if (this.#call?.camera) this.#openCamera();
    });
    navigator.mediaDevices?.addEventListener("devicechange", () => this.#listDevices());
    document.addEventListener("visibilitychange", () => {
      this.#call?.setWatching(document.visibilityState === "visible");
    });
    addEventListener("online", () => this.#call?.retryNow());
    this.#listDevices();
  }

  /** The call, for the console and for tests. */
  get call() {
    return this.#call;
  }

  /** A link says which channel; without one, not every server lets people in. */
  #openDoor() {
    // Another link in the same tab changes nothing but the fragment.
    addEventListener("hashchange", () => location.reload());
    if (this.#grant) {
      $("channel").value = this.#grant.channel_id;
      $("channel").readOnly = true;
      $("channel-hint").textContent = "The link is for this channel. Others see you by a number.";
      $("invitation").textContent =
        "Talk with whoever is in the channel. A link is for one person: opened elsewhere it takes " +
        "this place.";
      $("alone").textContent = "Nobody else is here yet.";
    } else if (document.documentElement.dataset.door === "link") {
      $("join").hidden = $("sound").hidden = true;
      this.#alert(NO_LINK);
      $("alert-close").hidden = true;
    }
  }

  async #join({ listening }) {
    if (this.#call) return;
    this.#hideAlert();
    for (const id of REMEMBERED) remember(id, $(id).value);
    this.#name = $("name").value.trim();
    const visit = { name: this.#name, server: this.server, channel: $("channel").value };
    if (this.#grant) visit.grant = this.#grant;
    const call = new Call(visit);
    this.#call = call;
    this.#setBusy(true);
    this.#follow(call);
    if (!listening) {
      try {
        await call.useMicrophone($("microphone").value, $("processed").checked);
      } catch (error) {
        if (!(error instanceof NoDevice)) throw error;
        this.#call = null;
        this.#setBusy(false);
        return this.#alert(error.message, "Join to listen only", () => {
          this.#join({ listening: true });
        });
      }
      this.#listDevices();
    }
    call.setWatching(document.visibilityState === "visible");
    call.join();
    $("join").hidden = true;
    $("call").hidden = $("level-field").hidden = false;
    $("call-title").textContent = `Channel ${$("channel").value}`;
    $("mute").focus();
  }

  #follow(call) {
    const on = (target, type, act) =>
      target.addEventListener(type, (event) => {
        if (this.#call === call) act(event.detail ?? {});
      });
    on(call, "state", (detail) => this.#showState(detail));
    on(call, "self", () => this.#showSelf());
    on(call, "notice", ({ words }) => this.#alert(words));
    on(call, "arrived", ({ member }) => this.#say(`${member.name} has joined`));
    on(call, "quality", ({ quality }) => this.#showQuality(quality));
    on(call, "video", ({ user, track }) => this.#tiles.picture(user, track));
    on(call.level, "level", ({ level }) => showLevel(level));
    on(call.level, "speaking", () => this.#showSelf());
    on(call.roster, "joined", ({ member }) => {
      this.#showMember(member);
      this.#showCount();
    });
    on(call.roster, "changed", ({ member }) => this.#showMember(member));
    on(call.roster, "left", ({ member }) => {
      this.#tiles.remove(member.user);
      this.#showCount();
      if (this.#call.state === "connected") this.#say(`${member.name} has left`);
    });
    on(call.playback, "blocked", () => {
      this.#alert("The browser plays no sound before you click.", "Play sound", () => {
        call.playback.resume();
      });
    });
  }

  #showState({ state, words, retryMs, asked }) {
    $("state").textContent = STATES[state];
    $("state").dataset.state = state;
    if (state === "connected") {
      this.#hideAlert();
      this.#showSelf();
      $("quality").hidden = false;
    } else if (state === "ended") {
      this.#ended(words, asked);
    } else if (state !== "joining") {
      const again = retryMs === null ? "" : ` Trying again in ${Math.ceil(retryMs / 1000)} s.`;
      if (retryMs === null) this.#alert(words);
      else this.#alert(words + again, "Try now", () => this.#call?.retryNow());
    }
  }

  #ended(words, asked) {
    this.#call = null;
    this.#tiles.clear();
    this.#setBusy(false);
    $("call").hidden = $("quality").hidden = $("level-field").hidden = true;
    $("join").hidden = false;
    this.#grade = null;
    showLevel(0);
    $("join-button").focus();
    if (asked) {
      this.#hideAlert();
      this.#say(words);
    } else {
      this.#alert(words);
    }
  }

  #showSelf() {
    const call = this.#call;
    if (!call?.user) return;
    // Who comes back to a server that was started again is somebody else there.
    if (this.#self !== call.user) this.#tiles.remove(this.#self);
    this.#self = call.user;
    const mark = call.deafened
      ? "deafened"
      : !call.hasMicrophone
        ? "listens"
        : call.muted
          ? "muted"
          : null;
    this.#tiles.show({
      user: call.user,
      name: this.#name,
      speaking: call.level.speaking,
      self: true,
      mark,
    });
    this.#tiles.picture(call.user, call.camera);
    press("mute", call.muted);
    $("mute").querySelector(".label").textContent = call.hasMicrophone ? "Mute" : "Use microphone";
    press("deafen", call.deafened);
    press("camera", call.camera !== null);
    this.#showCount();
  }

  #showMember({ user, name, speaking }) {
    this.#tiles.show({ user, name, speaking, self: false, mark: null });
  }

  #showCount() {
    $("alone").hidden = this.#tiles.count > 1;
  }

  #showQuality(quality) {
    const { roundTrip, lossIn, lossOut, jitter, up, down, grade } = quality;
    const show = (id, value, unit, digits = 0) => {
      $(id).textContent = value === null ? "–" : `${value.toFixed(digits)} ${unit}`;
    };
    show("round-trip", roundTrip, "ms");
    show("loss-in", lossIn, "%", 1);
    show("loss-out", lossOut, "%", 1);
    show("jitter", jitter, "ms");
    show("up", up, "kbit/s");
    show("down", down, "kbit/s");
    $("grade").textContent = grade;
    $("grade").dataset.grade = grade;
    if (grade === "poor" && this.#grade !== "poor") this.#say("The connection is poor");
    this.#grade = grade;
  }

  async #mute() {
    const call = this.#call;
    if (!call) return;
    if (call.hasMicrophone) return call.setMuted(!call.muted);
    await this.#changeMicrophone({ open: true });
  }

  async #changeMicrophone({ open = false } = {}) {
    const call = this.#call;
    if (!call || (!call.hasMicrophone && !open)) return;
    await this.#tried(() => call.useMicrophone($("microphone").value, $("processed").checked));
  }

  #toggleCamera() {
    if (this.#call?.camera) this.#call.dropCamera();
    else this.#openCamera();
  }

  #openCamera() {
    return this.#tried(() => this.#call?.useCamera($("camera-device").value));
  }

  async #tried(act) {
    try {
      await act();
      this.#listDevices();
    } catch (error) {
      if (!(error instanceof NoDevice)) throw error;
      this.#alert(error.message);
    }
  }

  async #listDevices() {
    const { microphones, cameras } = await listDevices();
    fill("microphone", microphones);
    fill("camera-device", cameras);
  }

  #setBusy(busy) {
    for (const element of $("join").elements) element.disabled = busy;
    if (busy) $("state").textContent = STATES.joining;
    else $("state").textContent = STATES.idle;
    $("state").dataset.state = busy ? "joining" : "idle";
  }

  /** Says what went wrong, with at most one thing to do about it. */
  #alert(words, act, onAct) {
    // The same words again would be read aloud again.
    if ($("alert-words").textContent !== words) $("alert-words").textContent = words;
    const button = $("alert-act");
    button.hidden = !act;
    button.textContent = act ?? "";
    button.onclick = () => {
      this.#hideAlert();
      onAct();
    };
    $("alert").hidden = false;
  }

  #hideAlert() {
    $("alert").hidden = true;
    $("alert-words").textContent = "";
  }

  #say(words) {
    $("news").textContent = words;
  }
}

function showLevel(level) {
  $("level-bar").style.setProperty("--level", level.toFixed(3));
  $("level").setAttribute("aria-valuenow", Math.round(level * 100));
}

function press(id, pressed) {
  $(id).setAttribute("aria-pressed", pressed);
}

/** Fills a list of devices, and leaves chosen what was. */
function fill(id, devices) {
  const select = $(id);
  const chosen = select.value;
  select.replaceChildren(new Option("The system's default", ""));
  devices.forEach(({ id, label }, index) => {
    if (id === "default") return;
    select.add(new Option(label || `Device ${index + 1}`, id));
  });
  select.value = [...select.options].some((option) => option.value === chosen) ? chosen : "";
}

function recall(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // Storage may be off; then it is typed again.
  }
}

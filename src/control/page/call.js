// One visit to a channel, from the grant to the goodbye: joins the gateway's conversation, the
// media connection and the roster, and puts each on its feet again when it falls. Knows no
// elements.
//
// Events: "state" {state, words, retryMs, asked}, `asked` at an end that was wished for; "self"
// when mute, deafen, camera or microphone changed; "notice" {words} for what does not end anything;
// "arrived" {member} of who has come since; "quality" {quality}; "video" {user, track}.

import { Backoff } from "./backoff.js";
import { Gateway, op } from "./gateway.js";
import { Level } from "./level.js";
import { openCamera, openMicrophone } from "./media.js";
import { Peer } from "./peer.js";
import { Playback } from "./playback.js";
import { Roster } from "./roster.js";
import { quality } from "./stats.js";
import { Refused, fetchNames, requestGrant } from "./visitor.js";

const LEVELS_MS = 100;
const QUALITY_MS = 1000;

/** Media connections tried in a row before the call is given up. */
const PEERS_MAX = 3;

/** Time in which media must flow; a firewall says nothing. */
const MEDIA_MS = 10000;

const SPEAKING = 1;

/** What Firefox does not do unless it is told to; nothing else needs telling. */
const IS_FIREFOX = navigator.userAgent.includes("Firefox/");
const FIREFOX_STAYS_AWAY =
  "Firefox sends no media to the machine it runs on. To try this page out there, open about:config, " +
  "set media.peerconnection.ice.loopback to true, and join with the microphone allowed.";

/** Close code for credentials that the server does not know. */
const UNKNOWN_GRANT = 4004;
const OLD_LINK =
  "This link lets nobody in any more: links end when the server is started again. Ask for a new one.";

export class Call extends EventTarget {
  #visit;
  #grant = null;
  #gateway = null;
  #peer = null;
  #peers = 0;
  #backoff = new Backoff();
  #retry = 0;
  #mediaTimer = 0;
  #timers = [];
  #report = null;
  #microphone = null;
  #camera = null;
  #wanted = true;
  #goodbye = () => this.leave();

  roster = new Roster();
  level = new Level();
  playback = new Playback();
  state = "idle";
  muted = false;
  deafened = false;

  /** `{name, server, channel}`; with `{grant}` if a link has brought it. */
  constructor(visit) {
    super();
    this.#visit = visit;
    this.level.addEventListener("speaking", () => this.#sendSpeaking());
    this.roster.addEventListener("joined", ({ detail }) => this.#welcome(detail.member));
    this.roster.addEventListener("left", ({ detail }) => this.#forget(detail.member.user));
  }

  get user() {
    return this.#grant?.user_id ?? null;
  }

  get hasMicrophone() {
    return this.#microphone !== null;
  }

  get camera() {
    return this.#camera;
  }

  /** The media connection, for measurements. */
  get peer() {
    return this.#peer;
  }

  get gateway() {
    return this.#gateway;
  }

  /** Opens the microphone, or another one. Fails with words. */
  async useMicrophone(deviceId, processed) {
    const track = await openMicrophone(deviceId, processed);
    if (this.state === "ended") return track.stop();
    this.#microphone?.stop();
    this.#microphone = track;
    track.enabled = !this.#isSilent();
    track.addEventListener("ended", () => {
      if (this.#microphone !== track) return;
      this.#dropMicrophone();
      this.#tell("notice", { words: "The microphone is gone." });
    });
    await this.#peer?.setMicrophone(track);
    this.#applyMicrophone();
  }

  /** Turns the camera on, or changes it. Fails with words. */
  async useCamera(deviceId) {
    const track = await openCamera(deviceId);
    if (this.state === "ended") return track.stop();
    const before = this.#camera;
    this.#camera = track;
    before?.stop();
    track.addEventListener("ended", () => {
      if (this.#camera === track) this.dropCamera();
    });
    // Others must know of the video before its first packet.
    this.#sendVideo();
    await this.#peer?.setCamera(track);
    this.#tell("self");
  }

  dropCamera() {
    if (!this.#camera) return;
    this.#camera.stop();
    this.#camera = null;
    this.#peer?.setCamera(null);
    this.#sendVideo();
    this.#tell("self");
  }

  setMuted(muted) {
    this.muted = muted;
    this.#applyMicrophone();
  }

  /** Who hears nobody is not heard either. */
  setDeafened(deafened) {
    this.deafened = deafened;
    this.playback.deafened = deafened;
    this.#applyMicrophone();
  }

  /** Whether others' cameras are looked at. */
  setWatching(watching) {
    if (this.#wanted === watching) return;
    this.#wanted = watching;
    this.#sendWants();
  }

  join() {
    addEventListener("pagehide", this.#goodbye);
    this.#timers = [
      setInterval(() => this.#lookAtLevels(), LEVELS_MS),
      setInterval(() => this.#lookAtQuality(), QUALITY_MS),
    ];
    this.#setState("joining", "Joining…");
    this.#enter();
  }

  /** Does at once what would be tried again later. */
  retryNow() {
    if (this.#retry) {
      clearTimeout(this.#retry);
      this.#retry = 0;
      this.#enter();
    } else if (this.#gateway && !this.#gateway.isLive) {
      this.#gateway.connect();
    }
  }

  leave() {
    this.#end("You have left.", { asked: true });
  }

  /** Asks for a grant, unless a link has brought it, and begins a session with it. */
  async #enter() {
    try {
      this.#grant =
        this.#visit.grant ?? (await requestGrant({ ...this.#visit, previous: this.#grant }));
    } catch (error) {
      if (this.state === "ended") return;
      if (error instanceof Refused) return this.#end(error.message);
      return this.#enterLater(error.message);
    }
    if (this.state === "ended") return;
    const gateway = new Gateway(this.#grant);
    this.#gateway = gateway;
    const on = (type, act) =>
      gateway.addEventListener(type, (event) => {
        if (this.#gateway === gateway) act(event.detail);
      });
    on("live", ({ resumed }) => this.#handleLive(resumed));
    on("message", (message) => this.#handleMessage(message));
    on("waiting", ({ ms }) => {
      const words = "The connection to the server is lost. Sound goes on while it can.";
      this.#setState("reconnecting", words, ms);
    });
    on("over", ({ anew, code, words }) => {
      if (!anew) return this.#end(words);
      if (this.#visit.grant && code === UNKNOWN_GRANT) return this.#end(OLD_LINK);
      this.#dropPeer();
      this.#enterLater("The server has forgotten this session. Joining again.");
    });
    gateway.connect();
  }

  #enterLater(words) {
    const ms = this.#backoff.next();
    this.#setState("reconnecting", words, ms);
    this.#retry = setTimeout(() => {
      this.#retry = 0;
      this.#enter();
    }, ms);
  }

  #handleLive(resumed) {
    this.#backoff.reset();
    if (!resumed) {
      this.roster.clear();
      this.#peers = 0;
      this.#newPeer();
      return;
    }
    if (!this.#peer) this.#newPeer();
    // Whatever could not be said meanwhile.
    this.#sendVideo();
    this.#sendSpeaking();
    this.#sendWants();
    this.#settleState();
  }

  #handleMessage({ op: opcode, d }) {
    switch (opcode) {
      case op.SESSION_DESCRIPTION:
        this.#peer?.describe(d).catch((error) => this.#mediaFailed(error.message));
        break;
      case op.SPEAKING:
        this.roster.setSpeaking(d.user_id, Number(d.speaking), d.ssrc);
        this.#follow(d.user_id);
        break;
      case op.VIDEO:
        this.roster.setVideo(d.user_id, d.audio_ssrc, videoSsrc(d));
        this.#follow(d.user_id);
        // The default is to want everything.
        if (!this.#wanted) this.#sendWants();
        break;
      case op.CLIENTS_CONNECT:
        for (const user of d.user_ids) if (user !== this.user) this.roster.admit(user);
        break;
      case op.CLIENT_DISCONNECT:
        this.roster.dismiss(d.user_id);
        break;
      case op.SESSION_UPDATE:
        this.#peer?.setVideoCodec(d.video_codec);
        break;
      case op.MEDIA_SINK_WANTS:
        this.#handleWants(d);
        break;
    }
  }

  /** A camera that nobody looks at need not send. */
  #handleWants(wants) {
    const own = this.#peer?.ssrcs.video;
    const wanted = wants[own] ?? wants.any ?? 100;
    this.#peer?.setSending("video", wanted > 0);
  }

  async #newPeer() {
    this.#dropPeer();
    if (this.#peers >= PEERS_MAX) {
      return this.#end(
        "No media comes through: is UDP to the server blocked on this network? Signalling works.",
      );
    }
    this.#peers += 1;
    const peer = new Peer({ microphone: this.#microphone, camera: this.#camera });
    this.#peer = peer;
    peer.addEventListener("state", () => {
      if (this.#peer === peer) this.#handlePeerState();
    });
    peer.addEventListener("failure", ({ detail }) => {
      if (this.#peer === peer) this.#mediaFailed(detail.error.message);
    });
    peer.addEventListener("track", ({ detail: { user, kind, track } }) => {
      if (this.#peer !== peer) return;
      if (kind === "audio") this.playback.play(user, track);
      else this.#tell("video", { user, track });
    });
    this.#mediaTimer = setTimeout(() => this.#mediaFailed("no answer over UDP"), MEDIA_MS);
    try {
      const { sdp, codecs } = await peer.offer();
      if (this.#peer !== peer) return;
      this.#gateway.send(op.SELECT_PROTOCOL, {
        protocol: "webrtc",
        data: sdp,
        sdp,
        codecs,
        rtc_connection_id: crypto.randomUUID(),
      });
      for (const member of this.roster) this.#follow(member.user);
      this.#applyMicrophone();
    } catch (error) {
      if (this.#peer === peer) this.#end(`This browser does not do WebRTC: ${error.message}`);
    }
  }

  #dropPeer() {
    clearTimeout(this.#mediaTimer);
    const peer = this.#peer;
    this.#report = null;
    for (const { user } of this.roster) this.#tell("video", { user, track: null });
    this.playback.stop();
    this.#peer = null;
    peer?.close();
  }

  #handlePeerState() {
    switch (this.#peer.state) {
      case "connected":
        clearTimeout(this.#mediaTimer);
        this.#peers = 0;
        this.#sendVideo();
        this.#sendSpeaking();
        this.#sendWants();
        this.#settleState();
        break;
      case "disconnected":
        if (this.state === "connected") {
          this.#setState("unstable", "Media has stopped coming. Waiting for the network…");
        }
        break;
      case "failed":
        this.#mediaFailed("the connection broke");
        break;
    }
  }

  #mediaFailed(why) {
    if (this.state === "ended") return;
    clearTimeout(this.#mediaTimer);
    if (IS_FIREFOX && this.#peer?.staysHome) return this.#end(FIREFOX_STAYS_AWAY);
    this.#setState("reconnecting", `Media does not come through (${why}). Trying again…`);
    // Without the gateway nobody can be asked for a new one; #handleLive does it then.
    if (this.#gateway?.isLive) this.#newPeer();
    else this.#dropPeer();
  }

  #settleState() {
    if (this.#peer?.state === "connected" && this.#gateway.isLive) {
      this.#setState("connected", "Connected.");
    }
  }

  /** Hears and sees a member as the roster says. */
  #follow(user) {
    const member = this.roster.get(user);
    if (!member || user === this.user) return;
    this.#peer?.setRemote(user, "audio", member.audio);
    this.#peer?.setRemote(user, "video", member.video);
  }

  #forget(user) {
    this.#peer?.setRemote(user, "audio", 0);
    this.#peer?.setRemote(user, "video", 0);
  }

  async #welcome(member) {
    const isNews = this.state === "connected";
    await this.#learnNames();
    if (isNews && this.roster.get(member.user) === member) this.#tell("arrived", { member });
  }

  async #learnNames() {
    // Who comes by a link knows only numbers.
    if (this.#visit.grant || !this.roster.lacksNames()) return;
    try {
      this.roster.setNames(await fetchNames(this.#visit.channel));
    } catch {
      // Then they are called by their numbers.
    }
  }

  #isSilent() {
    return this.muted || this.deafened;
  }

  #applyMicrophone() {
    const silent = this.#isSilent() || !this.#microphone;
    if (this.#microphone) this.#microphone.enabled = !silent;
    this.level.follow(silent ? null : this.#microphone);
    this.#peer?.setSending("audio", !silent);
    this.#tell("self");
  }

  #dropMicrophone() {
    this.#microphone?.stop();
    this.#microphone = null;
    this.#peer?.setMicrophone(null);
    this.#applyMicrophone();
  }

  #sendSpeaking() {
    if (this.#peer?.state !== "connected") return;
    const speaking = this.level.speaking ? SPEAKING : 0;
    this.#gateway.send(op.SPEAKING, { speaking, delay: 0, ssrc: this.#peer.ssrcs.audio });
    this.#tell("self");
  }

  #sendVideo() {
    if (this.#peer?.state !== "connected") return;
    const { audio, video, rtx } = this.#peer.ssrcs;
    if (!this.#camera) {
      const off = { audio_ssrc: audio, video_ssrc: 0, rtx_ssrc: 0, streams: [] };
      this.#gateway.send(op.VIDEO, off);
      return;
    }
    const { width = 0, height = 0, frameRate = 30 } = this.#camera.getSettings();
    this.#gateway.send(op.VIDEO, {
      audio_ssrc: audio,
      video_ssrc: video,
      rtx_ssrc: rtx,
      streams: [
        {
          type: "video",
          rid: "100",
          ssrc: video,
          rtx_ssrc: rtx,
          active: true,
          quality: 100,
          max_bitrate: 2500000,
          max_framerate: Math.round(frameRate),
          max_resolution: { type: "fixed", width, height },
        },
      ],
    });
  }

  #sendWants() {
    if (this.#peer?.state !== "connected") return;
    const wants = { any: 100 };
    for (const { video } of this.roster) if (video) wants[video] = this.#wanted ? 100 : 0;
    this.#gateway.send(op.MEDIA_SINK_WANTS, wants);
  }

  #lookAtLevels() {
    if (this.#peer) this.roster.setLevels(this.#peer.levels());
  }

  async #lookAtQuality() {
    const peer = this.#peer;
    if (peer?.state !== "connected") return;
    const report = await peer.getStats();
    if (this.#peer !== peer) return;
    this.#tell("quality", { quality: quality(this.#report, report) });
    this.#report = report;
  }

  #end(words, { asked = false } = {}) {
    if (this.state === "ended") return;
    this.#setState("ended", words, null, asked);
    removeEventListener("pagehide", this.#goodbye);
    this.#timers.forEach(clearInterval);
    clearTimeout(this.#retry);
    this.#gateway?.close();
    this.#dropPeer();
    this.level.follow(null);
    this.#microphone?.stop();
    this.#camera?.stop();
    this.#microphone = this.#camera = null;
    this.roster.clear();
    this.#tell("self");
  }

  #setState(state, words, retryMs = null, asked = false) {
    if (this.state === "ended") return;
    this.state = state;
    this.#tell("state", { state, words, retryMs, asked });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** The SSRC under which a user's camera comes; 0 while it is off. */
function videoSsrc({ video_ssrc, streams }) {
  const active = (streams ?? []).find((stream) => stream.active);
  return video_ssrc && active ? (active.ssrc ?? video_ssrc) : 0;
}

// The media connection: one RTCPeerConnection to the server, renegotiated with itself whenever
// somebody comes, goes or turns a camera on. Owns transceivers; knows nothing of the gateway.
//
// Events: "state" when the connection's state changes; "track" {user, kind, track}, null when it is
// gone; "failure" {error} when the browser does not take a description.

import { capabilities, listCodecs } from "./codecs.js";
import { answer, fragment, parseTemplate, sections, ssrcs, staysHome } from "./sdp.js";

/** What is sent at most, bit/s. */
const AUDIO_BITS_MAX = 64000;
const VIDEO_BITS_MAX = 2500000;

export class Peer extends EventTarget {
  #connection = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
  #microphone;
  #camera;
  #codecs = [];
  #videoCodec = null;
  #template = null;
  #templateText = null;
  /** Streams the server sends: key `user kind` → {user, kind, ssrc, transceiver}. */
  #remotes = new Map();
  #negotiation = null;
  #stale = false;
  #settings = Promise.resolve();

  /** Own SSRCs, known after `offer`: `{audio, video, rtx}`. */
  ssrcs = { audio: null, video: null, rtx: null };

  constructor({ microphone, camera }) {
    super();
    const send = (kind, track, bits) =>
      this.#connection.addTransceiver(track ?? kind, {
        direction: "sendonly",
        sendEncodings: [{ maxBitrate: bits }],
      });
    this.#microphone = send("audio", microphone, AUDIO_BITS_MAX);
    this.#camera = send("video", camera, VIDEO_BITS_MAX);
    this.#connection.addEventListener("connectionstatechange", () => {
      this.dispatchEvent(new Event("state"));
    });
  }

  get state() {
    return this.#connection.connectionState;
  }

  /** Whether the server is known, and is on this machine. */
  get staysHome() {
    return this.#template !== null && staysHome(this.#template);
  }

  /** What Select Protocol says: `{sdp, codecs}`. */
  async offer() {
    const offer = await this.#connection.createOffer();
    await this.#connection.setLocalDescription(offer);
    const [audio, video] = sections(offer.sdp).map(ssrcs);
    this.ssrcs = { audio: audio.ssrc, video: video.ssrc, rtx: video.rtx };
    this.#codecs = listCodecs(offer.sdp, capabilities());
    return { sdp: fragment(offer.sdp), codecs: this.#codecs };
  }

  /** Takes Session Description. The same one again changes nothing. */
  describe({ sdp, video_codec }) {
    if (sdp === this.#templateText) return Promise.resolve();
    this.#template = parseTemplate(sdp);
    this.#templateText = sdp;
    this.#videoCodec = video_codec;
    return this.#negotiate();
  }

  /** Takes the server's other choice of codec for sending. */
  setVideoCodec(name) {
    if (!name || name === this.#videoCodec) return;
    this.#videoCodec = name;
    this.#negotiate();
  }

  /** Says under which SSRC a user's audio or video comes; 0 for none. */
  setRemote(user, kind, ssrc) {
    const key = `${user} ${kind}`;
    const known = this.#remotes.get(key);
    if ((known?.ssrc ?? 0) === ssrc) return;
    if (known) this.#free(key, known);
    if (ssrc) {
      const transceiver = this.#connection.addTransceiver(kind, { direction: "recvonly" });
      this.#remotes.set(key, { user, kind, ssrc, transceiver });
    }
    this.#negotiate();
  }

  /** Forgets everyone. */
  clear() {
    for (const [key, remote] of this.#remotes) this.#free(key, remote);
    this.#negotiate();
  }

  setMicrophone(track) {
    return this.#microphone.sender.replaceTrack(track);
  }

  setCamera(track) {
    return this.#camera.sender.replaceTrack(track);
  }

  /** Whether audio, or video, leaves this machine. */
  setSending(kind, active) {
    const { sender } = kind === "audio" ? this.#microphone : this.#camera;
    // One change must be through before the next may ask for the parameters.
    this.#settings = this.#settings
      .then(async () => {
        const parameters = sender.getParameters();
        if (!parameters.encodings?.length || parameters.encodings[0].active === active) return;
        parameters.encodings[0].active = active;
        await sender.setParameters(parameters);
      })
      .catch((error) => this.#fail(error));
  }

  getStats() {
    return this.#connection.getStats();
  }

  /** How loud each user's audio is, 0 to 1, from what their own client measured. */
  levels() {
    const levels = new Map();
    for (const { user, kind, transceiver } of this.#remotes.values()) {
      if (kind !== "audio") continue;
      const [source] = transceiver.receiver.getSynchronizationSources();
      const fresh = source && performance.timeOrigin + performance.now() - source.timestamp < 500;
      if (source) levels.set(user, fresh ? (source.audioLevel ?? null) : 0);
    }
    return levels;
  }

  close() {
    for (const [key, remote] of this.#remotes) this.#free(key, remote);
    this.#connection.close();
  }

  /**
   * A transceiver is for one stream. Chromium shows no picture of a second one on it: what is
   * attached to its track from then on gets no frames. Its place in the descriptions is used again.
   */
  #free(key, { user, kind, transceiver }) {
    this.#remotes.delete(key);
    transceiver.stop();
    this.#tellTrack(user, kind, null);
  }

  /** Brings the connection to what is wanted; once more if that has changed meanwhile. */
  #negotiate() {
    if (!this.#template || this.state === "closed") return Promise.resolve();
    this.#stale = true;
    this.#negotiation ??= this.#settle()
      .catch((error) => this.#fail(error))
      .finally(() => {
        this.#negotiation = null;
      });
    return this.#negotiation;
  }

  async #settle() {
    const connection = this.#connection;
    while (this.#stale && this.state !== "closed") {
      this.#stale = false;
      if (connection.signalingState === "stable") {
        await connection.setLocalDescription(await connection.createOffer());
      }
      const remotes = new Map();
      for (const remote of this.#remotes.values()) {
        // One that is newer than this offer waits for the next.
        if (remote.transceiver.mid !== null) remotes.set(remote.transceiver.mid, remote);
        else this.#stale = true;
      }
      const settings = { codecs: this.#codecs, videoCodec: this.#videoCodec, remotes };
      const sdp = answer(connection.localDescription.sdp, this.#template, settings);
      await connection.setRemoteDescription({ type: "answer", sdp });
      for (const { user, kind, transceiver } of remotes.values()) {
        this.#tellTrack(user, kind, transceiver.receiver.track);
      }
    }
  }

  #fail(error) {
    // Closing interrupts whatever is under way.
    if (this.state === "closed") return;
    this.dispatchEvent(new CustomEvent("failure", { detail: { error } }));
  }

  #tellTrack(user, kind, track) {
    this.dispatchEvent(new CustomEvent("track", { detail: { user, kind, track } }));
  }
}

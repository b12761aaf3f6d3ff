// Evaluated once in each tab: what the tests ask the page, as plain values.
window.probe = {
  ears: new Map(),

  /** Everything about the call that claims are made of. */
  async look() {
    const call = window.stentor.call;
    const peer = call?.peer;
    const result = {
      state: document.getElementById("state").dataset.state,
      alert: document.getElementById("alert").hidden
        ? null
        : document.getElementById("alert-words").textContent,
      news: document.getElementById("news").textContent,
      focus: document.activeElement?.id ?? "",
      user: call?.user ?? null,
      tiles: [...document.querySelectorAll(".tile")].map((tile) => ({
        user: tile.dataset.user,
        self: tile.dataset.self === "true",
        name: tile.querySelector(".name").textContent,
        mark: tile.querySelector(".mark").textContent,
        speaking: tile.dataset.speaking === "true",
        picture: tile.dataset.picture === "true",
        width: tile.querySelector("video").videoWidth,
        height: tile.querySelector("video").videoHeight,
      })),
      sending: document.getElementById("up").textContent,
      inbound: [],
      outbound: [],
      transport: null,
    };
    if (!peer) return result;
    const owners = new Map();
    for (const { user, audio, video } of call.roster) {
      owners.set(audio, user);
      owners.set(video, user);
    }
    const report = await peer.getStats();
    for (const it of report.values()) {
      if (it.type === "transport") {
        result.transport = {
          dtls: it.dtlsState,
          ice: it.iceState,
          srtp: it.srtpCipher ?? null,
          dtlsCipher: it.dtlsCipher ?? null,
          tls: it.tlsVersion ?? null,
        };
      } else if (it.type === "inbound-rtp") {
        result.inbound.push({
          user: owners.get(it.ssrc) ?? null,
          kind: it.kind,
          ssrc: it.ssrc,
          packets: it.packetsReceived,
          lost: it.packetsLost,
          level: it.audioLevel ?? null,
          concealed: it.concealedSamples ?? null,
          samples: it.totalSamplesReceived ?? null,
          frames: it.framesDecoded ?? null,
          keyFrames: it.keyFramesDecoded ?? null,
          width: it.frameWidth ?? null,
          height: it.frameHeight ?? null,
          codec: report.get(it.codecId)?.mimeType ?? null,
        });
      } else if (it.type === "outbound-rtp") {
        result.outbound.push({
          kind: it.kind,
          ssrc: it.ssrc,
          active: it.active,
          packets: it.packetsSent,
          frames: it.framesEncoded ?? null,
          width: it.frameWidth ?? null,
          height: it.frameHeight ?? null,
          codec: report.get(it.codecId)?.mimeType ?? null,
        });
      }
    }
    return result;
  },

  /** The strongest frequency heard of a user, Hz, and its share of all that is heard. */
  tone(user) {
    const track = window.stentor.call?.playback.track(user);
    if (!track) return null;
    let ear = this.ears.get(user);
    if (!ear || ear.track !== track) {
      this.context ??= new AudioContext();
      this.context.resume();
      const source = this.context.createMediaStreamSource(new MediaStream([track]));
      const analyser = new AnalyserNode(this.context, {
        fftSize: 16384,
        smoothingTimeConstant: 0,
        minDecibels: -160,
      });
      source.connect(analyser);
      ear = { track, source, analyser };
      this.ears.set(user, ear);
    }
    const { analyser } = ear;
    const decibels = new Float32Array(analyser.frequencyBinCount);
    analyser.getFloatFrequencyData(decibels);
    const powers = Array.from(decibels, (it) => (Number.isFinite(it) ? 10 ** (it / 10) : 0));
    const sum = (part) => part.reduce((total, it) => total + it, 0);
    const total = sum(powers);
    if (total === 0) return null;
    const peak = powers.indexOf(Math.max(...powers));
    if (peak < 4) return { frequency: 0, share: 0 };
    const [a, b, c] = decibels.slice(peak - 1, peak + 2);
    const offset = (a - c) / (2 * (a - 2 * b + c));
    const width = this.context.sampleRate / analyser.fftSize;
    // A Blackman window spreads one frequency over a few bins.
    const share = sum(powers.slice(peak - 3, peak + 4)) / total;
    return { frequency: (peak + offset) * width, share };
  },
};

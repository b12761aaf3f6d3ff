// Session descriptions that never cross the wire whole: what of the browser's offer the server is
// told, what its answer says, and the complete answer that the browser is given instead. Pure.

/** Header extensions kept in the answer, by kind; the server stamps or passes on no others. */
const EXTENSIONS = {
  audio: [
    "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
  ],
  video: [
    "urn:ietf:params:rtp-hdrext:toffset",
    "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
    "urn:3gpp:video-orientation",
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
    "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
  ],
};

const VIDEO_FEEDBACK = ["ccm fir", "nack", "nack pli", "goog-remb", "transport-cc"];

/** What this page sends at most, kbit/s, as the browser's own parameter. */
const VIDEO_KBIT_MAX = 2500;

const CLOCKS = { H264: 90000, VP8: 90000, VP9: 90000, AV1: 90000 };

/** The lines of the offer that Select Protocol carries: no m-lines, no SSRCs, no candidates. */
export function fragment(offer) {
  const lines = offer.split(/\r?\n/);
  const rtpmaps = new Set();
  for (const line of lines) {
    const map = /^a=rtpmap:(\d+) (opus|VP8)\//i.exec(line);
    if (map) rtpmaps.add(map[1]);
  }
  for (const line of lines) {
    const apt = /^a=fmtp:(\d+) apt=(\d+)$/.exec(line);
    const isVp8 = (type) => lines.some((it) => it.startsWith(`a=rtpmap:${type} VP8/`));
    if (apt && isVp8(apt[2])) rtpmaps.add(apt[1]);
  }
  const wanted = lines.filter((line) => {
    if (line === "a=extmap-allow-mixed") return true;
    if (/^a=(ice-|fingerprint:|extmap:)/.test(line)) return true;
    const map = /^a=rtpmap:(\d+) /.exec(line);
    return map !== null && rtpmaps.has(map[1]);
  });
  return [...new Set(wanted)].join("\n");
}

/** The server's answer: a template, not a description. Throws what is missing, in words. */
export function parseTemplate(text) {
  const lines = text.split(/\r?\n/);
  const after = (prefix) => lines.find((line) => line.startsWith(prefix))?.slice(prefix.length);
  const template = {
    port: after("m=audio ")?.split(" ")[0],
    connection: after("c="),
    ufrag: after("a=ice-ufrag:"),
    password: after("a=ice-pwd:"),
    fingerprint: after("a=fingerprint:"),
    candidates: lines.filter((line) => line.startsWith("a=candidate:")),
  };
  const missing = Object.keys(template).filter((key) => !template[key]?.length);
  if (template.connection && template.connection.split(" ").length < 3) missing.push("connection");
  if (missing.length) throw new Error(`the server's description lacks ${missing.join(", ")}`);
  return template;
}

/** Whether the server is to be reached on this machine alone. */
export function staysHome(template) {
  return /^IN (IP4 127\.|IP6 ::1$)/.test(template.connection);
}

/**
 * The m-sections of a local description: `{kind, mid, direction, stopped, lines}` each. `stopped`
 * is one whose place in the list is all that is left of it.
 */
export function sections(description) {
  const [, ...parts] = description.split(/^m=/m);
  return parts.map((part) => {
    const lines = part.split(/\r?\n/);
    const attribute = (name) => lines.find((line) => line.startsWith(`a=${name}:`));
    const direction = lines.find((line) => /^a=(sendrecv|sendonly|recvonly|inactive)$/.test(line));
    return {
      kind: lines[0].split(" ")[0],
      mid: attribute("mid")?.slice("a=mid:".length),
      direction: direction?.slice("a=".length) ?? "sendrecv",
      stopped: lines[0].split(" ")[1] === "0" && !lines.includes("a=bundle-only"),
      lines,
    };
  });
}

/** The SSRCs under which a section sends: `{ssrc, rtx}`, null where there is none. */
export function ssrcs(section) {
  const find = (pattern) => section.lines.map((line) => pattern.exec(line)).find(Boolean);
  const group = find(/^a=ssrc-group:FID (\d+) (\d+)/);
  if (group) return { ssrc: Number(group[1]), rtx: Number(group[2]) };
  const single = find(/^a=ssrc:(\d+) /);
  return { ssrc: single ? Number(single[1]) : null, rtx: null };
}

/**
 * The whole answer to `offer`. `codecs` is what Select Protocol listed, `videoCodec` what the
 * server chose for sending; `remotes` maps a mid to the stream that the server sends there:
 * `{user, ssrc}`.
 */
export function answer(offer, template, { codecs, videoCodec, remotes }) {
  const offered = sections(offer);
  const parts = offered.map((section) => {
    if (section.stopped) return stopped(section);
    const remote = remotes.get(section.mid);
    const sends = section.direction === "sendonly" || section.direction === "sendrecv";
    const direction = sends ? "recvonly" : remote ? "sendonly" : "inactive";
    const listed = codecs.filter((codec) => codec.type === section.kind);
    const chosen = sends && section.kind === "video" ? sending(listed, videoCodec) : listed;
    return [
      `m=${section.kind} ${template.port} UDP/TLS/RTP/SAVPF ${payloadTypes(chosen).join(" ")}`,
      `c=${template.connection}`,
      `a=rtcp:${template.port}`,
      `a=ice-ufrag:${template.ufrag}`,
      `a=ice-pwd:${template.password}`,
      `a=fingerprint:${template.fingerprint}`,
      ...template.candidates,
      "a=setup:passive",
      `a=mid:${section.mid}`,
      `a=${direction}`,
      "a=rtcp-mux",
      ...chosen.flatMap(section.kind === "audio" ? audioLines : videoLines),
      ...(section.kind === "audio" ? ["a=maxptime:60"] : []),
      ...extensions(section),
      ...(remote && !sends ? remoteLines(section.kind, remote) : []),
    ];
  });
  const session = [
    "v=0",
    "o=- 1420070400000 0 IN IP4 127.0.0.1",
    "s=-",
    "t=0 0",
    `a=group:BUNDLE ${offered
      .filter((section) => !section.stopped)
      .map((section) => section.mid)
      .join(" ")}`,
    "a=msid-semantic: WMS *",
  ];
  return [...session, ...parts.flat()].map((line) => `${line}\r\n`).join("");
}

function stopped({ kind, mid, lines }) {
  const [, , protocol, payloadType] = lines[0].split(" ");
  const parts = [`m=${kind} 0 ${protocol} ${payloadType}`, "c=IN IP4 0.0.0.0", "a=inactive"];
  return mid === undefined ? parts : [...parts, `a=mid:${mid}`];
}

/** The one codec to send; the most preferred if the server's choice is none that can be. */
function sending(codecs, name) {
  const able = codecs.filter((codec) => codec.encode);
  const chosen = able.find((codec) => codec.name === name) ?? able[0] ?? codecs[0];
  return chosen ? [chosen] : [];
}

function payloadTypes(codecs) {
  return codecs.flatMap(({ payload_type, rtx_payload_type }) =>
    rtx_payload_type ? [payload_type, rtx_payload_type] : [payload_type],
  );
}

function audioLines({ payload_type: type }) {
  return [
    `a=rtpmap:${type} opus/48000/2`,
    `a=fmtp:${type} minptime=10;useinbandfec=1;usedtx=1`,
    `a=rtcp-fb:${type} transport-cc`,
  ];
}

function videoLines({ name, payload_type: type, rtx_payload_type: rtx }) {
  const bitrate = `x-google-max-bitrate=${VIDEO_KBIT_MAX}`;
  const h264 = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f";
  const lines = [
    `a=rtpmap:${type} ${name}/${CLOCKS[name]}`,
    `a=fmtp:${type} ${name === "H264" ? `${h264};${bitrate}` : bitrate}`,
    ...VIDEO_FEEDBACK.map((feedback) => `a=rtcp-fb:${type} ${feedback}`),
  ];
  if (rtx) lines.push(`a=rtpmap:${rtx} rtx/${CLOCKS[name]}`, `a=fmtp:${rtx} apt=${type}`);
  return lines;
}

function extensions({ kind, lines }) {
  return lines.filter((line) => {
    const map = /^a=extmap:\d+(?:\/\w+)? (\S+)/.exec(line);
    return map !== null && EXTENSIONS[kind].includes(map[1]);
  });
}

function remoteLines(kind, { user, ssrc }) {
  const name = `${user}-${ssrc}`;
  const lines = [`a=msid:${name} ${kind === "audio" ? "a" : "v"}${name}`];
  if (kind === "video") {
    // The retransmissions' SSRC is not announced; it is the next one.
    lines.push(`a=ssrc-group:FID ${ssrc} ${ssrc + 1}`);
    lines.push(`a=ssrc:${ssrc} cname:${name}`, `a=ssrc:${ssrc + 1} cname:${name}`);
  } else {
    lines.push(`a=ssrc:${ssrc} cname:${name}`);
  }
  return lines;
}

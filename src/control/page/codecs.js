// Which codecs this browser offers and under which payload types, read from its own offer, in the
// form that Select Protocol takes.

/** Video codecs in order of preference, and which of several variants is meant. */
const VIDEO = [
  { name: "H264", matches: (fmtp) => isBaseline(fmtp) },
  { name: "VP8", matches: () => true },
  { name: "VP9", matches: (fmtp) => (parameter(fmtp, "profile-id") ?? "0") === "0" },
  { name: "AV1", matches: (fmtp) => (parameter(fmtp, "profile") ?? "0") === "0" },
];

/** The server wants multiples of this. */
const PRIORITY_STEP = 1000;

/**
 * The list for Select Protocol. `encodes` and `decodes` are sets of upper-case names that this
 * browser can send and show.
 */
export function listCodecs(offer, { encodes, decodes }) {
  const opus = find(offer, "opus", () => true);
  const list = [];
  if (opus) {
    list.push({
      name: "opus",
      type: "audio",
      priority: PRIORITY_STEP,
      payload_type: opus.payloadType,
    });
  }
  for (const { name, matches } of VIDEO) {
    const found = find(offer, name, matches);
    const encode = encodes.has(name);
    const decode = decodes.has(name);
    if (!found || !(encode || decode)) continue;
    list.push({
      name,
      type: "video",
      priority: PRIORITY_STEP * list.length + (opus ? 0 : PRIORITY_STEP),
      payload_type: found.payloadType,
      rtx_payload_type: found.rtxPayloadType,
      encode,
      decode,
    });
  }
  return list;
}

/** Upper-case names of what this browser can send and show. */
export function capabilities() {
  const names = (capabilities) =>
    new Set(capabilities.codecs.map((codec) => codec.mimeType.split("/")[1].toUpperCase()));
  return {
    encodes: names(RTCRtpSender.getCapabilities("video")),
    decodes: names(RTCRtpReceiver.getCapabilities("video")),
  };
}

function find(offer, name, matches) {
  const lines = offer.split(/\r?\n/);
  for (const line of lines) {
    const map = /^a=rtpmap:(\d+) ([^/ ]+)\//.exec(line);
    if (!map || map[2].toUpperCase() !== name.toUpperCase()) continue;
    const payloadType = Number(map[1]);
    const fmtp = lines.find((other) => other.startsWith(`a=fmtp:${payloadType} `)) ?? "";
    if (!matches(fmtp)) continue;
    const rtx = lines
      .map((other) => /^a=fmtp:(\d+) (?:.*;)?apt=(\d+)/.exec(other))
      .find((apt) => apt && Number(apt[2]) === payloadType);
    return { payloadType, rtxPayloadType: rtx ? Number(rtx[1]) : null };
  }
  return null;
}

function isBaseline(fmtp) {
  const profile = parameter(fmtp, "profile-level-id")?.toLowerCase();
  return parameter(fmtp, "packetization-mode") === "1" && profile === "42e01f";
}

function parameter(fmtp, name) {
  const pairs = fmtp.slice(fmtp.indexOf(" ") + 1).split(";");
  return pairs.map((pair) => pair.trim().split("=")).find(([key]) => key === name)?.[1];
}

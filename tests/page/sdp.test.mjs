import assert from "node:assert/strict";
import { test } from "node:test";

import { listCodecs } from "./codecs.js";
import { all, offer } from "./offer.mjs";
import { answer, fragment, parseTemplate, sections, ssrcs, staysHome } from "./sdp.js";

const text = [
  "m=audio 50000 ICE/SDP",
  "a=fingerprint:sha-256 AA:BB",
  "c=IN IP4 203.0.113.10",
  "a=rtcp:50000",
  "a=ice-ufrag:abcd",
  "a=ice-pwd:0123456789abcdef01234567",
  "a=fingerprint:sha-256 AA:BB",
  "a=candidate:1 1 UDP 4261412862 203.0.113.10 50000 typ host",
].join("\n");

const answered = (settings) =>
  answer(offer, parseTemplate(text), {
    codecs: listCodecs(offer, all),
    videoCodec: "H264",
    remotes: new Map(),
    ...settings,
  });

test("the fragment has what the server needs, once, and nothing of an m-line", () => {
  assert.deepEqual(fragment(offer).split("\n"), [
    "a=extmap-allow-mixed",
    "a=ice-ufrag:MOVL",
    "a=ice-pwd:2oyj2mgEor+89r/MhnbrFT2Z",
    "a=ice-options:trickle",
    "a=fingerprint:sha-256 94:66:C0",
    "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level",
    "a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
    "a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
    "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid",
    "a=rtpmap:111 opus/48000/2",
    "a=extmap:14 urn:ietf:params:rtp-hdrext:toffset",
    "a=extmap:13 urn:3gpp:video-orientation",
    "a=extmap:5 http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
    "a=extmap:8 http://www.webrtc.org/experiments/rtp-hdrext/color-space",
    "a=rtpmap:96 VP8/90000",
    "a=rtpmap:97 rtx/90000",
  ]);
});

test("a server on this machine is known by its address", () => {
  const at = (address) => staysHome(parseTemplate(text.replace("IN IP4 203.0.113.10", address)));
  for (const address of ["IN IP4 127.0.0.1", "IN IP4 127.0.0.9", "IN IP6 ::1"]) {
    assert.ok(at(address), address);
  }
  for (const address of ["IN IP4 203.0.113.127", "IN IP4 12.7.0.1", "IN IP6 ::127"]) {
    assert.ok(!at(address), address);
  }
});

test("a template is read, and one that lacks something says what", () => {
  assert.deepEqual(parseTemplate(text), {
    port: "50000",
    connection: "IN IP4 203.0.113.10",
    ufrag: "abcd",
    password: "0123456789abcdef01234567",
    fingerprint: "sha-256 AA:BB",
    candidates: ["a=candidate:1 1 UDP 4261412862 203.0.113.10 50000 typ host"],
  });
  assert.throws(() => parseTemplate(text.replace("a=ice-pwd:", "a=x:")), /lacks password/);
  assert.throws(() => parseTemplate(text.replace(/a=candidate.*/, "")), /lacks candidates/);
  assert.throws(() => parseTemplate(text.replace("IN IP4 ", "")), /lacks connection/);
  assert.throws(() => parseTemplate(""), /lacks port, connection/);
});

test("own SSRCs are those of the sending sections", () => {
  const [audio, video, receiver] = sections(offer).map(ssrcs);
  assert.deepEqual(audio, { ssrc: 2576551965, rtx: null });
  assert.deepEqual(video, { ssrc: 372033489, rtx: 1674919499 });
  assert.deepEqual(receiver, { ssrc: null, rtx: null });
});

test("the answer has the offer's sections, each with the template's transport", () => {
  const parts = sections(answered({}));
  assert.deepEqual(
    parts.map(({ kind, mid, direction }) => [kind, mid, direction]),
    [
      ["audio", "0", "recvonly"],
      ["video", "1", "recvonly"],
      ["audio", "2", "inactive"],
    ],
  );
  for (const { lines } of parts) {
    for (const line of [
      "c=IN IP4 203.0.113.10",
      "a=ice-ufrag:abcd",
      "a=ice-pwd:0123456789abcdef01234567",
      "a=fingerprint:sha-256 AA:BB",
      "a=candidate:1 1 UDP 4261412862 203.0.113.10 50000 typ host",
      "a=setup:passive",
      "a=rtcp-mux",
    ]) {
      assert.equal(lines.filter((it) => it === line).length, 1, line);
    }
  }
  assert.match(answered({}), /^v=0\r\no=- \d+ 0 IN IP4 127\.0\.0\.1\r\ns=-\r\nt=0 0\r\n/);
  assert.match(answered({}), /a=group:BUNDLE 0 1 2\r\n/);
});

test("a remote stream is declared under its SSRC where it was assigned", () => {
  const remotes = new Map([["2", { user: "77", ssrc: 4242 }]]);
  const { direction, lines } = sections(answered({ remotes }))[2];
  assert.equal(direction, "sendonly");
  assert.ok(lines.includes("a=msid:77-4242 a77-4242"));
  assert.ok(lines.includes("a=ssrc:4242 cname:77-4242"));
  const others = sections(answered({ remotes })).slice(0, 2);
  assert.ok(others.every((part) => !part.lines.some((line) => line.startsWith("a=ssrc"))));
});

test("remote video has retransmissions under the next SSRC, and every codec we decode", () => {
  const receiving = offer.replace(/m=audio 9 UDP\/TLS\/RTP\/SAVPF 111\r\n/, "m=video 9 X 96\r\n");
  const remotes = new Map([["2", { user: "77", ssrc: 5000 }]]);
  const settings = { codecs: listCodecs(offer, all), videoCodec: "H264", remotes };
  const { lines } = sections(answer(receiving, parseTemplate(text), settings))[2];
  assert.equal(lines[0], "video 50000 UDP/TLS/RTP/SAVPF 108 109 96 97 98 99 45 46");
  assert.ok(lines.includes("a=msid:77-5000 v77-5000"));
  assert.ok(lines.includes("a=ssrc-group:FID 5000 5001"));
  assert.ok(lines.includes("a=ssrc:5001 cname:77-5000"));
});

test("what is sent is the codec that the server chose, or the best there is", () => {
  const sent = (videoCodec) => sections(answered({ videoCodec }))[1].lines[0].split(" ").slice(3);
  assert.deepEqual(sent("H264"), ["108", "109"]);
  assert.deepEqual(sent("VP8"), ["96", "97"]);
  assert.deepEqual(sent("H265"), ["108", "109"]);
});

test("header extensions are kept under the offer's ids, and only those that are used", () => {
  const [audio, video] = sections(answered({})).map(({ lines }) =>
    lines.map((line) => /^a=extmap:(\d+)/.exec(line)?.[1]).filter(Boolean),
  );
  assert.deepEqual(audio, ["1", "3"]);
  assert.deepEqual(video, ["14", "2", "13", "3", "5"]);
});

test("a section that was stopped keeps its place and nothing else", () => {
  const after = offer
    .replace("m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n", "m=audio 0 UDP/TLS/RTP/SAVPF 111\r\n")
    .replace("a=group:BUNDLE 0 1 2", "a=group:BUNDLE 0 1");
  const settings = { codecs: listCodecs(offer, all), videoCodec: "H264", remotes: new Map() };
  const text2 = answer(after, parseTemplate(text), settings);
  assert.match(text2, /a=group:BUNDLE 0 1\r\n/);
  const [, , last] = sections(text2);
  assert.deepEqual(last.lines, [
    "audio 0 UDP/TLS/RTP/SAVPF 111",
    "c=IN IP4 0.0.0.0",
    "a=inactive",
    "a=mid:2",
    "",
  ]);
});

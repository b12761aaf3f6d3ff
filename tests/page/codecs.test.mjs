import assert from "node:assert/strict";
import { test } from "node:test";

import { listCodecs } from "./codecs.js";
import { all, offer } from "./offer.mjs";

test("the list has the browser's payload types, in order of preference", () => {
  const list = listCodecs(offer, all);
  assert.deepEqual(
    list.map((it) => [it.name, it.type, it.priority, it.payload_type, it.rtx_payload_type]),
    [
      ["opus", "audio", 1000, 111, undefined],
      ["H264", "video", 1000, 108, 109],
      ["VP8", "video", 2000, 96, 97],
      ["VP9", "video", 3000, 98, 99],
      ["AV1", "video", 4000, 45, 46],
    ],
  );
});

test("a codec that can only be shown is not one to send", () => {
  const some = { encodes: new Set(["VP8"]), decodes: new Set(["VP8", "H264"]) };
  const video = listCodecs(offer, some).filter((it) => it.type === "video");
  assert.deepEqual(
    video.map(({ name, encode, decode }) => [name, encode, decode]),
    [
      ["H264", false, true],
      ["VP8", true, true],
    ],
  );
});

test("a browser without video has a list without it", () => {
  const audio = offer.slice(0, offer.indexOf("m=video"));
  assert.deepEqual(listCodecs(audio, all), [
    { name: "opus", type: "audio", priority: 1000, payload_type: 111 },
  ]);
});

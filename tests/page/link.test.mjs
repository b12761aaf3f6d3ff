import assert from "node:assert/strict";
import { test } from "node:test";

import { readLink } from "./link.js";

const LINK = "#server=1&channel=127121515262115840&user=11&session=8e1f&token=66d2";

test("a link has all that Identify shows, and its page's gateway", () => {
  assert.deepEqual(readLink(LINK, "https://voice.example.org:8443"), {
    url: "wss://voice.example.org:8443/?v=9",
    server_id: "1",
    channel_id: "127121515262115840",
    user_id: "11",
    session_id: "8e1f",
    token: "66d2",
  });
  assert.equal(readLink(LINK, "http://localhost:8443").url, "ws://localhost:8443/?v=9");
});

test("what lacks a part is no link", () => {
  for (const part of ["server", "channel", "user", "session", "token"]) {
    const without = LINK.slice(1).split("&").filter((it) => !it.startsWith(`${part}=`)).join("&");
    assert.equal(readLink(`#${without}`, "https://x"), null, part);
    const empty = LINK.replace(new RegExp(`${part}=[^&]*`), `${part}=`);
    assert.equal(readLink(empty, "https://x"), null, part);
  }
  for (const other of ["", "#", "#top", LINK.replace("user=11", "user=me")]) {
    assert.equal(readLink(other, "https://x"), null, other);
  }
});

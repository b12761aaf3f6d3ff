import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

import { Gateway, op } from "./gateway.js";

const grant = {
  url: "ws://localhost:8443/?v=9",
  server_id: "1",
  channel_id: "2",
  user_id: "3",
  session_id: "s",
  token: "t",
};

/** A socket that a test plays the server of. */
class Socket {
  static CLOSING = 2;
  static all = [];
  readyState = 1;
  sent = [];
  closedWith = null;

  constructor(url) {
    this.url = url;
    Socket.all.push(this);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close(code) {
    this.closedWith = code;
    this.readyState = 3;
  }

  say(op, d, seq) {
    this.onmessage({ data: JSON.stringify({ op, d, seq }) });
  }

  end(code) {
    this.readyState = 3;
    this.onclose({ code, reason: "" });
  }
}

const last = () => Socket.all[Socket.all.length - 1];

const conversation = () => {
  const gateway = new Gateway(grant);
  const said = [];
  for (const type of ["live", "message", "waiting", "over"]) {
    gateway.addEventListener(type, ({ detail }) => said.push([type, detail]));
  }
  gateway.connect();
  return { gateway, said, types: () => said.map(([type]) => type) };
};

const live = () => {
  const it = conversation();
  last().say(op.HELLO, { v: 9, heartbeat_interval: 41250 });
  last().say(op.READY, { ssrc: 1 }, 1);
  return it;
};

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  Socket.all = [];
  globalThis.WebSocket = Socket;
});

test("Hello is answered with Identify and a heartbeat", () => {
  const { types } = conversation();
  assert.equal(last().url, grant.url);
  last().say(op.HELLO, { v: 9, heartbeat_interval: 41250 });
  const [identify, heartbeat] = last().sent;
  assert.equal(identify.op, op.IDENTIFY);
  assert.deepEqual(identify.d.streams, [{ type: "video", rid: "100", quality: 100 }]);
  for (const key of ["server_id", "channel_id", "user_id", "session_id", "token"]) {
    assert.equal(identify.d[key], grant[key], key);
  }
  assert.equal(heartbeat.op, op.HEARTBEAT);
  assert.equal(heartbeat.d.seq_ack, -1);
  assert.deepEqual(types(), []);
});

test("nothing is sent before Ready", () => {
  const { gateway, types } = conversation();
  last().say(op.HELLO, { v: 9, heartbeat_interval: 41250 });
  assert.equal(gateway.send(op.SPEAKING, {}), false);
  last().say(op.READY, { ssrc: 1 }, 1);
  assert.deepEqual(types(), ["live", "message"]);
  assert.equal(gateway.send(op.SPEAKING, { speaking: 1 }), true);
  assert.deepEqual(last().sent.at(-1), { op: op.SPEAKING, d: { speaking: 1 } });
});

test("heartbeats come every five seconds and say what was heard last", () => {
  live();
  last().say(op.SPEAKING, {}, 17);
  last().say(op.HEARTBEAT_ACK, { t: Date.now() });
  const before = last().sent.length;
  mock.timers.tick(4999);
  assert.equal(last().sent.length, before);
  mock.timers.tick(1);
  assert.equal(last().sent.at(-1).op, op.HEARTBEAT);
  assert.equal(last().sent.at(-1).d.seq_ack, 17);
});

test("a lost socket is resumed with what was heard last, and tells so", () => {
  const { said } = live();
  last().say(op.SPEAKING, {}, 17);
  last().end(1006);
  assert.equal(said.at(-1)[0], "waiting");
  mock.timers.tick(said.at(-1)[1].ms);
  assert.equal(Socket.all.length, 2);
  last().say(op.HELLO, { v: 9, heartbeat_interval: 41250 });
  const { server_id, channel_id, session_id, token } = grant;
  assert.deepEqual(last().sent[0], {
    op: op.RESUME,
    d: { server_id, channel_id, session_id, token, seq_ack: 17 },
  });
  last().say(op.RESUMED, null);
  assert.deepEqual(said.at(-1), ["live", { resumed: true }]);
});

test("a socket on which nothing is answered is given up, but not the session", () => {
  const { said } = live();
  const dead = last();
  mock.timers.tick(5000);
  assert.equal(said.at(-1)[0], "waiting");
  assert.ok(![1000, 1001, 4014].includes(dead.closedWith), "a goodbye would end the session");
});

test("a server that says nothing at all is tried again, ever less often", () => {
  const { said } = conversation();
  const pauses = [];
  for (let attempt = 0; attempt < 9; attempt += 1) {
    mock.timers.tick(10000);
    pauses.push(said.at(-1)[1].ms);
    mock.timers.tick(said.at(-1)[1].ms);
  }
  assert.equal(Socket.all.length, 10);
  assert.ok(pauses[0] < 400 && pauses[8] > 5000 && pauses[8] <= 10000, pauses);
});

test("an end for good is one, in words", () => {
  for (const code of [4014, 4021, 4022, 4017]) {
    const { said } = live();
    last().end(code);
    const [type, { anew, words }] = said.at(-1);
    assert.deepEqual([type, anew], ["over", false], code);
    assert.ok(words.length > 10, words);
  }
});

test("a session that is forgotten is begun anew, a server that restarts is come back to", () => {
  for (const [code, type] of [
    [4006, "over"],
    [4004, "over"],
    [4015, "waiting"],
    [4009, "waiting"],
    [1001, "waiting"],
  ]) {
    const { said } = live();
    last().end(code);
    assert.equal(said.at(-1)[0], type, code);
    if (type === "over") assert.equal(said.at(-1)[1].anew, true);
  }
});

test("leaving says goodbye and is final", () => {
  const { gateway, said } = live();
  const socket = last();
  gateway.close();
  assert.equal(socket.closedWith, 1000);
  mock.timers.tick(100000);
  assert.equal(Socket.all.length, 1);
  assert.deepEqual(said.map(([type]) => type), ["live", "message"]);
});

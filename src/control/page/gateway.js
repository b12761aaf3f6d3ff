// One session's conversation with the voice gateway, over as many WebSockets as it takes: Identify,
// heartbeats, and Resume with what was last heard when a socket breaks. Knows opcodes and close
// codes; what the messages mean to a call is `call.js`'s.
//
// Events: "message" {op, d} for all but the conversation's own; "live" {resumed} when messages can
// be sent; "waiting" {ms} before another attempt; "over" {anew, code, words} at the end, `anew` if
// a new grant may go on where this one ended.

import { Backoff } from "./backoff.js";

export const op = Object.freeze({
  IDENTIFY: 0,
  SELECT_PROTOCOL: 1,
  READY: 2,
  HEARTBEAT: 3,
  SESSION_DESCRIPTION: 4,
  SPEAKING: 5,
  HEARTBEAT_ACK: 6,
  RESUME: 7,
  HELLO: 8,
  RESUMED: 9,
  CLIENTS_CONNECT: 11,
  VIDEO: 12,
  CLIENT_DISCONNECT: 13,
  SESSION_UPDATE: 14,
  MEDIA_SINK_WANTS: 15,
});

/** Heartbeats go at least this often, whatever interval Hello allows. */
const HEARTBEAT_MS = 5000;

/** Time in which a new WebSocket must have said Hello. */
const HELLO_MS = 10000;

/** Any code but 1000, 1001 and 4014, which end the session. */
const STAY = 4900;

/** Ends that no new attempt changes, in words. */
const FINAL = new Map([
  [4001, "The server did not understand this page. Is one of them older than the other?"],
  [4002, "The server did not understand this page. Is one of them older than the other?"],
  [4005, "The server did not understand this page. Is one of them older than the other?"],
  [4012, "This server does not speak WebRTC."],
  [4014, "You were disconnected: somebody removed you, or you joined from another place."],
  [4016, "The server did not understand this page. Is one of them older than the other?"],
  [4017, "This channel wants end-to-end encryption, which this page does not have."],
  [4020, "The server did not understand this page. Is one of them older than the other?"],
  [4021, "The server cut you off because too much came from this page. Wait a little."],
  [4022, "The channel was closed for everybody."],
]);

/** Ends of this session, but not of the visit. */
const ANEW = new Set([4003, 4004, 4006, 4011]);

export class Gateway extends EventTarget {
  #grant;
  #socket = null;
  #session = false;
  #over = false;
  #seq = -1;
  #backoff = new Backoff();
  #heartbeat = 0;
  #acknowledged = true;
  #timer = 0;
  #live = false;

  /** Time a heartbeat took, ms; null before the first. */
  roundTrip = null;

  constructor(grant) {
    super();
    this.#grant = grant;
  }

  get isLive() {
    return this.#live;
  }

  /** Opens a WebSocket now, also when a pause is not over. */
  connect() {
    if (this.#over) return;
    this.#abandon();
    const socket = new WebSocket(this.#grant.url);
    this.#socket = socket;
    this.#timer = setTimeout(() => this.#broke(0, "silence"), HELLO_MS);
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onclose = (event) => this.#broke(event.code, event.reason);
  }

  /** Sends a message if that is possible now. What it would have said is said again on "live". */
  send(op, d) {
    if (!this.#live) return false;
    this.#write(op, d);
    return true;
  }

  /** Ends the session for good. */
  close() {
    this.#over = true;
    this.#socket?.close(1000);
    this.#abandon();
  }

  #write(op, d) {
    this.#socket.send(JSON.stringify({ op, d }));
  }

  /** Lets go of the present socket, whatever becomes of it. */
  #abandon() {
    clearTimeout(this.#timer);
    clearInterval(this.#heartbeat);
    this.#live = false;
    if (!this.#socket) return;
    this.#socket.onmessage = this.#socket.onclose = null;
    if (this.#socket.readyState < WebSocket.CLOSING) this.#socket.close(STAY);
    this.#socket = null;
  }

  #broke(code, reason) {
    this.#abandon();
    const final = FINAL.get(code);
    if (final) return this.#end({ anew: false, code, words: final, reason });
    // Without a Ready there is no session to resume, and the grant may be used up.
    if (ANEW.has(code) || (!this.#session && code !== 0 && code !== 1006)) {
      return this.#end({ anew: true, code, words: "The session is over.", reason });
    }
    const ms = this.#backoff.next();
    this.#timer = setTimeout(() => this.connect(), ms);
    this.#tell("waiting", { ms, attempts: this.#backoff.attempts });
  }

  #end(detail) {
    this.#over = true;
    this.#tell("over", detail);
  }

  #receive(text) {
    // Binary frames are end-to-end encryption's, which this client has said it does not have.
    if (typeof text !== "string") return;
    const message = JSON.parse(text);
    if (Number.isInteger(message.seq)) this.#seq = message.seq;
    const d = message.d;
    switch (message.op) {
      case op.HELLO:
        this.#greet(d);
        break;
      case op.HEARTBEAT:
        this.#beat();
        break;
      case op.HEARTBEAT_ACK:
        this.#acknowledged = true;
        if (d && Number.isFinite(d.t)) this.roundTrip = Date.now() - d.t;
        break;
      case op.READY:
        this.#session = true;
        this.#welcome(false);
        this.#tell("message", { op: message.op, d });
        break;
      case op.RESUMED:
        this.#welcome(true);
        break;
      default:
        this.#tell("message", { op: message.op, d });
    }
  }

  #greet(hello) {
    clearTimeout(this.#timer);
    const { server_id, channel_id, user_id, session_id, token } = this.#grant;
    if (this.#session) {
      const seq_ack = this.#seq;
      this.#write(op.RESUME, { server_id, channel_id, session_id, token, seq_ack });
    } else {
      this.#write(op.IDENTIFY, {
        server_id,
        channel_id,
        user_id,
        session_id,
        token,
        video: true,
        streams: [{ type: "video", rid: "100", quality: 100 }],
        max_dave_protocol_version: 0,
      });
    }
    this.#acknowledged = true;
    const interval = Math.min(HEARTBEAT_MS, hello.heartbeat_interval ?? HEARTBEAT_MS);
    this.#beat();
    this.#heartbeat = setInterval(() => this.#beat(), interval);
  }

  #welcome(resumed) {
    this.#backoff.reset();
    this.#live = true;
    this.#tell("live", { resumed });
  }

  #beat() {
    // An interval without an answer: the socket is dead, though nobody has said so.
    if (!this.#acknowledged) return this.#broke(0, "no answer to a heartbeat");
    this.#acknowledged = false;
    this.#write(op.HEARTBEAT, { t: Date.now(), seq_ack: this.#seq });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

#!/usr/bin/env python3
"""Writes tests/fuzz/seeds from tests/vectors. Run it after the vectors have changed."""

import json
import pathlib
import re

HERE = pathlib.Path(__file__).parent
VECTORS = HERE.parent / "vectors"
MODES = [
    "aead_aes256_gcm_rtpsize",
    "aead_xchacha20_poly1305_rtpsize",
    "aead_aes256_gcm",
    "xsalsa20_poly1305_lite_rtpsize",
    "xsalsa20_poly1305_lite",
    "xsalsa20_poly1305_suffix",
    "xsalsa20_poly1305",
]


def load(name):
    return json.loads((VECTORS / f"{name}.json").read_text())


def seed(target, name, data):
    path = HERE / "seeds" / target / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def compact(value):
    return json.dumps(value, separators=(",", ":"))


for vector in load("rtp_transport")["vectors"]:
    seed("rtp", vector["name"], bytes.fromhex(vector["plain_packet"]))
for vector in load("rtcp_transport")["vectors"]:
    seed("rtcp", vector["name"], bytes.fromhex(vector["plain_packet"]))
for name in ["rtp_transport", "rtcp_transport", "captures"]:
    for vector in load(name)["vectors"]:
        mode = bytes([MODES.index(vector["mode"])])
        data = mode + bytes.fromhex(vector["key"]) + bytes.fromhex(vector["packet"])
        seed("crypto_open", f"{vector.get('name', 'captured')}-{vector['mode']}", data)

# In `Profile::PREFERRED`'s order, with both directions keyed alike.
for vector in load("srtp")["packets"]:
    profile = {7: 0, 8: 1, 1: 2}[vector["profile"]]
    key, salt = bytes.fromhex(vector["master_key"]), bytes.fromhex(vector["master_salt"])
    head = bytes([profile, 0, 0, 0, 0]) + key + key + salt + salt
    for kind in ["rtp_plain", "rtp_sealed", "rtcp_plain", "rtcp_sealed"]:
        seed("srtp_open", f"{kind}-{vector['profile']}", head + bytes.fromhex(vector[kind]))
    extension = bytes.fromhex("926f0003000000090000000700000001000000021234000200010203deadbeef")
    seed("srtp_open", f"extension-{vector['profile']}", head + extension + b"payload")

# `arbitrary` takes the fixed-size parts of the tuple from the end of the input.
TAIL = bytes(10) + b"\xff\xff\xcb\x00\x71\x4d" + bytes(2)
for index, vector in enumerate(load("ip_discovery")["vectors"]):
    seed("discovery", f"request-{index}", bytes.fromhex(vector["request"]) + TAIL)
for vector in load("keepalive")["vectors"]:
    seed("discovery", vector["client"], bytes.fromhex(vector["in"]) + TAIL)

for client, payloads in load("client_payloads").items():
    for index, message in enumerate(payloads["msgs"]):
        if isinstance(message, dict) and "op" in message:
            seed("message", f"{client}-{index}-op{message['op']}", compact(message))
    if "?" in payloads["path"]:
        seed("query", client, payloads["path"].split("?")[1].split(" ")[0])
for index, vector in enumerate(load("ws_binary_frames")["vectors"]):
    if vector["dir"] == "C->S":
        seed("message", f"binary-{index}-op{vector['op']}", bytes.fromhex(vector["frame"]))

# A byte before the message: whether its attributes are to be signed anew.
STUN = load("stun")
for name in ["request", "ipv4_response", "ipv6_response", "long_term_request"]:
    seed("stun", f"as-it-is-{name}", b"\x00" + bytes.fromhex(STUN[name]))
ATTRIBUTES = {
    "nominated": "0024000471000001802a000800000000000000010025000000",
    "controlled": "802900080000000000000001",
    "unknown": "7abc000378797a004000000000140000",
}
for name, attributes in ATTRIBUTES.items():
    seed("stun", f"signed-{name}", b"\x01" + bytes(20) + bytes.fromhex(attributes))
for offer in load("offers"):
    seed("sdp", offer["client"], offer["sdp"])

token = load("grant_token")
seed("token", "signed", token["token"])
seed("token", "claims", compact(token["claims"]))

GRANT = {
    "permissions": {"connect": True, "speak": True, "video": True, "stream": True,
                    "priority_speaker": False},
    "state": {"mute": False, "deaf": False, "suppress": False, "self_mute": False,
              "self_deaf": False, "self_video": False},
    "room": {"type": "guild_voice", "user_limit": 0, "video_limit": 25, "max_bitrate": 64000,
             "e2ee": "optional"},
    "flags": 0,
}
STREAM = {"stream_key": "guild:1:2:3", "owner_id": "3", "viewer_limit": 50, "paused": False}
seed("grant_body", "voice", compact(GRANT))
seed("grant_body", "stream", compact({**GRANT, "stream": STREAM}))

UPGRADE = (
    b"GET /?v=8 HTTP/1.1\r\nHost: voice.test:8443\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def frame(first, payload):
    """A short client frame, masked with zeros (RFC 6455 5.2)."""
    return bytes([first, 0x80 | len(payload), 0, 0, 0, 0]) + payload


HEARTBEAT = b'{"op":3,"d":7}'
seed("ws_wire", "heartbeat-and-goodbye",
     b"\x06" + UPGRADE + frame(0x81, HEARTBEAT) + frame(0x88, b"\x03\xe8"))
seed("ws_wire", "in-fragments",
     b"\x00" + UPGRADE + frame(0x01, HEARTBEAT[:5]) + frame(0x89, b"ping") + frame(0x80, HEARTBEAT[5:]))
seed("ws_wire", "binary", b"\x1f" + UPGRADE + frame(0x82, b"\x1akey package"))
seed("ws_wire", "visit-and-upgrade", b"\x07GET / HTTP/1.1\r\nHost: voice.test\r\n\r\n" + UPGRADE)
seed("ws_wire", "no-upgrade", b"\x03GET / HTTP/1.1\r\nHost: voice.test\r\n\r\n")
seed("ws_wire", "page", b"\x07GET / HTTP/1.1\r\nHost: voice.test\r\n\r\n"
     b"GET /page/link.js HTTP/1.1\r\nHost: voice.test\r\n\r\n")

# The shard's operations as `arbitrary` reads them: a byte that says there is one more, a u32 that is
# scaled to the number of variants, the fields in order.
OPERATIONS = ["open", "identify", "resume", "select", "text", "binary", "hangup", "discover", "speak",
              "datagram", "rule", "kick", "close_channel", "elapse"]


def operation(name, *fields):
    variant = (OPERATIONS.index(name) * 2**32 + 2**31) // len(OPERATIONS)
    return b"\x01" + variant.to_bytes(4, "little") + b"".join(
        field if isinstance(field, bytes) else bytes([field]) for field in fields)


def u16(value):
    return value.to_bytes(2, "little")


def join(client, mode, version=8):
    return (operation("open", client, version) + operation("identify", client, 0, 1)
            + operation("select", client, mode) + operation("discover", client, 0))


def speak(client, port=0):
    return operation("speak", client, port, u16(1), 0, 20)


for mode in range(len(MODES)):
    talk = join(0, mode) + join(1, mode) + speak(0) + speak(1) + speak(0, 1)
    seed("shard", f"talk-{MODES[mode]}", talk)
PAIR = join(0, 0) + join(1, 1, 4)
seed("shard", "resume", PAIR + operation("hangup", 0, u16(1006)) + speak(0) + operation("open", 0, 8)
     + operation("resume", 0, b"\x01", u16(3)) + speak(1))
seed("shard", "resume-too-late", PAIR + operation("hangup", 1, u16(1006))
     + operation("elapse", u16(65_000)) + operation("open", 1, 4) + operation("resume", 1, 0))
seed("shard", "mute-and-kick", PAIR + speak(0) + operation("rule", 0, 1, 0, 0) + speak(0)
     + operation("rule", 0, 0, 0, 0) + speak(0) + operation("rule", 1, 0, 1, 0) + speak(0)
     + operation("kick", 0) + speak(1) + operation("close_channel", 0))
ALONE = operation("open", 0, 8) + operation("identify", 0, 0, 1) + operation("select", 0, 3)
seed("shard", "reselect-after-moving", join(1, 2) + speak(1, 1) + operation("select", 1, 0)
     + operation("kick", 1) + speak(1, 1))
seed("shard", "discover-after-reselect", ALONE + speak(0, 1) + operation("select", 0, 3)
     + operation("discover", 0, 0) + operation("kick", 0) + speak(0, 1))
seed("shard", "identify-twice", PAIR + join(0, 0) + speak(0) + speak(1))

seed("id", "string", '"104694319306248192"')
seed("id", "number", "7")

# Operations of fuzz_targets/dtls.rs: a byte each, then its fields.
NEXT, LOSE, AGAIN, CHANGE, CUT, BYTES, RECORD, ELAPSE = (bytes([index]) for index in range(8))
ALERT = RECORD + bytes([21, 0, 60, 0, 0, 2, 2, 40])
seed("dtls", "handshake", NEXT * 3 + AGAIN + b"\x02" + ELAPSE + b"\x09" + ALERT)
seed("dtls", "lost-flights", (LOSE + ELAPSE + b"\x05") * 2 + NEXT * 2 + ELAPSE + b"\x09" + NEXT * 4)
seed("dtls", "changed", NEXT * 2 + CHANGE + b"\x00\x20\x01\x00\x00\x00" + NEXT)
seed("dtls", "cut", CUT + b"\x00\x40" + NEXT * 2 + CUT + b"\x01\x00" + NEXT)
seed("dtls", "alert-in-mid-handshake", NEXT + ALERT + NEXT)
seed("dtls", "too-late", NEXT + ELAPSE + b"\xff" + NEXT)
PIECE = b"\x0b\x00\x04\x00\x00\x05\x00\x00\x00\x00\x00\x08" + bytes(8)
seed("dtls", "pieces", (RECORD + bytes([22, 0, 9, 7, 0, len(PIECE)]) + PIECE) * 30 + NEXT)
seed("dtls", "noise", BYTES + b"\x20" + bytes(range(20, 52)) + NEXT * 3
     + RECORD + bytes([23, 1, 9, 0, 0, 40]) + bytes(40) + RECORD + bytes([20, 0, 9, 9, 0, 1, 1]))

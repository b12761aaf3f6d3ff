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

seed("id", "string", '"104694319306248192"')
seed("id", "number", "7")

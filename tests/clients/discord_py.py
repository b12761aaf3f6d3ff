"""discord.py's own VoiceClient, or that of its fork py-cord, driven without a main gateway.

Usage: discord_py.py GRANT FRAMES. GRANT is one object of `stentor grant`, FRAMES a file of Opus
frames, each behind its length as a big-endian u16. Reads commands from standard input (speak,
leave; quiet: from now on name no voice server to who asks for the channel it is in, as Spacebar
does; event JSON: what its main gateway would pass on), writes one JSON object per event to standard output. The certificate comes from
SSL_CERT_FILE, as for any user of the library.
"""

import asyncio
import json
import logging
import struct
import sys
import threading
from types import SimpleNamespace

import aiohttp
import discord
from discord.gateway import DiscordClientWebSocketResponse
from discord.http import HTTPClient

PY_CORD = hasattr(discord, "sinks")
if PY_CORD:
    from discord.raw_models import RawVoiceServerUpdateEvent, RawVoiceStateUpdateEvent


def tell(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


class Frames(discord.AudioSource):
    """Ready-made Opus frames, one per 20 ms."""

    def __init__(self, path):
        with open(path, "rb") as file:
            data = file.read()
        self.frames = []
        place = 0
        while place < len(data):
            (length,) = struct.unpack_from(">H", data, place)
            self.frames.append(data[place + 2 : place + 2 + length])
            place += 2 + length
        self.next = 0

    def is_opus(self):
        return True

    def read(self):
        if self.next == len(self.frames):
            return b""
        self.next += 1
        return self.frames[self.next - 1]


class Guild:
    """Answers a request to join as a backend would: with a voice state and a voice server."""

    def __init__(self, grant):
        self.id = int(grant["guild_id"])
        self.grant = grant
        self.voice = None
        self.channel = None
        self.quiet = False
        self.me = SimpleNamespace(voice=None, id=int(grant["user_id"]))

    async def change_voice_state(self, *, channel, self_deaf=False, self_mute=False):
        grant = self.grant
        state = {"session_id": grant["session_id"], "channel_id": channel and str(channel.id)}
        server = {
            "token": grant["token"],
            "guild_id": grant["guild_id"],
            "endpoint": grant["endpoint"],
        }
        is_silent = channel is None or (self.quiet and channel.id == self.channel)
        self.channel = channel and channel.id

        async def answer():
            await self.deliver("VOICE_STATE_UPDATE", state)
            if not is_silent:
                await self.deliver("VOICE_SERVER_UPDATE", server)

        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(answer()))

    async def deliver(self, name, data):
        if name == "VOICE_STATE_UPDATE":
            data = RawVoiceStateUpdateEvent(data=data, state=None) if PY_CORD else data
            await self.voice.on_voice_state_update(data)
        else:
            data = RawVoiceServerUpdateEvent(data=data, state=None) if PY_CORD else data
            await self.voice.on_voice_server_update(data)

    def get_member(self, _):
        return None

    def get_channel(self, _):
        return self.voice.channel


class Channel:
    def __init__(self, guild, grant):
        self.id = int(grant["channel_id"])
        self.guild = guild

    def _get_voice_client_key(self):
        return self.guild.id, "guild_id"


async def session_for(http):
    """What HTTPClient.static_login makes, without logging in anywhere."""
    session = aiohttp.ClientSession(ws_response_class=DiscordClientWebSocketResponse)
    http._HTTPClient__session = session
    return session


def commands(loop):
    """Lines of standard input; the last one is empty."""
    queue = asyncio.Queue()

    def read():
        for line in sys.stdin:
            loop.call_soon_threadsafe(queue.put_nowait, line.strip())
        loop.call_soon_threadsafe(queue.put_nowait, "")

    threading.Thread(target=read, daemon=True).start()
    return queue


async def main():
    grant = json.loads(sys.argv[1])
    loop = asyncio.get_running_loop()
    http = HTTPClient(loop)
    session = await session_for(http)
    state = SimpleNamespace(
        loop=loop,
        http=http,
        user=SimpleNamespace(id=int(grant["user_id"])),
        self_id=int(grant["user_id"]),
        _remove_voice_client=lambda _: None,
    )
    guild = Guild(grant)
    client = SimpleNamespace(_connection=state, loop=loop, dispatch=lambda *_: None)
    voice = discord.VoiceClient(client, Channel(guild, grant))
    guild.voice = voice
    await voice.connect(reconnect=True, timeout=30.0)
    tell("joined", ssrc=voice.ssrc, mode=voice.mode)

    def finished(error):
        tell("spoken", error=error and repr(error))

    queue = commands(loop)
    while (command := await queue.get()) not in ("leave", ""):
        if command == "speak":
            voice.play(Frames(sys.argv[2]), after=finished)
        elif command == "quiet":
            guild.quiet = True
        elif command.startswith("event "):
            event = json.loads(command.removeprefix("event "))
            await guild.deliver(event["event"], event["data"])
    await voice.disconnect()
    await session.close()
    tell("left")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    asyncio.run(main())

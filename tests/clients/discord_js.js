// @discordjs/voice itself, driven without a main gateway.
//
// Usage: discord_js.js GRANT FRAMES USER... GRANT is one object of `stentor grant`, FRAMES a file of
// Opus frames, each behind its length as a big-endian u16, USERs are listened to. Reads commands from
// standard input (speak, leave), writes one JSON object per event to standard output. The certificate
// comes from NODE_EXTRA_CA_CERTS, as for any user of the library.
'use strict';

const fs = require('node:fs');
const readline = require('node:readline');
const { Readable } = require('node:stream');
const voice = require('@discordjs/voice');

const grant = JSON.parse(process.argv[2]);
const users = process.argv.slice(4);

const tell = (event, fields) => console.log(JSON.stringify({ event, ...fields }));

function frames(path) {
  const bytes = fs.readFileSync(path);
  const frames = [];
  for (let place = 0; place < bytes.length; ) {
    const length = bytes.readUInt16BE(place);
    frames.push(bytes.subarray(place + 2, place + 2 + length));
    place += 2 + length;
  }
  return frames;
}

// Answers a request to join as a backend would: with a voice state and a voice server.
function adapterCreator(library) {
  return {
    sendPayload(payload) {
      const channel_id = payload.d.channel_id;
      setImmediate(() => {
        library.onVoiceStateUpdate({
          guild_id: grant.guild_id,
          channel_id,
          user_id: grant.user_id,
          session_id: grant.session_id,
        });
        if (channel_id !== null) {
          const { token, guild_id, endpoint } = grant;
          library.onVoiceServerUpdate({ token, guild_id, endpoint });
        }
      });
      return true;
    },
    destroy() {},
  };
}

const connection = voice.joinVoiceChannel({
  guildId: grant.guild_id,
  channelId: grant.channel_id,
  selfDeaf: false,
  selfMute: false,
  debug: true,
  adapterCreator,
});
const player = voice.createAudioPlayer();
connection.subscribe(player);

let joined = false;
connection.on('stateChange', (_, state) => {
  tell('state', { state: state.status });
  if (state.status === voice.VoiceConnectionStatus.Ready && !joined) {
    joined = true;
    tell('joined', {
      ssrc: state.networking.state.connectionData.ssrc,
      mode: state.networking.state.connectionData.encryptionMode,
    });
  }
});
connection.on('error', (error) => tell('error', { error: String(error) }));
connection.on('debug', (message) => {
  console.error(message);
  const [, speaking] = message.match(/\[WS\] << (\{"op":5,.*)/) ?? [];
  if (speaking) tell('told', { user: JSON.parse(speaking).d.user_id });
});
player.on('error', (error) => tell('error', { error: String(error) }));
player.on(voice.AudioPlayerStatus.Idle, () => tell('spoken', { error: null }));

connection.receiver.speaking.on('start', (user) => tell('speaking', { user }));
for (const user of users) {
  const stream = connection.receiver.subscribe(user);
  stream.on('data', (opus) => tell('heard', { user, opus: opus.toString('hex') }));
  stream.on('error', (error) => tell('error', { error: String(error) }));
}

const commands = readline.createInterface({ input: process.stdin });
commands.on('line', (command) => {
  if (command === 'speak') {
    const inputType = voice.StreamType.Opus;
    const source = Readable.from(frames(process.argv[3]), { objectMode: true });
    player.play(voice.createAudioResource(source, { inputType }));
  } else {
    commands.close();
  }
});
commands.on('close', () => {
  connection.destroy();
  tell('left', {});
  // The player's timer and the socket's keepalive would keep the process.
  setTimeout(() => process.exit(0), 200);
});

//! Discord's Python and JavaScript libraries as foreign clients: the scripts beside this file drive
//! the real `VoiceClient` and `joinVoiceChannel` against a real server, without a main gateway. One
//! speaks a known Opus tone, the others must hear every frame of it, bit for bit, once.

#[path = "../support/mod.rs"]
mod support;

use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use songbird::driver::opus::{Application, Channels, Decoder, Encoder};
use support::{
    cipher::Mode,
    client::Client,
    gateway::{Door, Message},
    media::{FRAME, SILENCE},
    proxy::Proxy,
    server::{Grant, Server},
    spacebar::Spacebar,
    tone::{self, SAMPLE_RATE, Sine, VOICES},
};
use tempfile::TempDir;

const CHANNEL: u64 = 127_121_515_262_115_840;

/// Longest wait for a library: installing is not included, reconnecting with a back-off is.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn discord_py_is_heard_by_everyone_frame_for_frame() {
    python_is_heard_by_everyone("discord_py");
}

/// Its op 5 names no SSRC; it hears nobody who does not encrypt end to end.
#[test]
fn py_cord_is_heard_by_everyone_frame_for_frame() {
    python_is_heard_by_everyone("py_cord");
}

fn python_is_heard_by_everyone(library: &str) {
    let Some(libraries) = Libraries::installed() else { return };
    let server = Server::start();
    let tone = Tone::new(VOICES[0]);
    let mut ear = Client::join(&server, CHANNEL, 11);
    let mut javascript = libraries.discord_js(&server, &server.grant(CHANNEL, 12), &tone, &[10]);
    let mut python = libraries.python(library, &server, &server.grant(CHANNEL, 10), &tone);
    let ssrc = python.joined("aead_xchacha20_poly1305_rtpsize");
    javascript.joined("aead_aes256_gcm_rtpsize");

    python.say("speak");
    assert_eq!(heard_whole(&mut ear, ssrc, &tone), 0, "nothing but the tone and its end");
    javascript.hears(10, &tone);
    python.expect("spoken");
    assert_speaking(&mut ear, 10, ssrc);
    python.leaves();
    assert_eq!(ear.gateway.expect(13).d["user_id"], "10");
    javascript.leaves();
    assert_nothing_lost(&server);
}

/// After 4015 it only ever resumes, and what it resumes is gone with the process.
#[test]
fn discord_py_goes_on_after_a_restart_in_a_spacebars_channel() {
    let Some(libraries) = Libraries::installed() else { return };
    let spacebar = Spacebar::start();
    let settings = spacebar.settings("unix");
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .filter(|(name, _)| *name != "GATEWAY_PUBLIC_ENDPOINT")
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let mut server = Server::with(&settings);
    let endpoint = format!("localhost:{}", server.gateway().port());
    spacebar.point_at(&endpoint);
    let grant = Grant { endpoint, ..spacebar.enter(10, CHANNEL) };
    let tone = Tone::new(VOICES[0]);
    let mut python = libraries.python("discord_py", &server, &grant, &tone);
    python.joined("aead_xchacha20_poly1305_rtpsize");
    python.say("quiet");

    assert!(server.terminate().success());
    server.start_again();
    for name in ["VOICE_SERVER_UPDATE", "VOICE_STATE_UPDATE"] {
        let told = spacebar
            .hear(name, |told| told["event"]["event"] == name && told["event"]["user_id"] == "10");
        python.say(&format!("event {}", told["event"]));
    }
    let mut ear = Client::enter(
        &server,
        &spacebar.enter(11, CHANNEL),
        Door::plain(8),
        Mode::AesRtpsize,
        json!({}),
    );
    let speaking = ear.gateway.expect_where("he is introduced", |message| {
        message.op == 5 && message.d["user_id"] == "10"
    });
    let ssrc = support::client::u32_of(&speaking.d["ssrc"]);
    python.say("speak");
    heard_whole(&mut ear, ssrc, &tone);
    python.expect("spoken");
    python.leaves();
}

#[test]
fn discord_js_is_heard_by_everyone_frame_for_frame() {
    let Some(libraries) = Libraries::installed() else { return };
    let server = Server::start();
    let tone = Tone::new(VOICES[1]);
    let mut ear = Client::join(&server, CHANNEL, 11);
    let mut other = libraries.discord_js(&server, &server.grant(CHANNEL, 12), &tone, &[10]);
    let mut speaker = libraries.discord_js(&server, &server.grant(CHANNEL, 10), &tone, &[12]);
    let ssrc = speaker.joined("aead_aes256_gcm_rtpsize");
    other.joined("aead_aes256_gcm_rtpsize");

    speaker.say("speak");
    let _ = heard_whole(&mut ear, ssrc, &tone);
    other.hears(10, &tone);
    speaker.expect("spoken");
    assert_speaking(&mut ear, 10, ssrc);

    // And the other way round, on the same connections.
    let ssrc = other.ssrc();
    other.say("speak");
    let _ = heard_whole(&mut ear, ssrc, &tone);
    speaker.hears(12, &tone);
    assert_speaking(&mut ear, 12, ssrc);
    speaker.leaves();
    other.leaves();
    assert_nothing_lost(&server);
}

#[test]
fn discord_js_hears_a_raw_voice_frame_for_frame() {
    let Some(libraries) = Libraries::installed() else { return };
    let server = Server::start();
    let tone = Tone::new(VOICES[2]);
    let mut voice = Client::join(&server, CHANNEL, 11);
    let mut javascript = libraries.discord_js(&server, &server.grant(CHANNEL, 12), &tone, &[11]);
    javascript.joined("aead_aes256_gcm_rtpsize");
    voice.start_speaking();
    javascript.is_told_of(11);
    speak(&mut voice, &tone);
    javascript.hears(11, &tone);
    assert_eq!(javascript.expect("speaking")["user"], "11");
    javascript.leaves();
}

#[test]
fn discord_js_resumes_a_cut_websocket_and_not_one_packet_is_lost() {
    let Some(libraries) = Libraries::installed() else { return };
    let server = Server::start();
    let proxy = Proxy::to(server.gateway());
    let tone = Tone::new(VOICES[3]);
    let mut raw = Client::join(&server, CHANNEL, 11);
    let grant = Grant { endpoint: proxy.address().to_string(), ..server.grant(CHANNEL, 12) };
    let mut javascript = libraries.discord_js(&server, &grant, &tone, &[11, 13]);
    let ssrc = javascript.joined("aead_aes256_gcm_rtpsize");
    let _ = raw.gateway.drain();
    raw.start_speaking();
    javascript.is_told_of(11);

    // It hears while its WebSocket is away.
    let (before, after) = tone.frames.split_at(tone.frames.len() / 2);
    say(&mut raw, before);
    proxy.cut();
    say(&mut raw, after);
    fall_silent(&mut raw);
    javascript.hears(11, &tone);
    assert_eq!(proxy.connections(), 2, "one connection before, one for the resume");

    // Cut while it speaks: it pauses until it has resumed, and says all of it under one SSRC.
    javascript.say("speak");
    let mut heard = Vec::new();
    let mut last = None;
    while heard.len() < tone.frames.len() {
        if heard.len() == tone.frames.len() / 2 && proxy.connections() == 2 {
            proxy.cut();
        }
        let packet = raw.media.hear();
        assert_eq!(packet.ssrc, ssrc);
        let follows = last.is_none_or(|last: u16| packet.sequence == last.wrapping_add(1));
        assert!(follows, "{last:?}, then {}", packet.sequence);
        last = Some(packet.sequence);
        if packet.payload != SILENCE {
            heard.push(packet.payload);
        }
        // A frame that was ready at the moment of the cut stays in the library.
        if heard.len() + 1 == tone.frames.len() && heard.last() == tone.frames.last() {
            break;
        }
    }
    let mut said = tone.frames.iter();
    assert!(
        heard.iter().all(|frame| said.any(|next| next == frame)),
        "in order, and nothing twice"
    );
    assert_eq!(proxy.connections(), 3, "one more for the second resume");

    // The resumed connection still brings news: who speaks now is known by name.
    let mut late = Client::join(&server, CHANNEL, 13);
    late.start_speaking();
    javascript.is_told_of(13);
    speak(&mut late, &tone);
    javascript.hears(13, &tone);
    let news = raw.gateway.drain();
    assert!(news.iter().all(|message| message.op != 13), "it was never away: {news:?}");
    javascript.leaves();
    assert_nothing_lost(&server);
}

#[test]
fn discord_py_comes_back_after_a_cut_without_being_reported_gone() {
    let Some(libraries) = Libraries::installed() else { return };
    let server = Server::start();
    let proxy = Proxy::to(server.gateway());
    let tone = Tone::lasting(VOICES[4], 15);
    let mut ear = Client::join(&server, CHANNEL, 11);
    let grant = Grant { endpoint: proxy.address().to_string(), ..server.grant(CHANNEL, 10) };
    let mut python = libraries.python("discord_py", &server, &grant, &tone);
    let first = python.joined("aead_xchacha20_poly1305_rtpsize");
    let _ = ear.gateway.drain();
    // After discovery its reader waits up to 30 s in select() for the socket it has then; what
    // comes in frees it. Still waiting after the cut, it would miss the answer on the new socket
    // for as long.
    ear.start_speaking();
    fall_silent(&mut ear);

    python.say("speak");
    let mut last_sequence = None;
    let mut place = 0;
    let mut ssrcs = vec![first];
    // discord.py does not resume a lost connection but identifies anew. What it says meanwhile
    // stays in the library; of what it sends, all is heard, in order.
    while place < tone.frames.len() {
        if place == 50 && proxy.connections() == 1 {
            proxy.cut();
        }
        let packet = ear.media.hear();
        if packet.ssrc != ssrcs[ssrcs.len() - 1] {
            ssrcs.push(packet.ssrc);
            last_sequence = None;
        }
        let follows = last_sequence.is_none_or(|last: u16| packet.sequence == last.wrapping_add(1));
        assert!(follows, "{last_sequence:?}, then {}", packet.sequence);
        last_sequence = Some(packet.sequence);
        if packet.payload != SILENCE {
            let ahead = tone.frames[place..].iter().position(|frame| *frame == packet.payload);
            place += ahead.expect("a frame of the tone, later than the last") + 1;
        }
    }
    assert!(proxy.connections() >= 2, "it came back");
    python.expect("spoken");
    let news = ear.gateway.drain();
    assert!(news.iter().all(|message| message.op != 13), "the user was never away: {news:?}");
    ear.gateway.keep(news);
    // Hearers must know whose the new SSRC is. That it speaks, the library forgets to say when it
    // is back before its player's next frame.
    named(&mut ear, 10, ssrcs[ssrcs.len() - 1]);
    python.leaves();
}

/// Hears every frame of the tone once, in order, without a gap in the sequence, and then the
/// silence that ends a talk spurt. How many other frames of silence came before.
fn heard_whole(ear: &mut Client, ssrc: u32, tone: &Tone) -> usize {
    let (mut heard, mut early, mut late) = (Vec::new(), 0, 0);
    let mut last: Option<(u16, u32)> = None;
    // discord.js ends a spurt with four frames of silence, others with five.
    while late < 4 {
        let packet = ear.media.hear();
        assert_eq!(packet.ssrc, ssrc);
        if let Some((sequence, timestamp)) = last {
            assert_eq!(packet.sequence, sequence.wrapping_add(1), "after {} frames", heard.len());
            assert_eq!(packet.timestamp, timestamp.wrapping_add(FRAME));
        }
        last = Some((packet.sequence, packet.timestamp));
        match (packet.payload == SILENCE, heard.len()) {
            (false, _) => heard.push(packet.payload),
            (true, 0) => early += 1,
            (true, _) => late += 1,
        }
    }
    assert!(heard == tone.frames, "{} of {} frames, or others", heard.len(), tone.frames.len());
    assert_eq!(tone::voice(&decode(&heard)), Some(tone.frequency));
    early
}

fn decode(frames: &[Vec<u8>]) -> Vec<i16> {
    let mut decoder = Decoder::new(SAMPLE_RATE, Channels::Mono).expect("a decoder");
    let mut samples = Vec::new();
    for frame in frames {
        let mut decoded = [0; 960];
        let length = decoder.decode(frame, &mut decoded, false).expect("an Opus frame");
        samples.extend(&decoded[..length]);
    }
    samples
}

/// Speaks all of it, and the silence that ends it.
fn speak(voice: &mut Client, tone: &Tone) {
    say(voice, &tone.frames);
    fall_silent(voice);
}

/// A frame every 20 ms.
fn say(voice: &mut Client, frames: &[Vec<u8>]) {
    frames.iter().for_each(|frame| pace(|| drop(voice.media.speak(frame))));
}

/// The five frames of silence that end a talk spurt.
fn fall_silent(voice: &mut Client) {
    say(voice, &vec![SILENCE.to_vec(); 5]);
}

/// One frame's time, the work in it included.
fn pace(work: impl FnOnce()) {
    let due = Instant::now() + Duration::from_millis(20);
    work();
    thread::sleep(due.saturating_duration_since(Instant::now()));
}

/// The hearer was told that this user speaks with this SSRC, and told nobody else's name for it.
fn assert_speaking(hearer: &mut Client, user: u64, ssrc: u32) {
    let news = named(hearer, user, ssrc);
    assert!(news.iter().any(|message| message.d["speaking"] == 1), "{news:?}");
}

/// What the hearer was told of this SSRC: at least once that it is this user's, and never
/// another's.
fn named(hearer: &mut Client, user: u64, ssrc: u32) -> Vec<Message> {
    let user = user.to_string();
    let news = hearer.gateway.drain();
    let (of_ssrc, others): (Vec<_>, Vec<_>) =
        news.into_iter().partition(|message| message.op == 5 && message.d["ssrc"] == ssrc);
    assert!(!of_ssrc.is_empty(), "{others:?}");
    assert!(of_ssrc.iter().all(|message| message.d["user_id"] == user), "{of_ssrc:?}");
    hearer.gateway.keep(others);
    of_ssrc
}

/// The server dropped nothing it should have forwarded.
fn assert_nothing_lost(server: &Server) {
    let metrics = server.metrics();
    for reason in [
        "bad_tag",
        "replayed",
        "too_old",
        "sequence_jump",
        "foreign_ssrc",
        "egress_full",
        "socket_full",
    ] {
        assert_eq!(metrics.drops(reason), 0.0, "{reason}");
    }
}

/// A tone as Opus frames, in memory and in a file for the scripts.
struct Tone {
    frequency: f64,
    frames: Vec<Vec<u8>>,
    file: PathBuf,
    _directory: TempDir,
}

impl Tone {
    /// Five seconds, or more than twenty in the long form of the tests.
    fn new(frequency: f64) -> Self {
        let long = env::var_os("STENTOR_TESTS_LONG").is_some();
        Self::lasting(frequency, if long { 24 } else { 5 })
    }

    fn lasting(frequency: f64, seconds: usize) -> Self {
        let mut sine = Sine::new(frequency);
        let mut encoder =
            Encoder::new(SAMPLE_RATE, Channels::Mono, Application::Audio).expect("an encoder");
        // A frame's number in its last bytes would not be Opus; a quiet overtone of its own makes
        // each frame differ from all others just as well.
        let frames: Vec<Vec<u8>> = (0..seconds * 50)
            .map(|n| {
                let mut overtone = Sine::new(2_000.0 + 5.0 * n as f64);
                let mut sample = || sine.sample() + 0.1 * overtone.sample();
                let samples: Vec<f32> = (0..960).map(|_| sample()).collect();
                encoder.encode_vec_float(&samples, 1_000).expect("an Opus frame")
            })
            .collect();
        let different: BTreeSet<_> = frames.iter().collect();
        assert_eq!(different.len(), frames.len(), "a frame heard twice is told from another one");
        let directory = TempDir::new().expect("a temporary directory");
        let file = directory.path().join("tone");
        let framed = frames.iter().flat_map(|frame| {
            let length = u16::try_from(frame.len()).expect("an Opus frame is short");
            [&length.to_be_bytes(), &frame[..]].concat()
        });
        fs::write(&file, framed.collect::<Vec<u8>>()).expect("a file can be written");
        Self { frequency, frames, file, _directory: directory }
    }
}

/// Where the foreign libraries are installed.
struct Libraries(PathBuf);

impl Libraries {
    /// Installs them if need be. `None`, and loudly so, only where that is impossible and nobody
    /// insists (`STENTOR_TESTS_FOREIGN=required`).
    fn installed() -> Option<Self> {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("foreign-clients");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/install");
        let output = Command::new(script).arg(&directory).output();
        if output.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(Self(directory));
        }
        let why = match output {
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        let insists = env::var_os("STENTOR_TESTS_FOREIGN").is_some_and(|value| value == "required");
        assert!(!insists, "the foreign clients cannot be installed:\n{why}");
        eprintln!("\n*** NOT TESTED: the foreign clients cannot be installed ***\n{why}");
        None
    }

    /// `library` is `discord_py` or `py_cord`.
    fn python(&self, library: &str, server: &Server, grant: &Grant, tone: &Tone) -> Script {
        let mut command = Command::new(self.0.join(library).join("bin/python"));
        command.arg(script("discord_py.py")).env("SSL_CERT_FILE", server.certificate());
        Script::start(command, grant, tone, &[])
    }

    fn discord_js(&self, server: &Server, grant: &Grant, tone: &Tone, users: &[u64]) -> Script {
        let mut command = Command::new("node");
        command.arg(script("discord_js.js")).env("NODE_PATH", self.0.join("node/node_modules"));
        command.env("NODE_EXTRA_CA_CERTS", server.certificate());
        Script::start(command, grant, tone, users)
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// A running script: commands in, events out.
struct Script {
    child: Child,
    commands: Option<ChildStdin>,
    events: Receiver<Value>,
    kept: Vec<Value>,
    log: PathBuf,
    _directory: TempDir,
    ssrc: Option<u32>,
}

impl Script {
    fn start(mut command: Command, grant: &Grant, tone: &Tone, users: &[u64]) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let log = directory.path().join("log");
        let grant = json!({
            "endpoint": grant.endpoint,
            "guild_id": grant.server.to_string(),
            "channel_id": grant.channel.to_string(),
            "user_id": grant.user.to_string(),
            "session_id": grant.session,
            "token": grant.token,
        });
        let mut child = command
            .arg(grant.to_string())
            .arg(&tone.file)
            .args(users.iter().map(u64::to_string))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).expect("a log file"))
            .spawn()
            .expect("an installed interpreter starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (tell, events) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let event =
                    serde_json::from_str(&line).unwrap_or_else(|_| json!({ "event": line }));
                if tell.send(event).is_err() {
                    break;
                }
            }
        });
        let commands = child.stdin.take();
        Self { child, commands, events, kept: Vec::new(), log, _directory: directory, ssrc: None }
    }

    /// Waits until it has joined, in this mode; its SSRC.
    fn joined(&mut self, mode: &str) -> u32 {
        let joined = self.expect("joined");
        assert_eq!(joined["mode"], mode);
        self.ssrc = Some(support::client::u32_of(&joined["ssrc"]));
        self.ssrc()
    }

    fn ssrc(&self) -> u32 {
        self.ssrc.expect("it has joined")
    }

    fn say(&mut self, command: &str) {
        let commands = self.commands.as_mut().expect("it was not asked to leave");
        writeln!(commands, "{command}").expect("the script reads its commands");
    }

    /// The next event of this name; those before it are kept.
    fn expect(&mut self, event: &str) -> Value {
        if let Some(place) = self.kept.iter().position(|kept| kept["event"] == event) {
            return self.kept.remove(place);
        }
        loop {
            let next = self.next(event);
            if next["event"] == event {
                return next;
            }
            self.kept.push(next);
        }
    }

    /// Waits until discord.js has been told of this user's voice: op 5 has a way of its own, here
    /// through a proxy and TLS, and discord.js throws away packets that come before.
    fn is_told_of(&mut self, user: u64) {
        let user = user.to_string();
        while self.expect("told")["user"] != user {}
    }

    /// Hears every frame of the tone from this user, in order and once, and the silence that ends
    /// it.
    fn hears(&mut self, user: u64, tone: &Tone) {
        let user = user.to_string();
        let expected = tone.frames.iter().map(Vec::as_slice).chain([&SILENCE[..]]);
        let mut silences = 0;
        for (n, frame) in expected.enumerate() {
            let heard = loop {
                let heard = self.expect("heard");
                let opus = support::cipher::unhex(heard["opus"].as_str().expect("hexadecimal"));
                // What is left of an earlier talk spurt's end, and silence to begin with.
                if n > 0 || opus != SILENCE {
                    assert_eq!(heard["user"], user, "frame {n}");
                    break opus;
                }
                silences += 1;
            };
            assert_eq!(heard, frame, "frame {n}");
        }
        assert!(silences <= 10, "{silences} frames of silence before the first word");
    }

    fn leaves(&mut self) {
        self.say("leave");
        self.commands = None;
        self.expect("left");
        let deadline = Instant::now() + PATIENCE;
        while !matches!(self.child.try_wait(), Ok(Some(_))) {
            assert!(Instant::now() < deadline, "it said that it left, and stays");
            thread::sleep(Duration::from_millis(10));
        }
        let errors = self.events.try_iter().chain(self.kept.drain(..));
        let errors: Vec<_> = errors.filter(|event| event["event"] == "error").collect();
        assert!(errors.is_empty(), "{errors:?}");
    }

    fn next(&mut self, wanted: &str) -> Value {
        match self.events.recv_timeout(PATIENCE) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => {
                panic!("{wanted:?} expected, nothing for {PATIENCE:?}")
            }
            Err(RecvTimeoutError::Disconnected) => {
                panic!("{wanted:?} expected, but the script ended")
            }
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
        if thread::panicking() {
            eprintln!(
                "--- a script's log ---\n{}",
                fs::read_to_string(&self.log).unwrap_or_default()
            );
        }
    }
}

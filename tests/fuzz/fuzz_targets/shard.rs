//! A shard as a sequence of operations: six clients, over plain UDP or as browsers, that join,
//! speak, move, break and lie, and a control that mutes and kicks them. Whatever they do, who is
//! sent something can open it and is in the sender's channel, every session ends once, and when all
//! have gone nothing is left.
#![no_main]

#[path = "shard/browser.rs"]
mod browser;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::OnceLock,
    time::{Duration, Instant},
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use stentor::{
    crypto::{Cipher, Mode, SecretKey},
    egress::{Egress, Path},
    id::{ChannelId, ConnectionId, Serial, ServerId, SessionId, ShardId, Token, UserId},
    limits::DATAGRAM_BYTES_MAX,
    rtp::Packet,
    sfu::{
        Admission, AdmissionRequest, Command, DisconnectReason, Event, Kind, Output, Policy, Shard,
        ShardConfig, Verdict,
    },
    signalling::{CloseCode, Frame, Version},
    webrtc::Identity,
};

use browser::Browser;

const CLIENTS: usize = 6;
const OPERATIONS_MAX: usize = 200;
const RESUME_WINDOW: Duration = Duration::from_secs(60);
/// Ends a talk spurt; the shard inserts it when somebody is muted.
const SILENCE: [u8; 3] = [0xF8, 0xFF, 0xFE];

#[derive(Debug, Arbitrary)]
enum Operation<'a> {
    Open { client: u8, version: u8 },
    Identify { client: u8, channel: u8, video: bool },
    Resume { client: u8, seq_ack: Option<i16> },
    Select { client: u8, mode: u8 },
    SelectWebRtc { client: u8, listed: bool },
    Check { client: u8, port: u8, nominate: bool, honest: bool },
    Shake { client: u8, port: u8 },
    Name { client: u8, ssrc: u8, video: bool },
    Text { client: u8, message: &'a str },
    Binary { client: u8, message: &'a [u8] },
    Hangup { client: u8, code: u16 },
    Discover { client: u8, port: u8 },
    Speak { client: u8, port: u8, skip: u16, payload_type: u8, length: u8 },
    SpeakAs { client: u8, port: u8, ssrc: u8, skip: u8, length: u8 },
    Datagram { client: u8, port: u8, bytes: &'a [u8] },
    Rule { client: u8, mute: bool, deaf: bool, suppress: bool },
    Kick { client: u8 },
    CloseChannel { channel: u8 },
    CallBack { channel: u8 },
    Elapse { ms: u16 },
}

fuzz_target!(|operations: Vec<Operation<'_>>| {
    let mut world = World::new();
    for operation in operations.into_iter().take(OPERATIONS_MAX) {
        world.perform(operation);
        world.settle();
    }
    world.everyone_leaves();
});

struct World {
    shard: Shard,
    egress: Egress,
    now: Instant,
    clients: [Client; CLIENTS],
    /// Live sessions and whose they are.
    live: BTreeMap<Serial, usize>,
    names: u64,
}

#[derive(Default)]
struct Client {
    connection: Option<ConnectionId>,
    /// Where its next session goes.
    channel: u64,
    serial: Option<Serial>,
    ssrc: u32,
    key: Option<(Mode, SecretKey)>,
    browser: Option<Browser>,
    seq: u16,
    suffix: u32,
}

/// The server's certificate, whose handshakes are the same in every run.
fn identity() -> Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    let make = || Identity::generate().and_then(|it| it.seeded(1)).expect("a certificate");
    IDENTITY.get_or_init(make).clone()
}

impl World {
    fn new() -> Self {
        let config = ShardConfig {
            id: ShardId(0),
            modes: Mode::ALL.to_vec(),
            public_ip: Ipv4Addr::LOCALHOST.into(),
            public_port: 50_000,
            resume_window: RESUME_WINDOW,
            speaking_events: true,
            identity: identity(),
        };
        let now = Instant::now();
        Self {
            shard: Shard::new(config, [7; 32], now),
            egress: Egress::new(64, 64 * DATAGRAM_BYTES_MAX),
            now,
            clients: Default::default(),
            live: BTreeMap::new(),
            names: 0,
        }
    }

    fn perform(&mut self, operation: Operation<'_>) {
        let now = self.now;
        match operation {
            Operation::Open { client, version } => {
                let index = usize::from(client) % CLIENTS;
                if self.clients[index].connection.is_none() {
                    let id = ConnectionId(self.name());
                    self.clients[index].connection = Some(id);
                    let query = format!("v={version}");
                    let version = Version::from_query(Some(&query));
                    self.shard.handle_open(now, id, version, address(index));
                }
            }
            Operation::Identify { client, channel, video } => {
                let index = usize::from(client) % CLIENTS;
                self.clients[index].channel = u64::from(channel % 3) + 1;
                let d = json!({
                    "server_id": "1", "user_id": user(index), "session_id": "s", "token": "t",
                    "video": video,
                });
                self.say(index, &json!({ "op": 0, "d": d }).to_string());
            }
            Operation::Resume { client, seq_ack } => {
                let index = usize::from(client) % CLIENTS;
                let mut d = json!({ "server_id": "1", "session_id": "s", "token": "t" });
                if let Some(seq) = seq_ack {
                    d["seq_ack"] = seq.into();
                }
                self.say(index, &json!({ "op": 7, "d": d }).to_string());
            }
            Operation::Select { client, mode } => {
                let mode = Mode::ALL[usize::from(mode) % Mode::ALL.len()].name();
                let data = json!({ "address": "127.0.0.1", "port": 1, "mode": mode });
                let d = json!({ "protocol": "udp", "data": data });
                let index = usize::from(client) % CLIENTS;
                self.say(index, &json!({ "op": 1, "d": d }).to_string());
            }
            Operation::SelectWebRtc { client, listed } => {
                let mut d = json!({ "protocol": "webrtc", "data": browser::offer() });
                if listed {
                    d["codecs"] = json!([
                        { "name": "opus", "type": "audio", "priority": 1000, "payload_type": 111 },
                        { "name": "VP8", "type": "video", "priority": 1000, "payload_type": 96,
                          "rtx_payload_type": 97 },
                    ]);
                }
                let index = usize::from(client) % CLIENTS;
                self.say(index, &json!({ "op": 1, "d": d }).to_string());
            }
            Operation::Check { client, port, nominate, honest } => {
                let index = usize::from(client) % CLIENTS;
                let browser = self.clients[index].browser.as_mut();
                if let Some(mut check) = browser.map(|it| it.check(nominate, honest)) {
                    self.arrive(index, port, &mut check);
                }
            }
            Operation::Shake { client, port } => {
                let index = usize::from(client) % CLIENTS;
                let browser = self.clients[index].browser.as_mut();
                let flight = browser.map(Browser::take_unsent).unwrap_or_default();
                for mut datagram in flight {
                    self.arrive(index, port, &mut datagram);
                }
            }
            Operation::Name { client, ssrc, video } => {
                let index = usize::from(client) % CLIENTS;
                let ssrc = 1 + u32::from(ssrc % 4);
                let streams = json!([{ "rid": "100", "ssrc": ssrc + 10, "active": true }]);
                let d = json!({ "audio_ssrc": ssrc, "video_ssrc": if video { ssrc + 10 } else { 0 },
                    "streams": if video { streams } else { json!([]) } });
                self.say(index, &json!({ "op": 12, "d": d }).to_string());
            }
            Operation::SpeakAs { client, port, ssrc, skip, length } => {
                let index = usize::from(client) % CLIENTS;
                let client = &mut self.clients[index];
                client.seq = client.seq.wrapping_add(u16::from(skip % 8));
                let payload = vec![index as u8; usize::from(length)];
                let ssrc = 1 + u32::from(ssrc % 4);
                let browser = client.browser.as_ref();
                if let Some(mut packet) = browser.and_then(|it| it.seal(ssrc, client.seq, &payload))
                {
                    self.arrive(index, port, &mut packet);
                }
            }
            Operation::Text { client, message } => {
                self.say(usize::from(client) % CLIENTS, message);
            }
            Operation::Binary { client, message } => {
                self.tell(usize::from(client) % CLIENTS, Frame::Binary(message.to_vec()));
            }
            Operation::Hangup { client, code } => {
                if let Some(id) = self.clients[usize::from(client) % CLIENTS].connection.take() {
                    self.shard.handle_closed(now, id, code);
                }
            }
            Operation::Discover { client, port } => {
                let index = usize::from(client) % CLIENTS;
                let mut request = [0; 74];
                request[..4].copy_from_slice(&[0, 1, 0, 70]);
                request[4..8].copy_from_slice(&self.clients[index].ssrc.to_be_bytes());
                self.arrive(index, port, &mut request);
            }
            Operation::Speak { client, port, skip, payload_type, length } => {
                let index = usize::from(client) % CLIENTS;
                if let Some(mut packet) =
                    self.clients[index].speak(skip, payload_type, length, index)
                {
                    self.arrive(index, port, &mut packet);
                }
            }
            Operation::Datagram { client, port, bytes } => {
                self.arrive(usize::from(client) % CLIENTS, port, &mut bytes.to_vec());
            }
            Operation::Rule { client, mute, deaf, suppress } => {
                let mut policy = Box::new(Policy::default());
                policy.state.mute = mute;
                policy.state.deaf = deaf;
                policy.state.suppress = suppress;
                self.order(client, |serial| Command::Update { serial, policy });
            }
            Operation::Kick { client } => self.order(client, |serial| Command::Close {
                serial,
                code: CloseCode::Disconnected,
                reason: DisconnectReason::Kicked,
            }),
            Operation::CloseChannel { channel } => {
                let command = Command::CloseChannel {
                    channel: ChannelId(u64::from(channel % 3) + 1),
                    code: CloseCode::RoomClosed,
                    reason: DisconnectReason::RoomClosed,
                };
                self.shard.handle_command(now, command, &mut self.egress);
            }
            Operation::CallBack { channel } => {
                let channel = ChannelId(u64::from(channel % 3) + 1);
                let command = Command::Reconnect { channel };
                self.shard.handle_command(now, command, &mut self.egress);
            }
            Operation::Elapse { ms } => self.elapse(Duration::from_millis(ms.into())),
        }
    }

    /// Does what the shard wants done, until it wants nothing.
    fn settle(&mut self) {
        while self.shard.has_handshakes() {
            self.shard.handle_handshake(self.now, &mut self.egress);
        }
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Frame { connection, frame } => self.deliver(connection, &frame),
                Output::Close { connection, .. } => {
                    let mut clients = self.clients.iter_mut();
                    if let Some(closed) = clients.find(|it| it.connection == Some(connection)) {
                        closed.connection = None;
                    }
                }
                Output::Move { .. } => panic!("there is one shard"),
                Output::Event(event) => self.hear(event),
            }
        }
        self.check_egress();
    }

    fn deliver(&mut self, connection: ConnectionId, frame: &Frame) {
        let Frame::Text(text) = frame else { return };
        let message: Value = serde_json::from_str(text).expect("the shard speaks JSON");
        let mut clients = self.clients.iter_mut();
        let Some(client) = clients.find(|it| it.connection == Some(connection)) else { return };
        match message["op"].as_u64() {
            Some(2) => {
                client.ssrc = message["d"]["ssrc"].as_u64().expect("Ready has an ssrc") as u32;
                (client.key, client.browser) = (None, None);
            }
            Some(4) if message["d"]["sdp"].is_string() => {
                let sdp = message["d"]["sdp"].as_str().expect("it is");
                client.browser = Some(Browser::new(sdp, self.now));
                (client.key, client.seq) = (None, 0);
            }
            Some(4) => {
                let bytes: Vec<u8> = serde_json::from_value(message["d"]["secret_key"].clone())
                    .expect("Session Description has a key");
                let key: [u8; 32] = bytes.try_into().expect("of 32 bytes");
                let mode = message["d"]["mode"].as_str().and_then(Mode::from_name);
                client.key = Some((mode.expect("and a mode"), SecretKey::new(key)));
                (client.browser, client.suffix) = (None, 0);
            }
            _ => {}
        }
    }

    /// Answers as control would that lets everybody in.
    fn hear(&mut self, event: Event) {
        match event {
            Event::Admission { connection, request, .. } => {
                let asking = self.clients.iter().position(|it| it.connection == Some(connection));
                let verdict = match (asking, request) {
                    (Some(index), AdmissionRequest::Identify(identify)) => {
                        let serial = Serial(self.name());
                        self.live.insert(serial, index);
                        self.clients[index].serial = Some(serial);
                        Verdict::Join {
                            shard: ShardId(0),
                            admission: Box::new(Admission {
                                serial,
                                kind: Kind::Voice,
                                server: ServerId(1),
                                channel: ChannelId(self.clients[index].channel),
                                user: identify.user,
                                session: SessionId("s".into()),
                                token: Token::new("t"),
                                policy: Policy::default(),
                            }),
                        }
                    }
                    (Some(index), AdmissionRequest::Resume(_)) => {
                        let serial = self.clients[index].serial.unwrap_or(Serial(0));
                        Verdict::Resume { shard: ShardId(0), serial }
                    }
                    (None, _) => {
                        Verdict::Refuse { code: CloseCode::AuthenticationFailed, why: "gone" }
                    }
                };
                let command = Command::Decide { connection, verdict };
                self.shard.handle_command(self.now, command, &mut self.egress);
            }
            Event::Disconnected { serial, .. } => {
                assert!(self.live.remove(&serial).is_some(), "{serial:?} ended twice");
            }
            Event::Identified { serial }
            | Event::Connected { serial, .. }
            | Event::Speaking { serial, .. }
            | Event::Video { serial, .. } => {
                assert!(self.live.contains_key(&serial), "{serial:?} is not there");
            }
        }
    }

    /// Whoever is sent media can open it, and it is of somebody else in the same channel.
    fn check_egress(&mut self) {
        let flight = self.egress.flight();
        for outgoing in flight.chains().flatten() {
            let IpAddr::V4(ip) = outgoing.path.remote.ip() else { panic!("all have IPv4") };
            let index = usize::from(ip.octets()[3]);
            if let (Some(browser), [20..=63, ..]) =
                (&mut self.clients[index].browser, outgoing.bytes)
            {
                browser.handle(outgoing.bytes);
            }
            if !matches!(outgoing.bytes, [128..=191, 0..=191, ..]) || outgoing.bytes.len() < 12 {
                continue;
            }
            let hearer = &mut self.clients[index];
            let plain = if let Some((mode, key)) = &hearer.key {
                let mut bytes = outgoing.bytes.to_vec();
                let cipher = Cipher::new(*mode, key, [0; 20]);
                let opened = cipher.open(&mut bytes).expect("sealed with the hearer's key");
                bytes[opened.range].to_vec()
            } else if let Some(browser) = &mut hearer.browser {
                assert!(browser.is_connected(), "media before there are keys");
                browser.open(outgoing.bytes).expect("it has keys")
            } else {
                continue;
            };
            let packet = Packet::new(&plain).expect("RTP");
            let payload = packet.payload().expect("without padding");
            if payload != SILENCE {
                assert_ne!(usize::from(payload[0]), index, "nobody hears himself");
            }
        }
    }

    fn everyone_leaves(&mut self) {
        for index in 0..CLIENTS {
            if let Some(id) = self.clients[index].connection.take() {
                self.shard.handle_closed(self.now, id, 1000);
            }
        }
        self.settle();
        self.elapse(RESUME_WINDOW * 2);
        self.settle();
        let left = (self.shard.sessions(), self.shard.channels(), self.shard.connections());
        assert_eq!(left, (0, 0, 0), "sessions, channels, connections");
        assert!(self.shard.poll_timeout().is_none(), "nothing is left to wait for");
    }

    fn elapse(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((due, _)) = self.shard.poll_timeout().filter(|(due, _)| *due <= end) {
            self.now = due.max(self.now);
            self.shard.handle_timeout(self.now, &mut self.egress);
        }
        self.now = end;
        for client in &mut self.clients {
            client.browser.iter_mut().for_each(|browser| browser.elapse(end));
        }
    }

    fn arrive(&mut self, index: usize, port: u8, bytes: &mut [u8]) {
        let remote = SocketAddr::new(address(index), 40_000 + u16::from(port % 4));
        self.shard.handle_datagram(self.now, Path::to(remote), bytes, &mut self.egress);
    }

    fn order(&mut self, client: u8, command: impl FnOnce(Serial) -> Command) {
        if let Some(serial) = self.clients[usize::from(client) % CLIENTS].serial {
            self.shard.handle_command(self.now, command(serial), &mut self.egress);
        }
    }

    fn say(&mut self, index: usize, text: &str) {
        self.tell(index, Frame::Text(text.to_owned()));
    }

    /// A driver does not read from a connection that control decides about.
    fn tell(&mut self, index: usize, frame: Frame) {
        if let Some(id) = self.clients[index].connection {
            self.shard.handle_frame(self.now, id, frame);
        }
    }

    fn name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }
}

impl Client {
    /// The next packet, sealed. Its payload begins with the speaker's number.
    fn speak(&mut self, skip: u16, payload_type: u8, length: u8, index: usize) -> Option<Vec<u8>> {
        let (mode, key) = self.key.as_ref()?;
        self.seq = self.seq.wrapping_add(skip % 8);
        self.suffix += 1;
        let payload_type = if payload_type < 200 { 120 } else { payload_type & 0x7F };
        let mut packet = vec![0x80, payload_type];
        packet.extend(self.seq.to_be_bytes());
        packet.extend((u32::from(self.seq) * 960).to_be_bytes());
        packet.extend(self.ssrc.to_be_bytes());
        packet.resize(packet.len() + usize::from(length), index as u8);
        let plain_len = packet.len();
        packet.resize(plain_len + mode.overhead(), 0);
        let suffix = self.suffix.to_be_bytes();
        Cipher::new(*mode, key, [index as u8; 20]).seal(&mut packet, plain_len, suffix)?;
        Some(packet)
    }
}

fn address(index: usize) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, index as u8).into()
}

fn user(index: usize) -> String {
    UserId(100 + index as u64).to_string()
}

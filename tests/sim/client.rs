//! A voice client without sockets: real gateway JSON in and out, RTP sealed and opened with the key
//! it was given. Keeps what a client knows of its channel. Used by the simulation, by the tests of
//! the shard and by the bench of the forwarder; how frames and datagrams travel is theirs.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use serde_json::{Value, json};
use stentor::{
    crypto::{Cipher, Mode, SecretKey},
    id::{ChannelId, ConnectionId, ServerId, SessionId, Ssrc, Token, UserId},
    rtp::{Kind, Packet, classify},
    sfu::{Admission, Kind as RoomKind, Policy},
    signalling::{Frame, Version},
};

/// What the backend told a client to show at the door.
#[derive(Debug, Clone)]
pub struct Grant {
    pub server: ServerId,
    pub channel: ChannelId,
    pub user: UserId,
    pub session: String,
    pub token: String,
}

impl Grant {
    /// A grant of server 1, with a session and a token of its own.
    pub fn new(channel: u64, user: u64) -> Self {
        Self {
            server: ServerId(1),
            channel: ChannelId(channel),
            user: UserId(user),
            session: format!("session of {user}"),
            token: format!("token of {user} for {channel}"),
        }
    }

    /// What control lets its holder do.
    pub fn admission(&self, serial: u64, policy: Policy) -> Admission {
        Admission {
            serial: stentor::id::Serial(serial),
            kind: RoomKind::Voice,
            server: self.server,
            channel: self.channel,
            user: self.user,
            session: SessionId(self.session.as_str().into()),
            token: Token::new(self.token.as_str()),
            policy,
        }
    }
}

/// What sort of client it is.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Gateway version; none is the legacy profile.
    pub version: Option<u8>,
    /// The mode it selects.
    pub mode: Mode,
    /// How it counts nonces.
    pub nonces: Nonces,
    /// Video layers it asks for; none declares no video.
    pub layers: usize,
    /// `codecs` of Select Protocol.
    pub codecs: Option<Value>,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            version: Some(8),
            mode: Mode::Aes256GcmRtpsize,
            nonces: Nonces::from(0),
            layers: 0,
            codecs: None,
        }
    }
}

impl Profile {
    /// A client of this gateway version.
    pub fn v(version: u8) -> Self {
        Self { version: Some(version), ..Self::default() }
    }

    /// A client that names no version.
    pub fn legacy() -> Self {
        Self { version: None, ..Self::default() }
    }

    /// A client that sends and takes H264 under these payload types.
    pub fn video(media: u8, retransmission: u8) -> Self {
        let h264 = codec("H264", 1000, media, Some(retransmission));
        Self { layers: 1, codecs: Some(json!([opus(), h264])), ..Self::default() }
    }

    /// As the server sees it.
    pub fn version(&self) -> Version {
        let query = self.version.map(|version| format!("v={version}"));
        Version::from_query(query.as_deref())
    }
}

/// An entry of `codecs`.
pub fn codec(name: &str, priority: u32, payload_type: u8, rtx: Option<u8>) -> Value {
    json!({"name": name, "type": "video", "priority": priority, "payload_type": payload_type,
        "rtx_payload_type": rtx, "encode": true, "decode": true})
}

/// The entry that everyone lists.
pub fn opus() -> Value {
    json!({"name": "opus", "type": "audio", "priority": 1000, "payload_type": 120})
}

/// A counter of nonce suffixes, in the order a client writes it.
#[derive(Debug, Clone, Copy)]
pub struct Nonces {
    pub counter: u32,
    pub little_endian: bool,
}

impl From<u32> for Nonces {
    fn from(counter: u32) -> Self {
        Self { counter, little_endian: false }
    }
}

impl Nonces {
    fn next(&mut self) -> [u8; 4] {
        let counter = self.counter;
        self.counter = counter.wrapping_add(1);
        if self.little_endian { counter.to_le_bytes() } else { counter.to_be_bytes() }
    }
}

/// A packet before it is sealed.
#[derive(Debug, Clone, Copy)]
pub struct Rtp<'a> {
    pub ssrc: Ssrc,
    pub payload_type: u8,
    pub marker: bool,
    pub seq: u16,
    pub timestamp: u32,
    pub csrcs: &'a [u32],
    /// Profile and elements, whole words.
    pub extension: Option<(u16, &'a [u8])>,
    pub payload: &'a [u8],
    /// Bytes of padding, its count included; 0 for none.
    pub padding: u8,
}

impl Rtp<'_> {
    /// Its bytes.
    pub fn plain(&self) -> Vec<u8> {
        let padded = u8::from(self.padding > 0);
        let extended = u8::from(self.extension.is_some());
        let mut bytes = vec![
            0x80 | padded << 5 | extended << 4 | self.csrcs.len() as u8,
            u8::from(self.marker) << 7 | self.payload_type,
        ];
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.timestamp.to_be_bytes());
        bytes.extend(self.ssrc.0.to_be_bytes());
        bytes.extend(self.csrcs.iter().flat_map(|csrc| csrc.to_be_bytes()));
        if let Some((profile, elements)) = self.extension {
            bytes.extend(profile.to_be_bytes());
            bytes.extend((elements.len() as u16 / 4).to_be_bytes());
            bytes.extend(elements);
        }
        bytes.extend(self.payload);
        if self.padding > 0 {
            bytes.extend(std::iter::repeat_n(0, usize::from(self.padding) - 1));
            bytes.push(self.padding);
        }
        bytes
    }
}

/// A datagram from the server, opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Media.
    Rtp {
        ssrc: Ssrc,
        payload_type: u8,
        marker: bool,
        seq: u16,
        timestamp: u32,
        /// Profile and elements.
        extension: Option<(u16, Vec<u8>)>,
        payload: Vec<u8>,
        /// CSRC count, padding bit.
        csrcs: usize,
        padded: bool,
    },
    /// A compound report.
    Rtcp(Vec<u8>),
}

impl Heard {
    /// The payload of media, empty for RTCP.
    pub fn payload(&self) -> &[u8] {
        match self {
            Heard::Rtp { payload, .. } => payload,
            Heard::Rtcp(_) => &[],
        }
    }

    /// The sequence number of media.
    pub fn seq(&self) -> Option<u16> {
        match self {
            Heard::Rtp { seq, .. } => Some(*seq),
            Heard::Rtcp(_) => None,
        }
    }
}

/// What a client knows of another member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// By op 5.
    pub speaking: Option<(Ssrc, u32)>,
    /// By op 12: whether it shows video.
    pub video: bool,
}

/// One agreed key.
#[derive(Debug)]
pub struct Agreed {
    pub mode: Mode,
    pub key: [u8; 32],
    cipher: Cipher,
}

/// One stream that a client sends.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing {
    pub ssrc: Ssrc,
    pub seq: u16,
    pub timestamp: u32,
}

/// A voice client.
#[derive(Debug)]
pub struct Client {
    pub grant: Grant,
    pub profile: Profile,
    /// Where its datagrams come from.
    pub address: SocketAddr,
    /// Its WebSocket, while it has one.
    pub connection: Option<ConnectionId>,
    /// How its last WebSocket was closed by the server.
    pub closed: Option<u16>,
    /// What it was told on its present WebSocket and has not been asked for.
    pub told: Vec<Value>,
    /// The last numbered message.
    pub last_seq: Option<u16>,
    /// Numbered messages that did not follow the one before.
    pub misnumbered: usize,
    /// Set by Ready: its voice, then each layer and its retransmissions.
    pub streams: Vec<Outgoing>,
    /// Of a browser: the SSRCs that it chose for these itself.
    pub own: Option<[Ssrc; 3]>,
    /// Set by Session Description, newest last.
    pub agreed: Vec<Agreed>,
    /// Set by Session Description for a browser: the server's answer.
    pub sdp: Option<String>,
    /// Everyone else in its channel.
    pub roster: BTreeMap<UserId, Seen>,
    /// Datagrams that have come and are not opened.
    pub mail: VecDeque<Vec<u8>>,
}

impl Client {
    pub fn new(grant: Grant, profile: Profile) -> Self {
        let address = SocketAddr::from(([10, 0, 0, 1], 1_000 + grant.user.0 as u16));
        Self {
            grant,
            profile,
            address,
            connection: None,
            closed: None,
            told: Vec::new(),
            last_seq: None,
            misnumbered: 0,
            streams: Vec::new(),
            own: None,
            agreed: Vec::new(),
            sdp: None,
            roster: BTreeMap::new(),
            mail: VecDeque::new(),
        }
    }

    pub fn user(&self) -> UserId {
        self.grant.user
    }

    /// Its audio SSRC, once Ready has come.
    pub fn ssrc(&self) -> Ssrc {
        self.streams[0].ssrc
    }

    /// Under which SSRC it sends a stream.
    pub fn sends_under(&self, stream: usize) -> Ssrc {
        self.own.map_or(self.streams[stream].ssrc, |own| own[stream])
    }

    /// The address of its WebSocket.
    pub fn web_address(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    }

    /// It has a new WebSocket.
    pub fn opened(&mut self, connection: ConnectionId) {
        self.connection = Some(connection);
        self.closed = None;
        self.told.clear();
    }

    // What it says.

    pub fn identify(&self) -> Frame {
        let Grant { server, channel, user, session, token } = &self.grant;
        let layers: Vec<Value> = (0..self.profile.layers)
            .map(|layer| json!({"type": "video", "rid": format!("{}", 100 - 50 * layer), "quality": 100 - 50 * layer}))
            .collect();
        let mut d = json!({"server_id": server, "user_id": user, "session_id": session,
            "token": token, "video": !layers.is_empty(), "streams": layers});
        if self.profile.version() >= Version::from_query(Some("v=9")) {
            d["channel_id"] = json!(channel);
        }
        message(0, d)
    }

    /// Resumes after the last message it has.
    pub fn resume(&self) -> Frame {
        let seq_ack = self.last_seq.map_or(-1, i64::from);
        self.resume_after(self.profile.version().numbered().then_some(seq_ack))
    }

    pub fn resume_after(&self, seq_ack: Option<i64>) -> Frame {
        let Grant { server, channel, session, token, .. } = &self.grant;
        let mut d = json!({"server_id": server, "session_id": session, "token": token});
        if self.profile.version() >= Version::from_query(Some("v=9")) {
            d["channel_id"] = json!(channel);
        }
        if let Some(seq_ack) = seq_ack {
            d["seq_ack"] = json!(seq_ack);
        }
        message(7, d)
    }

    pub fn select_protocol(&self) -> Frame {
        let mut d = json!({"protocol": "udp",
            "data": {"address": "192.0.2.1", "port": 9, "mode": self.profile.mode.name()}});
        if let Some(codecs) = &self.profile.codecs {
            d["codecs"] = codecs.clone();
        }
        message(1, d)
    }

    /// In the shape of its version.
    pub fn heartbeat(&self) -> Frame {
        if self.profile.version().numbered() {
            message(3, json!({"t": 1, "seq_ack": self.last_seq.map_or(-1, i64::from)}))
        } else {
            message(3, json!(1))
        }
    }

    pub fn speaking(&self, flags: u32) -> Frame {
        if self.profile.version().boolean_speaking() {
            message(5, json!({"speaking": flags != 0, "delay": 0}))
        } else {
            message(5, json!({"speaking": flags, "delay": 0, "ssrc": self.sends_under(0)}))
        }
    }

    /// Camera on, with all layers active, or off.
    pub fn camera(&self, on: bool) -> Frame {
        let layers: Vec<Value> = (1..self.streams.len())
            .step_by(2)
            .filter(|_| on)
            .map(|layer| {
                let (ssrc, rtx_ssrc) = (self.sends_under(layer), self.sends_under(layer + 1));
                json!({"type": "video", "rid": "100", "quality": 100, "active": true,
                    "ssrc": ssrc, "rtx_ssrc": rtx_ssrc, "max_bitrate": 2_500})
            })
            .collect();
        let has_camera = on && self.streams.len() > 1;
        let shown = if has_camera { self.sends_under(1) } else { Ssrc(0) };
        let audio = self.sends_under(0);
        message(
            12,
            json!({"audio_ssrc": audio, "video_ssrc": shown, "rtx_ssrc": 0, "streams": layers}),
        )
    }

    // What it is told.

    /// A message from the server.
    pub fn hear(&mut self, frame: Frame) {
        let Frame::Text(text) = frame else { panic!("a binary frame without DAVE") };
        let message: Value = serde_json::from_str(&text).expect("the server writes JSON");
        if let Some(seq) = message.get("seq") {
            let seq = seq.as_u64().and_then(|seq| u16::try_from(seq).ok()).expect("a u16");
            // A session's numbers start with Ready, whether it is said or said again.
            let last = self.last_seq.filter(|_| message["op"] != 2);
            let expected = last.map_or(1, |last| last.checked_add(1).unwrap_or(1));
            self.misnumbered += usize::from(seq != expected);
            self.last_seq = Some(seq);
        }
        let d = &message["d"];
        match message["op"].as_u64().expect("an opcode") {
            2 => self.hear_ready(d),
            4 if d["sdp"].is_string() => self.sdp = d["sdp"].as_str().map(str::to_owned),
            4 => {
                let mode = Mode::from_name(d["mode"].as_str().unwrap()).unwrap();
                let key: [u8; 32] = serde_json::from_value(d["secret_key"].clone()).unwrap();
                if self.agreed.last().is_none_or(|agreed| agreed.key != key) {
                    let cipher = Cipher::new(mode, &SecretKey::new(key), [0x5A; 20]);
                    self.agreed.push(Agreed { mode, key, cipher });
                }
            }
            5 => {
                let flags = &d["speaking"];
                let flags = flags.as_u64().unwrap_or_else(|| u64::from(flags.as_bool().unwrap()));
                let ssrc = Ssrc(d["ssrc"].as_u64().unwrap() as u32);
                self.roster.entry(user(d)).or_default().speaking = Some((ssrc, flags as u32));
            }
            // Below version 8 a resume tells the present state instead of what was missed.
            9 if !self.profile.version().numbered() => self.roster.clear(),
            11 => {
                let users: Vec<UserId> = serde_json::from_value(d["user_ids"].clone()).unwrap();
                users.into_iter().for_each(|user| {
                    self.roster.entry(user).or_default();
                });
            }
            12 => {
                let shows = d["streams"].as_array().unwrap().iter().any(|s| s["active"] == true);
                assert_eq!(shows, d["video_ssrc"] != 0, "{message}");
                self.roster.entry(user(d)).or_default().video = shows;
            }
            13 => {
                self.roster.remove(&user(d));
            }
            _ => {}
        }
        self.told.push(message);
    }

    fn hear_ready(&mut self, d: &Value) {
        let ssrc = |value: &Value| Ssrc(value.as_u64().unwrap() as u32);
        let mut ssrcs = vec![ssrc(&d["ssrc"])];
        // A replayed Ready is no news.
        if self.streams.first().is_some_and(|voice| voice.ssrc == ssrcs[0]) {
            return;
        }
        for layer in d["streams"].as_array().unwrap() {
            ssrcs.extend([ssrc(&layer["ssrc"]), ssrc(&layer["rtx_ssrc"])]);
        }
        self.streams =
            ssrcs.into_iter().map(|ssrc| Outgoing { ssrc, seq: 0, timestamp: 0 }).collect();
        self.agreed.clear();
        self.roster.clear();
    }

    /// Takes what it was told since it was last asked.
    pub fn take_told(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.told)
    }

    /// Takes what it was told and gives the opcodes.
    pub fn take_ops(&mut self) -> Vec<u64> {
        self.take_told().iter().map(|message| message["op"].as_u64().unwrap()).collect()
    }

    // Its media.

    /// A discovery request.
    pub fn discovery(&self) -> Vec<u8> {
        discovery(self.ssrc())
    }

    /// The next 20 ms of its voice.
    pub fn voice(&mut self, payload: &[u8]) -> Vec<u8> {
        self.next_packet(0, 120, payload)
    }

    /// The next packet of one of its streams.
    pub fn next_packet(&mut self, stream: usize, payload_type: u8, payload: &[u8]) -> Vec<u8> {
        let outgoing = &mut self.streams[stream];
        let Outgoing { ssrc, seq, timestamp } = *outgoing;
        outgoing.seq = seq.wrapping_add(1);
        outgoing.timestamp = timestamp.wrapping_add(960);
        self.seal(&Rtp { payload_type, seq, timestamp, payload, ..rtp(ssrc) }.plain())
    }

    /// The packet of its voice with this number, without counting.
    pub fn voice_at(&mut self, seq: u16, payload: &[u8]) -> Vec<u8> {
        let timestamp = u32::from(seq) * 960;
        self.seal(&Rtp { seq, timestamp, payload, ..rtp(self.ssrc()) }.plain())
    }

    /// Seals a plain packet, RTP or RTCP.
    pub fn seal(&mut self, plain: &[u8]) -> Vec<u8> {
        let agreed = self.agreed.last().expect("Session Description has come");
        let mut bytes = plain.to_vec();
        bytes.resize(plain.len() + agreed.mode.overhead(), 0);
        let sealed = agreed.cipher.seal(&mut bytes, plain.len(), self.profile.nonces.next());
        assert_eq!(sealed, Some(bytes.len()));
        bytes
    }

    /// Opens a datagram with the newest of its keys that fits, and tells which.
    pub fn open(&self, datagram: &[u8]) -> Option<(Heard, &Agreed)> {
        let kind = classify(datagram);
        let (plain, agreed) = self.agreed.iter().rev().find_map(|agreed| {
            let mut bytes = datagram.to_vec();
            let opened = agreed.cipher.open(&mut bytes).ok()?;
            Some((bytes[opened.range].to_vec(), agreed))
        })?;
        if kind == Kind::Rtcp {
            return Some((Heard::Rtcp(plain), agreed));
        }
        let packet = Packet::new(&plain)?;
        let heard = Heard::Rtp {
            ssrc: packet.ssrc(),
            payload_type: packet.payload_type(),
            marker: packet.marker(),
            seq: packet.seq(),
            timestamp: packet.timestamp(),
            extension: packet.extension().map(|(profile, bytes)| (profile, bytes.to_vec())),
            payload: packet.payload()?.to_vec(),
            csrcs: packet.csrc_count(),
            padded: packet.has_padding(),
        };
        Some((heard, agreed))
    }

    /// Opens everything that has come. Each datagram must open.
    pub fn take_heard(&mut self) -> Vec<Heard> {
        let mail = std::mem::take(&mut self.mail);
        mail.iter().map(|datagram| self.open(datagram).expect("sealed for it").0).collect()
    }

    /// The payloads of the media that has come.
    pub fn take_payloads(&mut self) -> Vec<Vec<u8>> {
        self.take_heard().iter().map(|heard| heard.payload().to_vec()).collect()
    }
}

fn user(d: &Value) -> UserId {
    serde_json::from_value(d["user_id"].clone()).expect("a snowflake")
}

/// A text frame.
pub fn message(op: u8, d: Value) -> Frame {
    Frame::Text(json!({"op": op, "d": d}).to_string())
}

/// A discovery request for an SSRC.
pub fn discovery(ssrc: Ssrc) -> Vec<u8> {
    let mut request = vec![0; 74];
    request[..4].copy_from_slice(&[0x00, 0x01, 0x00, 0x46]);
    request[4..8].copy_from_slice(&ssrc.0.to_be_bytes());
    request
}

/// A plain voice packet, to be varied.
pub fn rtp<'a>(ssrc: Ssrc) -> Rtp<'a> {
    Rtp {
        ssrc,
        payload_type: 120,
        marker: false,
        seq: 0,
        timestamp: 0,
        csrcs: &[],
        extension: None,
        payload: &[],
        padding: 0,
    }
}

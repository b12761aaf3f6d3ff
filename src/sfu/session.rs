//! One participant's stay in a channel, across resumes: what it may do, what it has been told, what
//! it sends. The part that sealing a packet touches is apart (`transport.rs`). Owned by the shard.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

use crate::{
    crypto::{Mode, SecretKey},
    egress::Path,
    id::{ConnectionId, Ssrc, UserId},
    limits::CHANNEL_SESSIONS_MAX,
    sfu::{
        Admission, DisconnectReason, Kind, Policy, SessionReport,
        arrivals::Arrivals,
        budget::Budget,
        codec::{AUDIO_CLOCK_HZ, Media, OPUS_PAYLOAD_TYPE, PayloadTypes, VIDEO_CLOCK_HZ},
        cursor::Cursor,
        keyframes::Keyframes,
        peer::Peer,
        reception::Reception,
        repair::Repair,
        reports::{Reporting, Sent},
        retransmit::Answers,
        source::Source,
        transport::{Carriage, Transport},
    },
    signalling::{Codec, CodecName, Identify, Layer, ReplayBuffer, SinkWants, Version},
    webrtc::ExtensionMap,
};

/// A session's place in the shard's tables, and its flow in the egress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionIndex(pub u32);

impl SessionIndex {
    /// For indexing.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One RTP stream that a session may send.
#[derive(Debug)]
pub struct Stream {
    /// Its SSRC, the same for the sender and all hearers.
    pub ssrc: Ssrc,
    /// The sender's side.
    pub source: Source,
    /// The hearers' side, beside the channel's members; empty until the first packet.
    pub cursors: Vec<Cursor>,
    /// What to report to the sender.
    pub reception: Reception,
    /// When a sender report was last passed on.
    pub reported: Option<Instant>,
    /// What was given on of it.
    pub sent: Sent,
    /// What it carried last.
    pub media: Option<Media>,
    /// Of video: whether hearers can begin.
    pub keyframes: Keyframes,
    /// Of video: packets were withheld from everyone, so that nobody can make anything of what
    /// follows up to a keyframe.
    pub cut: bool,
    /// Of video that is shown: what mends its losses.
    pub repair: Option<Box<Repair>>,
}

/// What a session's stream is for, by its place among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Its voice.
    Voice,
    /// A layer of its video.
    Video,
    /// Retransmissions of the layer before it.
    Retransmission,
}

impl Role {
    /// The role of the stream at `place`.
    #[inline]
    pub fn of(place: usize) -> Self {
        match place {
            0 => Role::Voice,
            _ if place % 2 == 1 => Role::Video,
            _ => Role::Retransmission,
        }
    }
}

impl Stream {
    /// Its sender starts again: old numbers mean nothing for the new ones.
    pub fn restart(&mut self) {
        self.reception.restart();
        if let Some(repair) = &mut self.repair {
            repair.missing.restart();
        }
    }

    fn new(ssrc: Ssrc, clock_hz: u32) -> Self {
        Self {
            ssrc,
            source: Source::new(clock_hz),
            cursors: Vec::new(),
            reception: Reception::new(clock_hz),
            reported: None,
            sent: Sent::default(),
            media: None,
            keyframes: Keyframes::default(),
            cut: false,
            repair: None,
        }
    }
}

/// The session's WebSocket is gone; a resume may bring another.
#[derive(Debug, Clone, Copy)]
pub struct Away {
    /// When the session ends if it does not.
    pub until: Instant,
    /// What the backend is told then.
    pub reason: DisconnectReason,
    /// How the WebSocket ended.
    pub close_code: u16,
}

/// What a session is told at Session Description, kept to be able to say it again.
#[derive(Debug)]
pub struct Description {
    /// How its media is to be carried.
    pub agreed: Agreed,
    /// The video codec it was told to send.
    pub video_codec: CodecName,
    /// 32 hexadecimal digits.
    pub media_session: String,
}

/// The part of a Session Description that depends on the transport.
#[derive(Clone)]
pub enum Agreed {
    /// The mode, and the key of both directions.
    Udp(Mode, SecretKey),
    /// Our answer to its offer.
    WebRtc(Zeroizing<String>),
}

/// Leaves keys and passwords out.
impl fmt::Debug for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Agreed::Udp(mode, _) => f.debug_tuple("Udp").field(mode).finish(),
            Agreed::WebRtc(_) => f.write_str("WebRtc(…)"),
        }
    }
}

/// One participant.
#[derive(Debug)]
pub struct Session {
    /// Who it is and what it may do.
    pub admission: Admission,
    /// Gateway version of its WebSockets.
    pub version: Version,
    /// Highest DAVE version it speaks.
    pub dave_max: u16,
    /// Its channel's place in the shard's table.
    pub channel: usize,
    /// Its place among the channel's members.
    pub position: usize,
    /// Its WebSocket, if it has one.
    pub connection: Option<ConnectionId>,
    /// Where its WebSocket comes from.
    pub host: Option<IpAddr>,
    /// Set while it has none.
    pub away: Option<Away>,
    /// Numbered messages it may have missed.
    pub replay: ReplayBuffer,
    /// Who has left since it was last heard of, where its version has no replay: below 8. It may
    /// not have been told.
    pub left: Vec<UserId>,
    /// Resumes it may still make.
    pub resumes: Budget,
    /// What it may send: audio, then a media and a retransmission stream for each layer; their
    /// SSRCs are consecutive, so that a retransmission's is its primary's plus one (protocol.md
    /// §1.4).
    pub streams: Vec<Stream>,
    /// The video layers it asked for.
    pub layers: Vec<Layer>,
    /// Set while it is a browser, or speaks as one.
    pub peer: Option<Box<Peer>>,
    /// Whether the others know by which SSRC it speaks, and that it may.
    pub announced: bool,
    /// Its speaking flags, once it has sent any.
    pub speaking: Option<u32>,
    /// How often the others may still be told the same again.
    pub speaking_repeats: Budget,
    /// The layers it says it sends; empty while its camera is off.
    pub video: Vec<Layer>,
    /// Whether the others are shown them: it may be forbidden, or the channel have no room.
    pub showing: bool,
    /// Whether it supports video at all.
    pub declares_video: bool,
    /// The codecs it listed.
    codecs: Option<Vec<Codec>>,
    /// The payload type it gives Opus.
    pub opus_payload_type: u8,
    /// What it wants to see.
    pub wants: SinkWants,
    /// Select Protocol and lists of codecs that it may still send.
    pub selections: Budget,
    /// What it was last told that others want to see of each of its layers.
    pub wanted: Vec<u8>,
    /// Set from Session Description on.
    pub description: Option<Description>,
    /// Say Session Description again after the next resume (protocol.md §8, trap 30).
    pub repeat_description: bool,
    /// Where the client was seen last, by discovery or by an authenticated packet: where a new
    /// transport starts. `Shard::by_source` has this address and the transport's own, at most.
    pub candidate: Option<Path>,
    /// The one address under which the shard's table of sources has the session.
    pub bound: Option<SocketAddr>,
    /// Its client meant to resume another one, which is lost.
    pub is_revived: bool,
    /// Discovery that is answered after a pause.
    pub discovery_owed: Option<(Ssrc, Path)>,
    /// Discovery requests it may still make.
    pub discoveries: Budget,
    /// Whether control knows that the media path is up.
    pub connected: bool,
    /// RTCP it may still send.
    pub reports: Budget,
    /// Whether it has sent RTCP.
    pub sent_rtcp: bool,
    /// Round trip by its last receiver report.
    pub rtt: Option<Duration>,
    /// When its transport-wide numbers arrived, from the first one on.
    pub arrivals: Option<Box<Arrivals>>,
    /// When a report on those is due.
    pub arrivals_due: Option<Instant>,
    /// When the shard next wakes to give it feedback.
    pub feedback_at: Option<Instant>,
    /// What is owed to hearers on its streams.
    pub reporting: Reporting,
    /// What it was sent again, from its first request on.
    pub answers: Option<Box<Answers>>,
    /// What it says of the path to it.
    pub path: PathReport,
}

/// What a hearer's transport-wide feedback has told: the ground for an estimate of what its path
/// carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PathReport {
    /// Packets that have arrived.
    pub arrived: u64,
    /// Packets that had not when it reported.
    pub lost: u64,
}

impl Session {
    /// A session that has just been let in; its streams' SSRCs start at `base`.
    pub fn new(
        admission: Admission,
        identify: &Identify,
        version: Version,
        channel: usize,
        position: usize,
        base: Ssrc,
    ) -> Self {
        let mut streams = vec![Stream::new(base, AUDIO_CLOCK_HZ)];
        let mut layers = Vec::new();
        for request in &identify.streams {
            let ssrc = Ssrc(base.0 + streams.len() as u32);
            let rtx_ssrc = Ssrc(ssrc.0 + 1);
            streams.push(Stream::new(ssrc, VIDEO_CLOCK_HZ));
            streams.push(Stream::new(rtx_ssrc, VIDEO_CLOCK_HZ));
            layers.push(Layer {
                rid: request.rid.clone(),
                quality: request.quality,
                active: false,
                ssrc: Some(ssrc),
                rtx_ssrc: Some(rtx_ssrc),
                max_framerate: None,
                max_resolution: None,
            });
        }
        Self {
            admission,
            version,
            dave_max: identify.dave_max,
            channel,
            position,
            connection: None,
            host: None,
            away: None,
            replay: ReplayBuffer::new(),
            left: Vec::new(),
            resumes: Budget::new(RESUMES.0, RESUMES.1),
            streams,
            wanted: vec![WANTED_DEFAULT; layers.len()],
            layers,
            peer: None,
            announced: false,
            speaking: None,
            speaking_repeats: Budget::new(SPEAKING_REPEATS.0, SPEAKING_REPEATS.1),
            video: Vec::new(),
            showing: false,
            declares_video: identify.video,
            codecs: None,
            opus_payload_type: OPUS_PAYLOAD_TYPE,
            wants: SinkWants::default(),
            selections: Budget::new(SELECTIONS.0, SELECTIONS.1),
            description: None,
            repeat_description: false,
            candidate: None,
            bound: None,
            is_revived: false,
            discovery_owed: None,
            discoveries: Budget::new(DISCOVERIES.0, DISCOVERIES.1),
            connected: false,
            reports: Budget::new(REPORTS.0, REPORTS.1),
            sent_rtcp: false,
            rtt: None,
            arrivals: None,
            arrivals_due: None,
            feedback_at: None,
            reporting: Reporting::default(),
            answers: None,
            path: PathReport::default(),
        }
    }

    /// How many SSRCs a session with so many layers takes.
    pub fn ssrcs(layers: usize) -> u32 {
        1 + 2 * layers as u32
    }

    /// The SSRC of its voice.
    pub fn audio_ssrc(&self) -> Ssrc {
        self.streams[0].ssrc
    }

    /// Which of its streams has this SSRC, as the others know it.
    #[inline]
    pub fn stream(&self, ssrc: Ssrc) -> Option<usize> {
        let index = ssrc.0.wrapping_sub(self.streams[0].ssrc.0) as usize;
        (index < self.streams.len()).then_some(index)
    }

    /// Which of its streams it sends under this SSRC: a browser chooses its own.
    #[inline]
    pub fn sent_stream(&self, ssrc: Ssrc) -> Option<usize> {
        match &self.peer {
            None => self.stream(ssrc),
            Some(peer) => peer.inbound.stream(ssrc),
        }
    }

    /// What it means by the numbers of header extensions.
    #[inline]
    pub fn numbers(&self) -> &ExtensionMap {
        match &self.peer {
            None => &ExtensionMap::NATIVE,
            Some(peer) => &peer.numbers,
        }
    }

    /// Under which SSRC it sends a stream, if that is known.
    pub fn sent_ssrc(&self, stream: usize) -> Option<Ssrc> {
        match &self.peer {
            None => self.streams.get(stream).map(|stream| stream.ssrc),
            Some(peer) => peer.inbound.ssrc(stream),
        }
    }

    /// Whether discovery from `path` may be this session's own. Every member of the channel knows
    /// its SSRC, so once it has an address only the host that is there, or that its WebSocket comes
    /// from, can move it without a key; clients retry from new ports of one host (protocol.md
    /// §2.1).
    pub fn is_plausible(&self, path: Path, bound: Option<Path>) -> bool {
        let host = path.remote.ip();
        bound.is_none_or(|bound| bound.remote.ip() == host) || self.host == Some(host)
    }

    /// Somebody has left, of whom it may have to be told again.
    pub fn note_leaving(&mut self, user: UserId) {
        if !self.version.numbered() && self.left.len() < CHANNEL_SESSIONS_MAX {
            self.left.push(user);
        }
    }

    /// How long it takes to hear from it again; a guess until it has reported.
    pub fn round_trip(&self) -> Duration {
        self.rtt.map_or(ROUND_TRIP_GUESS, |rtt| rtt.clamp(ROUND_TRIP_MIN, ROUND_TRIP_MAX))
    }

    /// Whether others may hear it.
    pub fn may_speak(&self) -> bool {
        let Policy { permissions, state, .. } = &self.admission.policy;
        permissions.speak && !state.mute && !state.suppress && self.may_send()
    }

    /// Whether others may see it.
    pub fn may_show(&self) -> bool {
        self.admission.policy.permissions.video && self.may_send()
    }

    /// In a stream only its owner sends, and nothing while it is paused.
    fn may_send(&self) -> bool {
        match (&self.admission.kind, &self.admission.policy.stream) {
            (Kind::Stream, Some(stream)) => {
                stream.owner_id == self.admission.user && !stream.paused
            }
            (Kind::Stream, None) => false,
            (Kind::Voice, _) => true,
        }
    }

    /// The flags others are shown: nothing of who may not speak, no priority without permission.
    pub fn shown_speaking(&self) -> Option<u32> {
        let flags = self.speaking?;
        if !self.may_speak() {
            return Some(0);
        }
        let priority = self.admission.policy.permissions.priority_speaker;
        Some(if priority { flags } else { flags & !PRIORITY })
    }

    /// The codecs it listed.
    pub fn codecs(&self) -> Option<&[Codec]> {
        self.codecs.as_deref()
    }

    /// It lists its codecs, or none.
    pub fn list_codecs(&mut self, codecs: Option<Vec<Codec>>) {
        let mut opus = codecs.iter().flatten().filter(|codec| codec.name == CodecName::Opus);
        self.opus_payload_type = opus.next().map_or(OPUS_PAYLOAD_TYPE, |opus| opus.payload_type);
        self.codecs = codecs;
    }

    /// How it names video it is sent, or `None` if it takes none (protocol.md §2.3).
    pub fn payload_types(&self) -> Option<PayloadTypes> {
        match &self.codecs {
            Some(codecs) if codecs.iter().any(|codec| codec.decode && codec.name.is_video()) => {
                Some(PayloadTypes::listed(codecs))
            }
            Some(_) => None,
            // A browser drops what has a number it did not offer.
            None => (self.declares_video && self.peer.is_none()).then_some(PayloadTypes::Anything),
        }
    }

    /// Whether it sends video that the others are shown.
    pub fn shows_video(&self) -> bool {
        self.showing && !self.video.is_empty()
    }

    /// The primary SSRCs of its layers.
    pub fn primaries(&self) -> impl Iterator<Item = Ssrc> {
        self.layers.iter().filter_map(|layer| layer.ssrc)
    }

    /// Whether RTCP is of use to it: it has video or speaks RTCP itself (protocol.md §2.5). Where
    /// the header is the nonce, two reports of one shape would share one, so none are sent.
    pub fn takes_rtcp(&self, carriage: Carriage) -> bool {
        match carriage {
            Carriage::WebRtc(_) => true,
            Carriage::Udp(mode) => {
                mode != Mode::XSalsa20Poly1305 && (self.sent_rtcp || self.payload_types().is_some())
            }
        }
    }

    /// How well it wants to see the stream `ssrc`.
    pub fn want(&self, ssrc: Ssrc) -> u8 {
        self.wants.of(ssrc).unwrap_or(WANTED_DEFAULT)
    }

    /// Its media path is to be another one: what was counted on the old one means nothing for it.
    pub fn forget_arrivals(&mut self) {
        (self.arrivals, self.arrivals_due) = (None, None);
    }

    /// Whether others may have what it sends on a stream.
    pub fn is_heard(&self, stream: usize) -> bool {
        match Role::of(stream) {
            Role::Voice => self.may_speak(),
            Role::Video | Role::Retransmission => self.shows_video(),
        }
    }

    /// The session as the control API shows it.
    pub fn report(&self, transport: Option<&Transport>) -> SessionReport {
        SessionReport {
            user_id: self.admission.user,
            server_id: self.admission.server,
            state: match (self.connection, self.connected) {
                (None, _) => "resuming",
                (Some(_), true) => "ready",
                (Some(_), false) => "identified",
            },
            transport: transport.map(|transport| transport.carriage().name()),
            mode: transport.map(|transport| transport.carriage().encryption()),
            gateway_version: self.version.number(),
            dave_max: self.dave_max,
            audio_ssrc: self.audio_ssrc(),
            video: self.shows_video(),
            connected_at: String::new(),
            rtt_ms: self.rtt.map(|rtt| rtt.as_millis() as u32),
        }
    }
}

/// Resumes of one session, at once and per second: each may cost a replay of
/// [`crate::limits::REPLAY_BYTES_MAX`], and a client on the worst of networks makes one in seconds.
const RESUMES: (u32, u32) = (20, 1);

/// Select Protocol and Session Update of one session, at once and per second. Each may make a key,
/// tell its sender of everyone in the channel, and tell everyone of another codec. A client whose
/// media does not come through tries again every few seconds.
const SELECTIONS: (u32, u32) = (20, 1);

/// Speaking flags told again though they have not changed, at once and per second: in a channel of
/// thousands one member's op 5 is thousands of messages.
const SPEAKING_REPEATS: (u32, u32) = (10, 1);

/// Discovery requests of one session, at once and per second. A client sends one, or six a second
/// apart from new ports (protocol.md §2.1).
const DISCOVERIES: (u32, u32) = (10, 2);

/// RTCP datagrams of one session, at once and per second. A viewer of 25 cameras reports once a
/// second on each, tells of arrivals up to twenty times, and of losses as they come: of two in a
/// hundred packets at 2,500 a second some fifty times.
const REPORTS: (u32, u32) = (200, 200);

/// A round trip before there is any report on it, and the bounds within which one is believed: a
/// client on the same host must not be asked again and again within one turn, and one that tells
/// nonsense not be given up.
const ROUND_TRIP_GUESS: Duration = Duration::from_millis(100);
const ROUND_TRIP_MIN: Duration = Duration::from_millis(20);
const ROUND_TRIP_MAX: Duration = Duration::from_millis(500);

/// The priority bit of speaking flags.
const PRIORITY: u32 = 4;

/// What counts as wanted before anything was said (protocol.md §4.4).
const WANTED_DEFAULT: u8 = 100;

//! Everything one core owns: channels, sessions, connections, and the tables that find them. This
//! file has the shard's state and its entry points; what they do is in `ingress` (datagrams),
//! `entrance` (joining, resuming, leaving) and `conversation` (messages). No I/O, no clock: the
//! driver and the simulation call it alike.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use chacha20::{
    ChaCha20,
    cipher::{KeyIvInit, StreamCipher},
};
use foldhash::fast::RandomState;
use slab::Slab;

use crate::{
    crypto::Mode,
    egress::Egress,
    id::{ChannelId, ConnectionId, Serial, ServerId, ShardId, Ssrc, UserId},
    limits::SHARD_SESSIONS_MAX,
    metrics::Counters,
    sfu::{
        AdmissionRequest, Command, DisconnectReason, Event, RoomReport, Verdict,
        budget::Budget,
        channel::Channel,
        entrance::Notice,
        form::Forms,
        handshake::Waiting,
        layout::Layouts,
        session::{Session, SessionIndex},
        timer::{Timer, Timers},
        transport::Transport,
    },
    signalling::{CloseCode, Connection, Frame, ServerMessage, Version},
    webrtc::Identity,
};

/// What a shard needs to know about its place in the world.
#[derive(Debug, Clone)]
pub struct ShardConfig {
    /// Which shard.
    pub id: ShardId,
    /// Encryption modes offered, preferred first.
    pub modes: Vec<Mode>,
    /// Where clients reach the media port.
    pub public_ip: IpAddr,
    /// The media port as clients see it.
    pub public_port: u16,
    /// How long a session is kept for a resume.
    pub resume_window: Duration,
    /// Whether control wants speaking changes.
    pub speaking_events: bool,
    /// The certificate shown to browsers.
    pub identity: Identity,
}

/// What a shard wants done, in order.
#[derive(Debug)]
pub enum Output {
    /// Write a message.
    Frame {
        /// To whom.
        connection: ConnectionId,
        /// What.
        frame: Frame,
    },
    /// Write what was given before, then close.
    Close {
        /// Whom; the shard has already forgotten it.
        connection: ConnectionId,
        /// The close frame's code.
        code: CloseCode,
        /// The close frame's text.
        why: &'static str,
    },
    /// Hand a connection to another shard.
    Move {
        /// Where to.
        to: ShardId,
        /// What goes there.
        arrival: Box<Arrival>,
    },
    /// Tell control.
    Event(Event),
}

/// A connection that control has decided about, on its way to the shard that will have it.
#[derive(Debug)]
pub struct Arrival {
    /// The conversation so far.
    pub connection: Connection,
    /// What the client asked for.
    pub asked: AdmissionRequest,
    /// What control decided.
    pub verdict: Verdict,
}

/// One connection and what belongs to it.
#[derive(Debug)]
pub(super) struct Socket {
    pub connection: Connection,
    /// Set while control decides.
    pub asked: Option<AdmissionRequest>,
    /// Set once the client is in.
    pub session: Option<SessionIndex>,
}

/// One core's state.
#[derive(Debug)]
pub struct Shard {
    pub(super) config: ShardConfig,
    pub(super) random: Random,
    pub(super) epoch: Instant,
    pub(super) channels: Slab<Channel>,
    pub(super) sessions: Slab<Session>,
    /// By session index; what sealing touches, apart from the rest of a session.
    pub(super) transports: Vec<Option<Transport>>,
    pub(super) sockets: HashMap<ConnectionId, Socket, RandomState>,
    pub(super) by_channel: HashMap<ChannelId, usize, RandomState>,
    pub(super) by_source: HashMap<SocketAddr, SessionIndex, RandomState>,
    pub(super) by_ssrc: HashMap<Ssrc, SessionIndex, RandomState>,
    pub(super) by_serial: HashMap<Serial, SessionIndex, RandomState>,
    pub(super) by_user: HashMap<(ServerId, UserId), SessionIndex, RandomState>,
    /// By our half of the user name in a browser's connectivity checks.
    pub(super) by_ufrag: HashMap<Box<str>, SessionIndex, RandomState>,
    /// Datagrams of handshakes that wait their turn.
    pub(super) handshakes: VecDeque<Waiting>,
    /// The header extensions that hearers take.
    pub(super) layouts: Layouts,
    pub(super) timers: Timers,
    pub(super) outputs: VecDeque<Output>,
    pub(super) counters: Counters,
    /// The SSRC under which the server itself sends RTCP.
    pub(super) own_ssrc: Ssrc,
    pub(super) stranger_opens: Budget,
    pub(super) stranger_requests: Budget,
    /// Streams whose packets are kept for retransmission.
    pub(super) caches: usize,
    /// Where a packet is put together before it is sealed for each hearer.
    pub(super) forms: Forms,
    pub(super) draining: bool,
}

/// Packets from unbound addresses that are worth a decryption, at once and per second: a thousand
/// clients may change address in a second, a flood may not take more than a few per cent of a core
/// (a failed open costs about 0.3 µs).
const STRANGER_OPENS: (u32, u32) = (2_000, 20_000);

/// Discovery and ping requests answered, at once and per second: four thousand clients joining in
/// one second, each asking twice.
const STRANGER_REQUESTS: (u32, u32) = (2_000, 10_000);

impl Shard {
    /// An empty shard. `seed` is the source of all its keys, SSRCs and nonces.
    pub fn new(config: ShardConfig, seed: [u8; 32], now: Instant) -> Self {
        let mut random = Random::new(seed);
        let own_ssrc = random.ssrc();
        Self {
            config,
            random,
            epoch: now,
            channels: Slab::new(),
            sessions: Slab::new(),
            transports: Vec::new(),
            sockets: HashMap::default(),
            by_channel: HashMap::default(),
            by_source: HashMap::default(),
            by_ssrc: HashMap::default(),
            by_serial: HashMap::default(),
            by_user: HashMap::default(),
            by_ufrag: HashMap::default(),
            handshakes: VecDeque::new(),
            layouts: Layouts::default(),
            timers: Timers::default(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
            own_ssrc,
            stranger_opens: Budget::new(STRANGER_OPENS.0, STRANGER_OPENS.1),
            stranger_requests: Budget::new(STRANGER_REQUESTS.0, STRANGER_REQUESTS.1),
            caches: 0,
            forms: Forms::new(),
            draining: false,
        }
    }

    /// A WebSocket has opened. Hello is among the outputs.
    pub fn handle_open(
        &mut self,
        now: Instant,
        id: ConnectionId,
        version: Version,
        address: IpAddr,
    ) {
        let mut connection = Connection::open(id, version, address, now);
        self.drain_outbox(&mut connection);
        if self.draining {
            return self.push_close(id, CloseCode::ServerCrashed, "the server is stopping");
        }
        self.adopt(Socket { connection, asked: None, session: None });
    }

    /// A WebSocket has come from another shard, decided upon.
    pub fn handle_arrival(&mut self, now: Instant, arrival: Arrival) {
        let Arrival { connection, asked, verdict } = arrival;
        let id = connection.id();
        self.adopt(Socket { connection, asked: Some(asked), session: None });
        self.decide(now, id, verdict);
    }

    /// A message has come over a WebSocket. Messages for connections that are gone are passed over.
    pub fn handle_frame(&mut self, now: Instant, id: ConnectionId, frame: Frame) {
        self.hear(now, id, frame);
    }

    /// A ping has come over a WebSocket.
    pub fn handle_sign_of_life(&mut self, now: Instant, id: ConnectionId) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        if let Err(refusal) = socket.connection.handle_sign_of_life(now) {
            self.close(now, id, refusal.code, refusal.why);
        }
    }

    /// A WebSocket has ended: with the client's close frame, with none in it (1005), or without
    /// (1006).
    pub fn handle_closed(&mut self, now: Instant, id: ConnectionId, close_code: u16) {
        let Some(socket) = self.sockets.remove(&id) else { return };
        let Some(index) = socket.session else { return };
        if is_goodbye(close_code, socket.connection.version()) {
            self.leave(now, index, DisconnectReason::ClientLeft, close_code);
        } else {
            self.detach(now, index, DisconnectReason::ResumeTimeout, close_code);
        }
    }

    /// Control orders something.
    pub fn handle_command(&mut self, now: Instant, command: Command, egress: &mut Egress) {
        match command {
            Command::Decide { connection, verdict } => self.decide(now, connection, verdict),
            Command::Update { serial, policy } => self.update(now, serial, *policy, egress),
            Command::Close { serial, code, reason } => {
                if let Some(&index) = self.by_serial.get(&serial) {
                    self.expel(now, index, code, reason, Notice::Left);
                }
            }
            Command::CloseChannel { channel, code, reason } => {
                for index in self.members_of(channel) {
                    self.expel(now, index, code, reason, Notice::ChannelEnds);
                }
            }
            Command::Reconnect { channel } => {
                for index in self.members_of(channel) {
                    self.call_back(now, index);
                }
            }
            #[cfg(test)]
            Command::Panic => panic!("a defect, as ordered"),
            Command::Drain { code } => self.drain(now, code),
        }
    }

    /// Time has passed. What is to be sent because of it is in `egress` when this returns.
    pub fn handle_timeout(&mut self, now: Instant, egress: &mut Egress) {
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                Timer::Connection(id) => self.check_connection(now, id),
                Timer::Away(serial) => self.check_away(now, serial),
                Timer::Discovery(serial) => self.check_discovery(serial, egress),
                Timer::SinkWants(channel) => self.tell_lowered_wants(channel),
                Timer::Handshake(serial) => self.check_handshake(now, serial, egress),
                Timer::Consent(serial) => self.check_consent(now, serial),
                Timer::Early(serial) => self.check_early(now, serial, egress),
                Timer::Feedback(serial) => self.check_feedback(now, serial, egress),
                Timer::Reports(serial) => self.check_reports(now, serial, egress),
            }
        }
    }

    /// When [`Self::handle_timeout`] is next due, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        self.timers.next()
    }

    /// Takes the next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether the client of this connection waits for control's decision, or may have to move: the
    /// driver does not read from it meanwhile.
    pub fn is_undecided(&self, id: ConnectionId) -> bool {
        self.sockets.get(&id).is_some_and(|socket| socket.asked.is_some())
    }

    /// What it has counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// For the driver to count what only it sees.
    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// Live sessions, resuming ones included.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Live channels.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.sockets.len()
    }

    /// Every channel as the control API shows it.
    pub fn rooms(&self) -> Vec<RoomReport> {
        self.channels.iter().map(|(_, channel)| self.report(channel)).collect()
    }

    /// One of them.
    pub fn room(&self, channel: ChannelId) -> Option<RoomReport> {
        self.by_channel.get(&channel).map(|&key| self.report(&self.channels[key]))
    }

    fn report(&self, channel: &Channel) -> RoomReport {
        let report = |index: &SessionIndex| {
            self.sessions[index.index()].report(self.transports[index.index()].as_ref())
        };
        RoomReport {
            room_id: channel.id,
            kind: channel.kind,
            dave_version: 0,
            epoch: 0,
            sessions: channel.members.iter().map(report).collect(),
        }
    }

    fn adopt(&mut self, socket: Socket) {
        let id = socket.connection.id();
        self.timers.set(socket.connection.deadline(), Timer::Connection(id));
        self.sockets.insert(id, socket);
    }

    fn check_connection(&mut self, now: Instant, id: ConnectionId) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        match socket.connection.handle_timeout(now) {
            Some(refusal) => self.close(now, id, refusal.code, refusal.why),
            None => self.timers.set(socket.connection.deadline(), Timer::Connection(id)),
        }
    }

    fn drain(&mut self, now: Instant, code: CloseCode) {
        self.draining = true;
        let sessions: Vec<_> = self.sessions.iter().map(|(key, _)| index_of(key)).collect();
        for index in sessions {
            self.expel(now, index, code, DisconnectReason::Shutdown, Notice::ChannelEnds);
        }
        #[expect(clippy::disallowed_methods, reason = "sorted below")]
        let mut sockets: Vec<_> = self.sockets.keys().copied().collect();
        // In the order they came, not the hash's: every run of one seed is alike.
        sockets.sort_unstable();
        for id in sockets {
            self.close(now, id, code, "the server is stopping");
        }
    }

    pub(super) fn members_of(&self, channel: ChannelId) -> Vec<SessionIndex> {
        let channel = self.by_channel.get(&channel);
        channel.map(|&key| self.channels[key].members.clone()).unwrap_or_default()
    }

    /// Says something to a session: with a number, and kept for a resume, where its version has
    /// numbers; else only if somebody is listening.
    pub(super) fn tell(&mut self, index: SessionIndex, message: &ServerMessage<'_>) {
        let session = &mut self.sessions[index.index()];
        let version = session.version;
        let frame = if version.numbered() && message.numbered() {
            session.replay.push(|seq| message.encode(version, Some(seq)))
        } else if session.connection.is_some() {
            message.encode(version, None)
        } else {
            return;
        };
        if let Some(connection) = session.connection {
            self.outputs.push_back(Output::Frame { connection, frame });
        }
    }

    /// Says something to everyone in a session's channel but the session itself.
    pub(super) fn tell_others(&mut self, index: SessionIndex, message: &ServerMessage<'_>) {
        let channel = self.sessions[index.index()].channel;
        for position in 0..self.channels[channel].members.len() {
            let member = self.channels[channel].members[position];
            if member != index {
                self.tell(member, message);
            }
        }
    }

    pub(super) fn drain_outbox(&mut self, connection: &mut Connection) {
        drain_outbox(connection, &mut self.outputs);
    }

    pub(super) fn push_close(
        &mut self,
        connection: ConnectionId,
        code: CloseCode,
        why: &'static str,
    ) {
        self.outputs.push_back(Output::Close { connection, code, why });
    }

    pub(super) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Whether another session fits.
    pub(super) fn is_full(&self) -> bool {
        self.sessions.len() >= SHARD_SESSIONS_MAX
    }
}

/// Queues what a connection has to say.
pub(super) fn drain_outbox(connection: &mut Connection, outputs: &mut VecDeque<Output>) {
    let id = connection.id();
    while let Some(frame) = connection.poll_output() {
        outputs.push_back(Output::Frame { connection: id, frame });
    }
}

pub(super) fn index_of(key: usize) -> SessionIndex {
    SessionIndex(u32::try_from(key).expect("a shard holds fewer than 2^32 sessions"))
}

/// Close codes by which a client says that it will not be back: a normal close, going away, and
/// discord.py's own 4014 when the backend moves it (protocol.md §1.8). From some, none at all.
fn is_goodbye(close_code: u16, version: Version) -> bool {
    match close_code {
        1000 | 1001 | 4014 => true,
        1005 => version.empty_close_is_goodbye(),
        _ => false,
    }
}

/// Keys, SSRCs and nonces: a ChaCha20 key stream over the seed. Not printed.
pub(super) struct Random(ChaCha20);

impl Random {
    fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha20::new(&seed.into(), &[0; 12].into()))
    }

    /// Bytes that nobody can guess.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.apply_keystream(&mut bytes);
        bytes
    }

    /// An SSRC that nobody can guess, because discovery is authenticated by it alone: below 2^31,
    /// since some clients keep it in a signed integer, and never near 0, where libwebrtc has its
    /// own.
    pub fn ssrc(&mut self) -> Ssrc {
        let random = u32::from_be_bytes(self.bytes()) >> 1;
        Ssrc(random.clamp(SSRC_MIN, i32::MAX as u32 - SSRC_MARGIN))
    }
}

/// Lowest SSRC given out.
const SSRC_MIN: u32 = 1_000;
/// Room above the base for a session's other streams.
const SSRC_MARGIN: u32 = 64;

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Random(…)")
    }
}

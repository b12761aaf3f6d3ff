//! A shard on a virtual clock with clients attached to it directly: what either side says arrives
//! at once and nothing is lost. Plays control by letting in whoever asks, unless told not to.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::OnceLock,
    time::{Duration, Instant},
};

use stentor::{
    crypto::Mode,
    egress::{Egress, Path},
    id::{ConnectionId, Serial, ShardId, UserId},
    metrics::DropReason,
    sfu::{
        AdmissionRequest, Arrival, Command, DisconnectReason, Event, Output, Policy, Shard,
        ShardConfig, Verdict,
    },
    signalling::{CloseCode, Frame},
    webrtc::Identity,
};

use crate::client::{Client, Grant, Profile};

/// Where strangers send from.
pub const STRANGER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)), 40_000);

pub const RESUME_WINDOW: Duration = Duration::from_secs(60);

pub struct Rig {
    pub shard: Shard,
    pub egress: Egress,
    pub now: Instant,
    pub clients: Vec<Client>,
    /// What control was told, admissions aside.
    pub events: Vec<Event>,
    /// Connections that wait for control, when it does not answer by itself.
    pub asked: Vec<(ConnectionId, AdmissionRequest)>,
    pub moved: Vec<(ShardId, Box<Arrival>)>,
    /// What went to addresses that no client has.
    pub strays: Vec<(SocketAddr, Vec<u8>)>,
    pub answers_admissions: bool,
    pub policies: BTreeMap<UserId, Policy>,
    serials: HashMap<(String, String), Serial>,
    next: u64,
}

pub fn config() -> ShardConfig {
    ShardConfig {
        id: ShardId(0),
        modes: Mode::ALL.to_vec(),
        public_ip: IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)),
        public_port: 50_000,
        resume_window: RESUME_WINDOW,
        speaking_events: true,
        identity: identity(),
    }
}

/// The certificate of every rig's shard: making one takes a while.
pub fn identity() -> Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| Identity::generate().expect("a certificate")).clone()
}

impl Rig {
    pub fn new() -> Self {
        Self::with(config())
    }

    pub fn with(config: ShardConfig) -> Self {
        let now = Instant::now();
        let mut egress = Egress::new(4_096, 1 << 20);
        egress.reserve_flows(4_096);
        Self {
            shard: Shard::new(config, [7; 32], now),
            egress,
            now,
            clients: Vec::new(),
            events: Vec::new(),
            asked: Vec::new(),
            moved: Vec::new(),
            strays: Vec::new(),
            answers_admissions: true,
            policies: BTreeMap::new(),
            serials: HashMap::new(),
            next: 0,
        }
    }

    // Clients.

    /// A client that has done nothing yet.
    pub fn client(&mut self, grant: Grant, profile: Profile) -> usize {
        self.clients.push(Client::new(grant, profile));
        self.clients.len() - 1
    }

    /// A client in `channel` with everything agreed, ready to speak. What it and the others were
    /// told on the way is forgotten.
    pub fn joined(&mut self, channel: u64, user: u64, profile: Profile) -> usize {
        let who = self.client(Grant::new(channel, user), profile);
        self.join(who);
        self.forget();
        who
    }

    /// As [`Self::joined`], for the usual client.
    pub fn speaker(&mut self, channel: u64, user: u64) -> usize {
        self.joined(channel, user, Profile::default())
    }

    /// Identify, discovery, Select Protocol, a first Speaking.
    pub fn join(&mut self, who: usize) {
        self.identify(who);
        self.connect_media(who);
    }

    pub fn open(&mut self, who: usize) {
        let id = self.new_connection();
        let client = &mut self.clients[who];
        client.opened(id);
        let (version, address) = (client.profile.version(), client.web_address());
        self.shard.handle_open(self.now, id, version, address);
        self.pump();
    }

    pub fn identify(&mut self, who: usize) {
        self.open(who);
        self.say(who, Client::identify);
    }

    pub fn resume(&mut self, who: usize) {
        self.open(who);
        self.say(who, Client::resume);
    }

    pub fn connect_media(&mut self, who: usize) {
        self.send(who, |client| client.discovery());
        self.say(who, Client::select_protocol);
        self.say(who, |client| client.speaking(0));
    }

    pub fn say(&mut self, who: usize, what: impl FnOnce(&Client) -> Frame) {
        let client = &self.clients[who];
        let id = client.connection.expect("a client that has a WebSocket");
        self.shard.handle_frame(self.now, id, what(client));
        self.pump();
    }

    /// The WebSocket ends by the client's doing, or the network's.
    pub fn hang_up(&mut self, who: usize, code: u16) {
        let id = self.clients[who].connection.take().expect("a client that has a WebSocket");
        self.shard.handle_closed(self.now, id, code);
        self.pump();
    }

    // Media.

    /// Sends what a client makes from its own address.
    pub fn send(&mut self, who: usize, what: impl FnOnce(&mut Client) -> Vec<u8>) {
        let client = &mut self.clients[who];
        let (from, bytes) = (client.address, what(client));
        self.datagram(from, &bytes);
    }

    pub fn speak(&mut self, who: usize, payload: &[u8]) {
        self.send(who, |client| client.voice(payload));
    }

    pub fn datagram(&mut self, from: SocketAddr, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        self.shard.handle_datagram(self.now, Path::to(from), &mut bytes, &mut self.egress);
        while self.shard.has_handshakes() {
            self.shard.handle_handshake(self.now, &mut self.egress);
        }
        self.pump();
    }

    /// Why a datagram is dropped: exactly one reason, counted once.
    pub fn dropped(&mut self, from: SocketAddr, bytes: &[u8]) -> DropReason {
        let reasons = self.drops_during(|rig| rig.datagram(from, bytes));
        let [reason] = reasons[..] else { panic!("dropped for {reasons:?}") };
        reason
    }

    /// Every drop counted while something is done.
    pub fn drops_during(&mut self, what: impl FnOnce(&mut Self)) -> Vec<DropReason> {
        let before = self.shard.counters().drops;
        what(self);
        let after = &self.shard.counters().drops;
        DropReason::ALL
            .iter()
            .flat_map(|reason| {
                let count = after[*reason as usize] - before[*reason as usize];
                std::iter::repeat_n(*reason, count as usize)
            })
            .collect()
    }

    // Control and time.

    pub fn command(&mut self, command: Command) {
        self.shard.handle_command(self.now, command, &mut self.egress);
        self.pump();
    }

    /// Gives a session new rules.
    pub fn update(&mut self, who: usize, change: impl FnOnce(&mut Policy)) {
        let policy = self.policies.entry(self.clients[who].user()).or_default();
        change(policy);
        let policy = Box::new(policy.clone());
        self.command(Command::Update { serial: self.serial(who), policy });
    }

    pub fn kick(&mut self, who: usize, code: CloseCode) {
        let (serial, reason) = (self.serial(who), DisconnectReason::Kicked);
        self.command(Command::Close { serial, code, reason });
    }

    /// The session that this client was let into last.
    pub fn serial(&self, who: usize) -> Serial {
        let Grant { session, token, .. } = &self.clients[who].grant;
        self.serials[&(session.clone(), token.clone())]
    }

    /// Lets time pass, waking the shard whenever it asks to be.
    pub fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        while let Some((at, _)) = self.shard.poll_timeout().filter(|(at, _)| *at <= until) {
            self.now = self.now.max(at);
            self.shard.handle_timeout(self.now, &mut self.egress);
            self.pump();
        }
        self.now = until;
    }

    /// Forgets what everyone has been told and has heard.
    pub fn forget(&mut self) {
        self.events.clear();
        self.strays.clear();
        for client in &mut self.clients {
            client.told.clear();
            client.mail.clear();
        }
    }

    pub fn new_connection(&mut self) -> ConnectionId {
        self.next += 1;
        ConnectionId(self.next)
    }

    /// Control's answer to somebody who asks.
    pub fn verdict(&mut self, request: &AdmissionRequest, shard: ShardId) -> Verdict {
        let (code, why) = (CloseCode::AuthenticationFailed, "no such grant");
        match request {
            AdmissionRequest::Identify(identify) => {
                let holder = self.clients.iter().find(|client| {
                    let Grant { server, user, session, token, .. } = &client.grant;
                    *server == identify.server
                        && *user == identify.user
                        && **session == *identify.session.0
                        && token == identify.token.reveal()
                });
                let Some(grant) = holder.map(|client| client.grant.clone()) else {
                    return Verdict::Refuse { code, why };
                };
                self.next += 1;
                let policy = self.policies.get(&grant.user).cloned().unwrap_or_default();
                let admission = Box::new(grant.admission(self.next, policy));
                self.serials.insert((grant.session, grant.token), admission.serial);
                Verdict::Join { shard, admission }
            }
            AdmissionRequest::Resume(resume) => {
                let key = (resume.session.0.to_string(), resume.token.reveal().to_owned());
                match self.serials.get(&key) {
                    Some(&serial) => Verdict::Resume { shard, serial },
                    None => Verdict::Refuse { code: CloseCode::SessionInvalid, why },
                }
            }
        }
    }

    /// Carries everything the shard wants done to where it belongs.
    pub fn pump(&mut self) {
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Frame { connection, frame } => {
                    if let Some(client) = self.holder_of(connection) {
                        client.hear(frame);
                    }
                }
                Output::Close { connection, code, .. } => {
                    if let Some(client) = self.holder_of(connection) {
                        client.connection = None;
                        client.closed = Some(code.code());
                    }
                }
                Output::Move { to, arrival } => self.moved.push((to, arrival)),
                Output::Event(Event::Admission { connection, request, .. }) => {
                    self.asked.push((connection, request.clone()));
                    if self.answers_admissions {
                        self.asked.pop();
                        let verdict = self.verdict(&request, ShardId(0));
                        let decide = Command::Decide { connection, verdict };
                        self.shard.handle_command(self.now, decide, &mut self.egress);
                    }
                }
                Output::Event(event) => self.events.push(event),
            }
        }
        let flight = self.egress.flight();
        for outgoing in flight.chains().flatten() {
            let to = outgoing.path.remote;
            let bytes = outgoing.bytes.to_vec();
            match self.clients.iter_mut().find(|client| client.address == to) {
                // Answers to discovery and pings are read by whom they are about.
                Some(client) if bytes[0] >= 128 => client.mail.push_back(bytes),
                _ => self.strays.push((to, bytes)),
            }
        }
    }

    fn holder_of(&mut self, connection: ConnectionId) -> Option<&mut Client> {
        self.clients.iter_mut().find(|client| client.connection == Some(connection))
    }
}

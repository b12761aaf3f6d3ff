//! The world of one run: a virtual clock, shards, control, clients and the network between them.
//! Carries everything to where it belongs, in the order of time, and has every step checked.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use serde_json::Value;
use stentor::{
    crypto::Mode,
    egress::{Egress, Path},
    id::{ConnectionId, Serial, ShardId, Ssrc, UserId},
    metrics::{Counters, DropReason},
    sfu::{Arrival, Command, Shard, ShardConfig},
    signalling::{CloseCode, Frame},
};

use crate::{
    browser::Browser,
    checkers::{Cause, Checkers, Sealed},
    client::{Client, Grant, Nonces, Profile},
    control::{Control, Granted},
    dice::Dice,
    network::{Conditions, Datagram, Network, UNDER_WAY_MAX},
    settling::{Outcome, op},
    surfing,
};

const RESUME_WINDOW: Duration = Duration::from_secs(60);
const HEARTBEAT_EVERY: Duration = Duration::from_secs(20);
/// What an eavesdropper keeps.
const OVERHEARD_MAX: usize = 60;
/// Longer than anything in a shard waits for.
const FOREVER: Duration = Duration::from_secs(300);

/// One attempt of a person to be in a channel, across resumes.
pub struct Attempt {
    pub client: Client,
    /// Set while the session it was let into lives.
    pub stay: Option<Serial>,
    /// The shard that has its WebSocket; none while it moves between two.
    pub shard: Option<usize>,
    /// It has closed its WebSocket while that was moving.
    closing: Option<u16>,
    /// It neither speaks nor closes any more.
    pub frozen: bool,
    next_heartbeat: Instant,
    /// How many keys it had when its streams last started again.
    pub restarted_under: usize,
    /// It starts to count nonces where the server counts.
    ambushes: bool,
    /// It was asked for a keyframe.
    pub keyframe_wanted: bool,
    /// Packets of its video, by their numbers: their clocks and payloads.
    pub filmed: Vec<(u16, u32, Vec<u8>)>,
    /// How many keys it had then.
    pub filmed_under: usize,
    /// Its transport-wide numbers.
    pub transport_seq: u16,
    /// It comes by browser.
    pub surfs: bool,
    /// Set once it has selected.
    pub browser: Option<Box<Browser>>,
    /// How often it has.
    pub handshakes: usize,
    /// What has come for it that is no media.
    pub post: Vec<Vec<u8>>,
    pub next_check: Instant,
}

/// Somebody who comes and goes.
pub struct Person {
    pub grant: Grant,
    pub profile: Profile,
    pub ambushes: bool,
    /// By browser.
    pub surfs: bool,
    /// The newest attempt.
    pub attempt: Option<usize>,
}

/// What is on its way to a shard through a queue.
pub enum Deed {
    Command(Command),
    Arrival(Box<Arrival>),
}

pub struct World {
    pub dice: Dice,
    pub now: Instant,
    pub shards: Vec<Shard>,
    pub egresses: Vec<Egress>,
    pub control: Control,
    pub network: Network,
    pub checkers: Checkers,
    pub persons: Vec<Person>,
    pub attempts: Vec<Attempt>,
    deeds: BTreeMap<(Instant, u64), (usize, Deed)>,
    /// When the last deed of each queue arrives.
    queues: Vec<Instant>,
    pub connections: HashMap<ConnectionId, usize>,
    pub owners: BTreeMap<SocketAddr, usize>,
    pub admitted: HashMap<Serial, usize>,
    /// SSRCs that browsers chose, and under which the others know them.
    pub named: BTreeMap<Ssrc, Ssrc>,
    /// Datagrams that have arrived, for whoever listens on the way.
    pub overheard: Vec<Datagram>,
    /// Whether sources may start again under their key; then nothing old comes twice.
    pub restarts: bool,
    next: u64,
    pub outcome: Outcome,
}

/// One run.
pub fn run(seed: u64) -> Outcome {
    let mut world = World::new(seed);
    for _ in 0..world.dice.within(60..200) {
        world.act();
    }
    world.finish();
    for shard in &world.shards {
        world.outcome.counters += shard.counters();
    }
    world.outcome
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let now = Instant::now();
        let conditions = Conditions::draw(&mut dice);
        let flawless = conditions.are_flawless();
        let shards: Vec<_> = (0..dice.within(1..4))
            .map(|index| {
                let config = ShardConfig {
                    id: ShardId(index as u16),
                    modes: Mode::ALL.to_vec(),
                    public_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
                    public_port: 50_000 + index as u16,
                    resume_window: RESUME_WINDOW,
                    speaking_events: true,
                    identity: crate::rig::identity(),
                };
                let seed: [u8; 32] = dice.bytes(32).try_into().expect("32 bytes");
                Shard::new(config, seed, now)
            })
            .collect();
        let egresses = shards.iter().map(|_| {
            let mut egress = Egress::new(1_024, 1 << 20);
            egress.reserve_flows(256);
            egress
        });
        let mut world = Self {
            egresses: egresses.collect(),
            control: Control::new(shards.len()),
            network: Network::new(conditions),
            checkers: Checkers::new(flawless),
            persons: Vec::new(),
            attempts: Vec::new(),
            deeds: BTreeMap::new(),
            queues: vec![now; shards.len()],
            connections: HashMap::new(),
            owners: BTreeMap::new(),
            admitted: HashMap::new(),
            named: BTreeMap::new(),
            overheard: Vec::new(),
            restarts: flawless && dice.percent(50),
            next: 0,
            outcome: Outcome { digest: seed, ..Outcome::default() },
            dice,
            now,
            shards,
        };
        let channels = world.dice.within(1..5) as u64;
        for user in 0..world.dice.within(2..9) as u64 {
            world.invite(100 + user, channels);
        }
        if world.persons.len() > 3 {
            // One whom the backend does not know.
            world.control.grants.remove(&UserId(100));
        }
        world
    }

    fn invite(&mut self, user: u64, channels: u64) {
        let grant = Grant::new(1 + self.dice.next() % channels, user);
        let policy = Default::default();
        self.control.grants.insert(grant.user, Granted { grant: grant.clone(), policy });
        let layers = self.dice.within(0..2);
        let mode = self.dice.pick(&Mode::ALL).expect("modes");
        let version = self.dice.pick(&[None, Some(3), Some(4), Some(7), Some(8), Some(8), Some(9)]);
        let counter = match self.dice.within(0..4) {
            0 => 0,
            1 => 1,
            2 => 0x7FFF_FFFF - self.dice.within(0..40) as u32,
            _ => self.dice.next() as u32,
        };
        let nonces = Nonces { counter, little_endian: self.dice.percent(30) };
        let profile = Profile { version: version.flatten(), mode, nonces, layers, codecs: None };
        // A third of those with a camera list no codecs and take whatever comes.
        let profile = match (layers, self.dice.percent(66)) {
            (1, true) => {
                let media = 96 + self.dice.within(0..15) as u8 * 2;
                Profile { codecs: Profile::video(media, media + 1).codecs, ..profile }
            }
            _ => profile,
        };
        let (ambushes, surfs) = (self.dice.percent(30), self.dice.percent(30));
        let media = 96 + self.dice.within(0..7) as u8 * 2;
        let codecs = surfing::codecs((layers > 0).then_some(("H264", media)));
        let profile = if surfs { Profile { codecs: Some(codecs), ..profile } } else { profile };
        self.persons.push(Person { grant, profile, ambushes, surfs, attempt: None });
    }

    // Time.

    /// Lets time pass; everything due on the way happens in its order.
    pub fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        loop {
            let wire = self.network.next();
            let deed = self.deeds.keys().next().map(|(at, _)| *at);
            let timers = self.shards.iter().map(|shard| shard.poll_timeout().map(|(at, _)| at));
            let shard = timers.enumerate().filter_map(|(n, at)| Some((at?, n))).min();
            let (heart, check) = (self.next_heartbeat(), self.next_check());
            let beats = [heart, check].map(|it| it.map(|(at, _)| at));
            let next = [wire, deed, shard.map(|(at, _)| at), beats[0], beats[1]];
            let Some(at) = next.into_iter().flatten().min().filter(|at| *at <= until) else {
                break;
            };
            self.now = self.now.max(at);
            if wire == Some(at) {
                self.arrive();
            } else if deed == Some(at) {
                self.obey();
            } else if let Some((_, index)) = shard.filter(|(due, _)| *due == at) {
                self.shards[index].handle_timeout(self.now, &mut self.egresses[index]);
                self.settle(index, Cause::Other);
            } else if let Some((_, who)) = check.filter(|(due, _)| *due == at) {
                self.check(who);
            } else if let Some((_, who)) = heart {
                self.attempts[who].next_heartbeat = self.now + HEARTBEAT_EVERY;
                self.say(who, Client::heartbeat);
            }
        }
        self.now = until;
    }

    fn next_heartbeat(&self) -> Option<(Instant, usize)> {
        let hearts = self.attempts.iter().enumerate().filter(|(_, attempt)| {
            attempt.client.connection.is_some() && attempt.shard.is_some() && !attempt.frozen
        });
        hearts.map(|(who, attempt)| (attempt.next_heartbeat, who)).min()
    }

    // WebSockets.

    /// A person comes, whether or not it is there already.
    pub fn come(&mut self, person: usize) {
        let who = self.attempt(person);
        self.persons[person].attempt = Some(who);
        self.open(who);
        self.say(who, Client::identify);
    }

    /// A new client of a person's, which has done nothing.
    pub fn attempt(&mut self, person: usize) -> usize {
        let Person { grant, profile, ambushes, surfs, .. } = &self.persons[person];
        let (ambushes, surfs) = (*ambushes, *surfs);
        let client = Client::new(grant.clone(), profile.clone());
        let who = self.attempts.len();
        self.attempts.push(Attempt {
            client,
            stay: None,
            shard: None,
            closing: None,
            frozen: false,
            next_heartbeat: self.now,
            restarted_under: 0,
            ambushes,
            keyframe_wanted: false,
            filmed: Vec::new(),
            filmed_under: 0,
            transport_seq: 0,
            surfs,
            browser: None,
            handshakes: 0,
            post: Vec::new(),
            next_check: self.now,
        });
        self.rebind(who);
        who
    }

    /// A WebSocket to any shard.
    pub fn open(&mut self, who: usize) {
        self.next += 1;
        let id = ConnectionId(self.next);
        let index = self.dice.within(0..self.shards.len());
        self.connections.insert(id, who);
        let attempt = &mut self.attempts[who];
        attempt.client.opened(id);
        (attempt.shard, attempt.frozen) = (Some(index), false);
        attempt.next_heartbeat = self.now + HEARTBEAT_EVERY;
        let (version, address) = (attempt.client.profile.version(), attempt.client.web_address());
        self.shards[index].handle_open(self.now, id, version, address);
        self.settle(index, Cause::Other);
    }

    pub fn say(&mut self, who: usize, what: impl FnOnce(&Client) -> Frame) {
        let attempt = &self.attempts[who];
        if let (Some(id), Some(index)) = (attempt.client.connection, attempt.shard) {
            self.shards[index].handle_frame(self.now, id, what(&attempt.client));
            self.settle(index, Cause::Other);
        }
    }

    /// A client ends its WebSocket, or the network does.
    pub fn hang_up(&mut self, who: usize, code: u16) {
        let attempt = &mut self.attempts[who];
        let Some(id) = attempt.client.connection else { return };
        let Some(index) = attempt.shard else {
            attempt.closing = Some(code);
            return;
        };
        attempt.client.connection = None;
        self.shards[index].handle_closed(self.now, id, code);
        self.settle(index, Cause::Other);
    }

    /// Whether the client's WebSocket is joined to its session.
    pub fn is_in(&self, who: usize) -> bool {
        let attempt = &self.attempts[who];
        let joined = |told: &Value| matches!(op(told), 2 | 9);
        attempt.stay.is_some()
            && attempt.shard.is_some()
            && attempt.client.connection.is_some()
            && attempt.client.told.iter().any(joined)
    }

    pub fn speaking(&mut self, who: usize, flags: u32) {
        if let Some(serial) = self.attempts[who].stay.filter(|_| self.is_in(who)) {
            let legacy = self.attempts[who].client.profile.version().boolean_speaking();
            let said = if legacy { u32::from(flags != 0) } else { flags };
            let stay = self.checkers.stays.get_mut(&serial).expect("a live session");
            stay.said = Some(said);
            self.say(who, |client| client.speaking(flags));
        }
    }

    pub fn camera(&mut self, who: usize, on: bool) {
        if let Some(serial) = self.attempts[who].stay.filter(|_| self.is_in(who)) {
            let stay = self.checkers.stays.get_mut(&serial).expect("a live session");
            stay.camera = on && stay.ssrcs.len() > 1;
            self.say(who, |client| client.camera(on));
        }
    }

    // Datagrams.

    /// A client moves to an address of its own that nobody had before.
    pub fn rebind(&mut self, who: usize) {
        let count = self.owners.len() as u32;
        let address = SocketAddr::from((
            Ipv4Addr::from(0x0A00_0000 | count >> 14),
            10_000 + (count & 0x3FFF) as u16,
        ));
        let attempt = &mut self.attempts[who];
        attempt.client.address = address;
        self.owners.insert(address, who);
    }

    /// Seals a plain packet and sends it.
    pub fn send_sealed(&mut self, who: usize, plain: &[u8]) {
        if self.is_browser(who) {
            // Its keys go with its session.
            if let Some(bytes) = self.seal_by_browser(who, plain) {
                self.send(who, bytes, Some(Sealed::BY_BROWSER));
            }
            return;
        }
        let attempt = &mut self.attempts[who];
        let agreed = attempt.client.agreed.last().expect("a key");
        if let Some(suffix) = self.checkers.ambush(agreed).filter(|_| attempt.ambushes) {
            let nonces = &mut attempt.client.profile.nonces;
            let met = match nonces.little_endian {
                true => u32::from_le_bytes(suffix),
                false => u32::from_be_bytes(suffix),
            };
            nonces.counter = met.wrapping_add(self.dice.within(0..4) as u32);
        }
        let counter = attempt.client.profile.nonces.counter;
        let bytes = attempt.client.seal(plain);
        let agreed = attempt.client.agreed.last().expect("a key");
        let sealed = self.checkers.sealed(agreed, counter, &bytes);
        self.send(who, bytes, Some(sealed));
    }

    /// Sends a datagram to the shard that the client was told.
    pub fn send(&mut self, who: usize, bytes: Vec<u8>, sealed: Option<Sealed>) {
        let attempt = &self.attempts[who];
        let to = self.control.shard_of(attempt.client.grant.channel);
        let datagram = Datagram { from: attempt.client.address, to, bytes, sealed };
        self.network.send(self.now, &mut self.dice, datagram);
    }

    fn arrive(&mut self) {
        let Some(datagram) = self.network.take() else { return };
        if self.overheard.len() == OVERHEARD_MAX {
            self.overheard.remove(0);
        }
        self.overheard.push(datagram.clone());
        self.deliver(datagram);
    }

    /// A datagram reaches its shard, and is accounted for.
    pub fn deliver(&mut self, datagram: Datagram) {
        let Datagram { from, to: index, mut bytes, sealed } = datagram;
        let before = self.shards[index].counters().clone();
        let clear = bytes.get(8..12).and_then(|ssrc| ssrc.first_chunk().copied());
        let (now, egress) = (self.now, &mut self.egresses[index]);
        self.shards[index].handle_datagram(now, Path::to(from), &mut bytes, egress);
        while self.shards[index].has_handshakes() {
            self.shards[index].handle_handshake(now, egress);
        }
        let after = self.shards[index].counters().clone();
        let reason = account(&before, &after);
        if let Some(sealed) = sealed.filter(|_| reason.is_none_or(is_after_opening)) {
            self.checkers.opened(sealed);
        }
        // The SSRC is clear even in a sealed packet. A browser's is its own.
        let ssrc = clear.map(|ssrc| Ssrc(u32::from_be_bytes(ssrc)));
        let ssrc = ssrc.map(|ssrc| self.named.get(&ssrc).copied().unwrap_or(ssrc));
        self.settle(index, Cause::Datagram);
        let copies = std::mem::take(&mut self.checkers.copies);
        let again = std::mem::take(&mut self.checkers.again);
        let forwarded = after.forwarded - before.forwarded;
        let retransmitted = after.retransmitted - before.retransmitted;
        assert_eq!(copies.len() as u64 + again, forwarded + retransmitted);
        assert!(again <= retransmitted, "again without being asked");
        if after.opened == before.opened {
            assert!(copies.is_empty(), "sent on what was not opened");
            return;
        }
        let (sender, video) = self.checkers.sender(ssrc.expect("a packet of media"));
        self.checkers.begun.extend(ssrc.filter(|_| video));
        let others = self.checkers.members(self.checkers.stays[&sender].channel).count() as u64 - 1;
        let drops = hearers_drops(&before, &after);
        assert_eq!(forwarded + drops, others, "copies: forwarded, or dropped once");
        let counted = |reason| after.drops_for(reason) - before.drops_for(reason);
        let late = counted(DropReason::LateAfterGap)
            + counted(DropReason::AwaitingKeyframe)
            + counted(DropReason::Unwanted);
        let due = self.checkers.hearers(sender, video);
        assert_eq!(forwarded + late, due.len() as u64, "whoever is due a packet gets it");
    }

    // Control.

    /// Orders get under way.
    pub fn dispatch(&mut self) {
        for (index, command) in std::mem::take(&mut self.control.orders) {
            self.queue(index, Deed::Command(command));
        }
    }

    pub fn queue(&mut self, index: usize, deed: Deed) {
        let delay = self.dice.millis(0..30);
        // Every queue keeps its order.
        let at = (self.now + delay).max(self.queues[index]);
        self.queues[index] = at;
        self.next += 1;
        self.deeds.insert((at, self.next), (index, deed));
    }

    fn obey(&mut self) {
        let Some((_, (index, deed))) = self.deeds.pop_first() else { return };
        match deed {
            Deed::Command(command) => self.command(index, command),
            Deed::Arrival(arrival) => self.welcome(index, *arrival),
        }
    }

    fn command(&mut self, index: usize, command: Command) {
        let mut cause = Cause::Other;
        if let Command::Update { serial, policy } = &command
            && let Some(stay) = self.checkers.stays.get_mut(serial)
        {
            cause = Cause::Update(*serial);
            stay.policy = (**policy).clone();
        }
        let before = self.shards[index].counters().clone();
        self.shards[index].handle_command(self.now, command, &mut self.egresses[index]);
        let after = self.shards[index].counters().clone();
        self.settle(index, cause);
        let copies = std::mem::take(&mut self.checkers.copies).len();
        let silences = std::mem::take(&mut self.checkers.silences);
        assert_eq!((copies, before.opened), (silences, after.opened));
        assert_eq!(copies as u64, after.forwarded - before.forwarded);
        assert!(copies.is_multiple_of(5), "a burst of silence is five frames for each hearer");
    }

    fn welcome(&mut self, index: usize, arrival: Arrival) {
        let id = arrival.connection.id();
        let who = self.connections[&id];
        self.shards[index].handle_arrival(self.now, arrival);
        let attempt = &mut self.attempts[who];
        let mine = attempt.client.connection == Some(id);
        if mine {
            attempt.shard = Some(index);
        }
        self.settle(index, Cause::Other);
        let attempt = &mut self.attempts[who];
        if let Some(code) = attempt.closing.take_if(|_| mine) {
            self.hang_up(who, code);
        }
    }

    // The end.

    /// Everyone goes, one way or another; nothing may be left of them.
    fn finish(&mut self) {
        self.network.heal();
        self.advance(UNDER_WAY_MAX);
        let drains = self.dice.percent(20);
        for who in 0..self.attempts.len() {
            match self.dice.within(0..3) {
                _ if drains => {}
                0 => self.attempts[who].frozen = true,
                1 => self.hang_up(who, 1006),
                _ => self.hang_up(who, 1000),
            }
        }
        if drains {
            for index in 0..self.shards.len() {
                self.queue(index, Deed::Command(Command::Drain { code: CloseCode::ServerCrashed }));
            }
        }
        for attempt in &mut self.attempts {
            attempt.frozen = true;
        }
        self.advance(FOREVER);
        assert!(self.checkers.stays.is_empty() && self.control.live.is_empty());
        assert!(self.deeds.is_empty() && self.network.next().is_none());
        for index in 0..self.shards.len() {
            let shard = &mut self.shards[index];
            let left = (shard.sessions(), shard.channels(), shard.connections());
            assert_eq!(left, (0, 0, 0), "sessions, channels, connections left on {index}");
            assert!(shard.poll_timeout().is_none() && shard.poll_output().is_none());
            assert!(self.egresses[index].is_empty());
            let noise = shard.counters().drops_for(DropReason::Noise);
            for (count, &from) in self.owners.keys().enumerate() {
                let (now, path) = (self.now, Path::to(from));
                shard.handle_datagram(now, path, &mut [0xC9], &mut self.egresses[index]);
                let counted = shard.counters().drops_for(DropReason::Noise) - noise;
                assert_eq!(counted, count as u64 + 1, "{from} is still somebody's");
            }
        }
    }
}

/// Every datagram is answered, opened or dropped for one reason of its own.
fn account(before: &Counters, after: &Counters) -> Option<DropReason> {
    let drops: Vec<_> = DropReason::ALL
        .iter()
        .filter(|reason| !reason.is_hearers())
        .flat_map(|reason| {
            let count = after.drops_for(*reason) - before.drops_for(*reason);
            std::iter::repeat_n(*reason, count as usize)
        })
        .collect();
    assert_eq!(after.packets_in - before.packets_in, 1);
    let fine = after.answered - before.answered + after.opened - before.opened;
    assert_eq!(fine + drops.len() as u64, 1, "accounted for once: {drops:?}");
    drops.first().copied()
}

fn hearers_drops(before: &Counters, after: &Counters) -> u64 {
    let hearers = DropReason::ALL.iter().filter(|reason| reason.is_hearers());
    hearers.map(|reason| after.drops_for(*reason) - before.drops_for(*reason)).sum()
}

/// Whether a datagram dropped for this reason was found authentic and new before.
fn is_after_opening(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::Muted
            | DropReason::VideoNotAllowed
            | DropReason::UnknownPayloadType
            | DropReason::EmptyPayload
            | DropReason::LateAfterCut
            | DropReason::UselessRetransmission
            | DropReason::NoHearer
            | DropReason::RtcpConsumed
    )
}

//! One core's shard together with what it is joined to: its ring, its connections' lines, its
//! queues. Every call into the sans-IO core goes through here, so that its outputs are carried out
//! at once and a defect in it costs this shard's sessions and nothing else.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap, VecDeque},
    ops::ControlFlow,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_channel::{Sender, TrySendError};

use super::{
    line::{Departure, Line},
    queues::{CONTROL_BACKLOG_MAX, News, Rooms, ShardReport, ToControl, ToShard},
    tasks::Tasks,
};
use crate::{
    egress::Egress,
    id::{ConnectionId, ShardId},
    limits::{
        EGRESS_BYTES_MAX, EGRESS_DATAGRAMS_MAX, EGRESS_FLUSH_AT, MEDIA_BATCH_MAX,
        SHARD_SESSIONS_MAX,
    },
    metrics::{Counters, DropReason, Latency},
    ring::{Received, Ring, Watch},
    sfu::{Arrival, Command, DisconnectReason, Event, Output, Shard, ShardConfig, Verdict},
    signalling::{BROKEN, CloseCode},
};

/// Of so many datagrams one has its way through the server timed; each costs a clock reading.
const LATENCY_SAMPLE: u64 = 16;

/// How long other work may keep the core before media that has arrived is seen to.
const MEDIA_LATENCY: Duration = Duration::from_micros(500);

/// The same while connections have been given something to write and may not have done so.
const UNSAID_LATENCY: Duration = Duration::from_millis(3);

/// How close together two ticks may be. The shard's deadlines are tens of milliseconds long at the
/// least; a deadline that stays due must not keep a core busy.
const TICK_PAUSE: Duration = Duration::from_millis(5);

/// How soon control's full queue is tried again.
const BACKLOG_PAUSE: Duration = Duration::from_millis(100);

/// What cut or refused a connection, or dropped a report, for `limited` in the report.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// Too many from one address.
    ConnectionsPerAddress,
    /// Too many that have not opened their WebSocket.
    Handshakes,
    /// The WebSocket was not open in time.
    HandshakeTimeout,
    /// TLS or the upgrade failed.
    HandshakeFailed,
    /// The client did not read.
    SlowReader,
    /// No descriptor, or the kernel refused otherwise.
    Accept,
    /// A queue between threads was full.
    QueueFull,
}

/// The metrics labels of [`Limit`], in its order.
const LIMITS: [&str; 7] = [
    "connections_per_address",
    "handshakes",
    "handshake_timeout",
    "handshake_failed",
    "slow_reader",
    "accept",
    "queue_full",
];

/// One core's state.
pub struct Core {
    config: ShardConfig,
    shard: RefCell<Shard>,
    egress: RefCell<Egress>,
    ring: RefCell<Ring>,
    lines: RefCell<HashMap<ConnectionId, Rc<Line>>>,
    to_control: Sender<ToControl>,
    /// Reports that did not fit the queue to control, in order.
    backlog: RefCell<VecDeque<News>>,
    shards: Vec<Sender<ToShard>>,
    connections_made: Cell<u64>,
    /// When it was last looked for media.
    looked_at: Cell<Instant>,
    received: Cell<u64>,
    limited: RefCell<[u64; LIMITS.len()]>,
    /// WebSockets closed by us, by code. The codes are a few dozen.
    closes: RefCell<BTreeMap<u16, u64>>,
    restarts: Cell<u64>,
    /// What earlier states of this shard counted before they were lost.
    before: RefCell<Counters>,
    loop_time: RefCell<Latency>,
    forwarding: RefCell<Latency>,
    port: u16,
    tasks: Rc<Tasks>,
    /// Whether a connection's task was woken: it has something to write, or is to leave.
    stirred: Rc<Cell<bool>>,
    /// The shard's next deadline, as of its last output.
    due: Cell<Option<Instant>>,
    ticked_at: Cell<Instant>,
}

impl Core {
    /// Joins an empty shard to its ring and its queues; `restarts` counts how often it was done.
    pub fn new(
        config: ShardConfig,
        ring: Ring,
        port: u16,
        tasks: Rc<Tasks>,
        to_control: Sender<ToControl>,
        shards: Vec<Sender<ToShard>>,
        restarts: u64,
    ) -> Self {
        let mut egress = Egress::new(EGRESS_DATAGRAMS_MAX, EGRESS_BYTES_MAX);
        egress.reserve_flows(SHARD_SESSIONS_MAX);
        let core = Self {
            shard: RefCell::new(Shard::new(config.clone(), seed(), Instant::now())),
            config,
            egress: RefCell::new(egress),
            ring: RefCell::new(ring),
            lines: RefCell::default(),
            to_control,
            backlog: RefCell::default(),
            shards,
            // Answers to connections of before a restart may still be under way.
            connections_made: Cell::new(restarts << 32),
            looked_at: Cell::new(Instant::now()),
            received: Cell::new(0),
            limited: RefCell::default(),
            closes: RefCell::new(CloseCode::ALL.iter().map(|it| (it.code(), 0)).collect()),
            restarts: Cell::new(restarts),
            before: RefCell::default(),
            loop_time: RefCell::default(),
            forwarding: RefCell::default(),
            port,
            tasks,
            stirred: Rc::default(),
            due: Cell::new(None),
            ticked_at: Cell::new(Instant::now()),
        };
        if restarts > 0 {
            core.tell_control(News::Restarted);
        }
        core
    }

    /// Which shard this is.
    pub fn id(&self) -> ShardId {
        self.config.id
    }

    /// A name for a new connection, unique over all shards.
    pub fn name_connection(&self) -> ConnectionId {
        let number = self.connections_made.get();
        self.connections_made.set(number + 1);
        ConnectionId(u64::from(self.config.id.0) << 48 | number)
    }

    /// Gives a connection its line.
    pub fn connect(&self, id: ConnectionId) -> Rc<Line> {
        let line = Rc::new(Line::new(self.stirred.clone()));
        self.lines.borrow_mut().insert(id, line.clone());
        line
    }

    /// Forgets a connection's line.
    pub fn disconnect(&self, id: ConnectionId) {
        self.lines.borrow_mut().remove(&id);
    }

    /// Counts a connection that a limit refused or cut.
    pub fn limit(&self, limit: Limit) {
        self.limited.borrow_mut()[limit as usize] += 1;
    }

    /// Counts a WebSocket that is closed with this code of ours.
    pub fn closing(&self, code: u16) {
        *self.closes.borrow_mut().entry(code).or_default() += 1;
    }

    /// Calls into the shard, then carries out what it wants.
    pub fn enter(&self, work: impl FnOnce(&mut Shard, Instant, &mut Egress)) {
        self.attempt(work);
        self.flush();
        self.settle();
    }

    /// Sees to media that has arrived, if other work has kept the core from it for a while. To be
    /// called between two pieces of work, and not before one: what a client has said may name a
    /// speaker whose first packet has arrived with it. For the same reason media waits a little
    /// longer while connections have something to write: some clients throw away what they cannot
    /// name.
    pub fn relieve(&self) {
        let now = Instant::now();
        let latency = if self.stirred.get() { UNSAID_LATENCY } else { MEDIA_LATENCY };
        if now.saturating_duration_since(self.looked_at.get()) < latency {
            return;
        }
        self.looked_at.set(now);
        let arrived = self.ring.borrow_mut().has_received();
        if arrived {
            // The shard's loop sees to what this leaves.
            self.carry(MEDIA_BATCH_MAX);
        }
    }

    /// The connections' tasks.
    pub fn tasks(&self) -> &Rc<Tasks> {
        &self.tasks
    }

    /// Whether a connection's task was woken from outside the tasks, or by another one.
    pub fn is_stirred(&self) -> bool {
        self.stirred.get()
    }

    /// As before, since this was last asked.
    pub fn take_stirred(&self) -> bool {
        self.stirred.take()
    }

    /// Lets the shard's deadlines come to pass.
    pub fn tick(&self, now: Instant) {
        if self.next_tick().is_none_or(|at| at > now) {
            return;
        }
        self.ticked_at.set(now);
        self.drain_backlog();
        if self.due.get().is_some_and(|at| at <= now) {
            self.enter(|shard, now, egress| shard.handle_timeout(now, egress));
        }
    }

    /// When there is to be a tick.
    pub fn next_tick(&self) -> Option<Instant> {
        let ticked_at = self.ticked_at.get();
        let due = self.due.get().map(|at| at.max(ticked_at + TICK_PAUSE));
        if self.backlog.borrow().is_empty() {
            return due;
        }
        let retry = ticked_at + BACKLOG_PAUSE;
        Some(due.map_or(retry, |due| due.min(retry)))
    }

    /// Calls into the shard; a defect there costs its state and no more.
    fn attempt(&self, work: impl FnOnce(&mut Shard, Instant, &mut Egress)) {
        let now = Instant::now();
        let worked = {
            let (shard, egress) = (&mut *self.shard.borrow_mut(), &mut *self.egress.borrow_mut());
            catch_unwind(AssertUnwindSafe(|| work(shard, now, egress)))
        };
        if worked.is_err() {
            self.restart(now);
        }
    }

    /// Whether a connection's client waits for control.
    pub fn is_undecided(&self, id: ConnectionId) -> bool {
        self.shard.borrow().is_undecided(id)
    }

    /// One turn of the media loop: what was there at the last look, and one datagram of a
    /// handshake. Returns whether nothing was, and no handshake is under way. What has come since
    /// may have come with an op 5 that names its speaker, which goes first.
    pub fn turn(&self) -> bool {
        let fetched = self.ring.borrow().fetched();
        if fetched == 0 && !self.shard.borrow().has_handshakes() {
            return true;
        }
        self.carry(fetched.min(MEDIA_BATCH_MAX))
    }

    /// Delivers up to `max` datagrams, and one of a handshake. Returns whether everything that had
    /// arrived was dealt with.
    fn carry(&self, max: usize) -> bool {
        let start = Instant::now();
        let mut sampled = None;
        let mut worked = true;
        let delivered = {
            let mut ring = self.ring.borrow_mut();
            let (shard, egress) = (&mut *self.shard.borrow_mut(), &mut *self.egress.borrow_mut());
            ring.receive_while(max, |datagram| {
                self.received.set(self.received.get() + 1);
                if self.received.get().is_multiple_of(LATENCY_SAMPLE) {
                    sampled = datagram.received_at_ns;
                }
                let handled = AssertUnwindSafe(|| deliver(shard, start, datagram, egress));
                worked = catch_unwind(handled).is_ok();
                if worked && egress.len() < EGRESS_FLUSH_AT {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })
        };
        if !worked {
            self.restart(start);
        }
        let handshakes = self.shard.borrow().has_handshakes();
        if delivered.delivered == 0 && !handshakes {
            return delivered.drained;
        }
        self.flush();
        if let Some(at) = sampled {
            self.forwarding.borrow_mut().record(nanoseconds_since(at));
        }
        // One for each batch of media, however many browsers join at once.
        if handshakes {
            self.attempt(|shard, now, egress| shard.handle_handshake(now, egress));
            self.flush();
        }
        self.settle();
        let elapsed = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.loop_time.borrow_mut().record(elapsed);
        delivered.drained && !self.shard.borrow().has_handshakes()
    }

    /// Has the shard's sleep end when `fd` is readable.
    pub fn watch(&self, fd: OwnedFd) -> Watch {
        self.ring.borrow_mut().watch(fd)
    }

    /// Takes note of what has come, before any of it is seen to.
    pub fn look(&self) {
        self.ring.borrow_mut().look();
        self.looked_at.set(Instant::now());
    }

    /// Whether what is watched was found readable since this was last asked.
    pub fn take_readable(&self, watch: Watch) -> bool {
        self.ring.borrow_mut().take_readable(watch)
    }

    /// Stops looking at what is watched, or begins again.
    pub fn pause(&self, watch: Watch, paused: bool) {
        self.ring.borrow_mut().pause(watch, paused);
    }

    /// Sleeps until media arrives, something watched is readable, or it is `until`.
    pub fn sleep(&self, until: Instant) {
        let timeout = until.saturating_duration_since(Instant::now());
        if !timeout.is_zero() {
            self.ring.borrow_mut().wait(timeout);
        }
    }

    /// Sends what the shard has sealed.
    fn flush(&self) {
        let mut egress = self.egress.borrow_mut();
        if !egress.is_empty() {
            let sent = self.ring.borrow_mut().send(&mut egress);
            sent.count(self.shard.borrow_mut().counters_mut());
        }
    }

    /// Carries out what the shard wants.
    fn settle(&self) {
        loop {
            let Some(output) = self.shard.borrow_mut().poll_output() else {
                return self.due.set(self.shard.borrow().poll_timeout().map(|(at, _)| at));
            };
            match output {
                Output::Frame { connection, frame } => {
                    let line = self.lines.borrow().get(&connection).cloned();
                    if line.is_some_and(|line| !line.push(frame)) {
                        self.limit(Limit::SlowReader);
                        self.disconnect(connection);
                        self.attempt(|shard, now, _| shard.handle_closed(now, connection, BROKEN));
                    }
                }
                Output::Close { connection, code, why } => {
                    self.depart(connection, Departure::Close(code, why));
                }
                Output::Move { to, arrival } => {
                    let connection = arrival.connection.id();
                    self.depart(connection, Departure::Move(to, arrival));
                }
                Output::Event(event) => self.report(event),
            }
        }
    }

    fn depart(&self, connection: ConnectionId, departure: Departure) {
        if let Some(line) = self.lines.borrow_mut().remove(&connection) {
            line.depart(departure);
        }
    }

    fn report(&self, event: Event) {
        match event {
            // Nobody waits in a queue that is full: the client is told, and tries again.
            Event::Admission { connection, .. } if self.to_control.is_full() => {
                self.limit(Limit::QueueFull);
                let (code, why) = (CloseCode::ServerCrashed, "too many at once; come back");
                let verdict = Verdict::Refuse { code, why };
                let refuse = Command::Decide { connection, verdict };
                self.attempt(|shard, now, egress| shard.handle_command(now, refuse, egress));
            }
            event => self.tell_control(News::Event(event)),
        }
    }

    fn tell_control(&self, news: News) {
        // A report is kept for each session's end and for what led to it; what a chatty channel
        // adds beyond that is lost.
        let chatter = matches!(news, News::Event(Event::Speaking { .. } | Event::Video { .. }));
        if chatter && self.backlog.borrow().len() >= CONTROL_BACKLOG_MAX {
            return self.limit(Limit::QueueFull);
        }
        self.backlog.borrow_mut().push_back(news);
        self.drain_backlog();
    }

    /// Sends control what did not fit its queue before.
    fn drain_backlog(&self) {
        let mut backlog = self.backlog.borrow_mut();
        while let Some(news) = backlog.pop_front() {
            let shard = self.config.id;
            match self.to_control.try_send(ToControl { shard, news }) {
                Ok(()) => {}
                Err(TrySendError::Full(ToControl { news, .. })) => {
                    backlog.push_front(news);
                    break;
                }
                // Control has stopped, so nobody is left to be told.
                Err(TrySendError::Closed(_)) => backlog.clear(),
            }
        }
    }

    /// Gives a message to another shard; it comes back if that one's queue is full.
    pub fn send_to(&self, shard: ShardId, message: ToShard) -> Result<(), ToShard> {
        match self.shards.get(shard.index()) {
            None => Err(message),
            Some(queue) => queue.try_send(message).map_err(|refused| {
                self.limit(Limit::QueueFull);
                refused.into_inner()
            }),
        }
    }

    /// A session that was on its way to another shard did not get there.
    pub fn lost_on_the_way(&self, arrival: &Arrival) {
        if let Verdict::Join { admission, .. } = &arrival.verdict {
            self.tell_control(News::Event(Event::Disconnected {
                serial: admission.serial,
                reason: DisconnectReason::ClientLeft,
                close_code: BROKEN,
            }));
        }
    }

    /// The core has a defect: its state is lost, its clients are told to come back, and it begins
    /// anew. Sockets, ring and the other shards go on.
    fn restart(&self, now: Instant) {
        self.restarts.set(self.restarts.get() + 1);
        tracing::error!(
            shard = self.config.id.0,
            "a defect ended this shard's sessions; it starts empty (the panic is logged above)"
        );
        drop(self.egress.borrow_mut().flight());
        let fresh = Shard::new(self.config.clone(), seed(), now);
        let lost = self.shard.replace(fresh);
        *self.before.borrow_mut() += lost.counters();
        // Dropping what broke may break again; nothing depends on it any more.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(lost)));
        #[expect(
            clippy::disallowed_methods,
            clippy::iter_over_hash_type,
            reason = "each has its own socket: the order shows nowhere"
        )]
        for (_, line) in self.lines.borrow_mut().drain() {
            line.depart(Departure::Close(CloseCode::ServerCrashed, "a defect; please resume"));
        }
        self.tell_control(News::Restarted);
    }

    /// A copy of what there is to tell.
    pub fn inspect(&self, rooms: Rooms) -> ShardReport {
        let shard = self.shard.borrow();
        let ring = self.ring.borrow();
        let mut counters = self.before.borrow().clone();
        counters += shard.counters();
        counters.receive_buffers_exhausted = ring.receive_buffers_exhausted();
        let limited = LIMITS.into_iter().zip(*self.limited.borrow()).collect();
        ShardReport {
            shard: self.config.id,
            port: self.port,
            counters,
            sessions: shard.sessions() as u64,
            channels: shard.channels() as u64,
            connections: shard.connections() as u64,
            limited,
            closes: self.closes.borrow().iter().map(|(code, count)| (*code, *count)).collect(),
            restarts: self.restarts.get(),
            loop_time: self.loop_time.borrow().clone(),
            forwarding: self.forwarding.borrow().clone(),
            rooms: match rooms {
                Rooms::None => Vec::new(),
                Rooms::One(channel) => shard.room(channel).into_iter().collect(),
                Rooms::All => shard.rooms(),
            },
        }
    }
}

fn deliver(shard: &mut Shard, now: Instant, datagram: Received<'_>, egress: &mut Egress) {
    if datagram.truncated {
        let counters = shard.counters_mut();
        counters.packets_in += 1;
        counters.bytes_in += datagram.bytes.len() as u64;
        counters.dropped(DropReason::Oversize);
        return;
    }
    shard.handle_datagram(now, datagram.path, datagram.bytes, egress);
}

fn nanoseconds_since(realtime_ns: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).saturating_sub(realtime_ns)
}

fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).expect("the kernel gives random bytes once it has booted");
    seed
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;

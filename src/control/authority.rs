//! What the control thread knows and decides; who is let in is in `door`, what backends change in
//! `changes`. Sans-IO: time comes in as values, commands to shards and public events come out of
//! [`Authority::poll_output`]. Asks the backends, knows every live session by its serial, places
//! channels on shards. Driven by `node`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use time::OffsetDateTime;

use super::{
    backend::{Backend, Report, Ticket},
    directory::Directory,
    door::Waiting,
    event_log::{Occurrence, PublicEvent, Subject},
    ledger::{Grant, Holder, Ledger},
    roster::{Live, Roster},
    spacebar::{Order, Spacebar},
    throttle::{Rate, Throttle},
    token::SignedTokens,
};
use crate::{
    config::{BackendName, Secret},
    driver::queues::News,
    id::{ChannelId, Serial, ShardId},
    limits::GRANTS_MAX,
    sfu::{Command, DisconnectReason, E2ee, Event, Kind, Policy},
    signalling::CloseCode,
};

/// Identifies of one user on one server from one address: a client that retries is let be, one
/// without back-off is stopped (protocol.md §8, trap 31). The address is part of the key so that
/// a stranger cannot use up somebody's attempts.
const IDENTIFY_RATE: Rate = Rate { burst: 10, refill: Duration::from_secs(1) };

/// Identifies and Resumes from one address that showed wrong credentials: guessing.
const FAILURE_RATE: Rate = Rate { burst: 30, refill: Duration::from_millis(500) };

/// Keys the rate limits remember: 64 bytes each, so a flood costs a few megabytes.
const THROTTLE_KEYS_MAX: usize = 65_536;

/// Within this time changes of who speaks, or watches, become one event (protocol.md §6.3).
const COALESCE: Duration = Duration::from_millis(200);

/// Time in which a client that meant to resume has taken up the new session it got instead: it
/// needs one discovery and one Select Protocol. Those that cannot wait so long to be told to
/// identify.
const REVIVAL_TIMEOUT: Duration = Duration::from_secs(3);

/// What the operator decided about admissions.
#[derive(Debug, Clone)]
pub struct Rules {
    /// How many shards there are.
    pub shards: usize,
    /// Who is asked about an Identify.
    pub backends: Vec<BackendName>,
    /// Key of signed tokens.
    pub token_key: Secret,
    /// End-to-end encryption where a signed token lets somebody in: it cannot say.
    pub e2ee: E2ee,
    /// Whether `speaking` is published.
    pub speaking_events: bool,
    /// Whether connections come from the clients' own addresses rather than a proxy's, so that one
    /// address's failures are one guest's.
    pub clients_have_addresses: bool,
    /// How long a session's place is kept for a resume: as long as nobody knows whether who was
    /// here before a restart is still there.
    pub resume_window: Duration,
}

/// What the authority wants done.
#[derive(Debug)]
pub enum Output {
    /// Send this to that shard.
    Command(ShardId, Command),
    /// Tell the backend.
    Published(PublicEvent),
    /// Do this with Spacebar.
    Order(Order),
}

/// Why a grant is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GrantRefusal {
    /// [`GRANTS_MAX`] are stored.
    #[error("this node stores no more grants")]
    Full,
    /// The channel is live as the other kind.
    #[error("the channel is in use as another kind")]
    OtherKind,
    /// The channel is live as another server's.
    #[error("the channel is in use by another server")]
    OtherServer,
    /// The server is stopping.
    #[error("this node is draining")]
    Draining,
    /// The operator chose other backends.
    #[error("this node takes no grants: `backends` does not name them")]
    Disabled,
}

/// Decides admissions. Four kinds of method: getters; `handle_*` for what shards and the clock
/// bring; the backend's wishes (`grant`, `set_policy`, `revoke`, `close_room`, `drain`); `poll_*`.
/// After any of the middle two, take outputs until there are none.
#[derive(Debug)]
pub struct Authority {
    pub(super) rules: Rules,
    pub(super) ledger: Ledger,
    pub(super) tokens: SignedTokens,
    pub(super) spacebar: Option<Spacebar>,
    /// Connections whose backend has yet to answer.
    pub(super) waiting: BTreeMap<Ticket, Waiting>,
    pub(super) last_ticket: u64,
    pub(super) directory: Directory,
    pub(super) sessions: Roster,
    pub(super) identifies: Throttle<(Holder, IpAddr)>,
    pub(super) failures: Throttle<IpAddr>,
    /// Resumes of sessions that nobody knows.
    pub(super) hopeless: Throttle<IpAddr>,
    pub(super) deadlines: BTreeSet<(Instant, Deadline)>,
    /// Streams whose viewers changed and are yet to be published.
    pub(super) audiences: BTreeSet<ChannelId>,
    pub(super) outputs: VecDeque<Output>,
    pub(super) draining: bool,
    /// Until then clients may show sessions that an earlier process, or a shard before its restart,
    /// has taken with it.
    pub(super) lost_until: Option<Instant>,
    /// [`GRANTS_MAX`]; a field so that a test can fill it.
    pub(super) grants_max: usize,
}

/// Why to wake. Kept until due; looked at then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deadline {
    Admission(Serial),
    Move(Serial),
    Revival(Serial),
    Speaking(Serial),
    Viewers(ChannelId),
}

impl Authority {
    /// Knows nobody yet.
    pub fn new(rules: Rules) -> Self {
        Self {
            directory: Directory::new(rules.shards),
            ledger: Ledger::default(),
            tokens: SignedTokens::new(rules.token_key.clone(), rules.e2ee),
            spacebar: rules
                .backends
                .contains(&BackendName::Spacebar)
                .then(|| Spacebar::new(rules.e2ee, rules.resume_window)),
            rules,
            waiting: BTreeMap::new(),
            last_ticket: 0,
            sessions: Roster::default(),
            identifies: Throttle::new(IDENTIFY_RATE, THROTTLE_KEYS_MAX),
            failures: Throttle::new(FAILURE_RATE, THROTTLE_KEYS_MAX),
            hopeless: Throttle::new(FAILURE_RATE, THROTTLE_KEYS_MAX),
            deadlines: BTreeSet::new(),
            audiences: BTreeSet::new(),
            outputs: VecDeque::new(),
            draining: false,
            lost_until: None,
            grants_max: GRANTS_MAX,
        }
    }

    /// Grants stored.
    pub fn grants(&self) -> usize {
        self.ledger.len()
    }

    /// Sessions live or on their way.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Channels live or about to be.
    pub fn rooms(&self) -> usize {
        self.directory.channels()
    }

    /// Whether the server is stopping.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Where a channel lives.
    pub fn shard_of(&self, room: ChannelId) -> Option<ShardId> {
        self.directory.get(room).map(|place| place.shard)
    }

    /// When the holder's session in that channel became one.
    pub fn connected_at(&self, holder: Holder, room: ChannelId) -> Option<OffsetDateTime> {
        self.sessions
            .of(holder)
            .filter(|(_, live)| live.room == room)
            .filter_map(|(_, live)| live.identified_at)
            .last()
    }

    /// The rules of the holder's grant, or of its newest session when the grant is used up.
    pub fn policy(&self, holder: Holder) -> Option<&Policy> {
        let granted = self.ledger.get(holder).map(|grant| &grant.policy);
        granted.or_else(|| self.sessions.of(holder).last().map(|(_, live)| &live.policy))
    }

    /// Takes what one shard says.
    pub fn handle_news(&mut self, now: Instant, wall: OffsetDateTime, shard: ShardId, news: News) {
        match news {
            News::Event(Event::Admission { connection, address, request }) => {
                self.knock(now, wall, shard, connection, address, request);
            }
            News::Event(Event::Identified { serial }) => {
                self.identified(now, wall, shard, serial);
            }
            News::Event(Event::Connected { serial, transport }) => {
                if let Some(live) = self.sessions.get_mut(serial) {
                    live.is_reviving = false;
                }
                self.publish_of(wall, serial, |subject| Occurrence::SessionConnected {
                    subject,
                    transport,
                });
            }
            News::Event(Event::Disconnected { serial, reason, close_code }) => {
                self.end(now, wall, serial, reason, close_code);
            }
            News::Event(Event::Speaking { serial, flags }) => self.spoke(now, serial, flags),
            News::Event(Event::Video { serial, active }) => {
                self.publish_of(wall, serial, |subject| Occurrence::Video { subject, active });
            }
            News::Restarted => self.restarted(now, wall, shard),
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant, wall: OffsetDateTime) {
        self.ledger.expire(wall);
        self.lost_until.get_or_insert(now + self.rules.resume_window);
        while let Some(&(at, deadline)) = self.deadlines.first()
            && at <= now
        {
            self.deadlines.pop_first();
            match deadline {
                Deadline::Admission(serial) => {
                    if self.sessions.get(serial).is_some_and(|live| live.identified_at.is_none()) {
                        self.end(now, wall, serial, DisconnectReason::ClientLeft, 1006);
                    }
                }
                Deadline::Move(serial) => {
                    let live = self.sessions.get(serial);
                    if live.is_some_and(|live| live.leave_at.is_some_and(|end| end <= now)) {
                        self.close(serial, CloseCode::Disconnected, DisconnectReason::Kicked);
                    }
                }
                Deadline::Revival(serial) => {
                    if self.sessions.get(serial).is_some_and(|live| live.is_reviving) {
                        self.close(serial, CloseCode::SessionInvalid, DisconnectReason::Shutdown);
                    }
                }
                Deadline::Speaking(serial) => self.publish_speaking(wall, serial),
                Deadline::Viewers(room) => self.publish_viewers(wall, room),
            }
        }
    }

    /// Stores a grant; tells whether it replaced one. A live session of the holder follows it: in
    /// the same channel it gets the new rules at once, in another one it must leave soon.
    pub fn grant(
        &mut self,
        now: Instant,
        wall: OffsetDateTime,
        holder: Holder,
        grant: Grant,
    ) -> Result<bool, GrantRefusal> {
        if self.draining {
            return Err(GrantRefusal::Draining);
        }
        if !self.rules.backends.contains(&BackendName::Grants) {
            return Err(GrantRefusal::Disabled);
        }
        self.ledger.expire(wall);
        let room = grant.room(holder.server);
        match self.directory.get(room) {
            Some(place) if place.kind != grant.kind => return Err(GrantRefusal::OtherKind),
            Some(place) if place.server != holder.server => return Err(GrantRefusal::OtherServer),
            _ => {}
        }
        let replaced = self.ledger.get(holder).is_some();
        if !replaced && self.ledger.len() >= self.grants_max {
            return Err(GrantRefusal::Full);
        }
        self.ledger.grant(holder, grant);
        self.follow_backends(now, wall);
        Ok(replaced)
    }

    /// Gives the holder's grant and sessions other rules, at once.
    pub fn set_policy(&mut self, holder: Holder, policy: &Policy) {
        self.ledger.set_policy(holder, policy);
        let serials: Vec<Serial> = self.sessions.of(holder).map(|(serial, _)| serial).collect();
        for serial in serials {
            self.update(serial, policy);
        }
    }

    /// Takes the holder's grant away and ends its sessions; tells whether there was either.
    pub fn revoke(&mut self, holder: Holder, code: CloseCode) -> bool {
        let had_grant = self.ledger.remove(holder).is_some();
        let serials: Vec<Serial> = self.sessions.of(holder).map(|(serial, _)| serial).collect();
        for &serial in &serials {
            self.close(serial, code, DisconnectReason::Kicked);
        }
        had_grant || !serials.is_empty()
    }

    /// Ends a channel for everyone and takes its grants away; tells whether there was anything.
    pub fn close_room(&mut self, room: ChannelId, code: CloseCode) -> bool {
        let had_grants = self.ledger.remove_room(room) > 0;
        self.end_room(room, code, DisconnectReason::RoomClosed) || had_grants
    }

    /// Sends everyone in a channel away to come back, elsewhere or here: the grants stay. With 4015
    /// they stay members as long as a resume is possible, since clients that find none have to ask
    /// their backend for everything anew (protocol.md §8, trap 9). Tells whether the channel was
    /// live.
    pub fn migrate_room(&mut self, room: ChannelId, code: CloseCode) -> bool {
        if code != CloseCode::ServerCrashed {
            return self.end_room(room, code, DisconnectReason::Shutdown);
        }
        let Some(place) = self.directory.get(room) else { return false };
        let shard = place.shard;
        self.command(shard, Command::Reconnect { channel: room });
        true
    }

    /// Lets nobody in from now on and sends everyone away: the server is stopping.
    pub fn drain(&mut self, wall: OffsetDateTime) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        // Whoever still waits is closed with the others by the shards.
        self.waiting.clear();
        self.publish(wall, Occurrence::NodeDraining {});
        for index in 0..self.rules.shards {
            let shard = ShardId(u16::try_from(index).expect("shards are numbered in 16 bits"));
            self.command(shard, Command::Drain { code: CloseCode::ServerCrashed });
        }
    }

    /// When [`Authority::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        let order = self.spacebar.as_mut().and_then(Spacebar::poll_order).map(Output::Order);
        order.or_else(|| self.outputs.pop_front())
    }

    fn identified(&mut self, now: Instant, wall: OffsetDateTime, shard: ShardId, serial: Serial) {
        let Some(live) = self.sessions.get_mut(serial) else {
            // It took longer than its admission lasted, and its place may be taken.
            let (code, reason) = (CloseCode::SessionInvalid, DisconnectReason::Shutdown);
            return self.command(shard, Command::Close { serial, code, reason });
        };
        live.identified_at = Some(wall);
        if live.is_reviving {
            self.deadlines.insert((now + REVIVAL_TIMEOUT, Deadline::Revival(serial)));
        }
        let (holder, room, closing) = (live.holder, live.room, live.closing);
        let overtaken = std::mem::take(&mut live.policy_overtakes).then(|| live.policy.clone());
        let subject = live.subject();
        if self.directory.open(room) {
            self.publish(wall, Occurrence::RoomOpened { place: subject.place });
        }
        self.publish(wall, Occurrence::SessionIdentified { subject });
        self.audience_changed(now, room);
        if let Some((code, reason)) = closing {
            return self.command(shard, Command::Close { serial, code, reason });
        }
        if let Some(policy) = overtaken {
            self.command(shard, Command::Update { serial, policy: Box::new(policy) });
        }

        // Newest wins. Within one channel the shard sees to it by itself when the newer one joins.
        let others: Vec<(Serial, ChannelId, bool)> = self
            .sessions
            .of(holder)
            .filter(|(other, _)| *other != serial)
            .map(|(other, live)| (other, live.room, live.identified_at.is_some()))
            .collect();
        for (other, other_room, other_identified) in others {
            let older = if other < serial {
                other
            } else if other_identified {
                serial
            } else {
                continue;
            };
            if let Some(live) = self.sessions.get_mut(older) {
                live.superseded = true;
            }
            if other_room != room {
                self.close(older, CloseCode::Disconnected, DisconnectReason::Replaced);
            }
        }
    }

    fn end(
        &mut self,
        now: Instant,
        wall: OffsetDateTime,
        serial: Serial,
        reason: DisconnectReason,
        close_code: u16,
    ) {
        let Some(live) = self.sessions.remove(serial) else { return };
        let subject = live.subject();
        let place = subject.place;
        self.report(live.backend, &Report::Gone { live: &live, reason });
        if live.identified_at.is_some() {
            let what = Occurrence::SessionDisconnected { subject, reason, close_code };
            self.publish(wall, what);
        }
        match self.directory.leave(live.room, serial) {
            Some(left) if left.opened => self.publish(wall, Occurrence::RoomEmpty { place }),
            Some(_) => {}
            None => self.audience_changed(now, live.room),
        }
    }

    /// Tells a backend, if it is asked at all.
    pub(super) fn report(&mut self, backend: BackendName, report: &Report<'_>) {
        if let Some(backend) = self.backends().find(|other| other.name() == backend) {
            backend.report(report);
        }
    }

    /// The chosen ones, in the order in which they are asked: who knows at once comes first.
    pub(super) fn backends(&mut self) -> impl Iterator<Item = &mut dyn Backend> {
        let all: [Option<&mut dyn Backend>; 3] = [
            Some(&mut self.ledger),
            Some(&mut self.tokens),
            self.spacebar.as_mut().map(|spacebar| spacebar as &mut dyn Backend),
        ];
        let chosen = &self.rules.backends;
        all.into_iter().flatten().filter(|backend| chosen.contains(&backend.name()))
    }

    fn restarted(&mut self, now: Instant, wall: OffsetDateTime, shard: ShardId) {
        self.lost_until = Some(now + self.rules.resume_window);
        for serial in self.sessions.on(shard) {
            let code = CloseCode::ServerCrashed.code();
            self.end(now, wall, serial, DisconnectReason::Shutdown, code);
        }
    }

    pub(super) fn end_room(
        &mut self,
        room: ChannelId,
        code: CloseCode,
        reason: DisconnectReason,
    ) -> bool {
        let Some(place) = self.directory.get(room) else { return false };
        let shard = place.shard;
        for serial in &place.sessions {
            if let Some(live) = self.sessions.get_mut(*serial) {
                live.closing.get_or_insert((code, reason));
            }
        }
        self.command(shard, Command::CloseChannel { channel: room, code, reason });
        true
    }

    /// Ends a session, once; if its connection is still on its way, again when it arrives.
    pub(super) fn close(&mut self, serial: Serial, code: CloseCode, reason: DisconnectReason) {
        let Some(live) = self.sessions.get_mut(serial) else { return };
        if live.closing.is_none() {
            live.closing = Some((code, reason));
            let shard = live.shard;
            self.command(shard, Command::Close { serial, code, reason });
        }
    }

    pub(super) fn update(&mut self, serial: Serial, policy: &Policy) {
        let Some(live) = self.sessions.get_mut(serial) else { return };
        if live.policy != *policy {
            live.policy = policy.clone();
            live.policy_overtakes |= live.identified_at.is_none();
            let shard = live.shard;
            self.command(shard, Command::Update { serial, policy: Box::new(policy.clone()) });
        }
    }

    fn spoke(&mut self, now: Instant, serial: Serial, flags: u32) {
        if !self.rules.speaking_events {
            return;
        }
        let Some(live) = self.sessions.get_mut(serial) else { return };
        if live.speaks.replace(flags).is_none() {
            self.deadlines.insert((now + COALESCE, Deadline::Speaking(serial)));
        }
    }

    fn publish_speaking(&mut self, wall: OffsetDateTime, serial: Serial) {
        let Some(live) = self.sessions.get_mut(serial) else { return };
        if let Some(flags) = live.speaks.take()
            && flags != std::mem::replace(&mut live.spoke, flags)
        {
            self.publish_of(wall, serial, |subject| Occurrence::Speaking { subject, flags });
        }
    }

    fn audience_changed(&mut self, now: Instant, room: ChannelId) {
        let is_stream = self.directory.get(room).is_some_and(|place| place.kind == Kind::Stream);
        if is_stream && self.audiences.insert(room) {
            self.deadlines.insert((now + COALESCE, Deadline::Viewers(room)));
        }
    }

    fn publish_viewers(&mut self, wall: OffsetDateTime, room: ChannelId) {
        self.audiences.remove(&room);
        let Some(place) = self.directory.get(room) else { return };
        let present = place
            .sessions
            .iter()
            .filter_map(|serial| self.sessions.get(*serial))
            .filter(|live| live.identified_at.is_some() && !live.superseded);
        let viewers = present.clone().filter(|live| {
            let stream = live.policy.stream.as_ref();
            stream.is_none_or(|stream| stream.owner_id != live.holder.user)
        });
        let viewer_ids = viewers.map(|live| live.holder.user).collect();
        let place = present.map(|live| live.subject().place).next();
        if let Some(place) = place {
            self.publish(wall, Occurrence::StreamViewers { place, viewer_ids });
        }
    }

    /// Publishes something about an identified session.
    fn publish_of(
        &mut self,
        wall: OffsetDateTime,
        serial: Serial,
        what: impl FnOnce(Subject) -> Occurrence,
    ) {
        let live = self.sessions.get(serial).filter(|live| live.identified_at.is_some());
        if let Some(subject) = live.map(Live::subject) {
            self.publish(wall, what(subject));
        }
    }

    fn publish(&mut self, wall: OffsetDateTime, what: Occurrence) {
        self.outputs.push_back(Output::Published(PublicEvent { at: wall, what }));
    }

    pub(super) fn command(&mut self, shard: ShardId, command: Command) {
        self.outputs.push_back(Output::Command(shard, command));
    }
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "authority_session_tests.rs"]
mod session_tests;

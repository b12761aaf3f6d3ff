//! Who is let in: the answers to Identify and Resume. Part of `Authority`, which has the rest of a
//! session's life.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use time::OffsetDateTime;

use super::{
    authority::{Authority, Deadline},
    backend::{Answer, Entitlement, Question, Report, Ticket},
    ledger::{Holder, room},
    roster::Live,
};
use crate::{
    config::BackendName,
    id::{ChannelId, ConnectionId, ServerId, SessionId, ShardId, Token, UserId, guest},
    limits::IDENTIFY_TIMEOUT,
    sfu::{Admission, AdmissionRequest, Command, Kind, Policy, Verdict},
    signalling::{CloseCode, Identify, Resume},
};

/// Time in which an admitted connection must have become a session. It has
/// [`IDENTIFY_TIMEOUT`] from accept and may then move to another shard.
const ADMISSION_TIMEOUT: Duration = IDENTIFY_TIMEOUT.saturating_add(Duration::from_secs(5));

/// A connection whose backend has yet to answer. Bounded by the questions a backend takes.
#[derive(Debug)]
pub(super) struct Waiting {
    shard: ShardId,
    connection: ConnectionId,
    address: IpAddr,
    shown: Shown,
}

/// What a connection showed that wants a session.
#[derive(Debug)]
struct Shown {
    server: ServerId,
    /// Named by Identify; a Resume names nobody.
    user: Option<UserId>,
    session: SessionId,
    token: Token,
    channel: Option<ChannelId>,
}

impl From<Identify> for Shown {
    fn from(identify: Identify) -> Self {
        let Identify { server, user, session, token, channel, .. } = identify;
        Self { server, user: Some(user), session, token, channel }
    }
}

impl From<Resume> for Shown {
    fn from(resume: Resume) -> Self {
        let Resume { server, session, token, channel, .. } = resume;
        Self { server, user: None, session, token, channel }
    }
}

impl Shown {
    /// Why it is not let in, if nobody knows it.
    fn refusal(&self) -> Refusal {
        if self.user.is_some() { UNAUTHENTICATED } else { UNRESUMABLE }
    }
}

pub(super) type Refusal = (CloseCode, &'static str);

const UNAUTHENTICATED: Refusal = (CloseCode::AuthenticationFailed, "authentication failed");
const UNRESUMABLE: Refusal = (CloseCode::SessionInvalid, "session is no longer valid");
const TOO_FAST: Refusal = (CloseCode::RateLimited, "rate limited");
const FULL: Refusal = (CloseCode::Disconnected, "the channel is full");
const STOPPING: Refusal = (CloseCode::ServerCrashed, "the server is stopping");
const UNAVAILABLE: Refusal = (CloseCode::ServerCrashed, "the backend does not answer; come back");

impl Authority {
    /// A connection wants in: it is answered now, or when its backend has been asked.
    pub(super) fn knock(
        &mut self,
        now: Instant,
        wall: OffsetDateTime,
        shard: ShardId,
        connection: ConnectionId,
        address: IpAddr,
        request: AdmissionRequest,
    ) {
        let address = guest(address);
        let shown = match request {
            _ if self.draining => {
                return self.answer(now, shard, connection, address, Err(STOPPING));
            }
            AdmissionRequest::Resume(resume) => match self.resume(&resume) {
                // An earlier process may have had it: who is known is offered a new one.
                Err(_) if self.may_be_lost(now, &address) => Shown::from(resume),
                verdict => return self.answer(now, shard, connection, address, verdict),
            },
            AdmissionRequest::Identify(identify) => {
                let holder = Holder { server: identify.server, user: identify.user };
                if !self.identifies.take(now, (holder, address)) {
                    return self.answer(now, shard, connection, address, Err(TOO_FAST));
                }
                Shown::from(identify)
            }
        };
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let is_suspect = self.failures.is_used_up(now, &address);
        match self.ask(wall, ticket, &shown, is_suspect) {
            (_, Answer::Later) => {
                self.waiting.insert(ticket, Waiting { shard, connection, address, shown });
            }
            (backend, answer) => {
                let waiting = Waiting { shard, connection, address, shown };
                self.settle(now, backend, waiting, answer);
            }
        }
    }

    /// Whether a Resume of a session that is not here may be of one that was lost. Guesses are not
    /// looked up: there is no end to them.
    fn may_be_lost(&mut self, now: Instant, address: &IpAddr) -> bool {
        self.lost_until.is_some_and(|until| now < until)
            && !(self.rules.clients_have_addresses && self.hopeless.is_used_up(now, address))
    }

    /// A backend's late answer.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        backend: BackendName,
        ticket: Ticket,
        answer: Answer,
    ) {
        if let Some(waiting) = self.waiting.remove(&ticket) {
            self.settle(now, backend, waiting, answer);
        }
    }

    fn settle(&mut self, now: Instant, backend: BackendName, waiting: Waiting, answer: Answer) {
        let Waiting { shard, connection, address, shown } = waiting;
        let verdict = match answer {
            Answer::Yes(entitlement) => self.admit(now, &shown, address, backend, entitlement),
            Answer::No => {
                // A Resume is told the same as ever, but counts: it was a guess, or is hopeless.
                // Apart from failures, for after a restart honest clients' are hopeless too.
                if shown.user.is_none() && self.rules.clients_have_addresses {
                    self.hopeless.take(now, address);
                }
                Err(shown.refusal())
            }
            Answer::Later | Answer::Unavailable => Err(UNAVAILABLE),
        };
        self.answer(now, shard, connection, address, verdict);
    }

    /// The first backend that does not say no, and what it says.
    fn ask(
        &mut self,
        wall: OffsetDateTime,
        ticket: Ticket,
        shown: &Shown,
        is_suspect: bool,
    ) -> (BackendName, Answer) {
        let question = Question {
            ticket,
            server: shown.server,
            user: shown.user,
            session: &shown.session,
            token: &shown.token,
            channel: shown.channel,
            is_suspect,
        };
        let mut answers = self
            .backends()
            .map(|backend| (backend.name(), backend.authenticate(wall, &question)))
            .filter(|(_, answer)| !matches!(answer, Answer::No));
        answers.next().unwrap_or((BackendName::Grants, Answer::No))
    }

    fn answer(
        &mut self,
        now: Instant,
        shard: ShardId,
        connection: ConnectionId,
        address: IpAddr,
        verdict: Result<Verdict, Refusal>,
    ) {
        // A Resume that comes too late is no guess: after a restart everybody's does. Who shows
        // what is right is let in whatever its neighbours behind one address have tried; guesses at
        // one user have a rate of their own.
        let guess = matches!(verdict, Err(UNAUTHENTICATED)) && self.rules.clients_have_addresses;
        let verdict =
            if guess && !self.failures.take(now, address) { Err(TOO_FAST) } else { verdict };
        let verdict = verdict.unwrap_or_else(|(code, why)| Verdict::Refuse { code, why });
        self.command(shard, Command::Decide { connection, verdict });
    }

    fn admit(
        &mut self,
        now: Instant,
        shown: &Shown,
        address: IpAddr,
        backend: BackendName,
        entitlement: Entitlement,
    ) -> Result<Verdict, Refusal> {
        let Entitlement { user, kind, channel, policy } = entitlement;
        let holder = Holder { server: shown.server, user };
        let is_reviving = shown.user.is_none();
        // Whoever is here again has nothing to bring back.
        if is_reviving && self.sessions.of(holder).next().is_some() {
            return Err(UNRESUMABLE);
        }
        if is_reviving && !self.identifies.take(now, (holder, address)) {
            return Err(TOO_FAST);
        }
        let room = room(kind, holder.server, channel);
        let place = self.directory.get(room);
        if place.is_some_and(|place| (place.kind, place.server) != (kind, holder.server)) {
            return Err(shown.refusal());
        }
        if self.is_full(holder, room, &policy) {
            return Err(FULL);
        }
        self.report(backend, &Report::Admitted(holder));
        let serial = self.sessions.next_serial();
        let shard = self.directory.enter(room, kind, holder.server, serial);
        let admission = Admission {
            serial,
            kind,
            server: holder.server,
            channel: room,
            user: holder.user,
            session: shown.session.clone(),
            token: shown.token.clone(),
            policy: policy.clone(),
        };
        self.deadlines.insert((now + ADMISSION_TIMEOUT, Deadline::Admission(serial)));
        let live = Live {
            holder,
            backend,
            session: shown.session.clone(),
            token: shown.token.clone(),
            kind,
            channel,
            room,
            shard,
            policy,
            policy_overtakes: false,
            identified_at: None,
            closing: None,
            is_reviving,
            superseded: false,
            leave_at: None,
            spoke: 0,
            speaks: None,
        };
        self.sessions.add(serial, live);
        Ok(Verdict::Join { shard, admission: Box::new(admission) })
    }

    /// Whether the channel has no place for one more holder. Who is in it already gives up that
    /// place, so it does not count.
    fn is_full(&self, holder: Holder, room: ChannelId, policy: &Policy) -> bool {
        if !self.directory.has_place(room) {
            return true;
        }
        let Some(place) = self.directory.get(room) else { return false };
        let there =
            |who: Holder| self.sessions.of(who).filter(|(_, live)| live.room == room).count();
        let others = place.sessions.len() - there(holder);
        let user_limit = policy.room.user_limit as usize;
        if user_limit > 0 && others >= user_limit {
            return true;
        }
        let Some(stream) = &policy.stream else { return false };
        let owner = Holder { server: holder.server, user: stream.owner_id };
        let viewer_limit = stream.viewer_limit as usize;
        viewer_limit > 0 && holder != owner && others - there(owner) >= viewer_limit
    }

    fn resume(&self, resume: &Resume) -> Result<Verdict, Refusal> {
        let mut candidates =
            self.sessions.with(resume.server, &resume.session).filter(|(_, live)| {
                let is_channel = live.kind == Kind::Stream
                    || resume.channel.is_none_or(|channel| channel == live.channel);
                live.token == resume.token
                    && is_channel
                    && live.identified_at.is_some()
                    && live.closing.is_none()
                    && !live.superseded
            });
        let (serial, live) = candidates.next().ok_or(UNRESUMABLE)?;
        Ok(Verdict::Resume { shard: live.shard, serial })
    }
}

//! Who is let in: the answers to Identify and Resume. Part of `Authority`, which has the rest of a
//! session's life.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use time::OffsetDateTime;

use super::{
    authority::{Authority, Deadline},
    ledger::{Holder, room},
    roster::Live,
    token,
};
use crate::{
    id::{ChannelId, guest},
    limits::IDENTIFY_TIMEOUT,
    sfu::{Admission, AdmissionRequest, Kind, Policy, RoomPolicy, Verdict},
    signalling::{CloseCode, Identify, Resume},
};

/// Time in which an admitted connection must have become a session. It has
/// [`IDENTIFY_TIMEOUT`] from accept and may then move to another shard.
const ADMISSION_TIMEOUT: Duration = IDENTIFY_TIMEOUT.saturating_add(Duration::from_secs(5));

/// The rights an Identify turned out to have.
struct Entitlement {
    kind: Kind,
    channel: ChannelId,
    policy: Policy,
    single_use: bool,
}

pub(super) type Refusal = (CloseCode, &'static str);

const UNAUTHENTICATED: Refusal = (CloseCode::AuthenticationFailed, "authentication failed");
const UNRESUMABLE: Refusal = (CloseCode::SessionInvalid, "session is no longer valid");
const TOO_FAST: Refusal = (CloseCode::RateLimited, "rate limited");
const FULL: Refusal = (CloseCode::Disconnected, "the channel is full");
const STOPPING: Refusal = (CloseCode::ServerCrashed, "the server is stopping");

impl Authority {
    pub(super) fn decide(
        &mut self,
        now: Instant,
        wall: OffsetDateTime,
        address: IpAddr,
        request: &AdmissionRequest,
    ) -> Result<Verdict, Refusal> {
        if self.draining {
            return Err(STOPPING);
        }
        let address = guest(address);
        let verdict = match request {
            AdmissionRequest::Identify(identify) => self.admit(now, wall, address, identify),
            AdmissionRequest::Resume(resume) => self.resume(resume),
        };
        // A Resume that comes too late is no guess: after a restart everybody's does. Who shows
        // what is right is let in whatever its neighbours behind one address have tried; guesses at
        // one user have a rate of their own.
        let guess = matches!(verdict, Err(UNAUTHENTICATED)) && self.rules.clients_have_addresses;
        if guess && !self.failures.take(now, address) {
            return Err(TOO_FAST);
        }
        verdict
    }

    fn admit(
        &mut self,
        now: Instant,
        wall: OffsetDateTime,
        address: IpAddr,
        identify: &Identify,
    ) -> Result<Verdict, Refusal> {
        let holder = Holder { server: identify.server, user: identify.user };
        if !self.identifies.take(now, (holder, address)) {
            return Err(TOO_FAST);
        }
        let Entitlement { kind, channel, policy, single_use } =
            self.entitlement(wall, holder, identify).ok_or(UNAUTHENTICATED)?;
        let room = room(kind, holder.server, channel);
        let place = self.directory.get(room);
        if place.is_some_and(|place| (place.kind, place.server) != (kind, holder.server)) {
            return Err(UNAUTHENTICATED);
        }
        if self.is_full(holder, room, &policy) {
            return Err(FULL);
        }
        if single_use {
            self.ledger.remove(holder);
        }
        let serial = self.sessions.next_serial();
        let shard = self.directory.enter(room, kind, holder.server, serial);
        let admission = Admission {
            serial,
            kind,
            server: holder.server,
            channel: room,
            user: holder.user,
            session: identify.session.clone(),
            token: identify.token.clone(),
            policy: policy.clone(),
        };
        self.deadlines.insert((now + ADMISSION_TIMEOUT, Deadline::Admission(serial)));
        let live = Live {
            holder,
            session: identify.session.clone(),
            token: identify.token.clone(),
            kind,
            channel,
            room,
            shard,
            policy,
            policy_overtakes: false,
            identified_at: None,
            closing: None,
            superseded: false,
            leave_at: None,
            spoke: 0,
            speaks: None,
        };
        self.sessions.add(serial, live);
        Ok(Verdict::Join { shard, admission: Box::new(admission) })
    }

    /// What the Identify may do by its grant, else by its signed token.
    fn entitlement(
        &self,
        wall: OffsetDateTime,
        holder: Holder,
        identify: &Identify,
    ) -> Option<Entitlement> {
        let granted = self.ledger.get(holder).filter(|grant| {
            let is_token = grant.token == identify.token;
            let is_channel = grant.kind == Kind::Stream
                || identify.channel.is_none_or(|channel| channel == grant.channel);
            is_token
                && grant.session == identify.session
                && is_channel
                && !grant.has_expired(wall)
                && grant.policy.permissions.connect
        });
        if let Some(grant) = granted {
            return Some(Entitlement {
                kind: grant.kind,
                channel: grant.channel,
                policy: grant.policy.clone(),
                single_use: grant.single_use,
            });
        }
        if !token::is_signed(&identify.token) {
            return None;
        }
        let claims = token::verify(&self.rules.token_key, &identify.token, wall).ok()?;
        let permissions = claims.permissions.unwrap_or_default();
        let is_theirs = claims.server == identify.server
            && claims.user == identify.user
            && claims.session == identify.session;
        (is_theirs && permissions.connect).then(|| Entitlement {
            kind: claims.kind,
            channel: claims.channel,
            policy: Policy {
                permissions,
                room: RoomPolicy { e2ee: self.rules.e2ee, ..RoomPolicy::default() },
                ..Policy::default()
            },
            single_use: false,
        })
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

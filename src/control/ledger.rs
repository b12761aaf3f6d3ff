//! Grants as the backend gave them: who may enter what, until when. Owns their lookup by holder, by
//! channel and by expiry. The first of the backends (`backend`). Called by `authority`.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use time::OffsetDateTime;

use super::backend::{
    Answer, Backend, Change, Entitlement, Question, Report, Standing, Terms, Who,
};
use crate::{
    config::BackendName,
    id::{ChannelId, ServerId, SessionId, Token, UserId},
    sfu::{Kind, Policy},
};

/// Who has a grant, or a session: one user on one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Holder {
    /// `server_id` of Identify.
    pub server: ServerId,
    /// Whose it is.
    pub user: UserId,
}

/// Permission for one connection (protocol.md §6.3).
#[derive(Debug, Clone)]
pub struct Grant {
    /// A voice channel or a stream.
    pub kind: Kind,
    /// The voice channel; for a stream what the backend calls its channel.
    pub channel: ChannelId,
    /// The main gateway session that must identify.
    pub session: SessionId,
    /// The secret it must show.
    pub token: Token,
    /// End of the time in which it may identify.
    pub expires_at: Option<OffsetDateTime>,
    /// Whether the first Identify uses it up.
    pub single_use: bool,
    /// What the session may do.
    pub policy: Policy,
}

impl Grant {
    /// The channel a session with this grant joins here: a stream is a channel of its own
    /// (protocol.md §6.1).
    pub fn room(&self, server: ServerId) -> ChannelId {
        room(self.kind, server, self.channel)
    }

    /// Whether its time is over.
    pub fn has_expired(&self, wall: OffsetDateTime) -> bool {
        self.expires_at.is_some_and(|end| end < wall)
    }
}

/// The key of a session's channel on this node.
pub(crate) fn room(kind: Kind, server: ServerId, channel: ChannelId) -> ChannelId {
    match kind {
        Kind::Voice => channel,
        Kind::Stream => ChannelId(server.0),
    }
}

/// How long a session may stay in its channel when its grant has moved to another one
/// (protocol.md §6.3).
const MOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// All grants of the node.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    grants: HashMap<Holder, Grant>,
    by_room: BTreeSet<(ChannelId, Holder)>,
    by_end: BTreeSet<(OffsetDateTime, Holder)>,
    changes: VecDeque<Change>,
}

impl Backend for Ledger {
    fn name(&self) -> BackendName {
        BackendName::Grants
    }

    fn authenticate(&mut self, wall: OffsetDateTime, question: &Question<'_>) -> Answer {
        // Grants are not kept across processes, and neither is who had one.
        let Some(user) = question.user else { return Answer::No };
        let holder = Holder { server: question.server, user };
        let Some(grant) = self.grants.get(&holder) else { return Answer::No };
        let is_channel = grant.kind == Kind::Stream
            || question.channel.is_none_or(|channel| channel == grant.channel);
        if grant.token == *question.token
            && grant.session == *question.session
            && is_channel
            && !grant.has_expired(wall)
            && grant.policy.permissions.connect
        {
            let Grant { kind, channel, policy, .. } = grant.clone();
            return Answer::Yes(Entitlement { user, kind, channel, policy });
        }
        Answer::No
    }

    fn watch(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// The rest of what becomes of a session its backend learns from the event log.
    fn report(&mut self, report: &Report<'_>) {
        if let Report::Admitted(holder) = report
            && self.grants.get(holder).is_some_and(|grant| grant.single_use)
        {
            self.remove(*holder);
        }
    }
}

impl Ledger {
    pub(crate) fn len(&self) -> usize {
        self.grants.len()
    }

    pub(crate) fn get(&self, holder: Holder) -> Option<&Grant> {
        self.grants.get(&holder)
    }

    /// Stores the grant. A live session of the holder is to follow it.
    pub(crate) fn grant(&mut self, holder: Holder, grant: Grant) {
        let standing = Standing {
            room: grant.room(holder.server),
            session: None,
            terms: Terms::Policy(Box::new(grant.policy.clone())),
        };
        self.changes.push_back(Change::Stands {
            who: Who::Holder(holder),
            standings: vec![standing],
            grace: MOVE_TIMEOUT,
        });
        self.put(holder, grant);
    }

    /// Stores the grant in place of the holder's former one, which is given back.
    fn put(&mut self, holder: Holder, grant: Grant) -> Option<Grant> {
        let former = self.remove(holder);
        self.by_room.insert((grant.room(holder.server), holder));
        self.by_end.extend(grant.expires_at.map(|end| (end, holder)));
        self.grants.insert(holder, grant);
        former
    }

    /// Gives the holder's grant another policy, if there is one.
    pub(crate) fn set_policy(&mut self, holder: Holder, policy: &Policy) {
        if let Some(grant) = self.grants.get_mut(&holder) {
            grant.policy = policy.clone();
        }
    }

    pub(crate) fn remove(&mut self, holder: Holder) -> Option<Grant> {
        let grant = self.grants.remove(&holder)?;
        self.by_room.remove(&(grant.room(holder.server), holder));
        if let Some(end) = grant.expires_at {
            self.by_end.remove(&(end, holder));
        }
        Some(grant)
    }

    /// Removes every grant for one channel; gives how many there were.
    pub(crate) fn remove_room(&mut self, room: ChannelId) -> usize {
        let first = Holder { server: ServerId(0), user: UserId(0) };
        let holders: Vec<Holder> = self
            .by_room
            .range((room, first)..)
            .take_while(|(other, _)| *other == room)
            .map(|(_, holder)| *holder)
            .collect();
        for holder in &holders {
            self.remove(*holder);
        }
        holders.len()
    }

    /// Forgets grants nobody can use any more.
    pub(crate) fn expire(&mut self, wall: OffsetDateTime) {
        while let Some(&(end, holder)) = self.by_end.first()
            && end < wall
        {
            self.remove(holder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(user: u64) -> Holder {
        Holder { server: ServerId(1), user: UserId(user) }
    }

    fn grant(channel: u64, expires_at: Option<i64>) -> Grant {
        Grant {
            kind: Kind::Voice,
            channel: ChannelId(channel),
            session: SessionId("s".into()),
            token: Token::new("t"),
            expires_at: expires_at.map(|end| OffsetDateTime::from_unix_timestamp(end).unwrap()),
            single_use: false,
            policy: Policy::default(),
        }
    }

    fn is_empty(ledger: &Ledger) -> bool {
        ledger.grants.is_empty() && ledger.by_room.is_empty() && ledger.by_end.is_empty()
    }

    #[test]
    fn a_grant_replaces_the_former_in_every_index() {
        let mut ledger = Ledger::default();
        assert!(ledger.put(holder(1), grant(5, Some(10))).is_none());
        assert_eq!(ledger.put(holder(1), grant(6, None)).unwrap().channel, ChannelId(5));
        assert_eq!(ledger.remove_room(ChannelId(5)), 0);
        assert_eq!(ledger.remove_room(ChannelId(6)), 1);
        assert!(is_empty(&ledger));
    }

    #[test]
    fn only_grants_past_their_end_expire() {
        let mut ledger = Ledger::default();
        for (user, end) in [(1, Some(10)), (2, Some(11)), (3, None)] {
            ledger.put(holder(user), grant(5, end));
        }
        ledger.expire(OffsetDateTime::from_unix_timestamp(11).unwrap());
        assert!(ledger.get(holder(1)).is_none());
        assert!(ledger.get(holder(2)).is_some() && ledger.get(holder(3)).is_some());
    }

    #[test]
    fn a_stream_is_a_channel_of_its_own() {
        let stream = Grant { kind: Kind::Stream, ..grant(5, None) };
        assert_eq!(stream.room(ServerId(77)), ChannelId(77));
        assert_eq!(grant(5, None).room(ServerId(77)), ChannelId(5));
    }
}

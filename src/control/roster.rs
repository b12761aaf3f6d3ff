//! Every session from its admission to its end, found by serial, by holder and by gateway session.
//! Decides nothing. Called by `authority`.

use std::{collections::HashMap, hash::Hash, time::Instant};

use time::OffsetDateTime;

use super::{
    event_log::{EventPlace, Subject},
    ledger::Holder,
};
use crate::{
    config::BackendName,
    id::{ChannelId, Serial, ServerId, SessionId, ShardId, Token, UserId},
    sfu::{DisconnectReason, Kind, Policy},
    signalling::CloseCode,
};

/// A session from its admission to its end.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) holder: Holder,
    /// Who let it in.
    pub(super) backend: BackendName,
    pub(super) session: SessionId,
    pub(super) token: Token,
    pub(super) kind: Kind,
    /// The channel as the backend calls it.
    pub(super) channel: ChannelId,
    /// The channel as the shard calls it.
    pub(super) room: ChannelId,
    pub(super) shard: ShardId,
    pub(super) policy: Policy,
    /// It changed before the session was known to its shard, which may have passed the news over.
    pub(super) policy_overtakes: bool,
    /// When Ready was sent; `None` while the connection is on its way.
    pub(super) identified_at: Option<OffsetDateTime>,
    /// It was told to end; told again if it turns up after that.
    pub(super) closing: Option<(CloseCode, DisconnectReason)>,
    /// Its client asked to resume a session that is lost and has yet to show that it understands
    /// that this is another one.
    pub(super) is_reviving: bool,
    /// A newer session of the holder is in its place.
    pub(super) superseded: bool,
    /// Its grant moved to another channel: until then it may stay.
    pub(super) leave_at: Option<Instant>,
    /// Speaking flags as published, and as they are if a publication is due.
    pub(super) spoke: u32,
    pub(super) speaks: Option<u32>,
}

/// All sessions of the node.
#[derive(Debug, Default)]
pub(super) struct Roster {
    sessions: HashMap<Serial, Live>,
    by_holder: HashMap<Holder, Vec<Serial>>,
    by_user: HashMap<UserId, Vec<Serial>>,
    by_session: HashMap<(ServerId, SessionId), Vec<Serial>>,
    last_serial: u64,
}

impl Roster {
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// A name no session has had yet.
    pub(super) fn next_serial(&mut self) -> Serial {
        self.last_serial += 1;
        Serial(self.last_serial)
    }

    pub(super) fn add(&mut self, serial: Serial, live: Live) {
        self.by_holder.entry(live.holder).or_default().push(serial);
        self.by_user.entry(live.holder.user).or_default().push(serial);
        let key = (live.holder.server, live.session.clone());
        self.by_session.entry(key).or_default().push(serial);
        self.sessions.insert(serial, live);
    }

    pub(super) fn get(&self, serial: Serial) -> Option<&Live> {
        self.sessions.get(&serial)
    }

    /// The session; its holder and gateway session must stay as they are.
    pub(super) fn get_mut(&mut self, serial: Serial) -> Option<&mut Live> {
        self.sessions.get_mut(&serial)
    }

    pub(super) fn remove(&mut self, serial: Serial) -> Option<Live> {
        let live = self.sessions.remove(&serial)?;
        forget(&mut self.by_holder, &live.holder, serial);
        forget(&mut self.by_user, &live.holder.user, serial);
        forget(&mut self.by_session, &(live.holder.server, live.session.clone()), serial);
        Some(live)
    }

    /// The holder's sessions, oldest first.
    pub(super) fn of(&self, holder: Holder) -> impl Iterator<Item = (Serial, &Live)> {
        let serials = self.by_holder.get(&holder).map_or(&[][..], Vec::as_slice);
        serials.iter().filter_map(|serial| Some((*serial, self.sessions.get(serial)?)))
    }

    /// The user's sessions on all servers, oldest first.
    pub(super) fn of_user(&self, user: UserId) -> impl Iterator<Item = (Serial, &Live)> {
        let serials = self.by_user.get(&user).map_or(&[][..], Vec::as_slice);
        serials.iter().filter_map(|serial| Some((*serial, self.sessions.get(serial)?)))
    }

    /// The sessions that a backend let in, oldest first.
    pub(super) fn let_in_by(&self, backend: BackendName) -> Vec<(Serial, &Live)> {
        #[expect(clippy::disallowed_methods, reason = "sorted below")]
        let theirs = self.sessions.iter().filter(|(_, live)| live.backend == backend);
        let mut theirs: Vec<_> = theirs.map(|(serial, live)| (*serial, live)).collect();
        theirs.sort_unstable_by_key(|(serial, _)| *serial);
        theirs
    }

    /// The name given out last.
    pub(super) fn last_serial(&self) -> Serial {
        Serial(self.last_serial)
    }

    /// The sessions with this gateway session on this server, newest first.
    pub(super) fn with(
        &self,
        server: ServerId,
        session: &SessionId,
    ) -> impl Iterator<Item = (Serial, &Live)> {
        let serials = self.by_session.get(&(server, session.clone()));
        let serials = serials.map_or(&[][..], Vec::as_slice);
        serials.iter().rev().filter_map(|serial| Some((*serial, self.sessions.get(serial)?)))
    }

    /// The sessions of one shard, oldest first.
    pub(super) fn on(&self, shard: ShardId) -> Vec<Serial> {
        #[expect(clippy::disallowed_methods, reason = "sorted below")]
        let there = self.sessions.iter().filter(|(_, live)| live.shard == shard);
        let mut serials: Vec<Serial> = there.map(|(serial, _)| *serial).collect();
        serials.sort_unstable();
        serials
    }

    /// Whether nothing is left anywhere.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
            && self.by_holder.is_empty()
            && self.by_user.is_empty()
            && self.by_session.is_empty()
    }
}

impl Live {
    /// As the backend is told of it.
    pub(super) fn subject(&self) -> Subject {
        Subject {
            place: EventPlace {
                kind: self.kind,
                server_id: self.holder.server,
                channel_id: self.channel,
            },
            user_id: self.holder.user,
            session_id: self.session.clone(),
        }
    }
}

fn forget<K: Hash + Eq>(index: &mut HashMap<K, Vec<Serial>>, key: &K, serial: Serial) {
    if let Some(serials) = index.get_mut(key) {
        serials.retain(|other| *other != serial);
        if serials.is_empty() {
            index.remove(key);
        }
    }
}

//! What a backend has changed, done to live sessions: they get new rules, must leave, or are
//! answered at last. Part of `Authority`.

use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::{
    authority::{Authority, Deadline},
    backend::{Change, Standing, Who},
    roster::Live,
};
use crate::{
    config::BackendName,
    id::{ChannelId, Serial, ServerId, UserId},
    sfu::{DisconnectReason, Kind},
    signalling::CloseCode,
};

impl Authority {
    /// Does what the backends have to say; they are asked until they are silent.
    pub(super) fn follow_backends(&mut self, now: Instant, _: OffsetDateTime) {
        loop {
            let said = self.backends().find_map(|it| it.watch().map(|change| (it.name(), change)));
            let Some((backend, change)) = said else { return };
            self.follow(now, backend, change);
        }
    }

    fn follow(&mut self, now: Instant, backend: BackendName, change: Change) {
        match change {
            Change::Answered { ticket, answer } => self.answered(now, backend, ticket, answer),
            Change::Stands { who, standings, grace } => {
                for serial in self.meant(who) {
                    self.compare(now, serial, &standings, grace);
                }
            }
            Change::ChannelClosed(channel) => {
                self.close_where(backend, |live| live.channel == channel)
            }
            Change::ServerClosed(server) => {
                self.close_where(backend, |live| is_on(live, server));
            }
            Change::StreamClosed(stream) => {
                self.close_where(backend, |live| live.kind == Kind::Stream && live.room == stream)
            }
            Change::StreamLeft { key, user } => {
                self.dismiss(backend, user, |live| stream_key(live) == Some(&key));
            }
        }
    }

    fn meant(&self, who: Who) -> Vec<Serial> {
        match who {
            Who::Holder(holder) => self.sessions.of(holder).map(|(serial, _)| serial).collect(),
            Who::User { user, until } => {
                let theirs = self.sessions.of_user(user).filter(|(serial, live)| {
                    *serial <= until
                        && live.backend == BackendName::Spacebar
                        && live.kind == Kind::Voice
                });
                theirs.map(|(serial, _)| serial).collect()
            }
        }
    }

    /// A session may stay where one of the standings is its own, under that one's terms; else it
    /// must leave, and no later than it must already.
    fn compare(&mut self, now: Instant, serial: Serial, standings: &[Standing], grace: Duration) {
        let Some(live) = self.sessions.get_mut(serial) else { return };
        if let Some(standing) = standings.iter().find(|standing| standing.is_of(live)) {
            live.leave_at = None;
            let policy = standing.terms.over(&live.policy);
            return self.update(serial, &policy);
        }
        let at = now + grace;
        if live.leave_at.is_none_or(|leave_at| at < leave_at) {
            live.leave_at = Some(at);
            self.deadlines.insert((at, Deadline::Move(serial)));
        }
    }

    /// Ends what somebody has for good, at once.
    pub(super) fn dismiss(
        &mut self,
        backend: BackendName,
        user: UserId,
        is_meant: impl Fn(&Live) -> bool,
    ) {
        let theirs = self.sessions.of_user(user);
        let meant = theirs.filter(|(_, live)| live.backend == backend && is_meant(live));
        let serials: Vec<Serial> = meant.map(|(serial, _)| serial).collect();
        for serial in serials {
            self.close(serial, CloseCode::Disconnected, DisconnectReason::Kicked);
        }
    }

    /// Ends every channel that has a session of the backend of which this holds.
    fn close_where(&mut self, backend: BackendName, is_meant: impl Fn(&Live) -> bool) {
        let theirs = self.sessions.let_in_by(backend);
        let meant = theirs.iter().filter(|(_, live)| is_meant(live));
        let mut rooms: Vec<ChannelId> = meant.map(|(_, live)| live.room).collect();
        rooms.sort_unstable();
        rooms.dedup();
        for room in rooms {
            self.close_room(room, CloseCode::RoomClosed);
        }
    }
}

/// Whether the session's voice channel, or the one its stream shows in, is the server's.
pub(super) fn is_on(live: &Live, server: ServerId) -> bool {
    match live.kind {
        Kind::Voice => live.holder.server == server,
        Kind::Stream => stream_key(live)
            .and_then(|key| key.strip_prefix("guild:"))
            .and_then(|key| key.split(':').next())
            .is_some_and(|guild| guild.parse() == Ok(server)),
    }
}

fn stream_key(live: &Live) -> Option<&String> {
    live.policy.stream.as_ref().map(|stream| &stream.stream_key)
}

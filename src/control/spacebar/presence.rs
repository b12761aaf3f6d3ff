//! Who is here by Spacebar's leave, and what its rows and events mean for them. Part of
//! `Authority`; asked and told by `errands` and `vigil`.

use std::{collections::BTreeMap, time::Instant};

use time::OffsetDateTime;

use super::{
    adapter::{Departure, Found, Stay, standing},
    event::Happening,
    row::VoiceRow,
};
use crate::{
    config::BackendName,
    control::{
        authority::Authority,
        backend::{Change, Ticket, Who},
        changes::is_on,
        roster::Live,
    },
    id::{ChannelId, Serial, UserId},
    sfu::Kind,
};

/// Those whose rows are worth reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Presence {
    /// Who came after this is not meant by what is read now.
    pub(super) until: Serial,
    pub(super) users: Vec<UserId>,
    pub(super) streams: Vec<ChannelId>,
    /// The ids events about them are addressed to: guilds, calls, users.
    pub(super) addresses: Vec<u64>,
}

impl Authority {
    pub(super) fn presence(&self) -> Presence {
        let (mut users, mut streams, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
        for (_, live) in self.sessions.let_in_by(BackendName::Spacebar) {
            match live.kind {
                Kind::Voice => users.push(live.holder.user),
                Kind::Stream => streams.push(live.room),
            }
            addresses.extend([live.holder.user.0, live.holder.server.0, live.channel.0]);
        }
        addresses.sort_unstable();
        addresses.dedup();
        users.sort_unstable();
        users.dedup();
        streams.sort_unstable();
        streams.dedup();
        Presence { until: self.sessions.last_serial(), users, streams, addresses }
    }

    /// What a lookup found.
    pub(super) fn hear_found(
        &mut self,
        now: Instant,
        wall: OffsetDateTime,
        ticket: Ticket,
        found: Found,
    ) {
        let Some(spacebar) = &mut self.spacebar else { return };
        spacebar.handle_found(ticket, found);
        self.follow_backends(now, wall);
    }

    /// All rows of those who were present.
    pub(super) fn hear_rows(
        &mut self,
        now: Instant,
        wall: OffsetDateTime,
        asked: &Presence,
        rows: Vec<VoiceRow>,
        streams: &[ChannelId],
    ) {
        let Some(spacebar) = &mut self.spacebar else { return };
        let mut by_user: BTreeMap<UserId, Vec<VoiceRow>> = BTreeMap::new();
        for row in rows {
            by_user.entry(row.user).or_default().push(row);
        }
        for &user in &asked.users {
            let rows = by_user.get(&user).map_or(&[][..], Vec::as_slice);
            spacebar.handle_rows(user, rows, Who::User { user, until: asked.until });
        }
        for stream in asked.streams.iter().filter(|stream| !streams.contains(stream)) {
            spacebar.handle_change(Change::StreamClosed(*stream));
        }
        self.follow_backends(now, wall);
    }

    /// An event of the bus.
    pub(super) fn hear_event(&mut self, now: Instant, wall: OffsetDateTime, event: Happening) {
        let Some(spacebar) = &mut self.spacebar else { return };
        match event {
            Happening::Moved(row) => {
                let who = Who::User { user: row.user, until: Serial(u64::MAX) };
                let standings = standing(&row).into_iter().collect();
                let grace = super::adapter::MOVE_GRACE;
                spacebar.handle_change(Change::Stands { who, standings, grace });
            }
            Happening::ChannelDeleted { channel, only: None } => {
                spacebar.handle_change(Change::ChannelClosed(channel));
            }
            Happening::ChannelDeleted { channel, only: Some(user) } => {
                self.dismiss(BackendName::Spacebar, user, |live| live.channel == channel);
            }
            Happening::ServerDeleted { server, only: None } => {
                spacebar.handle_change(Change::ServerClosed(server));
            }
            Happening::ServerDeleted { server, only: Some(user) } => {
                self.dismiss(BackendName::Spacebar, user, |live| is_on(live, server));
            }
            Happening::StreamDeleted { key, only: None } => self.close_stream(&key),
            Happening::StreamDeleted { key, only: Some(user) } => {
                spacebar.handle_change(Change::StreamLeft { key, user });
            }
            Happening::Announced { .. } => {}
        }
        self.follow_backends(now, wall);
    }

    /// Whether he who departed is here again, or still, by the same right.
    pub(super) fn has_returned(&self, departure: &Departure) -> bool {
        self.sessions.of(departure.holder).any(|(_, live)| {
            let is_there = match &departure.stay {
                Stay::Voice(channel) => live.kind == Kind::Voice && live.channel == *channel,
                Stay::Stream { is_owner, .. } => {
                    live.kind == Kind::Stream && (*is_owner || live.token == departure.token)
                }
            };
            is_there && live.closing.is_none()
        })
    }

    /// Whether the user has a voice session in this channel, or one on its way, and his client
    /// knows of it.
    pub(super) fn is_in(&self, user: UserId, channel: ChannelId) -> bool {
        let mut theirs = self.sessions.of_user(user).filter(|(_, live)| !live.is_reviving);
        theirs.any(|(_, live)| live.kind == Kind::Voice && live.channel == channel)
    }

    /// Whether the user has a voice session by Spacebar's leave.
    pub(super) fn is_here(&self, user: UserId) -> bool {
        let mut theirs = self.sessions.of_user(user);
        theirs.any(|(_, live)| live.kind == Kind::Voice && live.backend == BackendName::Spacebar)
    }

    /// People who were here before this process was.
    pub(super) fn expect(&mut self, departures: Vec<Departure>) {
        let Some(spacebar) = &mut self.spacebar else { return };
        for departure in departures {
            spacebar.expect(departure);
        }
    }

    pub(super) fn hear_departed(&mut self) {
        if let Some(spacebar) = &mut self.spacebar {
            spacebar.handle_departed();
        }
    }

    /// Departures that wait, and those that found no place.
    pub(in crate::control) fn departures(&self) -> (usize, u64) {
        self.spacebar.as_ref().map_or((0, 0), |it| (it.departing(), it.dropped()))
    }

    fn close_stream(&mut self, key: &str) {
        let named = |live: &Live| {
            live.policy.stream.as_ref().is_some_and(|stream| stream.stream_key == key)
        };
        let theirs = self.sessions.let_in_by(BackendName::Spacebar);
        let rooms: Vec<ChannelId> =
            theirs.iter().filter(|(_, live)| named(live)).map(|(_, live)| live.room).collect();
        if let Some(spacebar) = &mut self.spacebar {
            rooms.into_iter().for_each(|room| {
                spacebar.handle_change(Change::StreamClosed(room));
            });
        }
    }
}

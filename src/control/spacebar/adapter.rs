//! What `authority` asks of Spacebar, and what it hears: a backend that knows nothing by itself.
//! Every Identify becomes a lookup, every end of a session a departure to be written down; both are
//! orders for `errands`, bounded in number. Sans-IO.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use time::OffsetDateTime;

use super::row::{StreamRow, VoiceRow};
use crate::{
    config::BackendName,
    control::{
        backend::{
            Answer, Backend, Change, Entitlement, Question, Report, Standing, Terms, Ticket, Who,
        },
        ledger::Holder,
        roster::Live,
    },
    id::{ChannelId, ServerId, SessionId, Token, UserId},
    sfu::{DisconnectReason, E2ee, Kind, Policy, RoomPolicy, RoomType, StreamPolicy},
};

/// Identifies that may wait for the database at once. A full restart of a large guild brings
/// thousands; those beyond are told to come back, which they do with a pause of their own.
const LOOKUPS_MAX: usize = 4_096;

/// Departures that may wait to be written: as many sessions as a shard holds may end while the
/// database is away. What does not fit is found after a restart, or by whoever looks.
const DEPARTURES_MAX: usize = 65_536;

/// Orders that may wait to be carried out.
pub(in crate::control) const ORDERS_MAX: usize = LOOKUPS_MAX + DEPARTURES_MAX;

/// How long a client that said goodbye may take to be back. Libraries that close and identify anew
/// do so at once; until then nothing is written, for a row that was emptied lets nobody in.
const GOODBYE_PAUSE: Duration = Duration::from_secs(1);

/// How long somebody may stay where his voice state does not put him any more: his new Identify
/// may be on its way, and is the better end (protocol.md §6.5).
pub(super) const MOVE_GRACE: Duration = Duration::from_secs(2);

/// How long somebody may stay whose voice state is gone altogether. Spacebar's gateway empties the
/// whole table when it starts; those in the middle of a conversation get the time to join anew
/// (protocol.md §8, trap 4).
pub(super) const WIPED_GRACE: Duration = Duration::from_secs(30);

/// Something to be done with Spacebar.
#[derive(Debug)]
pub enum Order {
    /// Look an Identify up.
    Lookup {
        /// To be answered under this name.
        ticket: Ticket,
        /// The server that it named.
        server: ServerId,
        /// The user that it named, if it was an Identify.
        user: Option<UserId>,
        /// Its main gateway session.
        session: SessionId,
        /// Its secret.
        token: Token,
        /// The channel it believes in.
        channel: Option<ChannelId>,
        /// Whether a row that is not there may be looked for again.
        is_patient: bool,
    },
    /// Write down that a session is gone, unless its user comes back.
    Depart {
        /// Who.
        departure: Departure,
        /// How long to wait for him.
        pause: Duration,
    },
}

/// A session that is gone, and whose rows are to say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    /// Server and user.
    pub holder: Holder,
    /// The main gateway session.
    pub session: SessionId,
    /// The secret it identified with.
    pub token: Token,
    /// What it was.
    pub stay: Stay,
    /// Whether its user may yet come back to where the server no longer knows him: it was not he
    /// who went.
    pub was_lost: bool,
}

/// What somebody was here for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stay {
    /// A voice channel or call.
    Voice(ChannelId),
    /// A stream: whether it was his own, and its key.
    Stream {
        /// Whether it ends with him.
        is_owner: bool,
        /// As clients name it.
        key: String,
    },
}

/// What a lookup has found.
#[derive(Debug)]
pub(super) enum Found {
    Voice(VoiceRow),
    Stream(StreamRow),
    /// No row; it is nobody Spacebar knows.
    Nothing,
    /// No answer in time.
    Silence,
}

/// The backend.
#[derive(Debug)]
pub(in crate::control) struct Spacebar {
    e2ee: E2ee,
    resume_window: Duration,
    /// Who is being looked up, as far as is known.
    lookups: BTreeMap<Ticket, Option<UserId>>,
    departures: usize,
    dropped: u64,
    changes: VecDeque<Change>,
    orders: VecDeque<Order>,
}

impl Spacebar {
    pub(in crate::control) fn new(e2ee: E2ee, resume_window: Duration) -> Self {
        Self {
            e2ee,
            resume_window,
            lookups: BTreeMap::new(),
            departures: 0,
            dropped: 0,
            changes: VecDeque::new(),
            orders: VecDeque::new(),
        }
    }

    /// The next thing to do.
    pub(in crate::control) fn poll_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// Departures that found no place.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Departures that are not written yet.
    pub(super) fn departing(&self) -> usize {
        self.departures
    }

    pub(super) fn handle_found(&mut self, ticket: Ticket, found: Found) {
        if let Some(user) = self.lookups.remove(&ticket) {
            let answer = match found {
                Found::Nothing => Answer::No,
                Found::Silence => Answer::Unavailable,
                Found::Voice(row) => self.voice(&row).map_or(Answer::No, Answer::Yes),
                Found::Stream(row) => {
                    user.map_or(Answer::No, |user| Answer::Yes(self.stream(user, &row)))
                }
            };
            self.changes.push_back(Change::Answered { ticket, answer });
        }
    }

    /// A departure is written, or need not be.
    pub(super) fn handle_departed(&mut self) {
        self.departures = self.departures.saturating_sub(1);
    }

    /// What the table says of a user; `until` is the newest session it can know of.
    pub(super) fn handle_rows(&mut self, user: UserId, rows: &[VoiceRow], who: Who) {
        debug_assert!(rows.iter().all(|row| row.user == user), "one user's rows");
        let grace = if rows.is_empty() { WIPED_GRACE } else { MOVE_GRACE };
        let standings = rows.iter().filter_map(standing).collect();
        self.changes.push_back(Change::Stands { who, standings, grace });
    }

    pub(super) fn handle_change(&mut self, change: Change) {
        self.changes.push_back(change);
    }

    /// Somebody was here before this process was: if he does not come back, he has left.
    pub(super) fn expect(&mut self, departure: Departure) {
        let pause = self.return_pause();
        self.order_departure(departure, pause);
    }

    /// How long clients that lost the server look for it: their resume, and the time in which they
    /// ask Spacebar for everything anew.
    fn return_pause(&self) -> Duration {
        self.resume_window + GOODBYE_PAUSE
    }

    fn order_departure(&mut self, departure: Departure, pause: Duration) {
        if self.departures >= DEPARTURES_MAX {
            self.dropped += 1;
            return;
        }
        self.departures += 1;
        self.orders.push_back(Order::Depart { departure, pause });
    }

    fn voice(&self, row: &VoiceRow) -> Option<Entitlement> {
        let channel = row.channel?;
        let (user, policy) = (row.user, row.policy(self.e2ee));
        Some(Entitlement { user, kind: Kind::Voice, channel, policy })
    }

    fn stream(&self, user: UserId, row: &StreamRow) -> Entitlement {
        let room_type = RoomType::Stream;
        let policy = Policy {
            room: RoomPolicy { room_type, e2ee: self.e2ee, ..RoomPolicy::default() },
            stream: Some(StreamPolicy {
                stream_key: row.key(),
                owner_id: row.owner,
                viewer_limit: 0,
                paused: false,
            }),
            ..Policy::default()
        };
        Entitlement { user, kind: Kind::Stream, channel: row.channel, policy }
    }
}

impl Backend for Spacebar {
    fn name(&self) -> BackendName {
        BackendName::Spacebar
    }

    fn authenticate(&mut self, _: OffsetDateTime, question: &Question<'_>) -> Answer {
        if self.lookups.len() >= LOOKUPS_MAX {
            return Answer::Unavailable;
        }
        self.lookups.insert(question.ticket, question.user);
        self.orders.push_back(Order::Lookup {
            ticket: question.ticket,
            server: question.server,
            user: question.user,
            session: question.session.clone(),
            token: question.token.clone(),
            channel: question.channel,
            // The row of a session that was here before has been there for long.
            is_patient: !question.is_suspect && question.user.is_some(),
        });
        Answer::Later
    }

    fn watch(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    fn report(&mut self, report: &Report<'_>) {
        let Report::Gone { live, reason } = report else { return };
        match reason {
            // Whoever took his place has the rows now; an old stream session's is used up.
            DisconnectReason::Replaced if live.kind == Kind::Voice => {}
            // This process restarts, or a shard of it: nobody has left.
            DisconnectReason::Shutdown => self.expect(departure(live, true, true)),
            // Never here: his client may still be trying. If it gives up, nobody else would notice.
            _ if live.identified_at.is_none() && live.kind == Kind::Voice => {
                self.expect(departure(live, true, true));
            }
            // He had a whole window to come back in.
            DisconnectReason::ResumeTimeout | DisconnectReason::HeartbeatTimeout => {
                self.order_departure(departure(live, true, false), Duration::ZERO);
            }
            _ => {
                let is_last = *reason != DisconnectReason::Replaced;
                self.order_departure(departure(live, is_last, false), GOODBYE_PAUSE);
            }
        }
    }
}

fn departure(live: &Live, is_last: bool, was_lost: bool) -> Departure {
    let stay = match &live.policy.stream {
        Some(stream) => Stay::Stream {
            is_owner: is_last && stream.owner_id == live.holder.user,
            key: stream.stream_key.clone(),
        },
        None => Stay::Voice(live.channel),
    };
    Departure {
        holder: live.holder,
        session: live.session.clone(),
        token: live.token.clone(),
        stay,
        was_lost,
    }
}

/// Where a row puts its user, if anywhere.
pub(super) fn standing(row: &VoiceRow) -> Option<Standing> {
    Some(Standing {
        room: row.channel?,
        session: Some(row.session.clone()),
        terms: Terms::State(row.state),
    })
}

#[cfg(test)]
#[path = "adapter_tests.rs"]
mod tests;

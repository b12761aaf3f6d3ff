//! What the backend is told: the public events of protocol.md §6.3, numbered, and the recent ones
//! kept for whoever follows them. Readers (`events`, `webhook`) hold a position and come back for
//! more; a reader that falls behind the kept ones is told so.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::{
    id::{ChannelId, ServerId, SessionId, UserId},
    sfu::{DisconnectReason, Kind},
};

/// Events kept for readers that are behind: a webhook receiver may be away for some minutes of an
/// ordinary evening's comings and goings.
const EVENTS_KEPT_MAX: usize = 65_536;

/// Their JSON, bytes: bounds what lists of viewers can take.
const EVENT_BYTES_KEPT_MAX: usize = 32 * 1_024 * 1_024;

/// Something that happened, as the backend sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PublicEvent {
    /// When.
    #[serde(serialize_with = "as_rfc3339_ms")]
    pub at: OffsetDateTime,
    /// What.
    #[serde(flatten)]
    pub what: Occurrence,
}

/// The kinds of public event.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type")]
pub enum Occurrence {
    /// A session exists.
    #[serde(rename = "session.identified")]
    SessionIdentified {
        /// Whose.
        #[serde(flatten)]
        subject: Subject,
    },
    /// Its media path is up.
    #[serde(rename = "session.connected")]
    SessionConnected {
        /// Whose.
        #[serde(flatten)]
        subject: Subject,
        /// `udp` or `webrtc`.
        transport: &'static str,
    },
    /// It is finally gone.
    #[serde(rename = "session.disconnected")]
    SessionDisconnected {
        /// Whose.
        #[serde(flatten)]
        subject: Subject,
        /// Why.
        reason: DisconnectReason,
        /// Close code of its last WebSocket.
        close_code: u16,
    },
    /// Its speaking flags changed.
    #[serde(rename = "speaking")]
    Speaking {
        /// Whose.
        #[serde(flatten)]
        subject: Subject,
        /// Bits of op 5.
        flags: u32,
    },
    /// Its video went on or off.
    #[serde(rename = "video")]
    Video {
        /// Whose.
        #[serde(flatten)]
        subject: Subject,
        /// Whether it sends video.
        active: bool,
    },
    /// Who watches a stream.
    #[serde(rename = "stream.viewers")]
    StreamViewers {
        /// Which stream.
        #[serde(flatten)]
        place: EventPlace,
        /// Everyone in it but its owner.
        viewer_ids: Vec<UserId>,
    },
    /// The first session of a channel arrived.
    #[serde(rename = "room.opened")]
    RoomOpened {
        /// Which channel.
        #[serde(flatten)]
        place: EventPlace,
    },
    /// The last session of a channel has gone.
    #[serde(rename = "room.empty")]
    RoomEmpty {
        /// Which channel.
        #[serde(flatten)]
        place: EventPlace,
    },
    /// The server is stopping.
    #[serde(rename = "node.draining")]
    NodeDraining {},
}

/// Where something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EventPlace {
    /// A voice channel or a stream.
    pub kind: Kind,
    /// `server_id` of Identify; for a stream its room.
    pub server_id: ServerId,
    /// The channel of the grant; for a voice channel its room.
    pub channel_id: ChannelId,
}

/// Whose session something happened to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// Where.
    #[serde(flatten)]
    pub place: EventPlace,
    /// Whose.
    pub user_id: UserId,
    /// Which main gateway session.
    pub session_id: SessionId,
}

fn as_rfc3339_ms<S: Serializer>(at: &OffsetDateTime, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&rfc3339_ms(*at))
}

/// `2026-09-01T12:00:00.123Z`.
pub(crate) fn rfc3339_ms(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second, ms) = at.to_hms_milli();
    let month = u8::from(month);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// One event as it is sent: its number and its JSON, number included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoggedEvent {
    pub(crate) seq: u64,
    pub(crate) json: Arc<str>,
}

/// A reader's next step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// These follow, in order and without a gap.
    Events(Vec<LoggedEvent>),
    /// What followed is no longer kept; reading goes on with the number given.
    Lagged { resume_at: u64 },
    /// Nothing yet.
    Nothing,
}

/// The recent events, shared by who publishes and who follows.
#[derive(Debug)]
pub(crate) struct EventLog {
    kept: Mutex<Kept>,
    newest: watch::Sender<u64>,
}

#[derive(Debug)]
struct Kept {
    next_seq: u64,
    events: VecDeque<Arc<str>>,
    bytes: usize,
}

impl EventLog {
    /// Empty; the first event gets `first_seq`.
    ///
    /// Receivers drop numbers they have seen, so numbers must go on rising after a restart:
    /// microseconds of Unix time at start do, below 2^53 for JSON's sake until the year 2255.
    pub(crate) fn new(first_seq: u64) -> Self {
        let kept = Kept { next_seq: first_seq, events: VecDeque::new(), bytes: 0 };
        Self { kept: Mutex::new(kept), newest: watch::Sender::new(first_seq) }
    }

    pub(crate) fn publish(&self, event: &PublicEvent) {
        #[derive(Serialize)]
        struct Numbered<'a> {
            seq: u64,
            #[serde(flatten)]
            event: &'a PublicEvent,
        }
        let mut kept = self.lock();
        let seq = kept.next_seq;
        let json =
            serde_json::to_string(&Numbered { seq, event }).expect("events are plain values");
        kept.next_seq += 1;
        kept.bytes += json.len();
        kept.events.push_back(json.into());
        while kept.events.len() > EVENTS_KEPT_MAX || kept.bytes > EVENT_BYTES_KEPT_MAX {
            let Some(forgotten) = kept.events.pop_front() else { break };
            kept.bytes -= forgotten.len();
        }
        let next_seq = kept.next_seq;
        drop(kept);
        self.newest.send_replace(next_seq);
    }

    /// The number the next event will have.
    pub(crate) fn next_seq(&self) -> u64 {
        self.lock().next_seq
    }

    /// Up to `events_max` events from number `seq` on.
    pub(crate) fn read(&self, seq: u64, events_max: usize) -> Next {
        let kept = self.lock();
        let oldest = kept.next_seq - kept.events.len() as u64;
        if seq < oldest || seq > kept.next_seq {
            return Next::Lagged { resume_at: oldest };
        }
        if seq == kept.next_seq {
            return Next::Nothing;
        }
        let skip = usize::try_from(seq - oldest).unwrap_or(usize::MAX);
        let events = kept.events.iter().skip(skip).take(events_max).zip(seq..);
        Next::Events(events.map(|(json, seq)| LoggedEvent { seq, json: json.clone() }).collect())
    }

    /// Wakes when there are events from number `seq` on.
    pub(crate) async fn wait(&self, seq: u64) {
        let mut newest = self.newest.subscribe();
        // The sender is part of self, so it is not gone while this waits.
        let _ = newest.wait_for(|next_seq| *next_seq > seq).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        Subject {
            place: EventPlace {
                kind: Kind::Voice,
                server_id: ServerId(41771983423143937),
                channel_id: ChannelId(127121515262115840),
            },
            user_id: UserId(104694319306248192),
            session_id: SessionId("30f3".into()),
        }
    }

    fn at(ms: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).unwrap()
    }

    fn read(log: &EventLog, seq: u64) -> Vec<u64> {
        match log.read(seq, 100) {
            Next::Events(events) => events.into_iter().map(|event| event.seq).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_event_has_exactly_the_published_shape() {
        let log = EventLog::new(4711);
        log.publish(&PublicEvent {
            at: at(1_788_264_000_123),
            what: Occurrence::SessionDisconnected {
                subject: subject(),
                reason: DisconnectReason::ResumeTimeout,
                close_code: 1006,
            },
        });
        let Next::Events(events) = log.read(4711, 1) else { panic!("one event is there") };
        assert_eq!(
            &*events[0].json,
            r#"{"seq":4711,"at":"2026-09-01T12:00:00.123Z","type":"session.disconnected","kind":"voice","server_id":"41771983423143937","channel_id":"127121515262115840","user_id":"104694319306248192","session_id":"30f3","reason":"resume_timeout","close_code":1006}"#
        );
    }

    #[test]
    fn the_other_kinds_carry_their_own_fields() {
        let place = subject().place;
        let json = |what| serde_json::to_value(PublicEvent { at: at(0), what }).unwrap();
        let speaking = json(Occurrence::Speaking { subject: subject(), flags: 5 });
        assert_eq!((&speaking["type"], &speaking["flags"]), (&"speaking".into(), &5.into()));
        let viewers = json(Occurrence::StreamViewers { place, viewer_ids: vec![UserId(9)] });
        assert_eq!(viewers["viewer_ids"], serde_json::json!(["9"]));
        assert!(viewers.get("user_id").is_none());
        assert_eq!(json(Occurrence::RoomOpened { place })["type"], "room.opened");
        assert_eq!(
            json(Occurrence::NodeDraining {}),
            serde_json::json!({"at": "1970-01-01T00:00:00.000Z", "type": "node.draining"})
        );
    }

    #[test]
    fn readers_go_on_where_they_were_and_learn_when_they_lag() {
        let log = EventLog::new(1);
        let event = PublicEvent { at: at(0), what: Occurrence::NodeDraining {} };
        assert_eq!(log.read(1, 10), Next::Nothing);
        for _ in 0..3 {
            log.publish(&event);
        }
        assert_eq!(read(&log, 1), [1, 2, 3]);
        assert_eq!(read(&log, 3), [3]);
        assert_eq!(log.read(4, 10), Next::Nothing);
        assert_eq!(log.read(0, 10), Next::Lagged { resume_at: 1 });
        assert_eq!(log.read(5, 10), Next::Lagged { resume_at: 1 }, "a number of another run");
        for _ in 0..EVENTS_KEPT_MAX {
            log.publish(&event);
        }
        assert_eq!(log.read(3, 10), Next::Lagged { resume_at: 4 });
        assert_eq!(read(&log, 4)[0], 4);
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes_too() {
        let log = EventLog::new(1);
        let viewer_ids = vec![UserId(u64::MAX); 100_000];
        let what = Occurrence::StreamViewers { place: subject().place, viewer_ids };
        let event = PublicEvent { at: at(0), what };
        let bytes = serde_json::to_string(&event).unwrap().len();
        let kept = EVENT_BYTES_KEPT_MAX / bytes;
        for _ in 0..=kept {
            log.publish(&event);
        }
        assert_eq!(log.read(1, 1), Next::Lagged { resume_at: 2 });
        assert!(log.lock().bytes <= EVENT_BYTES_KEPT_MAX);
    }
}

//! What the shard waits for: deadlines with the reason why. An entry is checked against its owner's
//! real deadline when it comes due, so that pushing a deadline back (every heartbeat does) costs
//! nothing. Owned by the shard.

use std::{cmp::Reverse, collections::BinaryHeap, time::Instant};

use crate::id::{ChannelId, ConnectionId, Serial};

/// Why the shard wants to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A connection has to identify, or to be heard of.
    Connection(ConnectionId),
    /// A session's WebSocket has been away for as long as it may.
    Away(Serial),
    /// Lowered sink wants of a channel are due to be told.
    SinkWants(ChannelId),
    /// A flight of a browser's handshake has brought no answer, or the handshake takes too long.
    Handshake(Serial),
    /// A browser has to have confirmed that it wants media.
    Consent(Serial),
    /// A browser's early packets are known by now, or have been kept for long enough.
    Early(Serial),
    /// A session is owed feedback on what it sends.
    Feedback(Serial),
    /// Hearers are owed sender reports on a session's streams.
    Reports(Serial),
}

/// Pending deadlines, the earliest first.
#[derive(Debug, Default)]
pub struct Timers(BinaryHeap<Reverse<(Instant, Timer)>>);

impl Timers {
    /// Wakes the shard at `at` because of `timer`.
    pub fn set(&mut self, at: Instant, timer: Timer) {
        self.0.push(Reverse((at, timer)));
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<(Instant, Timer)> {
        self.0.peek().map(|Reverse(entry)| *entry)
    }

    /// Takes a deadline that has come.
    pub fn take_due(&mut self, now: Instant) -> Option<Timer> {
        let (at, timer) = self.next()?;
        (at <= now).then(|| {
            self.0.pop();
            timer
        })
    }
}

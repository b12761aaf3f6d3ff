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
    /// A session is owed the answer to its discovery.
    Discovery(Serial),
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

/// One owner's one pending entry of a kind: pushing its deadline back, or asking for it again,
/// makes no second entry.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alarm(Option<Instant>);

impl Alarm {
    /// Whether an entry is to be made for `at`: none is pending for then or before.
    pub fn set(&mut self, at: Instant) -> bool {
        if self.0.is_some_and(|pending| pending <= at) {
            return false;
        }
        self.0 = Some(at);
        true
    }

    /// Whether an entry that has come due is the pending one, and not one that was overtaken.
    pub fn ring(&mut self, now: Instant) -> bool {
        let rings = self.0.is_some_and(|pending| pending <= now);
        if rings {
            self.0 = None;
        }
        rings
    }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_alarm_rings_once_for_its_earliest_entry() {
        let start = Instant::now();
        let [early, late] = [1, 2].map(|seconds| start + Duration::from_secs(seconds));
        let mut alarm = Alarm::default();
        assert!(alarm.set(late) && !alarm.set(late));
        assert!(alarm.set(early), "sooner");
        assert!(!alarm.ring(start));
        assert!(alarm.ring(early));
        assert!(!alarm.ring(late), "overtaken");
        assert!(alarm.set(late) && alarm.ring(late));
    }
}

//! Whose rows are to be read once what an event told of them is saved: Spacebar saves a row and
//! emits its event at once. Sans-IO; `vigil` waits and reads.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::id::UserId;

/// Time after an event in which the row is saved that it tells of. Shorter than the grace of who is
/// elsewhere, so that an event that is wrong, or late, ends nothing.
pub(super) const SETTLE: Duration = Duration::from_secs(1);

/// Users whose rows settle, each with one reading ahead of him.
#[derive(Debug, Default)]
pub(super) struct Settling(BTreeMap<UserId, Wait>);

#[derive(Debug, Clone, Copy)]
struct Wait {
    /// When his row is read next.
    due: Instant,
    /// When the last event told of him.
    heard: Instant,
}

impl Settling {
    /// An event told of this user. Answers when his row is to be read, unless he has a reading
    /// ahead of him, which will say when the next one is.
    pub(super) fn hear(&mut self, now: Instant, user: UserId) -> Option<Instant> {
        if let Some(wait) = self.0.get_mut(&user) {
            wait.heard = now;
            return None;
        }
        let due = now + SETTLE;
        self.0.insert(user, Wait { due, heard: now });
        Some(due)
    }

    /// The row is being read. Answers when it is to be read again, for what was heard too late for
    /// this reading.
    pub(super) fn handle_due(&mut self, user: UserId) -> Option<Instant> {
        let wait = self.0.get_mut(&user)?;
        let due = wait.heard + SETTLE;
        if due <= wait.due {
            self.0.remove(&user);
            return None;
        }
        wait.due = due;
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const USER: UserId = UserId(7);

    /// When the row is read, in milliseconds, if events come at these.
    fn readings(events: &[u64]) -> Vec<u64> {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let since = |time: Instant| (time - start).as_millis() as u64;
        let (mut settling, mut due, mut readings) = (Settling::default(), None, Vec::new());
        let mut read_until = |settling: &mut Settling, due: &mut Option<Instant>, limit| {
            while let Some(time) = due.filter(|time| *time <= limit) {
                readings.push(since(time));
                *due = settling.handle_due(USER);
            }
        };
        for &event in events {
            read_until(&mut settling, &mut due, at(event));
            if let Some(first) = settling.hear(at(event), USER) {
                assert!(due.replace(first).is_none(), "one reading ahead at a time");
            }
        }
        read_until(&mut settling, &mut due, at(1_000_000));
        assert!(settling.0.is_empty(), "nothing of him is kept");
        readings
    }

    #[test]
    fn an_event_before_the_first_is_read_gets_a_reading_of_its_own() {
        assert_eq!(readings(&[0, 950]), [1_000, 1_950]);
    }

    #[test]
    fn events_that_come_together_are_read_once_more() {
        assert_eq!(readings(&[0, 10, 20, 30]), [1_000, 1_030]);
        assert_eq!(readings(&[0, 0]), [1_000]);
    }

    #[test]
    fn users_do_not_wait_for_each_other() {
        let now = Instant::now();
        let mut settling = Settling::default();
        assert_eq!(settling.hear(now, USER), Some(now + SETTLE));
        assert_eq!(settling.hear(now, UserId(8)), Some(now + SETTLE));
        assert_eq!(settling.handle_due(USER), None);
        assert_eq!(settling.handle_due(UserId(8)), None);
    }

    proptest! {
        #[test]
        fn every_event_is_read_when_it_has_settled(
            mut events in prop::collection::vec(0..10_000u64, 1..60)
        ) {
            events.sort_unstable();
            let (settle, readings) = (SETTLE.as_millis() as u64, readings(&events));
            for event in &events {
                let due = event + settle..=event + 2 * settle;
                let is_read = readings.iter().any(|time| due.contains(time));
                prop_assert!(is_read, "{event}: {readings:?}");
            }
            let lasted = events[events.len() - 1] - events[0];
            prop_assert!(readings.len() as u64 <= lasted / settle * 2 + 2, "{readings:?}");
        }
    }
}

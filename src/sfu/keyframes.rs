//! When the sender of a video stream is asked for a keyframe: at once if a hearer cannot begin
//! without one, again while none has been seen, never too often (protocol.md §4.4). Pure. Part of a
//! stream; the shard asks.

use std::time::{Duration, Instant};

/// Requests for one stream are no closer than this, whoever wants it (protocol.md §4.4).
const INTERVAL: Duration = Duration::from_millis(500);

/// Requests for one hearer's beginning (protocol.md §4.4).
const TRIES: u8 = 4;

/// What is known of one stream's keyframes.
#[derive(Debug, Default)]
pub struct Keyframes {
    asked: Option<Instant>,
    /// Requests still to be made while a hearer waits; none: nobody waits, or asking was in vain.
    left: Option<u8>,
    /// Packets went by that a waiting hearer was not given.
    passed_by: bool,
    /// Every request was in vain though packets came: its keyframes cannot be told, or it sends
    /// none. Hearers are given what there is.
    illegible: bool,
}

impl Keyframes {
    /// A hearer has come that cannot begin without one.
    pub fn want(&mut self) {
        self.left = Some(TRIES);
        self.passed_by = false;
    }

    /// A packet went by for which a hearer cannot begin.
    pub fn pass_by(&mut self) {
        if self.left.is_none() {
            self.left = Some(TRIES);
        }
        self.passed_by = true;
    }

    /// A keyframe has begun.
    pub fn seen(&mut self) {
        self.left = None;
        self.illegible = false;
    }

    /// Nobody is shown the stream any more.
    pub fn stop(&mut self) {
        self.left = None;
    }

    /// Whether hearers begin anywhere, for want of a keyframe that can be told.
    pub fn is_illegible(&self) -> bool {
        self.illegible
    }

    /// When [`Self::ask`] has something to do.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.left.map(|_| self.asked.map_or(now, |asked| asked + INTERVAL))
    }

    /// Whether the sender is to be asked now for those who wait.
    pub fn ask(&mut self, now: Instant) -> bool {
        match self.left {
            Some(0) if self.is_rested(now) => {
                (self.left, self.illegible) = (None, self.illegible || self.passed_by);
                false
            }
            Some(left @ 1..) if self.is_rested(now) => {
                (self.left, self.asked) = (Some(left - 1), Some(now));
                true
            }
            _ => false,
        }
    }

    /// Whether a hearer's own request is to be passed on now.
    pub fn pass_on(&mut self, now: Instant) -> bool {
        let rested = self.is_rested(now);
        if rested {
            self.asked = Some(now);
        }
        rested
    }

    fn is_rested(&self, now: Instant) -> bool {
        self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyframe_is_asked_for_at_once_and_three_times_more() {
        let mut now = Instant::now();
        let mut keyframes = Keyframes::default();
        assert_eq!(keyframes.due(now), None);
        keyframes.want();
        assert_eq!(keyframes.due(now), Some(now));
        for _ in 0..TRIES {
            assert!(keyframes.ask(now));
            assert!(!keyframes.ask(now), "only once");
            keyframes.pass_by();
            assert!(!keyframes.is_illegible());
            now = keyframes.due(now).unwrap();
        }
        assert!(!keyframes.ask(now));
        assert!(keyframes.is_illegible(), "and then there is no hope for one");
        assert_eq!(keyframes.due(now), None);
        keyframes.seen();
        assert!(!keyframes.is_illegible());
    }

    #[test]
    fn a_stream_that_rests_is_not_illegible() {
        let mut now = Instant::now();
        let mut keyframes = Keyframes::default();
        keyframes.want();
        for _ in 0..=TRIES {
            keyframes.ask(now);
            now += INTERVAL;
        }
        assert!(!keyframes.is_illegible());
        keyframes.pass_by();
        assert!(keyframes.ask(now), "it goes on, so it is asked again");
    }

    #[test]
    fn a_keyframe_ends_the_asking() {
        let now = Instant::now();
        let mut keyframes = Keyframes::default();
        keyframes.want();
        assert!(keyframes.ask(now));
        keyframes.seen();
        assert_eq!(keyframes.due(now), None);
        assert!(!keyframes.pass_on(now), "hearers' own requests wait as well");
        assert!(keyframes.pass_on(now + INTERVAL));
        keyframes.want();
        assert_eq!(keyframes.due(now), Some(now + 2 * INTERVAL));
    }
}

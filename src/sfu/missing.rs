//! Packets that one sender's stream is missing, so that they can be asked for once for all hearers:
//! holes in its numbers, and what hearers lack that never came. Bounded; a few tries each. Pure.
//! Told by the shard's ingress and RTCP; the shard asks.

use std::time::{Duration, Instant};

/// Holes known at once; half a second of video at 2.5 Mbit/s. More is no loss but an interruption,
/// after which the stream has to start afresh.
pub const MISSING_MAX: usize = 128;

/// How long a hole may be before its packet counts as lost and not as overtaken.
const REORDER_TOLERANCE: Duration = Duration::from_millis(10);

/// How often a packet is asked for. At a loss of a tenth both ways, one in a thousand fails more
/// often.
const TRIES_MAX: u8 = 4;

/// The holes of one stream, by the sender's own numbers, the oldest first.
#[derive(Debug)]
pub struct Missing {
    holes: Vec<Hole>,
    newest: Option<u16>,
}

#[derive(Debug, Clone, Copy)]
struct Hole {
    seq: u16,
    due: Instant,
    tries: u8,
}

/// What a packet that has come meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// One as expected, or one that was only late.
    Fine,
    /// One that had been asked for.
    Mended,
    /// There are more holes than can be mended.
    Interrupted,
}

impl Missing {
    /// Nothing has come and nothing is missing.
    pub fn new() -> Self {
        Self { holes: Vec::with_capacity(MISSING_MAX), newest: None }
    }

    /// The stream starts again: its old numbers mean nothing any more.
    pub fn restart(&mut self) {
        self.holes.clear();
        self.newest = None;
    }

    /// Packet `seq` has come, for the first time.
    pub fn came(&mut self, now: Instant, seq: u16) -> Came {
        let ahead = seq.wrapping_sub(self.newest.unwrap_or(seq.wrapping_sub(1))) as i16;
        if ahead <= 0 {
            let Some(place) = self.holes.iter().position(|hole| hole.seq == seq) else {
                return Came::Fine;
            };
            let hole = self.holes.remove(place);
            return if hole.tries > 0 { Came::Mended } else { Came::Fine };
        }
        self.newest = Some(seq);
        let new = ahead as usize - 1;
        if self.holes.len() + new > MISSING_MAX {
            self.holes.clear();
            return Came::Interrupted;
        }
        let due = now + REORDER_TOLERANCE;
        let first = seq.wrapping_sub(new as u16);
        self.holes.extend((0..new as u16).map(|step| Hole {
            seq: first.wrapping_add(step),
            due,
            tries: 0,
        }));
        Came::Fine
    }

    /// A hearer lacks packet `seq`, which has not come: it was given up, or nobody knew of it.
    pub fn want(&mut self, now: Instant, seq: u16) {
        let Some(newest) = self.newest else { return };
        let age = |seq: u16| newest.wrapping_sub(seq);
        let place = self.holes.partition_point(|hole| age(hole.seq) > age(seq));
        let known = self.holes.get(place).is_some_and(|hole| hole.seq == seq);
        if (age(seq) as i16) > 0 && !known && self.holes.len() < MISSING_MAX {
            self.holes.insert(place, Hole { seq, due: now, tries: 0 });
        }
    }

    /// When [`Self::ask`] has something to ask for.
    pub fn due(&self) -> Option<Instant> {
        self.holes.iter().map(|hole| hole.due).min()
    }

    /// Takes what is to be asked for now, in order, and returns how many that are. It is asked for
    /// again after `round_trip`; what was asked for often enough is given up.
    pub fn ask(
        &mut self,
        now: Instant,
        round_trip: Duration,
        out: &mut [u16; MISSING_MAX],
    ) -> usize {
        let mut count = 0;
        self.holes.retain_mut(|hole| {
            if hole.due > now {
                return true;
            }
            if hole.tries == TRIES_MAX {
                return false;
            }
            hole.tries += 1;
            hole.due = now + round_trip;
            out[count] = hole.seq;
            count += 1;
            true
        });
        count
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const TRIP: Duration = Duration::from_millis(100);

    fn asked(missing: &mut Missing, now: Instant) -> Vec<u16> {
        let mut out = [0; MISSING_MAX];
        let count = missing.ask(now, TRIP, &mut out);
        out[..count].to_vec()
    }

    #[test]
    fn a_hole_is_asked_for_four_times_and_then_given_up() {
        let start = Instant::now();
        let mut missing = Missing::new();
        assert_eq!(missing.came(start, 65_534), Came::Fine);
        assert_eq!(missing.came(start, 1), Came::Fine);
        assert!(asked(&mut missing, start).is_empty(), "it may have been overtaken");
        let mut now = missing.due().unwrap();
        assert_eq!(now, start + REORDER_TOLERANCE);
        for _ in 0..TRIES_MAX {
            assert_eq!(asked(&mut missing, now), [65_535, 0]);
            now = missing.due().unwrap();
        }
        assert!(asked(&mut missing, now).is_empty());
        assert_eq!(missing.due(), None);
        missing.want(now, 0);
        assert_eq!(asked(&mut missing, now), [0], "unless a hearer still lacks it");
    }

    #[test]
    fn what_comes_is_no_longer_missing() {
        let start = Instant::now();
        let mut missing = Missing::new();
        for (seq, expected) in [(5, Came::Fine), (8, Came::Fine), (7, Came::Fine)] {
            assert_eq!(missing.came(start, seq), expected);
        }
        assert_eq!(asked(&mut missing, start + TRIP), [6]);
        assert_eq!(missing.came(start, 6), Came::Mended);
        assert_eq!(missing.due(), None);
    }

    #[test]
    fn an_interruption_is_not_mended() {
        let start = Instant::now();
        let mut missing = Missing::new();
        missing.came(start, 0);
        assert_eq!(missing.came(start, MISSING_MAX as u16 + 1), Came::Fine);
        assert_eq!(missing.came(start, MISSING_MAX as u16 + 3), Came::Interrupted);
        assert_eq!(missing.due(), None);
        assert_eq!(missing.came(start, MISSING_MAX as u16 + 4), Came::Fine);
    }

    #[test]
    fn nothing_is_wanted_of_a_stream_that_has_not_got_there() {
        let start = Instant::now();
        let mut missing = Missing::new();
        missing.want(start, 3);
        missing.came(start, 3);
        missing.want(start, 3);
        missing.want(start, 4);
        assert_eq!(missing.due(), None);
    }

    proptest! {
        #[test]
        fn holes_are_those_of_a_set(
            start: u16,
            steps in proptest::collection::vec((0usize..12, 0u8..8), 1..200),
        ) {
            let now = Instant::now();
            let mut missing = Missing::new();
            let mut expected = BTreeSet::new();
            let mut pending: Vec<u16> = Vec::new();
            let (mut next, mut newest) = (0_u16, None);
            for (pick, what) in steps {
                while pending.len() < 12 {
                    pending.push(next);
                    next += 1;
                }
                let number = pending.remove(pick);
                if what == 0 {
                    continue; // lost
                }
                missing.came(now, start.wrapping_add(number));
                expected.remove(&number);
                if newest.is_none_or(|newest| number > newest) {
                    if let Some(newest) = newest {
                        expected.extend(newest + 1..number);
                    }
                    newest = Some(number);
                }
                prop_assume!(expected.len() <= MISSING_MAX);
            }
            let all: Vec<_> = expected.iter().map(|number| start.wrapping_add(*number)).collect();
            prop_assert_eq!(asked(&mut missing, now + TRIP), all);
        }
    }
}

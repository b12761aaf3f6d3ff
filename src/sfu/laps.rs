//! In which lap of a hearer's sequence a number is: SRTP's rollover counter, which sender and
//! receiver each keep for themselves (RFC 3711 §3.3.1). Beside each hearer's `Cursor`.

/// A number that a hearer sees, and its lap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    /// RTP sequence number.
    pub seq: u16,
    /// How often the sequence has passed 0 since the first number under the hearer's key.
    pub laps: u32,
}

/// Counts a hearer's laps. A receiver takes the first number that it hears for one of lap 0.
#[derive(Debug, Clone, Copy, Default)]
pub struct Laps {
    newest: u16,
    begun: bool,
    count: u32,
}

impl Laps {
    /// The hearer has a new key: laps count from the next number.
    pub fn restart(&mut self) {
        self.begun = false;
    }

    /// Whether a number was given under the hearer's key.
    #[inline]
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// The lap of a number that is given to the hearer now; `None` if it is from before the lap in
    /// which its key began, for then no receiver opens it.
    #[inline]
    pub fn number(&mut self, seq: u16) -> Option<Number> {
        if !self.begun {
            *self = Self { newest: seq, begun: true, count: 0 };
        }
        let ahead = seq.wrapping_sub(self.newest) as i16;
        if ahead >= 0 {
            self.count = self.count.wrapping_add(u32::from(seq < self.newest));
            self.newest = seq;
            return Some(Number { seq, laps: self.count });
        }
        let laps = self.count.checked_sub(u32::from(seq > self.newest))?;
        Some(Number { seq, laps })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a receiver takes a number's lap for (RFC 3711 §3.3.1 and appendix A).
    struct Receiver {
        laps: u32,
        highest: u16,
    }

    impl Receiver {
        fn guess(&mut self, seq: u16) -> u32 {
            let (highest, seq_wide) = (i32::from(self.highest), i32::from(seq));
            let laps = if highest < 0x8000 {
                if seq_wide - highest > 0x8000 { self.laps.wrapping_sub(1) } else { self.laps }
            } else if highest - 0x8000 > seq_wide {
                self.laps.wrapping_add(1)
            } else {
                self.laps
            };
            let newer = laps == self.laps && seq > self.highest;
            if newer || laps == self.laps.wrapping_add(1) {
                (self.laps, self.highest) = (laps, seq);
            }
            laps
        }
    }

    #[test]
    fn laps_count_from_the_first_number_under_a_key() {
        let mut laps = Laps::default();
        assert_eq!(laps.number(65_535), Some(Number { seq: 65_535, laps: 0 }));
        assert_eq!(laps.number(0), Some(Number { seq: 0, laps: 1 }));
        assert_eq!(laps.number(65_534), Some(Number { seq: 65_534, laps: 0 }));
        laps.restart();
        assert_eq!(laps.number(1), Some(Number { seq: 1, laps: 0 }));
        assert_eq!(laps.number(65_533), None, "from before its first lap");
        assert_eq!(laps.number(2), Some(Number { seq: 2, laps: 0 }));
    }

    proptest! {
        #[test]
        fn a_receiver_that_loses_some_guesses_every_lap_right(
            start: u16,
            steps in proptest::collection::vec(
                (0usize..12, any::<bool>(), prop::bool::weighted(0.02), 0u16..600), 1..400),
        ) {
            let mut pending: Vec<u16> = Vec::new();
            let mut next = start;
            let mut laps = Laps::default();
            let mut receiver: Option<Receiver> = None;
            for (pick, arrives, rekeyed, skip) in steps {
                next = next.wrapping_add(skip);
                while pending.len() < 12 {
                    pending.push(next);
                    next = next.wrapping_add(1);
                }
                if rekeyed {
                    laps.restart();
                    receiver = None;
                }
                // Nothing is late by half a lap, nor lost for half of one.
                let late = next.wrapping_sub(pending[0]) > 8_000;
                let seq = pending.remove(if late { 0 } else { pick });
                let Some(number) = laps.number(seq) else { continue };
                // Until it has heard one it takes whatever comes for lap 0: the first must arrive.
                let overdue = receiver
                    .as_ref()
                    .is_none_or(|it| (8_000..40_000).contains(&seq.wrapping_sub(it.highest)));
                if arrives || overdue {
                    let receiver =
                        receiver.get_or_insert(Receiver { laps: 0, highest: number.seq });
                    prop_assert_eq!(receiver.guess(number.seq), number.laps);
                }
            }
        }
    }
}

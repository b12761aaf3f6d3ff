//! Continuity of one stream towards one hearer: packets withheld on purpose (mute, deafen) leave no
//! hole in the sequence the hearer sees, because a hole reads as loss (protocol.md §8, trap 18).
//! Eight bytes, since every hearer of every stream has one. Called by `forward` and `source`.

/// Maps a stream's sequence numbers to the ones a hearer sees.
///
/// No number is given twice: once something was withheld, packets of the stream up to there come no
/// more, so that the numbers after it can close up.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cursor {
    /// What to subtract from a number of the stream.
    withheld: u16,
    /// The newest number of the stream, passed or withheld.
    newest: u16,
    /// The first number after the last gap.
    resumed_at: u16,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    /// The stream has not begun for this hearer.
    #[default]
    Fresh,
    /// Nothing was withheld lately.
    Open,
    /// A gap ended before `resumed_at`; what comes late from before it would take a number already
    /// used.
    Guarded,
}

/// How far a stream runs before packets from before a gap are no longer expected; twenty seconds of
/// audio, far more than any network reorders, and as far back as the replay window lets pass.
const GUARD_PACKETS: i16 = 1_024;

impl Cursor {
    /// A cursor that gives packets their own numbers from `first` on, and none to those before it.
    pub fn starting_at(first: u16) -> Self {
        let newest = first.wrapping_sub(1);
        Self { withheld: 0, newest, resumed_at: first, phase: Phase::Guarded }
    }

    /// The stream's packet `seq` is not for this hearer.
    pub fn withhold(&mut self, seq: u16) {
        if self.phase == Phase::Fresh {
            self.newest = seq;
        }
        // What is missing between the newest and this one would come too late to be heard as well.
        // A late one leaves the hole that it has left already.
        let ahead = seq.wrapping_sub(self.newest) as i16;
        if ahead > 0 || self.phase == Phase::Fresh {
            self.withheld = self.withheld.wrapping_add(ahead as u16);
            self.newest = seq;
            self.cut();
        }
    }

    /// The stream is cut after its newest packet: what comes late from before is lost.
    pub fn cut(&mut self) {
        self.resumed_at = self.newest.wrapping_add(1);
        self.phase = Phase::Guarded;
    }

    /// The number this hearer sees for the stream's packet `seq`, or `None` if the packet is late
    /// from before a gap.
    #[inline]
    pub fn pass(&mut self, seq: u16) -> Option<u16> {
        if self.phase != Phase::Open && !self.enter(seq) {
            return None;
        }
        if seq.wrapping_sub(self.newest) as i16 > 0 {
            self.newest = seq;
        }
        Some(seq.wrapping_sub(self.withheld))
    }

    /// The stream's number for one that this hearer saw.
    pub fn unpass(&self, seq: u16) -> u16 {
        seq.wrapping_add(self.withheld)
    }

    #[cold]
    fn enter(&mut self, seq: u16) -> bool {
        if self.phase == Phase::Fresh {
            (self.newest, self.phase) = (seq, Phase::Open);
            return true;
        }
        let ahead = seq.wrapping_sub(self.resumed_at) as i16;
        if ahead > GUARD_PACKETS {
            self.phase = Phase::Open;
        }
        ahead >= 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn withheld_packets_leave_no_hole() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.pass(65_534), Some(65_534));
        cursor.withhold(65_535);
        cursor.withhold(0);
        assert_eq!(cursor.pass(1), Some(65_535));
        assert_eq!(cursor.pass(2), Some(0));
        assert_eq!(cursor.unpass(0), 2);
    }

    #[test]
    fn late_packets_from_before_a_gap_take_no_used_number() {
        for late_first in [false, true] {
            let mut cursor = Cursor::default();
            assert_eq!(cursor.pass(8), Some(8));
            cursor.withhold(10); // while 9 is still under way
            if late_first {
                assert_eq!(cursor.pass(9), None);
            }
            assert_eq!(cursor.pass(11), Some(9));
            assert_eq!(cursor.pass(9), None);
            assert_eq!(cursor.pass(12), Some(10));
        }
    }

    #[test]
    fn a_late_packet_that_is_withheld_moves_no_number() {
        let mut cursor = Cursor::default();
        assert_eq!((cursor.pass(8), cursor.pass(10)), (Some(8), Some(10)));
        cursor.withhold(9);
        assert_eq!(cursor.pass(11), Some(11));
    }

    #[test]
    fn what_was_withheld_before_the_stream_began_counts_for_nothing() {
        let mut cursor = Cursor::default();
        cursor.withhold(100);
        cursor.withhold(101);
        let first = cursor.pass(102).unwrap();
        assert_eq!(cursor.pass(103), Some(first.wrapping_add(1)));
        assert_eq!(cursor.pass(101), None);
    }

    #[test]
    fn the_guard_ends_before_the_sequence_wraps_round_to_it() {
        let mut cursor = Cursor::default();
        cursor.withhold(99);
        let mut seq = 100_u16;
        for _ in 0..70_000 {
            assert!(cursor.pass(seq).is_some());
            seq = seq.wrapping_add(1);
        }
    }

    proptest! {
        #[test]
        fn no_number_is_given_twice_and_order_is_kept(
            start: u16,
            steps in proptest::collection::vec((0usize..12, any::<bool>(), any::<bool>()), 1..200),
        ) {
            // Packets of a stream, up to a dozen out of order, some of them withheld.
            let mut pending: Vec<u16> = Vec::new();
            let mut next = start;
            let mut cursor = Cursor::default();
            let mut given = BTreeSet::new();
            let mut newest = None;
            for (pick, pass, cut) in steps {
                while pending.len() < 12 {
                    pending.push(next);
                    next = next.wrapping_add(1);
                }
                let seq = pending.remove(pick.min(pending.len() - 1));
                if !pass {
                    cursor.withhold(seq);
                } else if let Some(number) = cursor.pass(seq) {
                    prop_assert!(given.insert(number), "{number} again");
                    prop_assert_eq!(cursor.unpass(number), seq);
                    if let Some((newest_seq, newest_number)) = newest {
                        let ahead = seq.wrapping_sub(newest_seq) as i16;
                        let moved = number.wrapping_sub(newest_number) as i16;
                        prop_assert_eq!(ahead > 0, moved > 0);
                        prop_assert!(ahead <= 0 || moved <= ahead);
                    }
                    if newest.is_none_or(|(newest, _)| seq.wrapping_sub(newest) as i16 > 0) {
                        newest = Some((seq, number));
                    }
                }
                if cut && newest.is_some() {
                    cursor.cut();
                }
            }
        }
    }
}

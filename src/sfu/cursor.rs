//! Continuity of one stream towards one hearer: packets withheld on purpose (mute, deafen) leave no
//! hole in the sequence the hearer sees, because a hole reads as loss (protocol.md §8, trap 18).
//! Small, since every hearer of every stream has one. Called by `forward` and `source`.

use crate::sfu::laps::{Laps, Number};

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
    /// The laps of the hearer's numbers.
    laps: Laps,
    /// How many numbers before `resumed_at` were swallowed since the hearer began to wait, as far
    /// back as it may still begin.
    swallowed: u8,
}

/// Four to a cache line.
const _: () = assert!(size_of::<Cursor>() <= 16);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    /// The stream has not begun for this hearer.
    #[default]
    Fresh,
    /// As before, and it shall begin where it can be understood without what came earlier.
    Expecting,
    /// The stream was cut for this hearer, and goes on only where it can be understood.
    Waiting,
    /// Nothing was withheld lately.
    Open,
    /// The hearer wants nothing of the stream.
    Shunned,
    /// A gap ended before `resumed_at`; what comes late from before it would take a number already
    /// used.
    Guarded,
}

/// How far a stream runs before packets from before a gap are no longer expected; twenty seconds of
/// audio, far more than any network reorders, and as far back as the replay window lets pass.
const GUARD_PACKETS: u16 = 1_024;

impl Cursor {
    /// A cursor that gives packets their own numbers from `first` on, and none to those before it.
    pub fn starting_at(first: u16) -> Self {
        let newest = first.wrapping_sub(1);
        Self { newest, resumed_at: first, phase: Phase::Guarded, ..Self::default() }
    }

    /// The cursor of a hearer that comes when the stream, video, has begun: it waits for a
    /// keyframe.
    pub fn expecting() -> Self {
        Self { phase: Phase::Expecting, ..Self::default() }
    }

    /// The stream can be understood by this hearer only from a keyframe on.
    pub fn wait(&mut self) {
        match self.phase {
            Phase::Expecting | Phase::Waiting | Phase::Shunned => {}
            Phase::Fresh => self.phase = Phase::Expecting,
            Phase::Open | Phase::Guarded => {
                self.cut();
                (self.phase, self.swallowed) = (Phase::Waiting, 0);
            }
        }
    }

    /// This hearer wants nothing of the stream, or wants it again, which then goes on where it can
    /// be understood.
    pub fn shun(&mut self, shuns: bool) {
        match (self.phase, shuns) {
            (Phase::Shunned, true) => {}
            // What it was never given a number of begins for it like any stream.
            (Phase::Shunned, false) if !self.laps.has_begun() => self.phase = Phase::Expecting,
            (Phase::Shunned, false) => (self.phase, self.swallowed) = (Phase::Waiting, 0),
            (Phase::Open | Phase::Guarded, true) => {
                self.cut();
                self.phase = Phase::Shunned;
            }
            (_, true) => self.phase = Phase::Shunned,
            (_, false) => {}
        }
    }

    /// Whether nothing passes until the hearer wants it.
    #[inline]
    pub fn is_shunned(&self) -> bool {
        self.phase == Phase::Shunned
    }

    /// Whether nothing passes until [`Self::begin`].
    #[inline]
    pub fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Expecting | Phase::Waiting)
    }

    /// A hearer that waits may go on from the stream's packet `seq`, which may have been overtaken
    /// by some that it was not given. It can have those still.
    #[inline]
    pub fn begin(&mut self, seq: u16) {
        if self.is_waiting() {
            self.begin_at(seq);
        }
    }

    #[cold]
    fn begin_at(&mut self, seq: u16) {
        let back = self.resumed_at.wrapping_sub(seq);
        if self.phase == Phase::Waiting {
            if back as i16 > i16::from(self.swallowed) {
                return;
            }
            self.withheld = self.withheld.wrapping_sub(back);
        }
        (self.newest, self.resumed_at) = (seq.wrapping_sub(1), seq);
        (self.phase, self.swallowed) = (Phase::Guarded, 0);
    }

    /// Whether this hearer began, or went on, with the stream's packet `seq`, and has had nothing
    /// since.
    pub fn has_just_begun_at(&self, seq: u16) -> bool {
        self.phase == Phase::Guarded && self.resumed_at == seq && self.newest == seq
    }

    /// The stream's packet `seq` is not for this hearer.
    pub fn withhold(&mut self, seq: u16) {
        let first = matches!(self.phase, Phase::Fresh | Phase::Expecting);
        if first {
            self.newest = seq;
        }
        // What is missing between the newest and this one would come too late to be heard as well.
        // A late one leaves the hole that it has left already.
        let ahead = seq.wrapping_sub(self.newest) as i16;
        if ahead > 0 || first {
            let (waiting, shunned) = (self.is_waiting(), self.is_shunned());
            self.withheld = self.withheld.wrapping_add(ahead as u16);
            self.newest = seq;
            self.cut();
            if waiting {
                let swallowed = u16::from(self.swallowed).saturating_add(ahead as u16);
                self.swallowed = u8::try_from(swallowed).unwrap_or(u8::MAX);
                self.phase = Phase::Waiting;
            } else if shunned {
                self.phase = Phase::Shunned;
            }
        }
    }

    /// The stream's packet `seq` cannot be given to anyone, and reads as lost to this hearer. A
    /// leap before it is closed up: hearers count laps by what reaches them.
    pub fn lose(&mut self, seq: u16) {
        let ahead = seq.wrapping_sub(self.newest) as i16;
        let begun = matches!(self.phase, Phase::Open | Phase::Guarded);
        if begun && ahead > GUARD_PACKETS as i16 {
            self.withhold(seq.wrapping_sub(1));
        }
        let _ = self.number(seq);
    }

    /// The stream is cut after its newest packet: what comes late from before is lost.
    pub fn cut(&mut self) {
        self.resumed_at = self.newest.wrapping_add(1);
        self.phase = Phase::Guarded;
    }

    /// The number this hearer sees for the stream's packet `seq`, or `None` if the packet is late
    /// from before a gap, or the hearer waits: then it is withheld.
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

    /// As [`Self::pass`], with the number's lap; `None` also from before the lap in which the
    /// hearer's key began.
    #[inline]
    pub fn number(&mut self, seq: u16) -> Option<Number> {
        let mut number = self.pass(seq)?;
        if !self.laps.has_begun() {
            number = self.begin_low(number);
        }
        self.laps.number(number)
    }

    /// Lets the numbers under a new key begin in the first half of their lap (RFC 3711 §3.3.1): a
    /// hearer that misses all of the first ones up to the lap's end takes the next lap for the
    /// first, and opens nothing of the stream from then on.
    #[cold]
    fn begin_low(&mut self, number: u16) -> u16 {
        let half = number & 1 << 15;
        self.withheld = self.withheld.wrapping_add(half);
        number - half
    }

    /// The hearer has a new key: its laps count from the next number.
    pub fn rekeyed(&mut self) {
        self.laps.restart();
    }

    /// The stream's number for one that this hearer saw, or would have seen next to those it saw.
    /// `None` for what is from before a gap, where numbers were others, or has not come to it yet.
    pub fn unpass(&self, seq: u16) -> Option<u16> {
        let original = seq.wrapping_add(self.withheld);
        let begun = match self.phase {
            Phase::Fresh | Phase::Expecting | Phase::Waiting | Phase::Shunned => false,
            Phase::Guarded => original.wrapping_sub(self.resumed_at) as i16 >= 0,
            Phase::Open => true,
        };
        let come = self.newest.wrapping_sub(original) as i16 >= 0;
        (begun && come).then_some(original)
    }

    /// The next number of a sequence that is this hearer's alone.
    pub fn count_on(&mut self) -> Option<Number> {
        self.number(self.newest.wrapping_add(1))
    }

    #[cold]
    fn enter(&mut self, seq: u16) -> bool {
        match self.phase {
            Phase::Fresh => {
                (self.newest, self.phase) = (seq, Phase::Open);
                return true;
            }
            Phase::Expecting | Phase::Waiting | Phase::Shunned => {
                self.withhold(seq);
                return false;
            }
            Phase::Open | Phase::Guarded => {}
        }
        let since = seq.wrapping_sub(self.resumed_at);
        // What is ahead of the newest is not late, however far it leaps.
        if seq.wrapping_sub(self.newest) as i16 > 0 {
            if since > GUARD_PACKETS {
                self.phase = Phase::Open;
            }
            return true;
        }
        since as i16 >= 0
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
        assert_eq!(cursor.unpass(0), Some(2));
        assert_eq!(cursor.unpass(1), None, "not yet");
        assert_eq!(cursor.unpass(65_534), None, "from before the gap");
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
    fn a_stream_that_leaps_gives_no_number_twice() {
        // After silence of our own, or a keyframe, or none of these.
        for mut cursor in [Cursor::starting_at(1_000), Cursor::default()] {
            let mut given = BTreeSet::new();
            // Twice as far as can be told from going back.
            for seq in (1_000..1_100).chain([33_866, 1_097, 1_098, 1_099, 33_866, 1_050]) {
                let number = cursor.number(seq).expect("each is ahead of the one before");
                assert!(given.insert((number.laps, number.seq)), "{number:?} again");
            }
        }
    }

    #[test]
    fn what_a_hearer_missed_does_not_turn_its_numbers_back() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.number(100), Some(Number { seq: 100, laps: 0 }));
        cursor.lose(101);
        cursor.lose(32_867);
        cursor.lose(98);
        assert_eq!(cursor.number(99), Some(Number { seq: 104, laps: 0 }), "three were lost");
        cursor.withhold(32_866);
        cursor.withhold(97);
        assert_eq!(cursor.number(98), Some(Number { seq: 105, laps: 0 }));
    }

    #[test]
    fn numbers_under_a_new_key_begin_in_the_first_half_of_their_lap() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.number(65_534), Some(Number { seq: 32_766, laps: 0 }));
        assert_eq!(cursor.number(1), Some(Number { seq: 32_769, laps: 0 }));
        assert_eq!(cursor.number(65_535), Some(Number { seq: 32_767, laps: 0 }), "late");
        assert_eq!(cursor.unpass(32_767), Some(65_535));
        cursor.rekeyed();
        assert_eq!(cursor.number(2), Some(Number { seq: 2, laps: 0 }));
        cursor.rekeyed();
        assert_eq!(cursor.number(3), Some(Number { seq: 3, laps: 0 }));
    }

    #[test]
    fn who_shuns_a_stream_is_given_it_again_without_a_hole() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.number(7).map(|number| number.seq), Some(7));
        cursor.shun(true);
        for seq in 8..300 {
            cursor.begin(seq);
            cursor.wait();
            assert!(cursor.number(seq).is_none() && cursor.is_shunned() && !cursor.is_waiting());
        }
        cursor.shun(false);
        assert!(cursor.is_waiting() && cursor.number(300).is_none());
        cursor.begin(301);
        assert_eq!(cursor.number(301).map(|number| number.seq), Some(8));
        assert_eq!(cursor.number(290), None);

        // Shunned before it began, and wherever its numbers are.
        for seq in [5, 40_000] {
            let mut cursor = Cursor::default();
            cursor.shun(true);
            assert_eq!((cursor.number(seq), cursor.number(seq + 1)), (None, None));
            cursor.shun(false);
            cursor.begin(seq + 2);
            assert!(cursor.number(seq + 2).is_some());
        }
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

    #[test]
    fn who_waits_begins_at_a_keyframe_without_a_hole() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.pass(8), Some(8));
        cursor.wait();
        for seq in 9..12 {
            assert_eq!(cursor.pass(seq), None);
        }
        assert!(cursor.is_waiting() && cursor.unpass(8).is_none());
        cursor.begin(12);
        assert_eq!((cursor.pass(12), cursor.pass(13)), (Some(9), Some(10)));
        assert_eq!(cursor.pass(11), None);
        cursor.begin(20);
        assert_eq!(cursor.pass(14), Some(11), "who does not wait goes on as it is");
    }

    #[test]
    fn who_waits_may_begin_with_a_packet_that_was_overtaken() {
        for fresh in [true, false] {
            let mut cursor = if fresh { Cursor::expecting() } else { Cursor::default() };
            if !fresh {
                assert_eq!(cursor.pass(7), Some(7));
                cursor.wait();
            }
            for seq in [8, 10, 11] {
                assert_eq!(cursor.pass(seq), None);
            }
            cursor.begin(9);
            let first = cursor.pass(9).unwrap();
            assert!(cursor.has_just_begun_at(9));
            assert!(fresh || first == 8, "no hole");
            assert_eq!(cursor.pass(10), Some(first + 1), "which it was not given before");
            assert_eq!(cursor.pass(11), Some(first + 2));
            assert_eq!(cursor.pass(8), None);
        }
    }

    #[test]
    fn nobody_begins_before_it_began_to_wait() {
        let mut cursor = Cursor::default();
        assert_eq!((cursor.pass(7), cursor.pass(9)), (Some(7), Some(9)));
        cursor.wait();
        assert_eq!(cursor.pass(10), None);
        cursor.begin(8);
        assert!(cursor.is_waiting());
        cursor.begin(10);
        assert_eq!(cursor.pass(10), Some(10));
    }

    #[test]
    fn a_long_wait_ends_all_the_same() {
        let mut cursor = Cursor::default();
        cursor.pass(0);
        cursor.wait();
        for seq in 1..=u16::MAX {
            assert_eq!(cursor.pass(seq), None);
        }
        cursor.begin(0);
        assert_eq!(cursor.pass(0), Some(1));
    }

    proptest! {
        #[test]
        fn no_number_is_given_twice_and_order_is_kept(
            start: u16,
            steps in proptest::collection::vec((0usize..12, any::<bool>(), 0u8..6), 1..200),
        ) {
            // Packets of a stream, up to a dozen out of order, some of them withheld.
            let mut pending: Vec<u16> = Vec::new();
            let mut next = start;
            let mut cursor = Cursor::default();
            let mut given = BTreeSet::new();
            let mut newest = None;
            for (pick, pass, and) in steps {
                while pending.len() < 12 {
                    pending.push(next);
                    next = next.wrapping_add(1);
                }
                let seq = pending.remove(pick.min(pending.len() - 1));
                if !pass {
                    cursor.withhold(seq);
                } else if let Some(number) = cursor.pass(seq) {
                    prop_assert!(given.insert(number), "{number} again");
                    prop_assert_eq!(cursor.unpass(number), Some(seq));
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
                match and {
                    0..3 if newest.is_some() => cursor.cut(),
                    3 => cursor.wait(),
                    4 => cursor.begin(pending[pick.min(pending.len() - 1)]),
                    _ => {}
                }
            }
        }
    }
}

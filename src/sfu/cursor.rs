//! Continuity of one stream towards one hearer: packets withheld on purpose (mute, deafen) leave no
//! hole in the sequence the hearer sees, because a hole reads as loss (protocol.md §8, trap 18).
//! Six bytes, since every hearer of every stream has one. Called by `forward` and `source`.

/// Maps a stream's sequence numbers to the ones a hearer sees.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cursor {
    withheld: u16,
    resumed_at: u16,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    /// Nothing was withheld lately.
    #[default]
    Open,
    /// The last packet was withheld: the next one that passes marks the end of the gap.
    Withholding,
    /// A gap ended at `resumed_at`; what comes late from before it would take a number already
    /// used.
    Guarded,
}

/// How far a stream runs before packets from before a gap are no longer expected; twenty seconds of
/// audio, far more than any network reorders.
const GUARD_PACKETS: i16 = 1_024;

impl Cursor {
    /// One packet of the stream is not for this hearer.
    pub fn withhold(&mut self) {
        self.withheld = self.withheld.wrapping_add(1);
        self.phase = Phase::Withholding;
    }

    /// The stream is cut here without a packet being withheld: what comes late from before is lost.
    pub fn cut(&mut self) {
        self.phase = Phase::Withholding;
    }

    /// The number this hearer sees for the stream's packet `seq`, or `None` if the packet is late
    /// from before a gap.
    #[inline]
    pub fn pass(&mut self, seq: u16) -> Option<u16> {
        if self.phase != Phase::Open && !self.leave_gap(seq) {
            return None;
        }
        Some(seq.wrapping_sub(self.withheld))
    }

    /// The stream's number for one that this hearer saw.
    pub fn unpass(&self, seq: u16) -> u16 {
        seq.wrapping_add(self.withheld)
    }

    #[cold]
    fn leave_gap(&mut self, seq: u16) -> bool {
        if self.phase == Phase::Withholding {
            self.resumed_at = seq;
            self.phase = Phase::Guarded;
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
    use super::*;

    #[test]
    fn withheld_packets_leave_no_hole() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.pass(65_534), Some(65_534));
        cursor.withhold();
        cursor.withhold();
        assert_eq!(cursor.pass(1), Some(65_535));
        assert_eq!(cursor.pass(2), Some(0));
    }

    #[test]
    fn late_packets_from_before_a_gap_take_no_used_number() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.pass(8), Some(8));
        cursor.withhold(); // 10, while 9 is still under way
        assert_eq!(cursor.pass(11), Some(10));
        assert_eq!(cursor.pass(9), None);
        assert_eq!(cursor.pass(12), Some(11));
    }

    #[test]
    fn the_guard_ends_before_the_sequence_wraps_round_to_it() {
        let mut cursor = Cursor::default();
        cursor.withhold();
        let mut seq = 100_u16;
        for _ in 0..70_000 {
            assert!(cursor.pass(seq).is_some());
            seq = seq.wrapping_add(1);
        }
    }
}

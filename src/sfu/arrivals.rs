//! When the packets of one session arrived, by the numbers it counts over all its streams: what
//! transport-wide feedback owes it, so that it can tell what the path carries. Memory of fixed
//! size. Fed by the shard's ingress, read when feedback is due.

use std::time::Duration;

use crate::{
    id::Ssrc,
    rtp::transport_cc::{Written, write_transport_cc},
};

/// Packets that one report may look back on: 100 ms of 100 Mbit/s.
const WINDOW: u16 = 1_024;

/// Arrivals since the last report, and those before that may still be reported on again.
#[derive(Debug)]
pub struct Arrivals {
    /// By number modulo the window: when it arrived, counts of 250 µs from 1; 0 if it did not.
    times: Box<[u32; WINDOW as usize]>,
    /// The first to be reported on, and the one behind the newest.
    due: Option<(u16, u16)>,
    /// Counts the reports.
    count: u8,
}

impl Arrivals {
    /// Nothing has arrived.
    pub fn new() -> Self {
        Self { times: Box::new([0; _]), due: None, count: 0 }
    }

    /// Packet `seq` has arrived, so long after the shard began. Returns whether a report is owed.
    pub fn note(&mut self, since: Duration, seq: u16) -> bool {
        let ticks = (since.as_micros() / 250) as u32;
        let (mut from, mut end) = self.due.unwrap_or((seq, seq));
        let ahead = seq.wrapping_sub(end) as i16;
        if ahead >= 0 {
            if ahead as u16 >= WINDOW {
                self.times.fill(0);
                from = seq;
            }
            for skipped in 0..(ahead as u16).min(WINDOW) {
                self.times[place(end.wrapping_add(skipped))] = 0;
            }
            self.times[place(seq)] = 0;
            end = seq.wrapping_add(1);
            if end.wrapping_sub(from) > WINDOW {
                from = end.wrapping_sub(WINDOW);
            }
        } else if end.wrapping_sub(seq) > WINDOW {
            return self.is_owed();
        }
        let time = &mut self.times[place(seq)];
        if *time == 0 {
            *time = ticks.wrapping_add(1).max(1);
            // It was reported lost: the report is made again from there.
            if (seq.wrapping_sub(from) as i16) < 0 {
                from = seq;
            }
        }
        self.due = Some((from, end));
        self.is_owed()
    }

    /// Whether something has arrived that was not reported.
    pub fn is_owed(&self) -> bool {
        self.due.is_some_and(|(from, end)| from != end)
    }

    /// Writes the next report, if one is owed; there may be more than one.
    pub fn write(&mut self, out: &mut [u8], sender: Ssrc, media: Ssrc) -> Option<usize> {
        let (from, end) = self.due.filter(|(from, end)| from != end)?;
        let owed = (0..end.wrapping_sub(from)).map(|step| {
            let time = self.times[place(from.wrapping_add(step))];
            (time != 0).then(|| i64::from(time))
        });
        // The first of them arrived, or the newest did, so something is always written.
        let written = write_transport_cc(out, sender, media, self.count, from, owed);
        let Some(Written { len, statuses }) = written else {
            // A stretch of losses longer than one report: it ends where something arrived.
            let skip = |step: &u16| self.times[place(from.wrapping_add(*step))] != 0;
            let lost = (0..end.wrapping_sub(from)).find(skip)?;
            self.due = Some((from.wrapping_add(lost), end));
            return self.write(out, sender, media);
        };
        self.count = self.count.wrapping_add(1);
        self.due = Some((from.wrapping_add(statuses), end));
        Some(len)
    }
}

fn place(seq: u16) -> usize {
    usize::from(seq % WINDOW)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::rtp::{
        rtcp::{Report, reports},
        transport_cc::FEEDBACK_BYTES_MAX,
    };

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Every report that is owed, read; what is said last counts.
    fn owed(arrivals: &mut Arrivals) -> Vec<(u16, Option<i64>)> {
        let mut said = Vec::new();
        let mut out = [0; FEEDBACK_BYTES_MAX];
        while let Some(len) = arrivals.write(&mut out, Ssrc(1), Ssrc(2)) {
            let Some(Report::TransportCc(report)) = reports(&out[..len]).next() else {
                panic!("{out:02x?}")
            };
            assert_eq!((report.sender, report.media), (Ssrc(1), Ssrc(2)));
            said.extend(report.statuses());
        }
        said
    }

    #[test]
    fn arrivals_are_reported_once_with_what_is_missing_between_them() {
        let mut arrivals = Arrivals::new();
        for (at, seq) in [(0, 65_534), (5, 65_535), (7, 1)] {
            assert!(arrivals.note(millis(at), seq));
        }
        let expected = [(65_534, Some(1)), (65_535, Some(21)), (0, None), (1, Some(29))];
        assert_eq!(owed(&mut arrivals), expected);
        assert!(!arrivals.is_owed());
        assert!(arrivals.note(millis(20), 2));
        assert_eq!(owed(&mut arrivals), [(2, Some(81))]);
    }

    #[test]
    fn who_comes_after_it_was_reported_lost_is_reported_again() {
        let mut arrivals = Arrivals::new();
        arrivals.note(millis(0), 10);
        arrivals.note(millis(1), 12);
        owed(&mut arrivals);
        assert!(arrivals.note(millis(2), 11));
        assert_eq!(owed(&mut arrivals), [(11, Some(9)), (12, Some(5))]);
        assert!(!arrivals.note(millis(9), 11), "a duplicate is no arrival");
        assert!(!arrivals.note(millis(9), 12u16.wrapping_sub(WINDOW)), "nor is what is long past");
    }

    #[test]
    fn a_leap_starts_afresh_and_is_bounded() {
        let mut arrivals = Arrivals::new();
        arrivals.note(millis(0), 0);
        arrivals.note(millis(1), 20_000);
        assert_eq!(owed(&mut arrivals), [(20_000, Some(5))]);
        arrivals.note(millis(2), 20_600);
        let said = owed(&mut arrivals);
        assert_eq!(said.last(), Some(&(20_600, Some(9))));
    }

    proptest! {
        #[test]
        fn every_arrival_is_told_and_nothing_else(
            start: u16,
            steps in proptest::collection::vec((0usize..8, 0u8..6, 0u64..40), 1..400),
        ) {
            let mut arrivals = Arrivals::new();
            let mut arrived: BTreeMap<u16, i64> = BTreeMap::new();
            let mut told: BTreeMap<u16, Option<i64>> = BTreeMap::new();
            let mut pending: Vec<u16> = Vec::new();
            let (mut next, mut now) = (start, 0);
            for (pick, what, wait) in steps {
                while pending.len() < 8 {
                    pending.push(next);
                    next = next.wrapping_add(1);
                }
                let seq = pending.remove(pick);
                now += wait;
                if what == 0 {
                    continue;
                }
                arrivals.note(millis(now), seq);
                arrived.insert(seq, now as i64 * 4 + 1);
                if what == 1 {
                    told.extend(owed(&mut arrivals));
                }
            }
            told.extend(owed(&mut arrivals));
            for (seq, at) in told {
                prop_assert_eq!(arrived.remove(&seq), at);
            }
            prop_assert!(arrived.is_empty(), "untold: {:?}", arrived);
        }
    }
}

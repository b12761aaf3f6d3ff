//! How well a stream arrives from its sender: loss, jitter and the last sender report, for the
//! receiver reports we owe (RFC 3550 §6.4.1, A.3, A.8). Fed by the shard's ingress.

use std::time::{Duration, Instant};

use crate::{id::Ssrc, rtp::rtcp::ReportBlock, sfu::source::ticks};

/// Reception statistics of one stream.
#[derive(Debug)]
pub struct Reception {
    clock_hz: u32,
    counts: Option<Counts>,
    last_sr: Option<(u32, Instant)>,
}

#[derive(Debug)]
struct Counts {
    first_seq: u32,
    highest_seq: u32,
    received: u32,
    expected_before: u32,
    received_before: u32,
    /// In sixteenths of a tick, as RFC 3550 A.8 keeps it.
    jitter: u32,
    began: Instant,
    transit: u32,
}

impl Reception {
    /// Nothing received yet.
    pub fn new(clock_hz: u32) -> Self {
        Self { clock_hz, counts: None, last_sr: None }
    }

    /// The source starts anew; its old numbers mean nothing for the new ones.
    pub fn restart(&mut self) {
        self.counts = None;
    }

    /// Counts an authenticated packet.
    pub fn received(&mut self, now: Instant, seq: u16, timestamp: u32) {
        let Some(counts) = &mut self.counts else {
            self.counts = Some(Counts {
                first_seq: u32::from(seq),
                highest_seq: u32::from(seq),
                received: 1,
                expected_before: 0,
                received_before: 0,
                jitter: 0,
                began: now,
                transit: 0u32.wrapping_sub(timestamp),
            });
            return;
        };
        counts.received = counts.received.wrapping_add(1);
        let ahead = seq.wrapping_sub(counts.highest_seq as u16) as i16;
        if ahead > 0 {
            counts.highest_seq = counts.highest_seq.wrapping_add(ahead as u32);
        }
        let elapsed = now.saturating_duration_since(counts.began);
        let arrival = ticks(elapsed, self.clock_hz);
        let transit = arrival.wrapping_sub(timestamp);
        let difference = (transit.wrapping_sub(counts.transit) as i32).unsigned_abs();
        counts.transit = transit;
        let decay = (counts.jitter + 8) >> 4;
        counts.jitter = counts.jitter.saturating_add(difference) - decay;
    }

    /// A sender report has come.
    pub fn sender_report(&mut self, now: Instant, ntp: u64) {
        self.last_sr = Some(((ntp >> 16) as u32, now));
    }

    /// The report block that the sender is due; begins a new interval.
    pub fn report(&mut self, now: Instant, ssrc: Ssrc) -> Option<ReportBlock> {
        let counts = self.counts.as_mut()?;
        let expected = counts.highest_seq.wrapping_sub(counts.first_seq).wrapping_add(1);
        let expected_now = expected.wrapping_sub(counts.expected_before);
        let received_now = counts.received.wrapping_sub(counts.received_before);
        counts.expected_before = expected;
        counts.received_before = counts.received;
        let lost_now = expected_now.saturating_sub(received_now);
        let fraction_lost = (u64::from(lost_now) << 8).checked_div(u64::from(expected_now));
        let (last_sr, delay_since_sr) = self
            .last_sr
            .map_or((0, 0), |(ntp, at)| (ntp, to_65536ths(now.saturating_duration_since(at))));
        Some(ReportBlock {
            ssrc,
            fraction_lost: fraction_lost.map_or(0, |share| share.min(255) as u8),
            lost: expected.wrapping_sub(counts.received) as i32,
            highest_seq: counts.highest_seq,
            jitter: counts.jitter >> 4,
            last_sr,
            delay_since_sr,
        })
    }
}

/// RTCP's unit of delay: 65,536ths of a second.
pub fn to_65536ths(elapsed: Duration) -> u32 {
    ((elapsed.as_nanos() << 16) / 1_000_000_000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_loss_of_its_own_interval() {
        let start = Instant::now();
        let mut reception = Reception::new(48_000);
        assert!(reception.report(start, Ssrc(1)).is_none());
        for seq in (65_530..=65_535).chain([1, 2, 3]) {
            reception.received(start, seq, 0);
        }
        let block = reception.report(start, Ssrc(1)).unwrap();
        assert_eq!((block.lost, block.highest_seq), (1, 65_539));
        assert_eq!(block.fraction_lost, 25, "one of ten, in 256ths");
        reception.received(start, 4, 0);
        let block = reception.report(start, Ssrc(1)).unwrap();
        assert_eq!((block.lost, block.fraction_lost), (1, 0));
    }

    #[test]
    fn steady_arrival_is_no_jitter() {
        let start = Instant::now();
        let mut reception = Reception::new(48_000);
        for step in 0..50u16 {
            let now = start + Duration::from_millis(20) * u32::from(step);
            reception.received(now, step, u32::from(step) * 960);
        }
        assert_eq!(reception.report(start, Ssrc(1)).unwrap().jitter, 0);
        reception.received(start + Duration::from_millis(1_020), 50, 48_000);
        assert_eq!(reception.report(start, Ssrc(1)).unwrap().jitter, 60, "20 ms late, a sixteenth");
    }

    #[test]
    fn the_last_sender_report_is_echoed_with_its_age() {
        let start = Instant::now();
        let mut reception = Reception::new(48_000);
        reception.received(start, 1, 0);
        reception.sender_report(start, 0x1122_3344_5566_7788);
        let block = reception.report(start + Duration::from_millis(500), Ssrc(1)).unwrap();
        assert_eq!((block.last_sr, block.delay_since_sr), (0x3344_5566, 32_768));
    }
}

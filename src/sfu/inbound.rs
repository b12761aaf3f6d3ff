//! A browser's streams as they come in: it chooses its own SSRCs and may send before it has said
//! which is what (protocol.md §3.4). Keeps each SSRC's replay window, which SSRC is which of the
//! session's streams, and packets that came too early. Owned by the session's `Peer`.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    crypto::{Accept, ReplayWindow},
    id::Ssrc,
    metrics::DropReason,
};

/// SSRCs of one browser that are remembered: its microphone and [`crate::limits::LAYERS_MAX`]
/// layers with their retransmissions are nine, and it may have taken others in their place.
pub const SSRCS_MAX: usize = 16;

/// Early packets of one session that are kept: a second of voice and of video at the rate at which
/// browsers begin, about 300 kbit/s.
pub const EARLY_PACKETS_MAX: usize = 96;

/// How long they are kept (protocol.md §3.4).
pub const EARLY_TIME_MAX: Duration = Duration::from_secs(1);

/// What has come of one browser.
#[derive(Debug, Default)]
pub struct Inbound {
    heard: Vec<Heard>,
    early: VecDeque<Early>,
}

#[derive(Debug)]
struct Heard {
    ssrc: Ssrc,
    window: ReplayWindow,
    /// Which of the session's streams it is, once that is known.
    stream: Option<usize>,
}

/// An authenticated packet that came before it was known whose it is, or before that was told.
#[derive(Debug)]
pub struct Early {
    /// The browser's SSRC.
    pub ssrc: Ssrc,
    /// Its sequence number.
    pub seq: u16,
    /// The packet, opened.
    pub plain: Box<[u8]>,
    /// When it came.
    pub at: Instant,
}

impl Inbound {
    /// Judges a packet by its SSRC and number; to be committed once its tag has verified.
    #[inline]
    pub fn check(&self, ssrc: Ssrc, seq: u16) -> Result<Accept, DropReason> {
        match self.heard.iter().find(|heard| heard.ssrc == ssrc) {
            Some(heard) => heard.window.check_lasting(seq),
            None if self.heard.len() < SSRCS_MAX || self.unused().is_some() => {
                ReplayWindow::new().check_lasting(seq)
            }
            None => Err(DropReason::ForeignSsrc),
        }
    }

    /// Takes an authenticated packet into its window.
    #[inline]
    pub fn commit(&mut self, ssrc: Ssrc, accept: Accept) {
        match self.heard.iter_mut().find(|heard| heard.ssrc == ssrc) {
            Some(heard) => heard.window.commit(accept),
            None => {
                if let Some(place) = self.place_for(ssrc) {
                    self.heard[place].window.commit(accept);
                }
            }
        }
    }

    /// Which stream an SSRC is.
    #[inline]
    pub fn stream(&self, ssrc: Ssrc) -> Option<usize> {
        self.heard.iter().find(|heard| heard.ssrc == ssrc)?.stream
    }

    /// By which SSRC the browser sends a stream.
    pub fn ssrc(&self, stream: usize) -> Option<Ssrc> {
        self.heard.iter().find(|heard| heard.stream == Some(stream)).map(|heard| heard.ssrc)
    }

    /// `ssrc` is `stream` from now on. Returns whether that is news.
    pub fn assign(&mut self, ssrc: Ssrc, stream: usize) -> bool {
        if self.stream(ssrc) == Some(stream) {
            return false;
        }
        let known = self.heard.iter().position(|heard| heard.ssrc == ssrc);
        let Some(place) = known.or_else(|| self.place_for(ssrc)) else { return false };
        for heard in &mut self.heard {
            if heard.stream == Some(stream) {
                heard.stream = None;
            }
        }
        self.heard[place].stream = Some(stream);
        true
    }

    /// Keeps an early packet. It is dropped if too many are kept.
    pub fn hold(&mut self, early: Early) -> Result<(), DropReason> {
        if self.early.len() >= EARLY_PACKETS_MAX {
            return Err(DropReason::Unannounced);
        }
        self.early.push_back(early);
        Ok(())
    }

    /// Takes the next early packet whose stream is known by now, and tells which.
    pub fn take_known(&mut self) -> Option<(usize, Early)> {
        let heard = &self.heard;
        let stream = |early: &Early| heard.iter().find(|it| it.ssrc == early.ssrc)?.stream;
        let place = self.early.iter().position(|early| stream(early).is_some())?;
        let stream = stream(&self.early[place])?;
        Some((stream, self.early.remove(place)?))
    }

    /// Takes an early packet that has been kept for as long as any may.
    pub fn take_stale(&mut self, now: Instant) -> Option<Early> {
        self.early.pop_front_if(|early| now >= early.at + EARLY_TIME_MAX)
    }

    /// Whether early packets are kept.
    #[inline]
    pub fn holds_early(&self) -> bool {
        !self.early.is_empty()
    }

    /// When the first of them has been kept for long enough.
    pub fn early_until(&self) -> Option<Instant> {
        self.early.front().map(|early| early.at + EARLY_TIME_MAX)
    }

    /// How many are kept.
    pub fn early(&self) -> usize {
        self.early.len()
    }

    /// A place for a new SSRC: a free one, or the oldest that is no stream.
    fn place_for(&mut self, ssrc: Ssrc) -> Option<usize> {
        if self.heard.len() == SSRCS_MAX {
            let unused = self.unused()?;
            self.heard.remove(unused);
        }
        self.heard.push(Heard { ssrc, window: ReplayWindow::new(), stream: None });
        Some(self.heard.len() - 1)
    }

    fn unused(&self) -> Option<usize> {
        self.heard.iter().position(|heard| heard.stream.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(inbound: &mut Inbound, ssrc: u32, seq: u16) -> Result<(), DropReason> {
        let accept = inbound.check(Ssrc(ssrc), seq)?;
        inbound.commit(Ssrc(ssrc), accept);
        Ok(())
    }

    fn early(ssrc: u32, seq: u16, at: Instant) -> Early {
        Early { ssrc: Ssrc(ssrc), seq, plain: Box::new([0; 12]), at }
    }

    #[test]
    fn a_stream_that_changes_its_ssrc_and_back_repeats_nothing() {
        let mut inbound = Inbound::default();
        assert!(inbound.assign(Ssrc(1), 0));
        assert_eq!(receive(&mut inbound, 1, 10), Ok(()));
        assert!(inbound.assign(Ssrc(2), 0) && !inbound.assign(Ssrc(2), 0));
        assert_eq!((inbound.stream(Ssrc(1)), inbound.ssrc(0)), (None, Some(Ssrc(2))));
        assert!(inbound.assign(Ssrc(1), 0));
        assert_eq!(receive(&mut inbound, 1, 10), Err(DropReason::Replayed));
        assert_eq!(receive(&mut inbound, 1, 11), Ok(()));
    }

    #[test]
    fn more_ssrcs_than_are_remembered_push_out_those_that_are_no_stream() {
        let mut inbound = Inbound::default();
        assert!(inbound.assign(Ssrc(1), 0));
        for ssrc in 2..2 + 3 * SSRCS_MAX as u32 {
            assert_eq!(receive(&mut inbound, ssrc, 1), Ok(()));
        }
        assert_eq!(inbound.heard.len(), SSRCS_MAX);
        assert_eq!(inbound.stream(Ssrc(1)), Some(0));
        for stream in 1..SSRCS_MAX {
            assert!(inbound.assign(Ssrc(1_000 + stream as u32), stream));
        }
        assert_eq!(receive(&mut inbound, 5_000, 1), Err(DropReason::ForeignSsrc));
        assert_eq!(receive(&mut inbound, 1, 1), Ok(()));
    }

    #[test]
    fn early_packets_wait_for_their_stream_in_order_and_not_for_ever() {
        let now = Instant::now();
        let mut inbound = Inbound::default();
        for seq in 0..EARLY_PACKETS_MAX as u16 {
            assert_eq!(inbound.hold(early(7 + u32::from(seq % 2), seq, now)), Ok(()));
        }
        assert_eq!(inbound.hold(early(7, 99, now)), Err(DropReason::Unannounced));
        assert!(inbound.take_known().is_none() && inbound.take_stale(now).is_none());
        assert!(inbound.assign(Ssrc(8), 1));
        let known: Vec<_> = std::iter::from_fn(|| inbound.take_known()).collect();
        assert!(known.iter().all(|(stream, _)| *stream == 1));
        let expected: Vec<u16> = (1..EARLY_PACKETS_MAX as u16).step_by(2).collect();
        assert_eq!(known.iter().map(|(_, early)| early.seq).collect::<Vec<_>>(), expected);
        let until = inbound.early_until().unwrap();
        assert_eq!(until, now + EARLY_TIME_MAX);
        let stale = std::iter::from_fn(|| inbound.take_stale(until)).count();
        assert_eq!((stale, inbound.holds_early()), (EARLY_PACKETS_MAX / 2, false));
    }
}

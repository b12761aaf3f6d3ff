//! One stream as its sender produces it: replay protection, restarts of the source, packets nobody
//! may hear. Gives every packet its place in one continuous sequence for the whole channel. Called
//! by the shard's ingress after a packet has authenticated.

use std::time::{Duration, Instant};

use crate::{
    crypto::{Accept, ReplayWindow},
    metrics::DropReason,
    sfu::cursor::Cursor,
};

/// Where a packet stands in the stream that the channel hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// RTP sequence number.
    pub seq: u16,
    /// RTP timestamp.
    pub timestamp: u32,
}

/// A stream's state on the sender's side.
#[derive(Debug)]
pub struct Source {
    clock_hz: u32,
    replay: ReplayWindow,
    cursor: Cursor,
    seq_offset: u16,
    timestamp_offset: u32,
    newest: Option<Newest>,
    restarted: bool,
    /// Ticks between the last packet of our own and the sender's next at the least; 0 when its next
    /// has come.
    ticks_owed: u32,
}

#[derive(Debug, Clone, Copy)]
struct Newest {
    place: Place,
    at: Instant,
}

impl Source {
    /// A stream that has sent nothing, with a media clock of `clock_hz`.
    pub fn new(clock_hz: u32) -> Self {
        Self {
            clock_hz,
            replay: ReplayWindow::default(),
            cursor: Cursor::default(),
            seq_offset: 0,
            timestamp_offset: 0,
            newest: None,
            restarted: false,
            ticks_owed: 0,
        }
    }

    /// The sender has a new key: its numbers may start anywhere, and none of them is a replay.
    pub fn rekeyed(&mut self) {
        self.replay = ReplayWindow::default();
        self.restarted = self.newest.is_some();
    }

    /// Whether a packet with this number may be new; to be committed once its tag has verified.
    #[inline]
    pub fn check(&self, seq: u16) -> Result<Accept, DropReason> {
        self.replay.check(seq)
    }

    /// As [`Self::check`], of a stream that cannot start again under its key.
    #[inline]
    pub fn check_lasting(&self, seq: u16) -> Result<Accept, DropReason> {
        self.replay.check_lasting(seq)
    }

    /// An authenticated packet was far from the sequence: the next one in a row restarts the
    /// source.
    pub fn note_jump(&mut self, seq: u16) {
        self.replay.note_jump(seq);
    }

    /// Takes an authenticated packet into the window. Returns whether the source has started anew.
    #[inline]
    pub fn commit(&mut self, accept: Accept) -> bool {
        let restarted = accept.restarted();
        self.restarted |= restarted && self.newest.is_some();
        self.replay.commit(accept);
        restarted
    }

    /// A committed packet that nobody may hear.
    pub fn withhold(&mut self, seq: u16) {
        // Before a restart has joined up, the numbers are those of another sequence.
        if !self.restarted {
            self.cursor.withhold(seq);
        }
    }

    /// Gives a committed packet its place, or `None` if it is late from before a cut.
    #[inline]
    pub fn place(&mut self, now: Instant, seq: u16, timestamp: u32) -> Option<Place> {
        if self.restarted {
            self.join_up(now, seq, timestamp);
        }
        let seq = self.cursor.pass(seq)?.wrapping_add(self.seq_offset);
        if self.ticks_owed > 0 {
            self.keep_clock_ahead(timestamp);
        }
        let place = Place { seq, timestamp: timestamp.wrapping_add(self.timestamp_offset) };
        match self.newest {
            Some(newest) if place.seq.wrapping_sub(newest.place.seq) as i16 <= 0 => {}
            _ => self.newest = Some(Newest { place, at: now }),
        }
        Some(place)
    }

    /// A place for a packet of our own, `ticks` after the newest; `None` if the stream never began.
    pub fn insert(&mut self, now: Instant, ticks: u32) -> Option<Place> {
        let newest = self.newest?.place;
        let place = Place {
            seq: newest.seq.wrapping_add(1),
            timestamp: newest.timestamp.wrapping_add(ticks),
        };
        self.newest = Some(Newest { place, at: now });
        self.seq_offset = self.seq_offset.wrapping_add(1);
        self.ticks_owed = ticks;
        self.cursor.cut();
        Some(place)
    }

    /// What to add to the sender's RTP timestamps to get the ones hearers see; `None` while the
    /// source has started again and nothing of it was given on.
    pub fn timestamp_offset(&self) -> Option<u32> {
        (!self.restarted).then_some(self.timestamp_offset)
    }

    /// The sender's own number for one of the channel's, if it is not from before a cut.
    pub fn original(&self, seq: u16) -> Option<u16> {
        self.cursor.unpass(seq.wrapping_sub(self.seq_offset))
    }

    /// The channel's newest number.
    pub fn newest(&self) -> Option<u16> {
        self.newest.map(|newest| newest.place.seq)
    }

    /// The stream's clock as the channel sees it now, by its newest packet.
    pub fn timestamp_at(&self, now: Instant) -> Option<u32> {
        let Newest { place, at } = self.newest?;
        let since = ticks(now.saturating_duration_since(at), self.clock_hz);
        Some(place.timestamp.wrapping_add(since))
    }

    /// Whether packet `seq` of the stream as it is now never came.
    pub fn lacks(&self, seq: u16) -> bool {
        let started = !self.restarted && self.replay.highest().is_some();
        started && self.replay.check(seq).is_ok_and(|accept| !accept.restarted())
    }

    /// The sender speaks again sooner than the packets we put in its place have ended: its clock,
    /// as the channel sees it, goes on from there.
    #[cold]
    fn keep_clock_ahead(&mut self, timestamp: u32) {
        let ticks = std::mem::take(&mut self.ticks_owed);
        let Some(Newest { place, .. }) = self.newest else { return };
        let next = place.timestamp.wrapping_add(ticks);
        let ahead = timestamp.wrapping_add(self.timestamp_offset).wrapping_sub(next) as i32;
        if ahead < 0 {
            self.timestamp_offset = next.wrapping_sub(timestamp);
        }
    }

    /// Lets the restarted source go on where the old one stopped, as much later as time has passed.
    #[cold]
    fn join_up(&mut self, now: Instant, seq: u16, timestamp: u32) {
        self.restarted = false;
        let Some(newest) = self.newest else { return };
        self.cursor = Cursor::starting_at(seq);
        self.seq_offset = newest.place.seq.wrapping_add(1).wrapping_sub(seq);
        let ticks = ticks(now.saturating_duration_since(newest.at), self.clock_hz).max(1);
        self.timestamp_offset = newest.place.timestamp.wrapping_add(ticks).wrapping_sub(timestamp);
    }
}

/// A media clock's ticks in `elapsed`, modulo 2^32.
#[inline]
pub fn ticks(elapsed: Duration, clock_hz: u32) -> u32 {
    // In 64 bits: a division in 128 is a call, and this is on the packet path.
    let seconds = elapsed.as_secs().wrapping_mul(u64::from(clock_hz));
    let rest = u64::from(elapsed.subsec_micros()) * u64::from(clock_hz) / 1_000_000;
    seconds.wrapping_add(rest) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(source: &mut Source, now: Instant, seq: u16, timestamp: u32) -> Option<Place> {
        let accept = source.check(seq).ok()?;
        source.commit(accept);
        source.place(now, seq, timestamp)
    }

    #[test]
    fn a_rekeyed_source_goes_on_where_it_stopped() {
        let start = Instant::now();
        let mut source = Source::new(48_000);
        let first = take(&mut source, start, 60_000, 5_000).unwrap();
        assert_eq!(first, Place { seq: 60_000, timestamp: 5_000 });
        source.rekeyed();
        let later = start + Duration::from_secs(1);
        let next = take(&mut source, later, 3, 0).unwrap();
        assert_eq!(next, Place { seq: 60_001, timestamp: 53_000 });
        assert_eq!(take(&mut source, later, 4, 960).unwrap().seq, 60_002);
        assert_eq!(source.original(60_002), Some(4));
        assert_eq!(source.original(60_000), None, "another sequence");
    }

    #[test]
    fn muted_packets_and_inserted_silence_leave_one_sequence() {
        let now = Instant::now();
        let mut source = Source::new(48_000);
        assert_eq!(take(&mut source, now, 10, 0).unwrap().seq, 10);
        for step in 1..=5 {
            assert_eq!(
                source.insert(now, 960),
                Some(Place { seq: 10 + step, timestamp: 960 * u32::from(step) })
            );
        }
        for seq in 11..=40 {
            let accept = source.check(seq).unwrap();
            source.commit(accept);
            source.withhold(seq);
        }
        assert_eq!(take(&mut source, now, 41, 31 * 960).unwrap().seq, 16);
        assert!(take(&mut source, now, 41, 31 * 960).is_none(), "a replay is no packet");
    }

    #[test]
    fn a_replayed_packet_is_refused() {
        let now = Instant::now();
        let mut source = Source::new(48_000);
        take(&mut source, now, 7, 0).unwrap();
        assert_eq!(source.check(7).err(), Some(DropReason::Replayed));
    }
}

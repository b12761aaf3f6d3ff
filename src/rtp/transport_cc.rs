//! What transport-wide feedback says packet by packet
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1): status chunks and arrival deltas,
//! read and written. Times are counts of 250 µs. No state; reading borrows, writing fills the
//! caller's buffer. Called by the shard.
//!
//! ```text
//! | base sequence number | status count | reference time:24, 64 ms | feedback count:8 |
//! | status chunks, 16 bits each | deltas, 8 or 16 bits for each packet that came | padding |
//! ```

use crate::{
    id::Ssrc,
    rtp::{
        feedback::TransportCc,
        rtcp::{TRANSPORT_FEEDBACK, Writer},
    },
};

/// Packets one written feedback reports on at most: 100 ms of video at 25 Mbit/s. More go into a
/// second one.
pub const STATUSES_MAX: usize = 256;

/// Room for the longest feedback written: header, chunks of seven statuses, long deltas, padding.
pub const FEEDBACK_BYTES_MAX: usize = 20 + 2 * STATUSES_MAX.div_ceil(7) + 2 * STATUSES_MAX + 3;

/// Counts of 250 µs in one of the reference time's.
const REFERENCE_TICKS: i64 = 256;

/// Statuses that a run-length chunk can repeat: its count has 13 bits.
const RUN_MAX: usize = 0x1FFF;

/// A packet's status, two bits on the wire.
const NOT_RECEIVED: u8 = 0;
const SMALL_DELTA: u8 = 1;
const LARGE_DELTA: u8 = 2;

impl<'a> TransportCc<'a> {
    /// Every packet reported on, in order: its transport-wide number, and when it arrived by the
    /// reporter's clock. Ends where the report contradicts itself.
    pub fn statuses(self) -> Statuses<'a> {
        let mut covered = 0;
        let mut split = 0;
        while covered < usize::from(self.status_count) {
            let Some(&[high, low]) =
                self.chunks.get(split..).and_then(|rest| rest.first_chunk::<2>())
            else {
                break;
            };
            covered += usize::from(Chunk::read(u16::from_be_bytes([high, low])).left);
            split += 2;
        }
        let (chunks, deltas) = self.chunks.split_at(split);
        Statuses {
            chunks: chunks.as_chunks().0,
            chunk: Chunk::default(),
            deltas,
            seq: self.base_seq,
            left: self.status_count,
            clock: i64::from(self.reference_time) * REFERENCE_TICKS,
        }
    }
}

/// Iterator of [`TransportCc::statuses`].
#[derive(Debug, Clone)]
pub struct Statuses<'a> {
    chunks: &'a [[u8; 2]],
    chunk: Chunk,
    deltas: &'a [u8],
    seq: u16,
    left: u16,
    clock: i64,
}

/// Statuses of one chunk that were not taken yet.
#[derive(Debug, Clone, Copy, Default)]
struct Chunk {
    /// The next in the highest bits; a run's one status repeats.
    symbols: u16,
    /// Bits to shift for the next: none in a run.
    width: u8,
    left: u16,
}

impl Chunk {
    fn read(chunk: u16) -> Self {
        match chunk >> 14 {
            // One bit, then one or two for each packet.
            0b10 => Self { symbols: chunk << 2, width: 1, left: 14 },
            0b11 => Self { symbols: chunk << 2, width: 2, left: 7 },
            _ => Self { symbols: chunk << 1, width: 0, left: chunk & RUN_MAX as u16 },
        }
    }

    fn next(&mut self) -> u8 {
        let bits = if self.width == 1 { 1 } else { 2 };
        let symbol = (self.symbols >> (16 - bits)) as u8;
        self.symbols <<= self.width;
        self.left -= 1;
        symbol
    }
}

impl Iterator for Statuses<'_> {
    type Item = (u16, Option<i64>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        while self.chunk.left == 0 {
            let (chunk, rest) = self.chunks.split_first()?;
            self.chunks = rest;
            self.chunk = Chunk::read(u16::from_be_bytes(*chunk));
        }
        let delta = match self.chunk.next() {
            NOT_RECEIVED => None,
            SMALL_DELTA => {
                let (delta, rest) = self.deltas.split_first()?;
                self.deltas = rest;
                Some(i64::from(*delta))
            }
            LARGE_DELTA => {
                let (delta, rest) = self.deltas.split_first_chunk()?;
                self.deltas = rest;
                Some(i64::from(i16::from_be_bytes(*delta)))
            }
            _ => return None,
        };
        let seq = self.seq;
        self.seq = seq.wrapping_add(1);
        let arrival = delta.map(|delta| {
            self.clock += delta;
            self.clock
        });
        Some((seq, arrival))
    }
}

/// Where a written feedback stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes.
    pub len: usize,
    /// Packets reported on: fewer than were given where [`STATUSES_MAX`], or a pause too long for a
    /// delta, ends the feedback. The rest goes into another.
    pub statuses: u16,
}

/// Writes feedback on the packets from `base_seq` on, given by when each of them arrived, if it
/// did.
/// `None` if none did, or `out` is too short; [`FEEDBACK_BYTES_MAX`] is enough.
pub fn write_transport_cc(
    out: &mut [u8],
    sender: Ssrc,
    media: Ssrc,
    feedback_count: u8,
    base_seq: u16,
    arrivals: impl IntoIterator<Item = Option<i64>>,
) -> Option<Written> {
    let mut symbols = [NOT_RECEIVED; STATUSES_MAX];
    let mut deltas = [0_i16; STATUSES_MAX];
    let mut count = 0;
    let mut start: Option<i64> = None;
    let mut clock = 0;
    for (status, arrival) in arrivals.into_iter().take(STATUSES_MAX).enumerate() {
        if let Some(arrival) = arrival {
            if start.is_none() {
                clock = arrival.div_euclid(REFERENCE_TICKS) * REFERENCE_TICKS;
                start = Some(clock);
            }
            let Ok(delta) = i16::try_from(arrival - clock) else { break };
            deltas[status] = delta;
            symbols[status] = if (0..=255).contains(&delta) { SMALL_DELTA } else { LARGE_DELTA };
            clock = arrival;
        }
        count = status + 1;
    }
    let reference = (start? / REFERENCE_TICKS) as u32 & 0x00FF_FFFF;
    let mut to = Writer::start(out, TRANSPORT_FEEDBACK, TransportCc::FORMAT)?;
    to.word(sender.0)?;
    to.word(media.0)?;
    to.word(u32::from(base_seq) << 16 | count as u32)?;
    to.word(reference << 8 | u32::from(feedback_count))?;
    let mut written = 2 * write_chunks(&mut to, &symbols[..count])?;
    for (symbol, delta) in symbols[..count].iter().zip(deltas) {
        let [high, low] = delta.to_be_bytes();
        match *symbol {
            NOT_RECEIVED => continue,
            SMALL_DELTA => to.bytes(&[low])?,
            _ => to.bytes(&[high, low])?,
        }
        written += usize::from(*symbol);
    }
    to.bytes(&[0; 3][..written.next_multiple_of(4) - written])?;
    Some(Written { len: to.finish(), statuses: count as u16 })
}

/// Writes as few chunks as three simple rules give, and returns how many: a run where one is no
/// shorter than what a vector would hold, else a vector of fourteen or, with long deltas, of seven.
fn write_chunks(to: &mut Writer<'_>, mut symbols: &[u8]) -> Option<usize> {
    let mut chunks = 0;
    while let Some(&first) = symbols.first() {
        let run = symbols.iter().take(RUN_MAX).take_while(|symbol| **symbol == first).count();
        let long = symbols.iter().take(14).any(|symbol| *symbol == LARGE_DELTA);
        let vector = if long { 7 } else { 14 };
        let (taken, chunk) = if run >= vector.min(symbols.len()) {
            (run, u16::from(first) << 13 | run as u16)
        } else {
            let taken = vector.min(symbols.len());
            let width = if long { 2 } else { 1 };
            let bits =
                symbols[..taken].iter().fold(0, |bits, symbol| bits << width | u16::from(*symbol));
            let empty = width * (vector - taken);
            (taken, 0x8000 | u16::from(long) << 14 | bits << empty)
        };
        to.bytes(&chunk.to_be_bytes())?;
        symbols = &symbols[taken..];
        chunks += 1;
    }
    Some(chunks)
}

#[cfg(test)]
#[path = "transport_cc_tests.rs"]
mod tests;

//! The payload of every packet: who sent it into which channel, its number and when it was to
//! leave, so that any hearer can check it by itself. Bytes in, fields out; no clock.
//!
//! ```text
//! 0        1     4     8         12       16        20         28
//! | lead   | stl | run | channel | source | number  | intended | filling …
//! ```
//! `lead` is what the codec begins with; numbers are big-endian. `run` tells packets of an earlier
//! run from those of this one.

/// Bytes that are not filling.
pub const PAYLOAD_BYTES_MIN: u16 = 28;

/// First byte of an Opus packet: one stereo frame of 20 ms, full band (RFC 6716 §3.1).
const OPUS_LEAD: u8 = 0xFC;

/// First byte of an H.264 packet: one slice of a keyframe (RFC 6184 §5.3), so that a server which
/// waits for one does not wait.
const H264_LEAD: u8 = 0x65;

const MAGIC: [u8; 3] = *b"stl";

/// What the filling is made of; not zeroes, lest something on the way compresses it.
const FILLING: u8 = 0xA5;

/// Which of a client's streams a packet belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The microphone.
    Audio,
    /// The camera.
    Video,
}

/// What a packet says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Its kind, which is its first byte.
    pub kind: Kind,
    /// Which run.
    pub run: u32,
    /// The channel's number in the scenario.
    pub channel: u32,
    /// The sender's number among all sources.
    pub source: u32,
    /// The packet's number in its source's schedule.
    pub number: u32,
    /// When it was to leave, nanoseconds of the process's clock.
    pub intended_ns: u64,
}

impl Mark {
    /// Fills a payload.
    ///
    /// # Panics
    /// If it is shorter than [`PAYLOAD_BYTES_MIN`].
    pub fn write(&self, payload: &mut [u8]) {
        payload[0] = match self.kind {
            Kind::Audio => OPUS_LEAD,
            Kind::Video => H264_LEAD,
        };
        payload[1..4].copy_from_slice(&MAGIC);
        let words = [self.run, self.channel, self.source, self.number];
        for (bytes, word) in payload[4..20].chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        payload[20..28].copy_from_slice(&self.intended_ns.to_be_bytes());
        payload[28..].fill(FILLING);
    }

    /// Reads a payload; `None` if it is none of ours.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let (head, _) = payload.split_first_chunk::<{ PAYLOAD_BYTES_MIN as usize }>()?;
        let kind = match head[0] {
            OPUS_LEAD => Kind::Audio,
            H264_LEAD => Kind::Video,
            _ => return None,
        };
        if head[1..4] != MAGIC {
            return None;
        }
        let word =
            |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        Some(Self {
            kind,
            run: word(4),
            channel: word(8),
            source: word(12),
            number: word(16),
            intended_ns: u64::from(word(20)) << 32 | u64::from(word(24)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_tells_what_was_written() {
        for kind in [Kind::Audio, Kind::Video] {
            let mark = Mark {
                kind,
                run: 0xDEAD_BEEF,
                channel: 7,
                source: 1 << 20,
                number: u32::MAX,
                intended_ns: 0x0123_4567_89AB_CDEF,
            };
            let mut payload = [0; 160];
            mark.write(&mut payload);
            assert_eq!(Mark::parse(&payload), Some(mark));
            assert_eq!(Mark::parse(&payload[..28]), Some(mark));
            assert_eq!(Mark::parse(&payload[..27]), None);
            payload[1] ^= 1;
            assert_eq!(Mark::parse(&payload), None);
        }
        assert_eq!(Mark::parse(&[0; 160]), None);
    }
}

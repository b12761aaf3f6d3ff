//! RTCP feedback (RFC 4585, RFC 5104): what a receiver of video asks of its sender, and reports on
//! the path. Reading borrows; writing fills the caller's buffer. Read through `rtcp::reports`.

use crate::{
    id::Ssrc,
    rtp::rtcp::{PAYLOAD_FEEDBACK, TRANSPORT_FEEDBACK, Writer},
};

/// Splits off the two sources every feedback packet starts with: who reports, and on whose media.
fn sources(body: &[u8]) -> Option<(Ssrc, Ssrc, &[u8])> {
    let (sender, rest) = body.split_first_chunk()?;
    let (media, rest) = rest.split_first_chunk()?;
    Some((Ssrc(u32::from_be_bytes(*sender)), Ssrc(u32::from_be_bytes(*media)), rest))
}

/// Generic NACK: packets a receiver is missing (RFC 4585 §6.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nack<'a> {
    /// Who is missing them.
    pub sender: Ssrc,
    /// Whose they are.
    pub media: Ssrc,
    /// `PID:16`, `BLP:16`: a lost packet, and a bit for each of the 16 after it.
    entries: &'a [[u8; 4]],
}

impl<'a> Nack<'a> {
    pub(crate) const FORMAT: u8 = 1;

    pub(crate) fn parse(body: &'a [u8]) -> Option<Self> {
        let (sender, media, entries) = sources(body)?;
        Some(Self { sender, media, entries: entries.as_chunks().0 })
    }

    /// The missing sequence numbers: at most 17 for every 4 bytes of the packet.
    pub fn lost(self) -> impl Iterator<Item = u16> + use<'a> {
        self.entries.iter().flat_map(|&[pid_high, pid_low, blp_high, blp_low]| {
            let first = u16::from_be_bytes([pid_high, pid_low]);
            let after = u16::from_be_bytes([blp_high, blp_low]);
            let bits = u32::from(after) << 1 | 1;
            (0..17).filter(move |bit| bits >> bit & 1 != 0).map(move |bit| first.wrapping_add(bit))
        })
    }
}

/// Writes a NACK for `lost`, which is given in order (a lap counts as in order). Returns its
/// length, or `None` if `out` is too short or nothing is lost.
pub fn write_nack(
    out: &mut [u8],
    sender: Ssrc,
    media: Ssrc,
    lost: impl IntoIterator<Item = u16>,
) -> Option<usize> {
    let mut to = start(out, TRANSPORT_FEEDBACK, Nack::FORMAT, sender, media)?;
    let mut lost = lost.into_iter();
    let mut first = lost.next()?;
    let mut after = 0u16;
    for seq in lost {
        match seq.wrapping_sub(first) {
            0 => {}
            distance @ 1..=16 => after |= 1 << (distance - 1),
            _ => {
                to.word(u32::from(first) << 16 | u32::from(after))?;
                (first, after) = (seq, 0);
            }
        }
    }
    to.word(u32::from(first) << 16 | u32::from(after))?;
    Some(to.finish())
}

/// Picture loss indication: the receiver needs a key frame (RFC 4585 §6.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pli {
    /// Who needs it.
    pub sender: Ssrc,
    /// Whose picture.
    pub media: Ssrc,
}

impl Pli {
    pub(crate) const FORMAT: u8 = 1;

    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let (sender, media, _) = sources(body)?;
        Some(Self { sender, media })
    }
}

/// Writes a PLI. Returns its length, 12, or `None` if `out` is shorter.
pub fn write_pli(out: &mut [u8], sender: Ssrc, media: Ssrc) -> Option<usize> {
    Some(start(out, PAYLOAD_FEEDBACK, Pli::FORMAT, sender, media)?.finish())
}

/// Full intra request: a key frame is wanted of each source listed (RFC 5104 §4.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fir<'a> {
    /// Who wants it.
    pub sender: Ssrc,
    /// `SSRC:32`, `sequence number:8`, 24 reserved bits.
    entries: &'a [[u8; 8]],
}

impl<'a> Fir<'a> {
    pub(crate) const FORMAT: u8 = 4;

    pub(crate) fn parse(body: &'a [u8]) -> Option<Self> {
        let (sender, _, entries) = sources(body)?;
        Some(Self { sender, entries: entries.as_chunks().0 })
    }

    /// Whose key frames, each with the request's sequence number: a repeated one is no new request.
    pub fn requests(self) -> impl ExactSizeIterator<Item = (Ssrc, u8)> + use<'a> {
        self.entries
            .iter()
            .map(|&[a, b, c, d, seq, ..]| (Ssrc(u32::from_be_bytes([a, b, c, d])), seq))
    }
}

/// Transport-wide congestion control feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01
/// §3.1), its packet chunks unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransportCc<'a> {
    /// Who reports.
    pub sender: Ssrc,
    /// On whose media.
    pub media: Ssrc,
    /// First transport-wide sequence number reported on.
    pub base_seq: u16,
    /// How many are reported on.
    pub status_count: u16,
    /// When the first arrived, in units of 64 ms, signed 24 bits.
    pub reference_time: i32,
    /// Counts these reports.
    pub feedback_count: u8,
    /// Status chunks and arrival deltas.
    pub chunks: &'a [u8],
}

impl<'a> TransportCc<'a> {
    pub(crate) const FORMAT: u8 = 15;

    pub(crate) fn parse(body: &'a [u8]) -> Option<Self> {
        let (sender, media, rest) = sources(body)?;
        let (&[base_high, base_low, count_high, count_low, a, b, c, feedback_count], chunks) =
            rest.split_first_chunk()?;
        Some(Self {
            sender,
            media,
            base_seq: u16::from_be_bytes([base_high, base_low]),
            status_count: u16::from_be_bytes([count_high, count_low]),
            reference_time: i32::from_be_bytes([a, b, c, 0]) >> 8,
            feedback_count,
            chunks,
        })
    }
}

/// Receiver estimated maximum bit rate (draft-alvestrand-rmcat-remb-03 §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remb<'a> {
    /// Who estimates.
    pub sender: Ssrc,
    /// For all the sources together, bit/s.
    pub bit_rate: u64,
    ssrcs: &'a [[u8; 4]],
}

impl<'a> Remb<'a> {
    /// "Application layer feedback", of which `REMB` is one.
    pub(crate) const FORMAT: u8 = 15;

    pub(crate) fn parse(body: &'a [u8]) -> Option<Self> {
        let (sender, _, rest) = sources(body)?;
        let (&[b'R', b'E', b'M', b'B', count, scale, high, low], ssrcs) =
            rest.split_first_chunk()?
        else {
            return None;
        };
        let mantissa = u64::from(u32::from_be_bytes([0, scale & 0x03, high, low]));
        // 18 bits shifted by up to 63: saturate rather than lose the top.
        let exponent = u32::from(scale >> 2);
        let bit_rate =
            if mantissa.leading_zeros() >= exponent { mantissa << exponent } else { u64::MAX };
        Some(Self { sender, bit_rate, ssrcs: ssrcs.as_chunks().0.get(..usize::from(count))? })
    }

    /// The sources it is for.
    pub fn ssrcs(self) -> impl ExactSizeIterator<Item = Ssrc> + use<'a> {
        self.ssrcs.iter().map(|ssrc| Ssrc(u32::from_be_bytes(*ssrc)))
    }
}

fn start(
    out: &mut [u8],
    packet_type: u8,
    format: u8,
    sender: Ssrc,
    media: Ssrc,
) -> Option<Writer<'_>> {
    let mut to = Writer::start(out, packet_type, format)?;
    to.word(sender.0)?;
    to.word(media.0)?;
    Some(to)
}

#[cfg(test)]
#[path = "feedback_tests.rs"]
mod tests;

//! Plain RTCP (RFC 3550 §6): reads a compound datagram report by report, writes the reports we
//! send. The feedback reports themselves are `feedback`'s. Reading borrows, allocates nothing and
//! takes a bounded number of steps; writing fills the caller's buffer. Called by the shard with
//! what `crypto` opened.

use crate::{
    id::Ssrc,
    rtp::feedback::{Fir, Nack, Pli, Remb, TransportCc},
};

/// Packet types (RFC 3550 §12.1, RFC 4585 §6.1).
mod packet_type {
    pub(super) const SENDER_REPORT: u8 = 200;
    pub(super) const RECEIVER_REPORT: u8 = 201;
    pub(super) const SDES: u8 = 202;
    pub(super) const BYE: u8 = 203;
}
pub(crate) const TRANSPORT_FEEDBACK: u8 = 205;
pub(crate) const PAYLOAD_FEEDBACK: u8 = 206;

/// SDES item: the canonical name.
pub const CNAME: u8 = 1;

/// Most blocks of one report: its count has five bits.
pub const BLOCKS_MAX: usize = 31;

/// The reports of a compound datagram, in order. Ends at the first that contradicts the datagram's
/// length or version; what came before stands. Each takes at least 4 bytes.
pub fn reports(compound: &[u8]) -> Reports<'_> {
    Reports { rest: compound }
}

/// Iterator of [`reports`].
#[derive(Debug, Clone)]
pub struct Reports<'a> {
    rest: &'a [u8],
}

/// One RTCP packet of a compound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report<'a> {
    /// SR: what a source has sent.
    SenderReport(SenderReport<'a>),
    /// RR: what a receiver has got.
    ReceiverReport(ReceiverReport<'a>),
    /// SDES: who sources are.
    Sdes(Sdes<'a>),
    /// BYE: sources leave.
    Bye(Bye<'a>),
    /// Generic NACK: packets are missing.
    Nack(Nack<'a>),
    /// PLI: a picture is lost.
    Pli(Pli),
    /// FIR: a key frame is wanted.
    Fir(Fir<'a>),
    /// Transport-wide congestion control feedback.
    TransportCc(TransportCc<'a>),
    /// Receiver estimated maximum bit rate.
    Remb(Remb<'a>),
    /// A packet type or feedback format we do not read, or one too short for its type.
    Other {
        /// Its packet type.
        packet_type: u8,
        /// Its count or format, 5 bits.
        count: u8,
    },
}

impl<'a> Iterator for Reports<'a> {
    type Item = Report<'a>;

    fn next(&mut self) -> Option<Report<'a>> {
        // Whatever ends the compound ends it for good.
        let (head, rest) = std::mem::take(&mut self.rest).split_first_chunk::<4>()?;
        let [first, packet_type, length @ ..] = *head;
        let (body, rest) = rest.split_at_checked(4 * usize::from(u16::from_be_bytes(length)))?;
        if first >> 6 != 2 {
            return None;
        }
        let body = if first & 0x20 != 0 { without_padding(body)? } else { body };
        self.rest = rest;
        let count = first & 0x1F;
        Some(parse(packet_type, count, body).unwrap_or(Report::Other { packet_type, count }))
    }
}

/// Cuts off padding: the last byte says how much. In whole words, by RFC 3550 §6.4.1; Chrome fills
/// up the last word of transport-wide feedback with one to three bytes.
fn without_padding(body: &[u8]) -> Option<&[u8]> {
    let padding = usize::from(*body.last()?);
    if padding == 0 {
        return None;
    }
    body.get(..body.len().checked_sub(padding)?)
}

/// Reads what follows the first word.
fn parse(packet_type: u8, count: u8, body: &[u8]) -> Option<Report<'_>> {
    Some(match (packet_type, count) {
        (packet_type::SENDER_REPORT, _) => Report::SenderReport(SenderReport::parse(count, body)?),
        (packet_type::RECEIVER_REPORT, _) => {
            Report::ReceiverReport(ReceiverReport::parse(count, body)?)
        }
        (packet_type::SDES, _) => Report::Sdes(Sdes { chunks: count, body }),
        (packet_type::BYE, _) => Report::Bye(Bye { ssrcs: words(body, count)? }),
        (TRANSPORT_FEEDBACK, Nack::FORMAT) => Report::Nack(Nack::parse(body)?),
        (TRANSPORT_FEEDBACK, TransportCc::FORMAT) => Report::TransportCc(TransportCc::parse(body)?),
        (PAYLOAD_FEEDBACK, Pli::FORMAT) => Report::Pli(Pli::parse(body)?),
        (PAYLOAD_FEEDBACK, Fir::FORMAT) => Report::Fir(Fir::parse(body)?),
        (PAYLOAD_FEEDBACK, Remb::FORMAT) => Report::Remb(Remb::parse(body)?),
        _ => return None,
    })
}

/// The first `count` words of `body`.
fn words(body: &[u8], count: u8) -> Option<&[[u8; 4]]> {
    body.as_chunks().0.get(..usize::from(count))
}

/// What a source has sent (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderReport<'a> {
    /// The source.
    pub ssrc: Ssrc,
    /// Wall clock of the report: NTP seconds and fractions, 32.32 fixed point.
    pub ntp: u64,
    /// The same moment on the source's RTP clock.
    pub rtp_timestamp: u32,
    /// Packets sent since the source began.
    pub packets: u32,
    /// Payload bytes sent since the source began.
    pub octets: u32,
    /// What it receives itself.
    pub blocks: Blocks<'a>,
}

impl<'a> SenderReport<'a> {
    fn parse(count: u8, body: &'a [u8]) -> Option<Self> {
        let (fixed, blocks) = body.split_first_chunk::<24>()?;
        let [ssrc, ntp_seconds, ntp_fraction, rtp_timestamp, packets, octets] = be_words(fixed);
        Some(Self {
            ssrc: Ssrc(ssrc),
            ntp: u64::from(ntp_seconds) << 32 | u64::from(ntp_fraction),
            rtp_timestamp,
            packets,
            octets,
            blocks: Blocks::parse(count, blocks)?,
        })
    }

    /// Writes the report. Returns its length, or `None` if `out` is too short or there are more
    /// than [`BLOCKS_MAX`] blocks.
    pub fn write(&self, out: &mut [u8]) -> Option<usize> {
        let mut to = Writer::start(out, packet_type::SENDER_REPORT, self.blocks.count()?)?;
        to.word(self.ssrc.0)?;
        to.bytes(&self.ntp.to_be_bytes())?;
        to.word(self.rtp_timestamp)?;
        to.word(self.packets)?;
        to.word(self.octets)?;
        to.bytes(self.blocks.0.as_flattened())?;
        Some(to.finish())
    }
}

/// What a receiver has got (RFC 3550 §6.4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiverReport<'a> {
    /// The receiver.
    pub ssrc: Ssrc,
    /// One block for each source it hears.
    pub blocks: Blocks<'a>,
}

impl<'a> ReceiverReport<'a> {
    fn parse(count: u8, body: &'a [u8]) -> Option<Self> {
        let (ssrc, blocks) = body.split_first_chunk()?;
        Some(Self { ssrc: Ssrc(u32::from_be_bytes(*ssrc)), blocks: Blocks::parse(count, blocks)? })
    }

    /// Writes the report. Returns its length, or `None` if `out` is too short or there are more
    /// than [`BLOCKS_MAX`] blocks.
    pub fn write(&self, out: &mut [u8]) -> Option<usize> {
        let mut to = Writer::start(out, packet_type::RECEIVER_REPORT, self.blocks.count()?)?;
        to.word(self.ssrc.0)?;
        to.bytes(self.blocks.0.as_flattened())?;
        Some(to.finish())
    }
}

/// Bytes of one report block.
pub const BLOCK_BYTES: usize = 24;

/// Report blocks as they are on the wire, at most [`BLOCKS_MAX`]: borrowed from a datagram, or made
/// of [`ReportBlock::to_bytes`] to be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Blocks<'a>(pub &'a [[u8; BLOCK_BYTES]]);

impl<'a> Blocks<'a> {
    fn parse(count: u8, body: &'a [u8]) -> Option<Self> {
        body.as_chunks().0.get(..usize::from(count)).map(Self)
    }

    /// The blocks, read.
    pub fn iter(self) -> impl ExactSizeIterator<Item = ReportBlock> + use<'a> {
        self.0.iter().map(ReportBlock::from_bytes)
    }

    fn count(self) -> Option<u8> {
        (self.0.len() <= BLOCKS_MAX).then_some(self.0.len() as u8)
    }
}

/// How one source is received (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportBlock {
    /// The source.
    pub ssrc: Ssrc,
    /// Share of packets lost since the last report, in 256ths.
    pub fraction_lost: u8,
    /// Packets lost since the source began; negative with duplicates. 24 bits on the wire: what
    /// does not fit is written as the nearest that does.
    pub lost: i32,
    /// Highest sequence number received, with the number of its laps above.
    pub highest_seq: u32,
    /// Jitter between arrivals, ticks of the payload's clock.
    pub jitter: u32,
    /// Middle 32 bits of the last sender report's `ntp`; 0 for none.
    pub last_sr: u32,
    /// Time since that report came, in 65,536ths of a second.
    pub delay_since_sr: u32,
}

impl ReportBlock {
    /// Reads a block.
    pub fn from_bytes(bytes: &[u8; BLOCK_BYTES]) -> Self {
        let [ssrc, loss, highest_seq, jitter, last_sr, delay_since_sr] = be_words(bytes);
        Self {
            ssrc: Ssrc(ssrc),
            fraction_lost: (loss >> 24) as u8,
            lost: (loss << 8) as i32 >> 8,
            highest_seq,
            jitter,
            last_sr,
            delay_since_sr,
        }
    }

    /// Writes the block.
    pub fn to_bytes(&self) -> [u8; BLOCK_BYTES] {
        let lost = self.lost.clamp(-0x80_0000, 0x7F_FFFF) as u32 & 0xFF_FFFF;
        let loss = u32::from(self.fraction_lost) << 24 | lost;
        let mut bytes = [0; BLOCK_BYTES];
        let words =
            [self.ssrc.0, loss, self.highest_seq, self.jitter, self.last_sr, self.delay_since_sr];
        for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *to = word.to_be_bytes();
        }
        bytes
    }
}

/// Reads the words of a field block.
fn be_words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let (words, _) = bytes.as_chunks();
    std::array::from_fn(|index| u32::from_be_bytes(words[index]))
}

/// Who sources are (RFC 3550 §6.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sdes<'a> {
    chunks: u8,
    body: &'a [u8],
}

impl<'a> Sdes<'a> {
    /// Every item as `(source, item type, text)`, for as long as they fit the packet.
    pub fn items(self) -> impl Iterator<Item = (Ssrc, u8, &'a [u8])> {
        let mut chunks = self.chunks;
        let mut at = 0;
        let mut source = None;
        std::iter::from_fn(move || {
            loop {
                let Some(ssrc) = source else {
                    chunks = chunks.checked_sub(1)?;
                    let ssrc = self.body.get(at..)?.first_chunk()?;
                    source = Some(Ssrc(u32::from_be_bytes(*ssrc)));
                    at += 4;
                    continue;
                };
                match *self.body.get(at..)? {
                    // A chunk ends with at least one zero byte, at a word's end.
                    [0, ..] => {
                        at = (at + 1).next_multiple_of(4);
                        source = None;
                    }
                    [item, len, ref rest @ ..] => {
                        at += 2 + usize::from(len);
                        return Some((ssrc, item, rest.get(..usize::from(len))?));
                    }
                    _ => return None,
                }
            }
        })
    }
}

/// Writes an SDES packet with one source's canonical name. Returns its length, or `None` if `out`
/// is too short or the name longer than 255 bytes.
pub fn write_cname(out: &mut [u8], ssrc: Ssrc, cname: &str) -> Option<usize> {
    let mut to = Writer::start(out, packet_type::SDES, 1)?;
    to.word(ssrc.0)?;
    to.bytes(&[CNAME, u8::try_from(cname.len()).ok()?])?;
    to.bytes(cname.as_bytes())?;
    // One to four zero bytes end the chunk at a word's end.
    let zeros = 4 - (2 + cname.len()) % 4;
    to.bytes(&[0; 4][..zeros])?;
    Some(to.finish())
}

/// Sources that leave (RFC 3550 §6.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bye<'a> {
    ssrcs: &'a [[u8; 4]],
}

impl<'a> Bye<'a> {
    /// Who leaves.
    pub fn ssrcs(self) -> impl ExactSizeIterator<Item = Ssrc> + use<'a> {
        self.ssrcs.iter().map(|ssrc| Ssrc(u32::from_be_bytes(*ssrc)))
    }
}

/// Fills the caller's buffer with one RTCP packet; the length is filled in last.
pub(crate) struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    /// Begins a packet with this type and count, or format.
    pub(crate) fn start(out: &'a mut [u8], packet_type: u8, count: u8) -> Option<Self> {
        let mut writer = Self { out, len: 0 };
        writer.bytes(&[0x80 | count & 0x1F, packet_type, 0, 0])?;
        Some(writer)
    }

    pub(crate) fn word(&mut self, word: u32) -> Option<()> {
        self.bytes(&word.to_be_bytes())
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.len + bytes.len();
        self.out.get_mut(self.len..end)?.copy_from_slice(bytes);
        self.len = end;
        Some(())
    }

    /// Fills in the length and returns it in bytes. What was written is whole words.
    pub(crate) fn finish(self) -> usize {
        debug_assert!(self.len.is_multiple_of(4));
        let words = (self.len / 4 - 1) as u16;
        self.out[2..4].copy_from_slice(&words.to_be_bytes());
        self.len
    }
}

#[cfg(test)]
#[path = "rtcp_tests.rs"]
mod tests;

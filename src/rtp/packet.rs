//! One RTP packet (RFC 3550 §5.1): a view that is checked once, so that its accessors cannot fail,
//! a writer for the headers we send, and setters that rewrite a header in place. Header accessors
//! work on sealed packets as well; `extension` and `payload` read what encryption hides.

use crate::id::Ssrc;

/// Bytes of the fixed header.
pub const HEADER_BYTES: usize = 12;

/// Bytes of an extension's `profile, length` preamble.
pub const PREAMBLE_BYTES: usize = 4;

/// Profile of one-byte header extension elements (RFC 8285 §4.2).
pub const ONE_BYTE_PROFILE: u16 = 0xBEDE;

/// A view of an RTP packet.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// |V=2|P|X|  CC   |M|     PT      |        sequence number        |
/// |                           timestamp                           |
/// |                             SSRC                              |
/// |                     CSRC × CC, each 32 bits                   |
/// |        profile (if X)         |        length in words        |
/// |           extension elements, payload, padding (if P)         |
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// Holds the fixed header, the CSRCs and the preamble: [`Packet::new`] has checked.
    bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Views a datagram as RTP. `None` unless it is version 2 and long enough for its fixed header,
    /// its CSRCs and, with X, the extension's preamble.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let first = *bytes.first()?;
        (first >> 6 == 2 && bytes.len() >= header_bytes(first)).then_some(Self { bytes })
    }

    /// The packet whole.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The marker bit: on video, the last packet of a frame.
    #[inline]
    pub fn marker(&self) -> bool {
        self.bytes[1] & 0x80 != 0
    }

    /// The payload type, 7 bits.
    #[inline]
    pub fn payload_type(&self) -> u8 {
        self.bytes[1] & 0x7F
    }

    /// The sequence number.
    #[inline]
    pub fn seq(&self) -> u16 {
        u16::from_be_bytes([self.bytes[2], self.bytes[3]])
    }

    /// The timestamp, in ticks of the payload's clock: 48 kHz for Opus, 90 kHz for video.
    #[inline]
    pub fn timestamp(&self) -> u32 {
        word(self.bytes, 4)
    }

    /// The synchronisation source.
    #[inline]
    pub fn ssrc(&self) -> Ssrc {
        Ssrc(word(self.bytes, 8))
    }

    /// How many contributing sources are listed, 0 to 15.
    #[inline]
    pub fn csrc_count(&self) -> usize {
        usize::from(self.bytes[0] & 0x0F)
    }

    /// Whether there is a header extension (X).
    #[inline]
    pub fn has_extension(&self) -> bool {
        self.bytes[0] & 0x10 != 0
    }

    /// Whether padding follows the payload (P).
    #[inline]
    pub fn has_padding(&self) -> bool {
        self.bytes[0] & 0x20 != 0
    }

    /// The header extension of a plain packet: its profile and its elements. `None` without one, or
    /// if it is longer than the packet.
    #[inline]
    pub fn extension(&self) -> Option<(u16, &'a [u8])> {
        if !self.has_extension() {
            return None;
        }
        let start = header_bytes(self.bytes[0]);
        let profile = u16::from_be_bytes([self.bytes[start - 4], self.bytes[start - 3]]);
        let elements = self.bytes.get(start..start + self.extension_bytes())?;
        Some((profile, elements))
    }

    /// The payload of a plain packet, without CSRCs, extension and padding; it may be empty. `None`
    /// if the lengths of extension and padding contradict the packet's.
    #[inline]
    pub fn payload(&self) -> Option<&'a [u8]> {
        let start = header_bytes(self.bytes[0]) + self.extension_bytes();
        let rest = self.bytes.get(start..)?;
        if !self.has_padding() {
            return Some(rest);
        }
        let padding = usize::from(*rest.last()?);
        if padding == 0 {
            return None;
        }
        Some(&rest[..rest.len().checked_sub(padding)?])
    }

    /// Length of the extension's elements as the preamble states it, bytes; 0 without one.
    #[inline]
    fn extension_bytes(&self) -> usize {
        if !self.has_extension() {
            return 0;
        }
        let start = header_bytes(self.bytes[0]);
        4 * usize::from(u16::from_be_bytes([self.bytes[start - 2], self.bytes[start - 1]]))
    }
}

/// Length of the fixed header, the CSRCs and the extension's preamble, told from the first byte:
/// 12 to 76. It is also what the `*_rtpsize` modes leave clear (protocol.md §2.4).
#[inline]
pub(crate) fn header_bytes(first: u8) -> usize {
    let csrcs = 4 * usize::from(first & 0x0F);
    let preamble = if first & 0x10 != 0 { PREAMBLE_BYTES } else { 0 };
    HEADER_BYTES + csrcs + preamble
}

#[inline]
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The header of a packet we send: no CSRC, no padding (protocol.md §2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The marker bit.
    pub marker: bool,
    /// The payload type, 7 bits.
    pub payload_type: u8,
    /// The sequence number.
    pub seq: u16,
    /// The timestamp.
    pub timestamp: u32,
    /// The synchronisation source.
    pub ssrc: Ssrc,
    /// Length of the one-byte extension elements that follow, in words of 4 bytes; `None` for a
    /// packet without extension.
    pub extension_words: Option<u16>,
}

impl Header {
    /// Most bytes a header takes.
    pub const BYTES_MAX: usize = HEADER_BYTES + PREAMBLE_BYTES;

    /// Writes the header and, with an extension, its preamble. Returns the length: 12 or 16.
    ///
    /// # Panics
    /// If `out` is shorter than that.
    #[inline]
    pub fn write(&self, out: &mut [u8]) -> usize {
        let extended = u8::from(self.extension_words.is_some());
        let marker = u8::from(self.marker);
        let mut fixed = [0; HEADER_BYTES];
        fixed[0] = 0x80 | extended << 4;
        fixed[1] = marker << 7 | self.payload_type & 0x7F;
        fixed[2..4].copy_from_slice(&self.seq.to_be_bytes());
        fixed[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        fixed[8..12].copy_from_slice(&self.ssrc.0.to_be_bytes());
        out[..HEADER_BYTES].copy_from_slice(&fixed);
        let Some(words) = self.extension_words else { return HEADER_BYTES };
        let preamble = u32::from(ONE_BYTE_PROFILE) << 16 | u32::from(words);
        out[HEADER_BYTES..Self::BYTES_MAX].copy_from_slice(&preamble.to_be_bytes());
        Self::BYTES_MAX
    }
}

/// Changes the payload type of the packet at the start of `packet`, which is at least
/// [`HEADER_BYTES`] long; the marker stays.
#[inline]
pub fn set_payload_type(packet: &mut [u8], payload_type: u8) {
    packet[1] = packet[1] & 0x80 | payload_type & 0x7F;
}

/// Rewrites the sequence number of a packet.
///
/// # Panics
/// If `packet` is shorter than a fixed header, as are the other setters.
#[inline]
pub fn set_seq(packet: &mut [u8], seq: u16) {
    packet[2..4].copy_from_slice(&seq.to_be_bytes());
}

/// Rewrites the timestamp of a packet.
///
/// # Panics
/// If `packet` is shorter than a fixed header.
#[inline]
pub fn set_timestamp(packet: &mut [u8], timestamp: u32) {
    packet[4..8].copy_from_slice(&timestamp.to_be_bytes());
}

/// Rewrites the synchronisation source of a packet.
///
/// # Panics
/// If `packet` is shorter than a fixed header.
#[inline]
pub fn set_ssrc(packet: &mut [u8], ssrc: Ssrc) {
    packet[8..12].copy_from_slice(&ssrc.0.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rtp::vectors::{hex, load, unhex};

    fn vector(name: &str) -> Vec<u8> {
        let vectors = load("rtp_transport.json");
        let vectors = vectors["vectors"].as_array().unwrap();
        hex(&vectors.iter().find(|vector| vector["name"] == name).unwrap()["plain_packet"])
    }

    #[test]
    fn a_bare_packet_is_read_field_by_field() {
        let bytes = vector("audio_plain_header");
        let packet = Packet::new(&bytes).unwrap();
        assert_eq!((packet.marker(), packet.payload_type()), (false, 120));
        assert_eq!((packet.seq(), packet.timestamp()), (1, 960));
        assert_eq!(packet.ssrc(), Ssrc(123_456));
        assert_eq!((packet.csrc_count(), packet.has_extension()), (0, false));
        assert!(!packet.has_padding());
        assert_eq!(packet.extension(), None);
        assert_eq!(packet.payload(), Some(&[0xF8, 0xFF, 0xFE][..]));
        assert_eq!(packet.bytes(), bytes);
    }

    #[test]
    fn csrcs_and_extension_are_no_payload() {
        let bytes = vector("audio_two_csrc_and_extension");
        let packet = Packet::new(&bytes).unwrap();
        assert_eq!((packet.csrc_count(), packet.has_extension()), (2, true));
        assert_eq!(packet.extension(), Some((0xBEDE, &unhex("3264e66210e39002")[..])));
        assert_eq!(packet.payload().unwrap(), &bytes[32..]);
    }

    #[test]
    fn padding_is_no_payload() {
        let bytes = vector("audio_padding_8");
        let packet = Packet::new(&bytes).unwrap();
        assert!(packet.has_padding());
        assert_eq!(packet.payload(), Some(&[0xF8, 0xFF, 0xFE][..]));
    }

    #[test]
    fn the_marker_of_a_video_frame_is_seen() {
        let bytes = vector("video_h264_marker_ext16");
        let packet = Packet::new(&bytes).unwrap();
        assert_eq!((packet.marker(), packet.payload_type()), (true, 103));
        assert_eq!(packet.extension().unwrap().1.len(), 16);
    }

    #[test]
    fn a_header_longer_than_its_datagram_is_refused() {
        let mut bytes = vector("audio_two_csrc_and_extension");
        bytes.truncate(24);
        assert!(Packet::new(&bytes).is_some());
        bytes.truncate(23);
        assert!(Packet::new(&bytes).is_none());
        assert!(Packet::new(&unhex("40780001000003c00001e240")).is_none(), "version 1");
        assert!(Packet::new(&unhex("c0780001000003c00001e240")).is_none(), "version 3");
        assert!(Packet::new(&[]).is_none());
    }

    #[test]
    fn lengths_that_contradict_the_packet_leave_no_payload() {
        let cut = unhex("90780001000003c00001e240bede0002aabbccdd");
        let cut = Packet::new(&cut).unwrap();
        assert_eq!((cut.extension(), cut.payload()), (None, None));
        for wrong in ["00", "0002f0", "f8fffe05", ""] {
            let bytes = unhex(&format!("a0780001000003c00001e240{wrong}"));
            assert_eq!(Packet::new(&bytes).unwrap().payload(), None, "{wrong}");
        }
        let all_padding = unhex("a0780001000003c00001e240000003");
        assert_eq!(Packet::new(&all_padding).unwrap().payload(), Some(&[][..]));
    }

    #[test]
    fn setters_change_their_field_alone() {
        let mut bytes = vector("audio_with_extension");
        let before = bytes.clone();
        set_seq(&mut bytes, 0x1234);
        set_timestamp(&mut bytes, 0x5678_9ABC);
        set_ssrc(&mut bytes, Ssrc(0xDEF0_1234));
        let packet = Packet::new(&bytes).unwrap();
        assert_eq!((packet.seq(), packet.timestamp()), (0x1234, 0x5678_9ABC));
        assert_eq!(packet.ssrc(), Ssrc(0xDEF0_1234));
        assert_eq!((&bytes[..2], &bytes[12..]), (&before[..2], &before[12..]));
    }

    #[test]
    fn datagrams_of_every_length_are_viewed_or_refused() {
        for len in 0..=1_500 {
            for (start, rest) in [(0x80, 0), (0xBF, 0xFF), (0xB0, 0x01), (0x00, 0), (0xFF, 0xFF)] {
                let mut bytes = vec![rest; len];
                bytes.iter_mut().take(1).for_each(|first| *first = start);
                let needed = if start >> 6 == 2 { header_bytes(start) } else { usize::MAX };
                let packet = Packet::new(&bytes);
                assert_eq!(packet.is_some(), len >= needed, "{start:x} {len}");
                if let Some(packet) = packet {
                    assert!(packet.payload().is_none_or(|payload| payload.len() < len));
                    assert!(packet.extension().is_none_or(|(_, block)| block.len() < len));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            marker: bool, payload_type in 0u8..128, seq: u16, timestamp: u32, ssrc: u32,
            words in proptest::option::of(0u16..8),
            payload in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let ssrc = Ssrc(ssrc);
            let extension_words = words;
            let header = Header { marker, payload_type, seq, timestamp, ssrc, extension_words };
            let mut bytes = vec![0xEE; Header::BYTES_MAX];
            let len = header.write(&mut bytes);
            bytes.truncate(len);
            bytes.extend(std::iter::repeat_n(7, 4 * usize::from(words.unwrap_or(0))));
            bytes.extend(&payload);
            let packet = Packet::new(&bytes).unwrap();
            prop_assert_eq!(packet.marker(), marker);
            prop_assert_eq!(packet.payload_type(), payload_type);
            prop_assert_eq!((packet.seq(), packet.timestamp()), (seq, timestamp));
            prop_assert_eq!(packet.ssrc(), ssrc);
            prop_assert_eq!(packet.csrc_count(), 0);
            prop_assert_eq!(packet.extension().map(|(profile, elements)| (profile, elements.len())),
                words.map(|words| (ONE_BYTE_PROFILE, 4 * usize::from(words))));
            prop_assert_eq!(packet.payload(), Some(&payload[..]));
        }

        #[test]
        fn no_bytes_make_a_view_panic(mut bytes in proptest::collection::vec(any::<u8>(), 1..120)) {
            bytes[0] = bytes[0] & 0x3F | 0x80;
            if let Some(packet) = Packet::new(&bytes) {
                let _ = (packet.marker(), packet.seq(), packet.timestamp(), packet.ssrc());
                if let Some(payload) = packet.payload() {
                    let extension = packet.extension().map_or(0, |(_, elements)| elements.len());
                    prop_assert!(HEADER_BYTES + extension + payload.len() <= bytes.len());
                }
            }
        }
    }
}

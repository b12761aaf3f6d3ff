//! RTP header extension elements (RFC 8285): reading both forms, writing the one-byte form, and the
//! elements that native UDP clients fix by number (protocol.md §2.3). What an element means to a
//! hearer is the forwarder's business.

use std::time::Duration;

use crate::rtp::packet::{HEADER_BYTES, ONE_BYTE_PROFILE, PREAMBLE_BYTES};

/// Element ids of native UDP clients: fixed, not negotiated (protocol.md §2.3).
pub mod id {
    /// `ssrc-audio-level`: V bit and 7 bits of −dBov (RFC 6464). Audio.
    pub const AUDIO_LEVEL: u8 = 1;
    /// `toffset`. Video.
    pub const TRANSMISSION_OFFSET: u8 = 2;
    /// `abs-send-time`: seconds, 6.18 fixed point. Audio and video.
    pub const ABS_SEND_TIME: u8 = 3;
    /// `3gpp:video-orientation`. Video.
    pub const VIDEO_ORIENTATION: u8 = 4;
    /// `transport-wide-cc-01`: a 16-bit sequence number. Video.
    pub const TRANSPORT_CC: u8 = 5;
    /// `playout-delay`: two times 12 bits. Discord expects it on video.
    pub const PLAYOUT_DELAY: u8 = 6;
    /// `video-content-type`: 1 is a screen. Video.
    pub const VIDEO_CONTENT_TYPE: u8 = 7;
    /// `video-timing`. Video.
    pub const VIDEO_TIMING: u8 = 8;
    /// Discord's `speaker`, see [`super::speaker_byte`]. Audio.
    pub const SPEAKER: u8 = 9;
    /// `sdes:mid`. Audio and video.
    pub const MID: u8 = 10;
    /// `sdes:rtp-stream-id`. Audio and video.
    pub const RID: u8 = 11;
    /// `sdes:repaired-rtp-stream-id`. Retransmissions.
    pub const REPAIRED_RID: u8 = 12;
}

/// The elements of an extension block of either form, as `(id, bytes)`, in order. An unknown
/// profile yields none; an element that overruns the block ends it.
#[inline]
pub fn elements(profile: u16, block: &[u8]) -> Elements<'_> {
    let form = match profile {
        ONE_BYTE_PROFILE => Form::OneByte,
        0x1000..=0x100F => Form::TwoByte,
        _ => return Elements { form: Form::OneByte, rest: &[] },
    };
    Elements { form, rest: block }
}

/// Iterator of [`elements`].
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    form: Form,
    rest: &'a [u8],
}

#[derive(Debug, Clone, Copy)]
enum Form {
    /// `id:4 | length − 1:4`, then the bytes (RFC 8285 §4.2).
    OneByte,
    /// `id:8`, `length:8`, then the bytes (RFC 8285 §4.3).
    TwoByte,
}

impl<'a> Iterator for Elements<'a> {
    type Item = (u8, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        // Padding: a zero byte between elements.
        while let [0, rest @ ..] = self.rest {
            self.rest = rest;
        }
        let (id, len, rest) = match (self.form, std::mem::take(&mut self.rest)) {
            (Form::OneByte, [head, rest @ ..]) => (head >> 4, usize::from(head & 0x0F) + 1, rest),
            (Form::TwoByte, [id, len, rest @ ..]) => (*id, usize::from(*len), rest),
            _ => return None,
        };
        // In the one-byte form id 15 ends the block, and so does id 0 with a length.
        if matches!((self.form, id), (Form::OneByte, 0 | 15)) {
            return None;
        }
        let (bytes, rest) = rest.split_at_checked(len)?;
        self.rest = rest;
        Some((id, bytes))
    }
}

/// Writes one-byte elements one after the other into the caller's buffer.
#[derive(Debug)]
pub struct ElementWriter<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl<'a> ElementWriter<'a> {
    /// Starts an empty block at the start of `out`.
    pub fn new(out: &'a mut [u8]) -> Self {
        Self { out, len: 0 }
    }

    /// Appends an element. `None`, and nothing is written, if the one-byte form cannot say it (id
    /// not 1 to 14, or length not 1 to 16) or the buffer has no room for it and its padding.
    pub fn push(&mut self, id: u8, bytes: &[u8]) -> Option<()> {
        if !(1..=14).contains(&id) || !(1..=16).contains(&bytes.len()) {
            return None;
        }
        let end = self.len + 1 + bytes.len();
        if end.next_multiple_of(4) > self.out.len() {
            return None;
        }
        self.out[self.len] = id << 4 | (bytes.len() - 1) as u8;
        self.out[self.len + 1..end].copy_from_slice(bytes);
        self.len = end;
        Some(())
    }

    /// Pads the block to whole words and returns their number, for [`crate::rtp::Header`].
    pub fn finish(self) -> u16 {
        let end = self.len.next_multiple_of(4);
        self.out[self.len..end].fill(0);
        (end / 4) as u16
    }
}

/// Words of [`audio_extension`].
pub const AUDIO_EXTENSION_WORDS: u16 = 2;

/// The elements on every audio packet to a UDP hearer, always exactly these 8 bytes because one
/// client cuts them off unread (protocol.md §2.3): `32 aa bb cc 10 ll 90 ss`.
#[inline]
pub fn audio_extension(abs_send_time: [u8; 3], level: u8, speaker: u8) -> [u8; 8] {
    let [a, b, c] = abs_send_time;
    [id::ABS_SEND_TIME << 4 | 2, a, b, c, id::AUDIO_LEVEL << 4, level, id::SPEAKER << 4, speaker]
}

/// The elements that every video packet to a UDP hearer begins with, since both are the hop's own:
/// a place for [`set_transport_seq`], then the send time.
#[inline]
pub fn push_hop_elements(writer: &mut ElementWriter<'_>, abs_send_time: [u8; 3]) -> Option<()> {
    writer.push(id::TRANSPORT_CC, &[0, 0])?;
    writer.push(id::ABS_SEND_TIME, &abs_send_time)
}

/// Where they begin: behind a header without CSRCs.
const ELEMENTS_AT: usize = HEADER_BYTES + PREAMBLE_BYTES;

/// Gives a packet that begins with [`push_hop_elements`] its number among all packets to its
/// hearer.
///
/// # Panics
/// If it is shorter than they are, as does the other setter.
#[inline]
pub fn set_transport_seq(packet: &mut [u8], seq: u16) {
    packet[ELEMENTS_AT + 1..ELEMENTS_AT + 3].copy_from_slice(&seq.to_be_bytes());
}

/// Gives a packet that begins with [`push_hop_elements`] another send time.
///
/// # Panics
/// If it is shorter than they are.
#[inline]
pub fn set_abs_send_time(packet: &mut [u8], abs_send_time: [u8; 3]) {
    packet[ELEMENTS_AT + 4..ELEMENTS_AT + 7].copy_from_slice(&abs_send_time);
}

/// The speaker element for the gateway's speaking flags (op 5): bit 0 priority, bit 1 voice, bit 2
/// sound share, where the gateway has voice, sound share, priority.
#[inline]
pub fn speaker_byte(flags: u8) -> u8 {
    (flags & 3) << 1 | (flags & 4) >> 2
}

/// `abs-send-time` for a moment `since` an arbitrary but fixed one: the low 24 bits of the seconds
/// in 18-bit fractions, which wrap every 64 seconds.
#[inline]
pub fn abs_send_time(since: Duration) -> [u8; 3] {
    let fraction = (u64::from(since.subsec_nanos()) << 18) / 1_000_000_000;
    let ticks = (since.as_secs() & 0x3F) << 18 | fraction;
    let [.., a, b, c] = ticks.to_be_bytes();
    [a, b, c]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rtp::vectors::{hex, load, unhex};

    fn read(profile: u16, block: &str) -> Vec<(u8, Vec<u8>)> {
        elements(profile, &unhex(block)).map(|(id, bytes)| (id, bytes.to_vec())).collect()
    }

    #[test]
    fn the_captured_audio_extension_is_read_and_written_alike() {
        let capture = load("captures.json");
        let block = &hex(&capture["vectors"][0]["plaintext"])[..8];
        assert_eq!(
            elements(ONE_BYTE_PROFILE, block).collect::<Vec<_>>(),
            [
                (id::ABS_SEND_TIME, &[0x64, 0xE6, 0x62][..]),
                (id::AUDIO_LEVEL, &[0xE3]),
                (id::SPEAKER, &[0x02]),
            ]
        );
        assert_eq!(audio_extension([0x64, 0xE6, 0x62], 0xE3, 0x02), block);
        assert_eq!(block.len(), 4 * usize::from(AUDIO_EXTENSION_WORDS));
    }

    #[test]
    fn every_speaker_vector_is_reproduced() {
        for vector in load("speaking_extension.json")["vectors"].as_array().unwrap() {
            let byte = speaker_byte(vector["speaking_flags"].as_u64().unwrap() as u8);
            assert_eq!(u64::from(byte), vector["ext_byte"].as_u64().unwrap());
            let block = audio_extension([0; 3], 0, byte);
            assert_eq!(block[6..], hex(&vector["one_byte_element_id9"]));
        }
    }

    #[test]
    fn padding_between_one_byte_elements_is_skipped() {
        assert_eq!(read(0xBEDE, "10aa000031bbcc00"), [(1, vec![0xAA]), (3, vec![0xBB, 0xCC])]);
    }

    #[test]
    fn reserved_one_byte_ids_end_the_block() {
        assert_eq!(read(0xBEDE, "10aaf0bb10cc0000"), [(1, vec![0xAA])]);
        assert_eq!(read(0xBEDE, "10aa01bbbb10cc00"), [(1, vec![0xAA])]);
    }

    #[test]
    fn two_byte_elements_may_be_empty_and_long() {
        for profile in [0x1000, 0x100F] {
            let expected = [(1, vec![]), (15, vec![0x00, 0xAA, 0xBB])];
            assert_eq!(read(profile, "010000000f0300aabb00"), expected);
        }
        assert_eq!(read(0x1010, "010000000f0300aabb00"), []);
    }

    #[test]
    fn an_element_that_overruns_the_block_ends_it() {
        assert_eq!(read(0xBEDE, "10aa32bbcc"), [(1, vec![0xAA])]);
        assert_eq!(read(0x1000, "0101aa0203bbcc"), [(1, vec![0xAA])]);
        assert_eq!(read(0x1000, "0101aa02"), [(1, vec![0xAA])]);
    }

    #[test]
    fn what_the_one_byte_form_cannot_say_is_not_written() {
        let mut out = [0xEE; 24];
        let mut writer = ElementWriter::new(&mut out);
        assert_eq!(writer.push(0, &[1]), None);
        assert_eq!(writer.push(15, &[1]), None);
        assert_eq!(writer.push(1, &[]), None);
        assert_eq!(writer.push(1, &[0; 17]), None);
        assert_eq!(writer.push(1, &[0; 16]), Some(()));
        assert_eq!(writer.push(2, &[0; 7]), None, "no room");
        assert_eq!(writer.push(2, &[0; 6]), Some(()));
        assert_eq!(writer.finish(), 6);
        assert_eq!(ElementWriter::new(&mut []).finish(), 0);
    }

    #[test]
    fn a_hops_own_elements_are_found_where_they_were_put() {
        let header = crate::rtp::Header {
            marker: false,
            payload_type: 103,
            seq: 0,
            timestamp: 0,
            ssrc: crate::id::Ssrc(1),
            extension_words: Some(3),
        };
        let mut packet = [0xEE; 28];
        let at = header.write(&mut packet);
        let mut writer = ElementWriter::new(&mut packet[at..]);
        push_hop_elements(&mut writer, [1, 2, 3]).unwrap();
        writer.push(id::PLAYOUT_DELAY, &[7; 3]).unwrap();
        assert_eq!(writer.finish(), 3);
        set_transport_seq(&mut packet, 0xABCD);
        set_abs_send_time(&mut packet, [4, 5, 6]);
        let (profile, block) = crate::rtp::Packet::new(&packet).unwrap().extension().unwrap();
        let all: Vec<_> = elements(profile, block).collect();
        let expected: [(u8, &[u8]); 3] = [
            (id::TRANSPORT_CC, &[0xAB, 0xCD]),
            (id::ABS_SEND_TIME, &[4, 5, 6]),
            (id::PLAYOUT_DELAY, &[7; 3]),
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn abs_send_time_is_six_eighteen_fixed_point() {
        assert_eq!(abs_send_time(Duration::ZERO), [0, 0, 0]);
        assert_eq!(abs_send_time(Duration::from_millis(500)), [0x02, 0, 0]);
        assert_eq!(abs_send_time(Duration::from_secs(1)), [0x04, 0, 0]);
        assert_eq!(abs_send_time(Duration::from_secs(63)), [0xFC, 0, 0]);
        assert_eq!(abs_send_time(Duration::from_secs(64)), [0, 0, 0]);
        assert_eq!(abs_send_time(Duration::new(63, 999_999_999)), [0xFF; 3]);
        assert_eq!(abs_send_time(Duration::new(u64::MAX, 999_999_999)), [0xFF; 3]);
    }

    proptest! {
        #[test]
        fn written_elements_are_read_back(
            wanted in proptest::collection::vec(
                (1u8..15, proptest::collection::vec(any::<u8>(), 1..17)), 0..8),
        ) {
            let mut out = [0xEE; 160];
            let mut writer = ElementWriter::new(&mut out);
            for (id, bytes) in &wanted {
                prop_assert_eq!(writer.push(*id, bytes), Some(()));
            }
            let len = 4 * usize::from(writer.finish());
            let read: Vec<_> =
                elements(ONE_BYTE_PROFILE, &out[..len])
                    .map(|(id, bytes)| (id, bytes.to_vec()))
                    .collect();
            prop_assert_eq!(read, wanted);
        }

        #[test]
        fn any_block_ends(profile: u16, block in proptest::collection::vec(any::<u8>(), 0..64)) {
            for profile in [profile, ONE_BYTE_PROFILE, 0x1000] {
                let bytes: usize =
                    elements(profile, &block).map(|(_, bytes)| 1 + bytes.len()).sum();
                prop_assert!(bytes <= block.len());
            }
        }
    }
}

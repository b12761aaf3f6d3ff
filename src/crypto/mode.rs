//! The encryption modes of protocol.md §2.4: their names, what each leaves clear and what it adds.

use crate::rtp::{
    demux::is_rtcp_type,
    packet::{HEADER_BYTES, header_bytes},
};

/// Bytes of every mode's authentication tag.
pub(super) const TAG_BYTES: usize = 16;

/// Bytes of the nonce that travels at the end of a packet in most modes.
pub(super) const SUFFIX_BYTES: usize = 4;

/// Bytes of `xsalsa20_poly1305_suffix`'s nonce.
pub(super) const LONG_SUFFIX_BYTES: usize = 24;

/// Bytes of an RTCP datagram that every mode leaves clear: its first header and sender SSRC.
const RTCP_CLEAR_BYTES: usize = 8;

/// How a session's media is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// `aead_aes256_gcm_rtpsize`: the fastest.
    Aes256GcmRtpsize,
    /// `aead_xchacha20_poly1305_rtpsize`: the one every client has.
    XChaCha20Poly1305Rtpsize,
    /// `aead_aes256_gcm`, removed by Discord, as are all below.
    Aes256Gcm,
    /// `xsalsa20_poly1305_lite_rtpsize`.
    XSalsa20Poly1305LiteRtpsize,
    /// `xsalsa20_poly1305_lite`.
    XSalsa20Poly1305Lite,
    /// `xsalsa20_poly1305_suffix`.
    XSalsa20Poly1305Suffix,
    /// `xsalsa20_poly1305`: the header is the nonce, so RTCP repeats its nonce. Museum clients
    /// only.
    XSalsa20Poly1305,
}

impl Mode {
    /// Every mode, best first.
    pub const ALL: [Mode; 7] = [
        Mode::Aes256GcmRtpsize,
        Mode::XChaCha20Poly1305Rtpsize,
        Mode::Aes256Gcm,
        Mode::XSalsa20Poly1305LiteRtpsize,
        Mode::XSalsa20Poly1305Lite,
        Mode::XSalsa20Poly1305Suffix,
        Mode::XSalsa20Poly1305,
    ];

    /// What is offered unless the operator says otherwise, in the order to offer it: clients that
    /// choose by our order choose the faster.
    pub const DEFAULT: [Mode; 2] = [Mode::Aes256GcmRtpsize, Mode::XChaCha20Poly1305Rtpsize];

    /// The mode's name in Ready, Select Protocol and Session Description.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Aes256GcmRtpsize => "aead_aes256_gcm_rtpsize",
            Mode::XChaCha20Poly1305Rtpsize => "aead_xchacha20_poly1305_rtpsize",
            Mode::Aes256Gcm => "aead_aes256_gcm",
            Mode::XSalsa20Poly1305LiteRtpsize => "xsalsa20_poly1305_lite_rtpsize",
            Mode::XSalsa20Poly1305Lite => "xsalsa20_poly1305_lite",
            Mode::XSalsa20Poly1305Suffix => "xsalsa20_poly1305_suffix",
            Mode::XSalsa20Poly1305 => "xsalsa20_poly1305",
        }
    }

    /// The mode with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// Whether CSRCs and the extension's preamble stay clear.
    #[inline]
    pub fn is_rtpsize(self) -> bool {
        matches!(
            self,
            Mode::Aes256GcmRtpsize
                | Mode::XChaCha20Poly1305Rtpsize
                | Mode::XSalsa20Poly1305LiteRtpsize
        )
    }

    /// How many bytes at the start of a packet, plain or sealed, are its clear header. `None` if it
    /// is not version 2 or shorter than that.
    #[inline]
    pub fn clear_len(self, packet: &[u8]) -> Option<usize> {
        let &[first, second, ..] = packet else { return None };
        let len = if is_rtcp_type(second) {
            RTCP_CLEAR_BYTES
        } else if self.is_rtpsize() {
            header_bytes(first)
        } else {
            HEADER_BYTES
        };
        (first >> 6 == 2 && packet.len() >= len).then_some(len)
    }

    /// Whether a packet ends with a counter of 4 bytes, of which its nonce is made.
    #[inline]
    pub(super) fn sends_counter(self) -> bool {
        !matches!(self, Mode::XSalsa20Poly1305 | Mode::XSalsa20Poly1305Suffix)
    }

    /// How many bytes longer a sealed packet is than the plain one.
    #[inline]
    pub fn overhead(self) -> usize {
        match self {
            Mode::XSalsa20Poly1305Suffix => TAG_BYTES + LONG_SUFFIX_BYTES,
            Mode::XSalsa20Poly1305 => TAG_BYTES,
            _ => TAG_BYTES + SUFFIX_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtp::vectors::{hex, load};

    #[test]
    fn names_are_unique_and_found_again() {
        for mode in Mode::ALL {
            assert_eq!(Mode::from_name(mode.name()), Some(mode));
            assert_eq!(mode.is_rtpsize(), mode.name().ends_with("_rtpsize"));
        }
        for unknown in ["", "plain", "AEAD_AES256_GCM", "xsalsa20"] {
            assert_eq!(Mode::from_name(unknown), None);
        }
    }

    #[test]
    fn aes_is_offered_first() {
        let names: Vec<_> = Mode::DEFAULT.iter().map(|mode| mode.name()).collect();
        assert_eq!(names, ["aead_aes256_gcm_rtpsize", "aead_xchacha20_poly1305_rtpsize"]);
    }

    #[test]
    fn clear_header_and_overhead_of_every_vector_are_known() {
        for file in ["rtp_transport.json", "rtcp_transport.json"] {
            for vector in load(file)["vectors"].as_array().unwrap() {
                let mode = Mode::from_name(vector["mode"].as_str().unwrap()).unwrap();
                let (plain, packet) = (hex(&vector["plain_packet"]), hex(&vector["packet"]));
                let clear = hex(&vector["clear_header"]).len();
                assert_eq!(mode.clear_len(&packet), Some(clear), "{vector}");
                assert_eq!(mode.clear_len(&plain), Some(clear), "{vector}");
                assert_eq!(packet.len() - plain.len(), mode.overhead(), "{vector}");
            }
        }
    }

    #[test]
    fn a_packet_shorter_than_its_clear_header_has_none() {
        let mode = Mode::Aes256GcmRtpsize;
        let mut packet = [0; 76];
        packet[0] = 0x9F;
        assert_eq!(mode.clear_len(&packet), Some(76));
        assert_eq!(mode.clear_len(&packet[..75]), None);
        assert_eq!(Mode::Aes256Gcm.clear_len(&packet[..12]), Some(12));
        packet[1] = 200;
        assert_eq!(mode.clear_len(&packet[..8]), Some(8));
        assert_eq!(mode.clear_len(&packet[..7]), None);
        packet[0] = 0x4F;
        assert_eq!(mode.clear_len(&packet), None, "version 1");
        assert_eq!(mode.clear_len(&[0x80]), None);
    }
}

//! What makes one packet's nonce its own under a key (RFC 3711 §4.1.1, RFC 7714 §8.1 and §9.1): its
//! SSRC and its 48-bit index. Both ciphers of SRTP mix it into their salt in the same place, the
//! last ten bytes. Made by `srtp`, used by `aes_gcm` and `aes_cm`.

use crate::id::Ssrc;

/// Bytes of SSRC and index.
const BYTES: usize = 10;

/// A packet's SSRC, then its index in 48 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PacketIndex([u8; BYTES]);

impl PacketIndex {
    /// RTP's: `SSRC ‖ ROC ‖ sequence number`.
    #[inline]
    pub(super) fn rtp(ssrc: Ssrc, roc: u32, seq: u16) -> Self {
        Self::new(ssrc, u64::from(roc) << 16 | u64::from(seq))
    }

    /// RTCP's: `SSRC ‖ 0^17 ‖ SRTCP index`.
    #[inline]
    pub(super) fn rtcp(ssrc: Ssrc, index: u32) -> Self {
        Self::new(ssrc, u64::from(index))
    }

    #[inline]
    fn new(ssrc: Ssrc, index: u64) -> Self {
        let mut bytes = [0; BYTES];
        bytes[..4].copy_from_slice(&ssrc.0.to_be_bytes());
        bytes[4..].copy_from_slice(&index.to_be_bytes()[2..]);
        Self(bytes)
    }

    /// The salt with the index mixed into its end.
    #[inline]
    pub(super) fn salted<const N: usize>(self, salt: &[u8; N]) -> [u8; N] {
        const { assert!(N >= BYTES) };
        let mut salted = *salt;
        for (byte, index) in salted[N - BYTES..].iter_mut().zip(self.0) {
            *byte ^= index;
        }
        salted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_of_rfc_7714_section_16_and_17() {
        let salt = b"Quid pro quo";
        let rtp = PacketIndex::rtp(Ssrc(0x5501_A0B2), 0, 0xF17B);
        assert_eq!(rtp.salted(salt), *b"\x51\x75\x3C\x65\x80\xC2\x72\x6F\x20\x71\x84\x14");
        let rtcp = PacketIndex::rtcp(Ssrc(0x4D61_7273), 0x5D4);
        assert_eq!(rtcp.salted(salt), *b"\x51\x75\x24\x05\x52\x03\x72\x6F\x20\x71\x70\xBB");
    }

    #[test]
    fn every_bit_of_ssrc_roc_and_sequence_number_has_its_place() {
        let index = PacketIndex::rtp(Ssrc(0x0102_0304), 0x0506_0708, 0x090A);
        let salted = index.salted(&[0; 14]);
        assert_eq!(salted, [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    }
}

//! AES-GCM for SRTP and SRTCP (RFC 7714): one session key with its salt. The clear header is
//! authenticated, the tag follows the ciphertext, SRTCP's word follows the tag. Called by `srtp`.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::ZeroizeOnDrop;

use crate::crypto::{
    packet_index::PacketIndex,
    profile::{GCM_SALT_BYTES, GCM_TAG_BYTES, RTCP_CLEAR_BYTES, RTCP_WORD_BYTES},
    rtpsize,
};

/// AES-128 or AES-256 in GCM with its key schedule, which is computed once.
#[derive(ZeroizeOnDrop)]
pub(super) struct AesGcm {
    /// aws-lc zeroes it when it is dropped.
    #[zeroize(skip)]
    key: LessSafeKey,
    salt: [u8; GCM_SALT_BYTES],
}

impl AesGcm {
    /// A session key of 16 or 32 bytes with its salt.
    pub(super) fn new(key: &[u8], salt: [u8; GCM_SALT_BYTES]) -> Self {
        let algorithm = if key.len() == 32 { &AES_256_GCM } else { &AES_128_GCM };
        let key = UnboundKey::new(algorithm, key).expect("a session key of its length");
        Self { key: LessSafeKey::new(key), salt }
    }

    /// Seals `clear header ‖ plaintext ‖ 16 bytes of room` in place.
    #[inline]
    pub(super) fn seal(&self, index: PacketIndex, packet: &mut [u8], clear: usize) -> Option<()> {
        rtpsize::seal(&self.key, index.salted(&self.salt), packet, clear)
    }

    /// Opens `clear header ‖ ciphertext ‖ tag` in place. `None` if the tag does not verify; the
    /// ciphertext is gone then.
    #[inline]
    pub(super) fn open(&self, index: PacketIndex, packet: &mut [u8], clear: usize) -> Option<()> {
        rtpsize::open(&self.key, index.salted(&self.salt), packet, clear)
    }

    /// Seals `header ‖ plaintext ‖ 16 bytes of room ‖ word` in place (RFC 7714 §9.2).
    pub(super) fn seal_rtcp(&self, index: PacketIndex, packet: &mut [u8]) -> Option<()> {
        let (aad, text, tag) = rtcp_parts(packet)?;
        let nonce = Nonce::assume_unique_for_key(index.salted(&self.salt));
        self.key.seal_in_place_scatter(nonce, Aad::from(aad), text, &[], tag).ok()
    }

    /// Opens `header ‖ ciphertext ‖ tag ‖ word` in place. `None` if the tag does not verify; the
    /// ciphertext is gone then.
    pub(super) fn open_rtcp(&self, index: PacketIndex, packet: &mut [u8]) -> Option<()> {
        let (aad, text, tag) = rtcp_parts(packet)?;
        let nonce = Nonce::assume_unique_for_key(index.salted(&self.salt));
        self.key.open_in_place_separate_tag(nonce, Aad::from(aad), &*tag, text).ok().map(drop)
    }
}

/// Bytes that an encrypted SRTCP packet authenticates in the clear: its header and its word.
const RTCP_AAD_BYTES: usize = RTCP_CLEAR_BYTES + RTCP_WORD_BYTES;

/// The parts of an SRTCP packet: what is authenticated in the clear, text and tag.
#[inline]
fn rtcp_parts(
    packet: &mut [u8],
) -> Option<([u8; RTCP_AAD_BYTES], &mut [u8], &mut [u8; GCM_TAG_BYTES])> {
    let (packet, word) = packet.split_last_chunk_mut::<RTCP_WORD_BYTES>()?;
    let (header, sealed) = packet.split_first_chunk_mut::<RTCP_CLEAR_BYTES>()?;
    let (text, tag) = sealed.split_last_chunk_mut()?;
    let mut aad = [0; RTCP_AAD_BYTES];
    aad[..RTCP_CLEAR_BYTES].copy_from_slice(header);
    aad[RTCP_CLEAR_BYTES..].copy_from_slice(word);
    Some((aad, text, tag))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{
        id::Ssrc,
        rtp::vectors::{hex, load},
    };

    /// Calls with every vector of RFC 7714 of this kind, and its key.
    fn each(kind: &str, check: impl Fn(&AesGcm, &Value)) {
        let file = load("srtp.json");
        let vectors = file[kind].as_array().unwrap();
        assert_eq!(vectors.len(), 2);
        for vector in vectors {
            let salt = hex(&vector["salt"]).try_into().unwrap();
            check(&AesGcm::new(&hex(&vector["key"]), salt), vector);
        }
    }

    #[test]
    fn rtp_of_rfc_7714_16_1_and_16_2() {
        each("gcm_rtp", |key, vector| {
            let (plain, sealed) = (hex(&vector["plain"]), hex(&vector["sealed"]));
            let index = PacketIndex::rtp(Ssrc(0x5501_A0B2), 0, 0xF17B);
            let mut packet = plain.clone();
            packet.resize(sealed.len(), 0xEE);
            key.seal(index, &mut packet, 12).unwrap();
            assert_eq!(packet, sealed, "{}", vector["source"]);
            key.open(index, &mut packet, 12).unwrap();
            assert_eq!(packet[..plain.len()], plain, "{}", vector["source"]);
        });
    }

    #[test]
    fn rtcp_of_rfc_7714_17_1_and_17_2() {
        each("gcm_rtcp", |key, vector| {
            let (plain, sealed) = (hex(&vector["plain"]), hex(&vector["sealed"]));
            let index = PacketIndex::rtcp(Ssrc(0x4D61_7273), 0x5D4);
            let mut packet = plain.clone();
            packet.resize(sealed.len() - 4, 0xEE);
            packet.extend([0x80, 0x00, 0x05, 0xD4]);
            key.seal_rtcp(index, &mut packet).unwrap();
            assert_eq!(packet, sealed, "{}", vector["source"]);
            key.open_rtcp(index, &mut packet).unwrap();
            assert_eq!(packet[..plain.len()], plain, "{}", vector["source"]);
        });
    }
}

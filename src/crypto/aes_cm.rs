//! AES in counter mode with HMAC-SHA1, cut to 80 bits, for SRTP and SRTCP (RFC 3711 §4.1.1 and
//! §4.2.1): one pair of session keys with its salt. The tag covers everything before it, and for RTP
//! the rollover counter, which is not sent. Called by `srtp`.

use aws_lc_rs::{
    cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey},
    constant_time::verify_slices_are_equal,
    hmac,
    iv::FixedLength,
};
use zeroize::ZeroizeOnDrop;

use crate::crypto::{
    packet_index::PacketIndex,
    profile::{CM_SALT_BYTES, RTCP_CLEAR_BYTES, RTCP_WORD_BYTES, SHA1_80_TAG_BYTES},
};

/// Bytes of the session's encryption key.
const KEY_BYTES: usize = 16;

/// Bytes of the session's authentication key.
pub(super) const AUTHENTICATION_BYTES: usize = 20;

/// AES-128-CM and HMAC-SHA1 with all that can be computed once.
#[derive(ZeroizeOnDrop)]
pub(super) struct AesCm {
    /// aws-lc zeroes both when they are dropped.
    #[zeroize(skip)]
    keys: Box<(EncryptingKey, hmac::Key)>,
    salt: [u8; CM_SALT_BYTES],
}

impl AesCm {
    /// A pair of session keys with its salt.
    pub(super) fn new(
        key: &[u8; KEY_BYTES],
        authentication: &[u8; AUTHENTICATION_BYTES],
        salt: [u8; CM_SALT_BYTES],
    ) -> Self {
        let key = UnboundCipherKey::new(&AES_128, key).expect("AES-128 takes 16 bytes");
        let cipher = EncryptingKey::ctr(key).expect("AES has a counter mode");
        let authentication = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, authentication);
        Self { keys: Box::new((cipher, authentication)), salt }
    }

    /// Seals `clear header ‖ plaintext ‖ 10 bytes of room` in place.
    #[inline]
    pub(super) fn seal(
        &self,
        index: PacketIndex,
        packet: &mut [u8],
        clear: usize,
        roc: u32,
    ) -> Option<()> {
        let (packet, tag) = packet.split_last_chunk_mut()?;
        self.apply_keystream(index, packet.get_mut(clear..)?);
        *tag = self.tag(packet, &roc.to_be_bytes());
        Some(())
    }

    /// Opens `clear header ‖ ciphertext ‖ tag` in place. `None` if the tag does not verify; nothing
    /// has changed then.
    #[inline]
    pub(super) fn open(
        &self,
        index: PacketIndex,
        packet: &mut [u8],
        clear: usize,
        roc: u32,
    ) -> Option<()> {
        let (packet, tag) = packet.split_last_chunk_mut::<SHA1_80_TAG_BYTES>()?;
        verify_slices_are_equal(&self.tag(packet, &roc.to_be_bytes()), tag).ok()?;
        self.apply_keystream(index, packet.get_mut(clear..)?);
        Some(())
    }

    /// Seals `header ‖ plaintext ‖ word ‖ 10 bytes of room` in place (RFC 3711 §3.4).
    pub(super) fn seal_rtcp(&self, index: PacketIndex, packet: &mut [u8]) -> Option<()> {
        let (packet, tag) = packet.split_last_chunk_mut()?;
        self.apply_keystream(index, rtcp_text(packet)?);
        *tag = self.tag(packet, &[]);
        Some(())
    }

    /// Opens `header ‖ ciphertext ‖ word ‖ tag` in place. `None` if the tag does not verify; nothing
    /// has changed then.
    pub(super) fn open_rtcp(&self, index: PacketIndex, packet: &mut [u8]) -> Option<()> {
        let (packet, tag) = packet.split_last_chunk_mut::<SHA1_80_TAG_BYTES>()?;
        verify_slices_are_equal(&self.tag(packet, &[]), tag).ok()?;
        self.apply_keystream(index, rtcp_text(packet)?);
        Some(())
    }

    /// Encrypts or decrypts with the keystream that starts at `(salt ⊕ index) ‖ 0^16`. 16 bits count
    /// its blocks: a mebibyte, far beyond any datagram.
    #[inline]
    fn apply_keystream(&self, index: PacketIndex, text: &mut [u8]) {
        let mut iv = [0; CM_SALT_BYTES + 2];
        iv[..CM_SALT_BYTES].copy_from_slice(&index.salted(&self.salt));
        self.keys
            .0
            .less_safe_encrypt(text, EncryptionContext::Iv128(FixedLength::from(iv)))
            .expect("counter mode takes any length");
    }

    /// The tag of `packet ‖ unsent`.
    #[inline]
    fn tag(&self, packet: &[u8], unsent: &[u8]) -> [u8; SHA1_80_TAG_BYTES] {
        let mut context = hmac::Context::with_key(&self.keys.1);
        context.update(packet);
        context.update(unsent);
        *context.sign().as_ref().first_chunk().expect("SHA-1 gives 20 bytes")
    }
}

/// The text of `header ‖ text ‖ word`.
fn rtcp_text(packet: &mut [u8]) -> Option<&mut [u8]> {
    let (packet, _) = packet.split_last_chunk_mut::<RTCP_WORD_BYTES>()?;
    packet.get_mut(RTCP_CLEAR_BYTES..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::Ssrc,
        rtp::vectors::{hex, load},
    };

    #[test]
    fn keystream_of_rfc_3711_b_2() {
        let file = load("srtp.json");
        let vector = &file["cm_keystream"];
        let key = hex(&vector["key"]).try_into().unwrap();
        let salt = hex(&vector["salt"]).try_into().unwrap();
        let mut stream = vec![0; 16 * 0xFF02];
        let index = PacketIndex::rtp(Ssrc(0), 0, 0);
        AesCm::new(&key, &[0; 20], salt).apply_keystream(index, &mut stream);
        let blocks = vector["blocks"].as_object().unwrap();
        assert_eq!(blocks.len(), 6);
        for (number, block) in blocks {
            let at = 16 * usize::from_str_radix(number, 16).unwrap();
            assert_eq!(stream[at..at + 16], hex(block), "block {number}");
        }
    }
}

//! AES in counter mode with HMAC-SHA1, cut to 80 bits, for SRTP and SRTCP (RFC 3711 §4.1.1 and
//! §4.2.1): one pair of session keys with its salt. The tag covers everything before it, and for
//! RTP the rollover counter, which is not sent. Called by `srtp`.

use aws_lc_rs::{
    cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey},
    constant_time::verify_slices_are_equal,
    digest::{Digest, SHA1_FOR_LEGACY_USE_ONLY, digest},
    iv::FixedLength,
};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    crypto::{
        packet_index::PacketIndex,
        profile::{CM_SALT_BYTES, RTCP_CLEAR_BYTES, RTCP_WORD_BYTES, SHA1_80_TAG_BYTES},
    },
    limits::DATAGRAM_BYTES_MAX,
};

/// Bytes of the session's encryption key.
const KEY_BYTES: usize = 16;

/// Bytes of the session's authentication key.
pub(super) const AUTHENTICATION_BYTES: usize = 20;

/// Bytes of SHA-1's block.
const BLOCK_BYTES: usize = 64;

/// Bytes of SHA-1's hash.
const SHA1_BYTES: usize = 20;

/// Bytes that are authenticated and not sent, at most: the rollover counter.
const UNSENT_BYTES: usize = 4;

/// Packets up to this length are hashed in a smaller space, because zeroing the larger costs as
/// much as a block of SHA-1. Voice at 64 kbit/s is 160 bytes a packet, with header and DAVE some
/// 210.
const VOICE_BYTES: usize = 256;

/// AES-128-CM with its key schedule, which is computed once, and HMAC-SHA1 with its bare key. What
/// aws-lc would compute once of that is 1.2 KB to read and copy for each packet: with 16,384
/// sessions sealed for in turn it took a fifth longer than the two blocks of SHA-1 it saves, and
/// with 256, whose keys stay in the cache, it took 6 % less.
#[derive(ZeroizeOnDrop)]
pub(super) struct AesCm {
    /// aws-lc zeroes it when it is dropped.
    #[zeroize(skip)]
    cipher: Box<EncryptingKey>,
    authentication: [u8; AUTHENTICATION_BYTES],
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
        let cipher = Box::new(EncryptingKey::ctr(key).expect("AES has a counter mode"));
        Self { cipher, authentication: *authentication, salt }
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
        *tag = self.tag(packet, &roc.to_be_bytes())?;
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
        verify_slices_are_equal(&self.tag(packet, &roc.to_be_bytes())?, tag).ok()?;
        self.apply_keystream(index, packet.get_mut(clear..)?);
        Some(())
    }

    /// Seals `header ‖ plaintext ‖ word ‖ 10 bytes of room` in place (RFC 3711 §3.4).
    pub(super) fn seal_rtcp(&self, index: PacketIndex, packet: &mut [u8]) -> Option<()> {
        let (packet, tag) = packet.split_last_chunk_mut()?;
        self.apply_keystream(index, rtcp_text(packet)?);
        *tag = self.tag(packet, &[])?;
        Some(())
    }

    /// Opens `header ‖ ciphertext ‖ word ‖ tag` in place. `None` if the tag does not verify;
    /// nothing has changed then.
    pub(super) fn open_rtcp(&self, index: PacketIndex, packet: &mut [u8]) -> Option<()> {
        let (packet, tag) = packet.split_last_chunk_mut::<SHA1_80_TAG_BYTES>()?;
        verify_slices_are_equal(&self.tag(packet, &[])?, tag).ok()?;
        self.apply_keystream(index, rtcp_text(packet)?);
        Some(())
    }

    /// Encrypts or decrypts with the keystream that starts at `(salt ⊕ index) ‖ 0^16`. 16 bits
    /// count its blocks: a mebibyte, far beyond any datagram.
    #[inline]
    fn apply_keystream(&self, index: PacketIndex, text: &mut [u8]) {
        let mut iv = [0; CM_SALT_BYTES + 2];
        iv[..CM_SALT_BYTES].copy_from_slice(&index.salted(&self.salt));
        self.cipher
            .less_safe_encrypt(text, EncryptionContext::Iv128(FixedLength::from(iv)))
            .expect("counter mode takes any length");
    }

    /// The tag of `packet ‖ unsent`: the start of its HMAC-SHA1 (RFC 2104). `None` if that is
    /// longer than any datagram.
    #[inline]
    fn tag(&self, packet: &[u8], unsent: &[u8]) -> Option<[u8; SHA1_80_TAG_BYTES]> {
        // aws-lc hashes in one go what lies in one piece, on the stack; its contexts lie on C's
        // heap.
        let inner = if packet.len() <= VOICE_BYTES {
            self.inner::<{ BLOCK_BYTES + VOICE_BYTES + UNSENT_BYTES }>(packet, unsent)?
        } else {
            self.inner::<{ BLOCK_BYTES + DATAGRAM_BYTES_MAX + UNSENT_BYTES }>(packet, unsent)?
        };
        let mut outer = [0; BLOCK_BYTES + SHA1_BYTES];
        outer[..BLOCK_BYTES].copy_from_slice(&self.pad(0x5C));
        outer[BLOCK_BYTES..].copy_from_slice(inner.as_ref());
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &outer);
        outer[..AUTHENTICATION_BYTES].zeroize();
        hash.as_ref().first_chunk().copied()
    }

    /// The inner hash of HMAC, assembled in `N` bytes.
    #[inline]
    fn inner<const N: usize>(&self, packet: &[u8], unsent: &[u8]) -> Option<Digest> {
        let mut message = [0; N];
        message[..BLOCK_BYTES].copy_from_slice(&self.pad(0x36));
        let end = BLOCK_BYTES + packet.len();
        message.get_mut(BLOCK_BYTES..end)?.copy_from_slice(packet);
        message.get_mut(end..end + unsent.len())?.copy_from_slice(unsent);
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &message[..end + unsent.len()]);
        message[..AUTHENTICATION_BYTES].zeroize();
        Some(hash)
    }

    /// The key, padded with zeros to a block, with `byte` mixed in.
    #[inline]
    fn pad(&self, byte: u8) -> [u8; BLOCK_BYTES] {
        let mut pad = [byte; BLOCK_BYTES];
        for (byte, key) in pad.iter_mut().zip(self.authentication) {
            *byte ^= key;
        }
        pad
    }
}

/// The text of `header ‖ text ‖ word`.
fn rtcp_text(packet: &mut [u8]) -> Option<&mut [u8]> {
    let (packet, _) = packet.split_last_chunk_mut::<RTCP_WORD_BYTES>()?;
    packet.get_mut(RTCP_CLEAR_BYTES..)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::hmac;
    use proptest::prelude::*;

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

    #[test]
    fn tags_of_rfc_2202() {
        let tag = |key: [u8; 20], message: &[u8]| {
            AesCm::new(&[0; 16], &key, [0; 14]).tag(message, &[]).unwrap()
        };
        assert_eq!(tag([0x0B; 20], b"Hi There")[..], hex(&"b617318655057264e28b".into()));
        assert_eq!(tag([0xAA; 20], &[0xDD; 50])[..], hex(&"125d7342b9ac11cd91a3".into()));
    }

    #[test]
    fn what_is_longer_than_a_datagram_has_no_tag() {
        let key = AesCm::new(&[0; 16], &[0; 20], [0; 14]);
        assert!(key.tag(&[0; DATAGRAM_BYTES_MAX], &[0; 4]).is_some());
        assert!(key.tag(&[0; DATAGRAM_BYTES_MAX + 1], &[0; 4]).is_none());
    }

    proptest! {
        #[test]
        fn tags_are_those_of_aws_lc(
            authentication: [u8; 20],
            packet in proptest::collection::vec(any::<u8>(), 0..DATAGRAM_BYTES_MAX),
            roc: [u8; 4],
        ) {
            let key = AesCm::new(&[0; 16], &authentication, [0; 14]);
            let message = [&packet[..], &roc].concat();
            let theirs = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &authentication);
            let theirs = hmac::sign(&theirs, &message);
            prop_assert_eq!(&key.tag(&packet, &roc).unwrap()[..], &theirs.as_ref()[..10]);
        }
    }
}

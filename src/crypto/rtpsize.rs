//! The AEAD modes: `aead_aes256_gcm_rtpsize`, `aead_xchacha20_poly1305_rtpsize`, and the former's
//! removed sibling `aead_aes256_gcm`, which differs in how much stays clear and in nothing here.
//! The clear header is authenticated, the tag follows the ciphertext. Called by `cipher`;
//! SRTP's AES-GCM seals RTP in the same way.

use aws_lc_rs::aead::{
    AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use chacha20::{R20, hchacha};
use zeroize::Zeroize;

use crate::crypto::{
    key::SecretKey,
    mode::{SUFFIX_BYTES, TAG_BYTES},
};

/// AES-256-GCM with its key schedule, which is computed once.
pub(super) struct AesGcm(LessSafeKey);

impl AesGcm {
    pub(super) fn new(key: &SecretKey) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key.bytes()).expect("AES-256 takes 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// Seals `clear header ‖ plaintext ‖ 20 bytes of room` in place.
    #[inline]
    pub(super) fn seal(
        &self,
        packet: &mut [u8],
        clear: usize,
        suffix: [u8; SUFFIX_BYTES],
    ) -> Option<()> {
        seal(&self.0, nonce(suffix), write_suffix(packet, suffix)?, clear)
    }

    /// Opens `clear header ‖ ciphertext ‖ tag ‖ suffix` in place. `None` if the tag does not
    /// verify; the ciphertext is gone then.
    #[inline]
    pub(super) fn open(&self, packet: &mut [u8], clear: usize) -> Option<()> {
        let (packet, suffix) = packet.split_last_chunk_mut()?;
        open(&self.0, nonce(*suffix), packet, clear)
    }
}

/// The 12-byte nonce of a suffix: `suffix ‖ 0^8`.
#[inline]
fn nonce(suffix: [u8; SUFFIX_BYTES]) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[..SUFFIX_BYTES].copy_from_slice(&suffix);
    nonce
}

/// XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03): every packet has a sub-key of its own, because
/// the suffix is in the part of the nonce that derives it.
pub(super) struct XChaCha(SecretKey);

impl XChaCha {
    pub(super) fn new(key: &SecretKey) -> Self {
        Self(key.clone())
    }

    /// As [`AesGcm::seal`].
    #[inline]
    pub(super) fn seal(
        &self,
        packet: &mut [u8],
        clear: usize,
        suffix: [u8; SUFFIX_BYTES],
    ) -> Option<()> {
        seal(&self.sub_key(suffix), [0; NONCE_LEN], write_suffix(packet, suffix)?, clear)
    }

    /// As [`AesGcm::open`].
    #[inline]
    pub(super) fn open(&self, packet: &mut [u8], clear: usize) -> Option<()> {
        let (packet, suffix) = packet.split_last_chunk_mut()?;
        open(&self.sub_key(*suffix), [0; NONCE_LEN], packet, clear)
    }

    /// The key for one nonce `suffix ‖ 0^20`. Its first 16 bytes go into HChaCha20; the other 8,
    /// all zero, are the end of the inner nonce, whose first 4 are zero by definition. aws-lc
    /// zeroes its copy of the sub-key when it is dropped.
    #[inline]
    fn sub_key(&self, suffix: [u8; SUFFIX_BYTES]) -> LessSafeKey {
        let mut input = [0; 16];
        input[..SUFFIX_BYTES].copy_from_slice(&suffix);
        let mut bytes = hchacha::<R20>(self.0.bytes().into(), (&input).into());
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).expect("ChaCha20 takes 32 bytes");
        bytes.as_mut_slice().zeroize();
        LessSafeKey::new(key)
    }
}

/// Writes the suffix at the packet's end and returns what comes before it.
#[inline]
fn write_suffix(packet: &mut [u8], suffix: [u8; SUFFIX_BYTES]) -> Option<&mut [u8]> {
    let (packet, end) = packet.split_last_chunk_mut()?;
    *end = suffix;
    Some(packet)
}

/// Seals `clear header ‖ plaintext ‖ 16 bytes for the tag`. The algorithms fail only beyond
/// gigabytes.
#[inline]
pub(super) fn seal(
    key: &LessSafeKey,
    nonce: [u8; NONCE_LEN],
    packet: &mut [u8],
    clear: usize,
) -> Option<()> {
    let (header, sealed) = packet.split_at_mut_checked(clear)?;
    let (text, tag) = sealed.split_last_chunk_mut::<TAG_BYTES>()?;
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_scatter(nonce, Aad::from(&*header), text, &[], tag).ok()
}

/// Opens `clear header ‖ ciphertext ‖ tag`.
#[inline]
pub(super) fn open(
    key: &LessSafeKey,
    nonce: [u8; NONCE_LEN],
    packet: &mut [u8],
    clear: usize,
) -> Option<()> {
    let (header, sealed) = packet.split_at_mut_checked(clear)?;
    let (text, tag) = sealed.split_last_chunk_mut::<TAG_BYTES>()?;
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.open_in_place_separate_tag(nonce, Aad::from(&*header), &*tag, text).ok().map(drop)
}

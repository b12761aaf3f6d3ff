//! One session's encryption in its agreed mode: opens what its client sent, seals what it is to
//! hear, in place, without allocating on Rust's heap. Which nonces are used and whether a packet
//! was seen before is for `nonce` and `replay`. Called by the session for every media packet.

use std::{fmt, ops::Range};

use crate::{
    crypto::{
        key::SecretKey,
        mode::{Mode, SUFFIX_BYTES, TAG_BYTES},
        rtpsize::{AesGcm, XChaCha},
        secretbox::Secretbox,
    },
    metrics::DropReason,
};

/// A mode with its key. The key is zeroed on drop.
pub struct Cipher {
    mode: Mode,
    key: Key,
}

enum Key {
    AesGcm(AesGcm),
    XChaCha(XChaCha),
    Secretbox(Secretbox),
}

/// Sealing for a hearer touches its cipher, cold: one cache line, and aws-lc's key schedule with
/// AES.
const _: () = assert!(size_of::<Cipher>() <= 64);

/// What [`Cipher::open`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Where in the datagram the plain packet is: clear header and plaintext, in one piece.
    pub range: Range<usize>,
    /// The client's nonce suffix, for [`crate::crypto::NonceCounter::observe`]. `None` in
    /// `xsalsa20_poly1305`, which sends none, and `xsalsa20_poly1305_suffix`, whose nonces are
    /// random.
    pub suffix: Option<[u8; SUFFIX_BYTES]>,
}

impl Cipher {
    /// Prepares a session's key. `random` is the tail of every nonce of `xsalsa20_poly1305_suffix`,
    /// fresh for every key; other modes ignore it.
    pub fn new(mode: Mode, key: &SecretKey, random: [u8; 20]) -> Self {
        let key = match mode {
            Mode::Aes256GcmRtpsize | Mode::Aes256Gcm => Key::AesGcm(AesGcm::new(key)),
            Mode::XChaCha20Poly1305Rtpsize => Key::XChaCha(XChaCha::new(key)),
            Mode::XSalsa20Poly1305LiteRtpsize
            | Mode::XSalsa20Poly1305Lite
            | Mode::XSalsa20Poly1305Suffix
            | Mode::XSalsa20Poly1305 => Key::Secretbox(Secretbox::new(key, random)),
        };
        Self { mode, key }
    }

    /// The agreed mode.
    #[inline]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Verifies and decrypts a client's datagram in place.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] if it is not version 2 or has no room for header, tag and nonce;
    /// [`DropReason::BadTag`] if it is not what the client sealed. The datagram is spent then: it
    /// holds no plaintext and may no longer hold the ciphertext.
    #[inline]
    pub fn open(&self, datagram: &mut [u8]) -> Result<Opened, DropReason> {
        let clear = self.mode.clear_len(datagram).ok_or(DropReason::Malformed)?;
        let plain_len =
            datagram.len().checked_sub(self.mode.overhead()).ok_or(DropReason::Malformed)?;
        if plain_len < clear {
            return Err(DropReason::Malformed);
        }
        let suffix = *datagram.last_chunk().ok_or(DropReason::Malformed)?;
        let start = match &self.key {
            Key::AesGcm(key) => key.open(datagram, clear).map(|()| 0),
            Key::XChaCha(key) => key.open(datagram, clear).map(|()| 0),
            Key::Secretbox(key) => key.open(self.mode, datagram, clear).map(|()| TAG_BYTES),
        }
        .ok_or(DropReason::BadTag)?;
        let suffix = self.mode.sends_counter().then_some(suffix);
        Ok(Opened { range: start..start + plain_len, suffix })
    }

    /// Encrypts and tags the plain packet in the first `plain_len` bytes of `buffer`, in place. The
    /// suffix must never have been used with this key, in either direction
    /// ([`crate::crypto::NonceCounter::next`]); `xsalsa20_poly1305` ignores it. Returns the sealed
    /// packet's length, or `None` if `buffer` is too short for [`Mode::overhead`] or the packet is
    /// not version 2 and as long as its header.
    #[inline]
    pub fn seal(
        &self,
        buffer: &mut [u8],
        plain_len: usize,
        suffix: [u8; SUFFIX_BYTES],
    ) -> Option<usize> {
        let clear = self.mode.clear_len(buffer.get(..plain_len)?)?;
        let packet = buffer.get_mut(..plain_len + self.mode.overhead())?;
        match &self.key {
            Key::AesGcm(key) => key.seal(packet, clear, suffix),
            Key::XChaCha(key) => key.seal(packet, clear, suffix),
            Key::Secretbox(key) => key.seal(self.mode, packet, clear, suffix),
        }?;
        Some(packet.len())
    }
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cipher").field("mode", &self.mode).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "cipher_tests.rs"]
mod tests;

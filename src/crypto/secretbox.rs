//! The four removed `xsalsa20_poly1305` modes. The clear header is not authenticated, the tag comes
//! before the ciphertext. Called by `cipher`.

use crypto_secretbox::{AeadInPlace, KeyInit, Nonce, XSalsa20Poly1305};

use crate::crypto::{
    key::SecretKey,
    mode::{LONG_SUFFIX_BYTES, Mode, SUFFIX_BYTES, TAG_BYTES},
};

/// NaCl's secretbox with a session's key, which is zeroed on drop.
pub(super) struct Secretbox {
    key: XSalsa20Poly1305,
    /// The last 20 bytes of every nonce of `xsalsa20_poly1305_suffix`.
    random: [u8; LONG_SUFFIX_BYTES - SUFFIX_BYTES],
}

impl Secretbox {
    pub(super) fn new(key: &SecretKey, random: [u8; LONG_SUFFIX_BYTES - SUFFIX_BYTES]) -> Self {
        Self { key: XSalsa20Poly1305::new(key.bytes().into()), random }
    }

    /// Seals `header ‖ plaintext ‖ overhead` in place to `header ‖ tag ‖ ciphertext ‖ nonce`.
    pub(super) fn seal(
        &self,
        mode: Mode,
        packet: &mut [u8],
        clear: usize,
        suffix: [u8; SUFFIX_BYTES],
    ) -> Option<()> {
        let trailer = mode.overhead() - TAG_BYTES;
        let (packet, sent) = packet.split_at_mut_checked(packet.len().checked_sub(trailer)?)?;
        let (header, sealed) = packet.split_at_mut_checked(clear)?;
        let mut nonce = [0; LONG_SUFFIX_BYTES];
        match mode {
            Mode::XSalsa20Poly1305 => nonce[..clear].copy_from_slice(header),
            Mode::XSalsa20Poly1305Suffix => {
                nonce[..SUFFIX_BYTES].copy_from_slice(&suffix);
                nonce[SUFFIX_BYTES..].copy_from_slice(&self.random);
            }
            _ => nonce[..SUFFIX_BYTES].copy_from_slice(&suffix),
        }
        sent.copy_from_slice(&nonce[..trailer]);
        let text_len = sealed.len().checked_sub(TAG_BYTES)?;
        sealed.copy_within(..text_len, TAG_BYTES);
        let (tag, text) = sealed.split_at_mut(TAG_BYTES);
        let nonce = Nonce::from(nonce);
        tag.copy_from_slice(&self.key.encrypt_in_place_detached(&nonce, b"", text).ok()?);
        Some(())
    }

    /// Opens `header ‖ tag ‖ ciphertext ‖ nonce` in place and moves the header up to the plaintext,
    /// so that the plain packet begins 16 bytes in. `None` if the tag does not verify; nothing is
    /// decrypted then.
    pub(super) fn open(&self, mode: Mode, packet: &mut [u8], clear: usize) -> Option<()> {
        let trailer = mode.overhead() - TAG_BYTES;
        let (packet, sent) = packet.split_at_mut_checked(packet.len().checked_sub(trailer)?)?;
        let (header, sealed) = packet.split_at_mut_checked(clear)?;
        let (tag, text) = sealed.split_at_mut_checked(TAG_BYTES)?;
        let mut nonce = [0; LONG_SUFFIX_BYTES];
        match mode {
            Mode::XSalsa20Poly1305 => nonce[..clear].copy_from_slice(header),
            _ => nonce[..trailer].copy_from_slice(sent),
        }
        let (nonce, tag) = (Nonce::from(nonce), (&*tag).into());
        self.key.decrypt_in_place_detached(&nonce, b"", text, tag).ok()?;
        packet.copy_within(..clear, TAG_BYTES);
        Some(())
    }
}

//! The SRTP protection profiles of protocol.md §3.3: their names and numbers in DTLS, the keys they
//! take, what they leave clear and what they add to a packet. What they do to one is for `aes_gcm`
//! and `aes_cm`.

use std::ops::Range;

/// How media over DTLS is encrypted (RFC 5764 §4.1.2, RFC 7714 §14.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// `SRTP_AEAD_AES_128_GCM`: the fastest.
    AeadAes128Gcm,
    /// `SRTP_AEAD_AES_256_GCM`.
    AeadAes256Gcm,
    /// `SRTP_AES128_CM_HMAC_SHA1_80`: the one every browser has.
    Aes128CmSha1_80,
}

/// Bytes of AES-GCM's tag. RFC 7714 has no shorter one.
pub(super) const GCM_TAG_BYTES: usize = 16;

/// Bytes of AES-GCM's salt.
pub(super) const GCM_SALT_BYTES: usize = 12;

/// Bytes of HMAC-SHA1-80's tag: the first half of the hash.
pub(super) const SHA1_80_TAG_BYTES: usize = 10;

/// Bytes of AES-CM's salt.
pub(super) const CM_SALT_BYTES: usize = 14;

/// Bytes of an RTCP datagram that stay clear: its first header and sender SSRC (RFC 3711 §3.4).
pub(super) const RTCP_CLEAR_BYTES: usize = 8;

/// Bytes of the word that SRTCP sends with every packet: E, and the index in the other 31 bits.
pub(super) const RTCP_WORD_BYTES: usize = 4;

impl Profile {
    /// Every profile, best first: the order in which a server takes what a client offers.
    pub const PREFERRED: [Profile; 3] =
        [Profile::AeadAes128Gcm, Profile::AeadAes256Gcm, Profile::Aes128CmSha1_80];

    /// The profile's name in the registry of DTLS-SRTP protection profiles.
    pub fn name(self) -> &'static str {
        match self {
            Profile::AeadAes128Gcm => "SRTP_AEAD_AES_128_GCM",
            Profile::AeadAes256Gcm => "SRTP_AEAD_AES_256_GCM",
            Profile::Aes128CmSha1_80 => "SRTP_AES128_CM_HMAC_SHA1_80",
        }
    }

    /// The profile's number in DTLS's `use_srtp` extension.
    pub fn id(self) -> u16 {
        match self {
            Profile::AeadAes128Gcm => 0x0007,
            Profile::AeadAes256Gcm => 0x0008,
            Profile::Aes128CmSha1_80 => 0x0001,
        }
    }

    /// The profile with this number.
    pub fn from_id(id: u16) -> Option<Self> {
        Self::PREFERRED.into_iter().find(|profile| profile.id() == id)
    }

    /// How many bytes DTLS exports for it: a master key and a salt for each direction.
    pub fn material_len(self) -> usize {
        2 * (self.key_len() + self.salt_len())
    }

    /// How many bytes longer sealed RTP is than plain.
    #[inline]
    pub fn overhead(self) -> usize {
        match self {
            Profile::AeadAes128Gcm | Profile::AeadAes256Gcm => GCM_TAG_BYTES,
            Profile::Aes128CmSha1_80 => SHA1_80_TAG_BYTES,
        }
    }

    /// How many bytes longer sealed RTCP is than plain.
    #[inline]
    pub fn rtcp_overhead(self) -> usize {
        self.overhead() + RTCP_WORD_BYTES
    }

    /// Where the word of an SRTCP packet is: after the tag of AES-GCM, which ends the ciphertext,
    /// but before that of HMAC, which covers it.
    #[inline]
    pub(super) fn rtcp_word(self, plain_len: usize) -> Range<usize> {
        let start = match self {
            Profile::AeadAes128Gcm | Profile::AeadAes256Gcm => plain_len + GCM_TAG_BYTES,
            Profile::Aes128CmSha1_80 => plain_len,
        };
        start..start + RTCP_WORD_BYTES
    }

    /// Bytes of a key, master's and session's alike.
    pub(super) fn key_len(self) -> usize {
        match self {
            Profile::AeadAes128Gcm | Profile::Aes128CmSha1_80 => 16,
            Profile::AeadAes256Gcm => 32,
        }
    }

    /// Bytes of a salt, master's and session's alike.
    pub(super) fn salt_len(self) -> usize {
        match self {
            Profile::AeadAes128Gcm | Profile::AeadAes256Gcm => GCM_SALT_BYTES,
            Profile::Aes128CmSha1_80 => CM_SALT_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_registered_ones_and_found_again() {
        let ids = Profile::PREFERRED.map(Profile::id);
        assert_eq!(ids, [0x0007, 0x0008, 0x0001]);
        assert_eq!(ids.map(Profile::from_id), Profile::PREFERRED.map(Some));
        for unknown in [0x0000, 0x0002, 0x0005, 0x0100, 0xFFFF] {
            assert_eq!(Profile::from_id(unknown), None);
        }
    }

    #[test]
    fn material_is_two_keys_and_two_salts() {
        assert_eq!(Profile::PREFERRED.map(Profile::material_len), [56, 88, 60]);
    }
}

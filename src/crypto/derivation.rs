//! SRTP's key derivation (RFC 3711 §4.3): the session keys and salts of RTP and of RTCP from one
//! direction's master key and salt. The key derivation rate is 0, so it happens once. Called by
//! `srtp` when DTLS has exported its material.

use aws_lc_rs::{
    cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey},
    iv::FixedLength,
};

use crate::crypto::profile::CM_SALT_BYTES;

/// One direction's half of DTLS's exported material.
#[derive(Clone, Copy)]
pub(super) struct Master<'a> {
    key: &'a [u8],
    salt: &'a [u8],
}

/// Which of the six secrets to derive.
#[derive(Clone, Copy)]
pub(super) enum Label {
    RtpKey = 0,
    RtpAuthentication = 1,
    RtpSalt = 2,
    RtcpKey = 3,
    RtcpAuthentication = 4,
    RtcpSalt = 5,
}

/// Where the label goes: before the 48 bits of `index / rate`, which are 0.
const LABEL_AT: usize = CM_SALT_BYTES - 7;

impl<'a> Master<'a> {
    /// A master key of 16 or 32 bytes with a salt of at most 14; a shorter salt, AES-GCM's, is
    /// padded with zeros at its end, as libsrtp does.
    pub(super) fn new(key: &'a [u8], salt: &'a [u8]) -> Self {
        Self { key, salt }
    }

    /// Fills `secret` with the keystream of AES in counter mode under the master key, starting at
    /// `(salt ⊕ label) ‖ 0^16`. With a master key of 32 bytes that is AES-256 (RFC 7714 §11, RFC
    /// 6188 §3).
    pub(super) fn derive(self, label: Label, secret: &mut [u8]) {
        let mut iv = [0; CM_SALT_BYTES + 2];
        iv[..self.salt.len()].copy_from_slice(self.salt);
        iv[LABEL_AT] ^= label as u8;
        let algorithm = if self.key.len() == 32 { &AES_256 } else { &AES_128 };
        let key = UnboundCipherKey::new(algorithm, self.key).expect("a master key of its length");
        let key = EncryptingKey::ctr(key).expect("AES has a counter mode");
        secret.fill(0);
        key.less_safe_encrypt(secret, EncryptionContext::Iv128(FixedLength::from(iv)))
            .expect("counter mode takes any length");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtp::vectors::{hex, load};

    #[test]
    fn secrets_of_rfc_3711_b_3_and_rfc_6188_7() {
        let file = load("srtp.json");
        let vectors = file["derivation"].as_array().unwrap();
        assert_eq!(vectors.len(), 2);
        for vector in vectors {
            let (key, salt) = (hex(&vector["master_key"]), hex(&vector["master_salt"]));
            let master = Master::new(&key, &salt);
            for (label, name) in [
                (Label::RtpKey, "key"),
                (Label::RtpAuthentication, "authentication"),
                (Label::RtpSalt, "salt"),
            ] {
                let expected = hex(&vector[name]);
                let mut secret = vec![0xEE; expected.len()];
                master.derive(label, &mut secret);
                assert_eq!(secret, expected, "{} {name}", vector["source"]);
            }
        }
    }

    #[test]
    fn no_two_labels_derive_the_same() {
        let master = Master::new(&[7; 16], &[9; 12]);
        let secrets = [
            Label::RtpKey,
            Label::RtpAuthentication,
            Label::RtpSalt,
            Label::RtcpKey,
            Label::RtcpAuthentication,
            Label::RtcpSalt,
        ]
        .map(|label| {
            let mut secret = [0; 20];
            master.derive(label, &mut secret);
            secret
        });
        for (index, secret) in secrets.iter().enumerate() {
            assert!(!secrets[..index].contains(secret), "label {index}");
        }
    }
}

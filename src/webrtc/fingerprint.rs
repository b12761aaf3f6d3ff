//! Fingerprints of certificates (RFC 8122): what an offer promises and a DTLS handshake must keep.
//! Read and written as SDP has them; hashing is aws-lc's.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest;

/// Hash functions we verify with. SHA-1 and MD5 are not among them (RFC 8122 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// SHA-256, which every client uses.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Algorithm; 3] = [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512];

    /// Its name in SDP.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha-256",
            Algorithm::Sha384 => "sha-384",
            Algorithm::Sha512 => "sha-512",
        }
    }

    fn hash(self) -> &'static digest::Algorithm {
        match self {
            Algorithm::Sha256 => &digest::SHA256,
            Algorithm::Sha384 => &digest::SHA384,
            Algorithm::Sha512 => &digest::SHA512,
        }
    }
}

/// The text was not a fingerprint by a hash function we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a fingerprint: expected sha-256, sha-384 or sha-512 and its bytes, XX:XX:…")]
pub struct NotAFingerprint;

/// One certificate's hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    algorithm: Algorithm,
    /// As many bytes as the algorithm has, the rest zero.
    digest: [u8; 64],
}

impl Fingerprint {
    /// Hashes a certificate, given as DER.
    pub fn of(algorithm: Algorithm, certificate: &[u8]) -> Self {
        let hash = digest::digest(algorithm.hash(), certificate);
        let mut digest = [0; 64];
        digest[..hash.as_ref().len()].copy_from_slice(hash.as_ref());
        Self { algorithm, digest }
    }

    /// The hash function.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash.
    pub fn digest(&self) -> &[u8] {
        &self.digest[..self.algorithm.hash().output_len()]
    }

    /// Whether this is the certificate's fingerprint. Both are public, so that how long it takes
    /// may tell where they differ.
    pub fn verify(&self, certificate: &[u8]) -> bool {
        *self == Self::of(self.algorithm, certificate)
    }
}

/// `sha-256 4A:AD:…`, in upper or lower case.
impl FromStr for Fingerprint {
    type Err = NotAFingerprint;

    fn from_str(text: &str) -> Result<Self, NotAFingerprint> {
        let (name, bytes) = text.trim().split_once(' ').ok_or(NotAFingerprint)?;
        let algorithm = Algorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
            .ok_or(NotAFingerprint)?;
        let mut digest = [0; 64];
        let mut count = 0;
        for byte in bytes.trim_start().split(':') {
            let [high, low] = byte.as_bytes() else { return Err(NotAFingerprint) };
            let place = digest.get_mut(count).ok_or(NotAFingerprint)?;
            *place = nibble(*high)? << 4 | nibble(*low)?;
            count += 1;
        }
        if count != algorithm.hash().output_len() {
            return Err(NotAFingerprint);
        }
        Ok(Self { algorithm, digest })
    }
}

fn nibble(digit: u8) -> Result<u8, NotAFingerprint> {
    char::from(digit).to_digit(16).map(|value| value as u8).ok_or(NotAFingerprint)
}

/// As SDP has it: `sha-256 4A:AD:…`.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm.name())?;
        for (index, byte) in self.digest().iter().enumerate() {
            write!(f, "{}{byte:02X}", if index == 0 { ' ' } else { ':' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// SHA-256 and SHA-384 of "abc", FIPS 180-4's example.
    const ABC_256: &str = "sha-256 BA:78:16:BF:8F:01:CF:EA:41:41:40:DE:5D:AE:22:23:\
                           B0:03:61:A3:96:17:7A:9C:B4:10:FF:61:F2:00:15:AD";
    const ABC_384: &str = "sha-384 CB:00:75:3F:45:A3:5E:8B:B5:A0:3D:69:9A:C6:50:07:\
                           27:2C:32:AB:0E:DE:D1:63:1A:8B:60:5A:43:FF:5B:ED:\
                           80:86:07:2B:A1:E7:CC:23:58:BA:EC:A1:34:C8:25:A7";

    #[test]
    fn a_certificate_is_known_by_its_hash_and_by_no_other() {
        for text in [ABC_256, ABC_384] {
            let fingerprint: Fingerprint = text.parse().unwrap();
            assert!(fingerprint.verify(b"abc"));
            assert!(!fingerprint.verify(b"abd"));
            assert_eq!(fingerprint.to_string(), text);
            assert_eq!(Fingerprint::of(fingerprint.algorithm(), b"abc"), fingerprint);
        }
    }

    #[test]
    fn lower_case_is_read_too() {
        assert_eq!(ABC_256.to_lowercase().parse::<Fingerprint>(), ABC_256.parse());
        assert_eq!(ABC_256.replace("sha", "SHA").parse::<Fingerprint>(), ABC_256.parse());
    }

    #[test]
    fn what_is_too_short_too_long_or_by_an_unknown_function_is_none() {
        let sha_1 = "sha-1 A9:99:3E:36:47:06:81:6A:BA:3E:25:71:78:50:C2:6C:9C:D0:D8:9D";
        for wrong in [
            "",
            "sha-256",
            "sha-256 ",
            sha_1,
            &ABC_256[..ABC_256.len() - 3],
            &format!("{ABC_256}:00"),
            &format!("{ABC_256}:"),
            &ABC_256.replace("256", "384"),
            &ABC_384.replace("384", "256"),
            &ABC_256.replace("BA", "+A"),
            &ABC_256.replace("BA", "B"),
            &ABC_256.replace(':', ""),
            &ABC_256.replace("BA", "Bé"),
        ] {
            assert_eq!(wrong.parse::<Fingerprint>(), Err(NotAFingerprint), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(certificate in any::<[u8; 8]>(), which in 0..3usize) {
            let written = Fingerprint::of(Algorithm::ALL[which], &certificate);
            prop_assert_eq!(written.to_string().parse::<Fingerprint>(), Ok(written));
        }

        #[test]
        fn any_text_is_a_fingerprint_or_none(text in "(sha-(256|384|512) )?[0-9A-Fa-f:é ]{0,200}") {
            if let Ok(read) = text.parse::<Fingerprint>() {
                prop_assert_eq!(read.to_string().parse(), Ok(read));
            }
        }
    }
}

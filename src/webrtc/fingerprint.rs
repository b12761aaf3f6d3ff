//! A certificate's fingerprint, as SDP carries it (RFC 8122 §5). It is all that a browser and a
//! server know of each other's certificates, which nobody else has signed.

use aws_lc_rs::digest;

/// The hash a fingerprint is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `sha-256`.
    Sha256,
    /// `sha-384`.
    Sha384,
    /// `sha-512`.
    Sha512,
}

/// The hash of a certificate's DER.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// The hash it was made with.
    pub algorithm: Algorithm,
    /// The hash itself, as long as its algorithm makes it.
    pub digest: Vec<u8>,
}

impl Fingerprint {
    /// Makes the fingerprint of a certificate.
    pub fn of(algorithm: Algorithm, certificate: &[u8]) -> Self {
        let digest = digest::digest(algorithm.digest(), certificate).as_ref().to_vec();
        Self { algorithm, digest }
    }

    /// Whether the certificate is the one this was made of. Both are public, so the comparison need
    /// not take the same time for all.
    pub fn verify(&self, certificate: &[u8]) -> bool {
        digest::digest(self.algorithm.digest(), certificate).as_ref() == self.digest
    }
}

impl Algorithm {
    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Algorithm::Sha256 => &digest::SHA256,
            Algorithm::Sha384 => &digest::SHA384,
            Algorithm::Sha512 => &digest::SHA512,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_verifies_its_certificate_and_no_other() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
            let fingerprint = Fingerprint::of(algorithm, b"a certificate");
            assert!(fingerprint.verify(b"a certificate"));
            assert!(!fingerprint.verify(b"another"));
            let cut = fingerprint.digest[1..].to_vec();
            assert!(!Fingerprint { algorithm, digest: cut }.verify(b"a certificate"));
            assert!(!Fingerprint { algorithm, digest: Vec::new() }.verify(b"a certificate"));
        }
    }
}

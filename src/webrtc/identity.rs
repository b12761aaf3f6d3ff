//! Who we are in DTLS: one self-signed certificate for the process, its key, and its fingerprint,
//! which every SDP answer names (protocol.md §3.3). Made once by the driver at start and shared by
//! all sessions of all shards.

use std::{fmt, panic::AssertUnwindSafe, sync::Arc};

use dimpl::{
    Config, CryptoError, CryptoOperation, DtlsCertificate,
    crypto::{
        Buf, CryptoProvider, Dtls12CipherSuite, HashAlgorithm, KeyProvider, NamedGroup,
        SignatureAlgorithm, SigningKey, aws_lc_rs,
    },
};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SigningKey as _};

use super::fingerprint::{Algorithm, Fingerprint};
use crate::limits::{
    DTLS_DATAGRAM_BYTES_MAX, DTLS_HANDSHAKE_TIMEOUT, DTLS_HELD_DATAGRAMS_MAX,
    DTLS_RETRANSMIT_AFTER, DTLS_RETRANSMITS_MAX,
};

/// What the certificate is issued to and by. Browsers look at its fingerprint alone.
const COMMON_NAME: &str = "stentor";

/// Cipher suites of DTLS 1.2 we take, all of them with forward secrecy and authentication in one
/// pass; browsers offer them all. RSA has no place here: our own key is not one.
const CIPHER_SUITES: &[Dtls12CipherSuite] = &[
    Dtls12CipherSuite::ECDHE_ECDSA_AES128_GCM_SHA256,
    Dtls12CipherSuite::ECDHE_ECDSA_AES256_GCM_SHA384,
    Dtls12CipherSuite::ECDHE_ECDSA_CHACHA20_POLY1305_SHA256,
];

/// Key exchange groups, first the cheapest. P-384 would let a stranger ask for thirty times the
/// work, and every browser has the other two.
const GROUPS: &[NamedGroup] = &[NamedGroup::X25519, NamedGroup::Secp256r1];

/// Why an identity could not be made. Both are faults of the build or of the machine.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No key or no certificate could be made.
    #[error("cannot make a certificate for DTLS: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The DTLS library refuses its settings.
    #[error("cannot set up DTLS: {0}")]
    Library(#[from] dimpl::Error),
}

/// A certificate with its key. Clones share both.
#[derive(Clone)]
pub struct Identity(Arc<Parts>);

struct Parts {
    certificate: Vec<u8>,
    fingerprint: Fingerprint,
    config: Arc<Config>,
}

impl Identity {
    /// Makes a new ECDSA P-256 key and a certificate for it, with the operating system's
    /// randomness.
    ///
    /// Once in a process is meant: the library takes a source of keys only for ever, so the key is
    /// never freed. It is then in one place, where the library's other way would leave a copy of it
    /// in freed memory for each session.
    pub fn generate() -> Result<Self, IdentityError> {
        let (certificate, key) = self_signed(COMMON_NAME)?;
        let key_provider: &'static Key = Box::leak(Box::new(Key(Arc::new(AssertUnwindSafe(key)))));
        let provider = CryptoProvider { key_provider, ..aws_lc_rs::default_provider() };
        Self::new(certificate, provider, None)
    }

    /// The same identity with the library's own random numbers from a seed, for the simulation:
    /// cookies, hello randoms, record nonces and the jitter of its timers. Keys and signatures stay
    /// random, so that bytes differ from run to run and the order of events does not. Guessable,
    /// hence for no real session.
    pub fn seeded(&self, seed: u64) -> Result<Self, IdentityError> {
        let provider = self.0.config.crypto_provider().clone();
        Self::new(self.0.certificate.clone(), provider, Some(seed))
    }

    fn new(
        certificate: Vec<u8>,
        provider: CryptoProvider,
        seed: Option<u64>,
    ) -> Result<Self, IdentityError> {
        let mut builder = Config::builder()
            .with_crypto_provider(provider)
            .dtls12_cipher_suites(CIPHER_SUITES)
            .dtls13_cipher_suites(&[])
            .kx_groups(GROUPS)
            .require_client_certificate(true)
            .use_server_cookie(true)
            .mtu(DTLS_DATAGRAM_BYTES_MAX)
            .max_queue_rx(DTLS_HELD_DATAGRAMS_MAX)
            .flight_start_rto(DTLS_RETRANSMIT_AFTER)
            .flight_retries(DTLS_RETRANSMITS_MAX)
            .handshake_timeout(DTLS_HANDSHAKE_TIMEOUT);
        if let Some(seed) = seed {
            builder = builder.dangerously_set_rng_seed(seed);
        }
        let config = Arc::new(builder.build()?);
        let fingerprint = Fingerprint::of(Algorithm::Sha256, &certificate);
        Ok(Self(Arc::new(Parts { certificate, fingerprint, config })))
    }

    /// The sha-256 fingerprint of our certificate, for the SDP answer.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.0.fingerprint
    }

    /// Our certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.0.certificate
    }

    pub(super) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.0.config)
    }

    /// What the library takes for a certificate with its key. The key itself comes from [`Key`].
    pub(super) fn for_library(&self) -> DtlsCertificate {
        DtlsCertificate { certificate: self.0.certificate.clone(), private_key: Vec::new() }
    }
}

/// A new ECDSA P-256 key and a certificate for it, DER, that names nobody but `common_name`.
///
/// # Errors
/// There is no randomness.
pub fn self_signed(common_name: &str) -> Result<(Vec<u8>, KeyPair), rcgen::Error> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok((params.self_signed(&key)?.der().to_vec(), key))
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.0.fingerprint).finish()
    }
}

/// The key of the process, lent to each handshake instead of being parsed anew for it. Signing
/// leaves it as it was, so that a panic on the way cannot break it.
#[derive(Clone)]
struct Key(Arc<AssertUnwindSafe<KeyPair>>);

impl KeyProvider for Key {
    fn load_private_key(&self, _: &[u8]) -> Result<Box<dyn SigningKey>, CryptoError> {
        Ok(Box::new(self.clone()))
    }
}

impl SigningKey for Key {
    fn sign(
        &mut self,
        message: &[u8],
        hash: HashAlgorithm,
        out: &mut Buf,
    ) -> Result<(), CryptoError> {
        if hash != HashAlgorithm::SHA256 {
            return Err(CryptoError::SigningKeyHashMismatch {
                key_hash: HashAlgorithm::SHA256,
                requested: hash,
            });
        }
        let failed = CryptoError::OperationFailed(CryptoOperation::Sign);
        let signature = self.0.sign(message).map_err(|_| failed)?;
        out.clear();
        out.extend_from_slice(&signature);
        Ok(())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        HashAlgorithm::SHA256
    }

    fn supported_hash_algorithms(&self) -> &[HashAlgorithm] {
        &[HashAlgorithm::SHA256]
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_identities_differ_and_clones_do_not() {
        let (one, other) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        assert_ne!(one.fingerprint(), other.fingerprint());
        assert_eq!(one.fingerprint(), one.clone().fingerprint());
        assert_eq!(one.fingerprint(), one.seeded(1).unwrap().fingerprint());
        assert!(one.fingerprint().verify(one.certificate()));
        assert!(!one.fingerprint().verify(other.certificate()));
    }

    #[test]
    fn a_key_is_not_printed() {
        let identity = Identity::generate().unwrap();
        let printed = format!("{identity:?} {:?}", identity.0.config.crypto_provider());
        assert!(printed.contains("Key(…)"), "{printed}");
        assert!(identity.for_library().private_key.is_empty());
    }
}

//! A virtual browser's end of DTLS: the client of RFC 6347 that offers one SRTP profile (RFC 5764),
//! the one the scenario names. `dimpl` speaks the protocol, as it does in the server; what it says
//! is held against the server's fingerprint here. Sans-IO: datagrams and the time come in.

use std::{collections::VecDeque, fmt, sync::Arc, time::Instant};

use dimpl::{
    Config, CryptoError, DtlsCertificate, Output,
    crypto::{
        Buf, CryptoProvider, HashAlgorithm, HashContext, HashProvider, KeyProvider,
        SignatureAlgorithm, SigningKey, aws_lc_rs,
    },
};
use zeroize::Zeroizing;

use crate::{
    crypto::{Profile, Role, Srtp},
    limits::{
        DATAGRAM_BYTES_MAX, DTLS_DATAGRAM_BYTES_MAX, DTLS_HANDSHAKE_TIMEOUT,
        DTLS_HELD_DATAGRAMS_MAX, DTLS_RETRANSMIT_AFTER, DTLS_RETRANSMITS_MAX,
    },
    webrtc::{Fingerprint, fingerprint::Algorithm, identity::self_signed},
};

/// The largest thing the library writes out: the server's certificate, which was in the datagrams
/// it held. It panics where that does not fit.
const OUTPUT_BYTES_MAX: usize = DTLS_HELD_DATAGRAMS_MAX * DATAGRAM_BYTES_MAX;

/// What the library offers, for it cannot be told otherwise: the extension `use_srtp` with three
/// profiles and no MKI (RFC 5764 §4.1.1).
///
/// ```text
/// | type 0 14 | length 0 9 | 0 6 | 0 8 | 0 7 | 0 1 | MKI 0 |
/// ```
const OFFER: [u8; 13] = [0, 14, 0, 9, 0, 6, 0, 8, 0, 7, 0, 1, 0];

/// Where the profiles are in it.
const OFFERED: std::ops::Range<usize> = 6..12;

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DtlsFault {
    /// The library gave up.
    #[error("DTLS: {0}")]
    Library(String),
    /// The certificate is not the one that Session Description named.
    #[error("DTLS: the server's certificate is not the one in its SDP")]
    WrongFingerprint,
    /// Another profile than the one that was offered, or none.
    #[error("DTLS: the server does not take {0}")]
    NoProfile(&'static str),
}

/// What all clients of a run have in common: one certificate, for they are one process, and the
/// profile they offer.
pub struct Setup {
    profile: Profile,
    config: Arc<Config>,
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    fingerprint: Fingerprint,
}

impl Setup {
    /// Makes a certificate and its key.
    ///
    /// # Errors
    /// In words: neither happens on a machine that can run the rest.
    pub fn new(profile: Profile) -> Result<Self, String> {
        let (certificate, key) = self_signed("stentor load").map_err(|error| error.to_string())?;
        let only = Only::of(profile);
        let library = aws_lc_rs::default_provider();
        let provider = CryptoProvider { key_provider: only, hash_provider: only, ..library };
        let config = Config::builder()
            .with_crypto_provider(provider)
            .dtls13_cipher_suites(&[])
            .mtu(DTLS_DATAGRAM_BYTES_MAX)
            .max_queue_rx(DTLS_HELD_DATAGRAMS_MAX)
            .flight_start_rto(DTLS_RETRANSMIT_AFTER)
            .flight_retries(DTLS_RETRANSMITS_MAX)
            .handshake_timeout(DTLS_HANDSHAKE_TIMEOUT)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            profile,
            config: Arc::new(config),
            fingerprint: Fingerprint::of(Algorithm::Sha256, &certificate),
            certificate,
            key: Zeroizing::new(key.serialize_der()),
        })
    }

    /// The certificate's fingerprint, for the offer.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Setup").field(&self.profile).finish()
    }
}

/// One handshake. After each call take what there is of [`Handshake::poll_output`] and
/// [`Handshake::take_keys`], then ask [`Handshake::poll_timeout`] anew.
pub struct Handshake {
    library: Box<dimpl::Dtls>,
    profile: Profile,
    server: Fingerprint,
    verified: bool,
    unsent: VecDeque<Vec<u8>>,
    timeout: Option<Instant>,
    keys: Option<Srtp>,
}

impl Handshake {
    /// Says hello to a server whose certificate has this fingerprint.
    ///
    /// # Errors
    /// The library cannot begin.
    pub fn begin(setup: &Setup, server: Fingerprint, now: Instant) -> Result<Self, DtlsFault> {
        let own = DtlsCertificate {
            certificate: setup.certificate.clone(),
            private_key: setup.key.to_vec(),
        };
        let mut library = dimpl::Dtls::new_12(setup.config.clone(), own, now);
        library.set_active(true);
        let mut handshake = Self {
            library: Box::new(library),
            profile: setup.profile,
            server,
            verified: false,
            unsent: VecDeque::new(),
            timeout: None,
            keys: None,
        };
        handshake.handle_timeout(now)?;
        Ok(handshake)
    }

    /// Takes a datagram of the server.
    ///
    /// # Errors
    /// There will be no connection.
    pub fn handle(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DtlsFault> {
        // What is longer cannot have come in one piece, and might not fit what we read into.
        if datagram.len() > DATAGRAM_BYTES_MAX {
            return Ok(());
        }
        let result =
            self.library.handle_timeout(now).and_then(|()| self.library.handle_packet(datagram));
        self.settle(result)
    }

    /// Does what is due by now: says again what brought no answer, or gives up.
    ///
    /// # Errors
    /// There will be no connection.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsFault> {
        let result = self.library.handle_timeout(now);
        self.settle(result)
    }

    /// The next datagram to send.
    pub fn poll_output(&mut self) -> Option<Vec<u8>> {
        self.unsent.pop_front()
    }

    /// When [`Handshake::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timeout
    }

    /// What media is sealed with, once both sides have it. The handshake is over then.
    pub fn take_keys(&mut self) -> Option<Srtp> {
        self.keys.take()
    }

    fn settle(&mut self, result: Result<(), dimpl::Error>) -> Result<(), DtlsFault> {
        result.map_err(|error| DtlsFault::Library(error.to_string()))?;
        let mut buffer = vec![0; OUTPUT_BYTES_MAX];
        let (mut connected, mut agreed) = (false, None);
        loop {
            match self.library.poll_output(&mut buffer) {
                Output::Packet(datagram) => {
                    let mut datagram = datagram.to_vec();
                    Only::of(self.profile).narrow(&mut datagram);
                    self.unsent.push_back(datagram);
                }
                Output::PeerCert(certificate) => {
                    self.verified = self.server.verify(certificate);
                    if !self.verified {
                        return Err(DtlsFault::WrongFingerprint);
                    }
                }
                Output::Connected => connected = true,
                Output::KeyingMaterial(material, profile) => {
                    agreed = Some((Zeroizing::new(material.to_vec()), profile));
                }
                Output::CloseNotify => {
                    return Err(DtlsFault::Library("the server has closed".to_owned()));
                }
                Output::Timeout(at) => {
                    self.timeout = Some(at);
                    break;
                }
                Output::ApplicationData(_) => {}
                other => return Err(DtlsFault::Library(format!("{other:?}"))),
            }
        }
        if connected {
            let srtp = agreed.filter(|_| self.verified).and_then(|(material, profile)| {
                let theirs = dimpl_profile(self.profile) == profile;
                theirs.then(|| Srtp::new(self.profile, &material, Role::Client))?
            });
            self.keys = Some(srtp.ok_or(DtlsFault::NoProfile(self.profile.name()))?);
        }
        Ok(())
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").field("profile", &self.profile).finish_non_exhaustive()
    }
}

fn dimpl_profile(profile: Profile) -> dimpl::crypto::SrtpProfile {
    use dimpl::crypto::SrtpProfile as Theirs;
    match profile {
        Profile::AeadAes128Gcm => Theirs::AEAD_AES_128_GCM,
        Profile::AeadAes256Gcm => Theirs::AEAD_AES_256_GCM,
        Profile::Aes128CmSha1_80 => Theirs::AES128_CM_SHA1_80,
    }
}

/// Makes the library offer one profile. It always offers three, in every ClientHello, and takes the
/// server's choice; a server takes the one it likes best. So the two others are overwritten with
/// the one that is meant, which leaves every length as it was: in the datagrams that leave, and
/// wherever the library hashes or signs what it believes to have said.
#[derive(Debug)]
struct Only(Profile);

impl Only {
    fn of(profile: Profile) -> &'static Self {
        match profile {
            Profile::AeadAes128Gcm => &Only(Profile::AeadAes128Gcm),
            Profile::AeadAes256Gcm => &Only(Profile::AeadAes256Gcm),
            Profile::Aes128CmSha1_80 => &Only(Profile::Aes128CmSha1_80),
        }
    }

    /// Overwrites the first offer in there, if there is one.
    fn narrow(&self, bytes: &mut [u8]) {
        let Some(at) = bytes.windows(OFFER.len()).position(|it| it == OFFER) else { return };
        for id in bytes[at..][OFFERED].chunks_exact_mut(2) {
            id.copy_from_slice(&self.0.id().to_be_bytes());
        }
    }

    fn narrowed(&self, transcript: &[u8]) -> Vec<u8> {
        let mut transcript = transcript.to_vec();
        self.narrow(&mut transcript);
        transcript
    }
}

impl HashProvider for Only {
    fn create_hash(&self, algorithm: HashAlgorithm) -> Box<dyn HashContext> {
        let inner = aws_lc_rs::default_provider().hash_provider.create_hash(algorithm);
        Box::new(NarrowHash { only: Only::of(self.0), inner })
    }
}

/// A hash of what was said, given to it whole.
#[derive(Debug)]
struct NarrowHash {
    only: &'static Only,
    inner: Box<dyn HashContext>,
}

impl HashContext for NarrowHash {
    fn update(&mut self, data: &[u8]) {
        self.inner.update(&self.only.narrowed(data));
    }

    fn clone_and_finalize(&self, out: &mut Buf) {
        self.inner.clone_and_finalize(out);
    }
}

impl KeyProvider for Only {
    fn load_private_key(&self, der: &[u8]) -> Result<Box<dyn SigningKey>, CryptoError> {
        let inner = aws_lc_rs::default_provider().key_provider.load_private_key(der)?;
        Ok(Box::new(NarrowKey { only: Only::of(self.0), inner }))
    }
}

/// A key that signs what was said.
struct NarrowKey {
    only: &'static Only,
    inner: Box<dyn SigningKey>,
}

impl SigningKey for NarrowKey {
    fn sign(&mut self, data: &[u8], hash: HashAlgorithm, out: &mut Buf) -> Result<(), CryptoError> {
        self.inner.sign(&self.only.narrowed(data), hash, out)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.inner.algorithm()
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        self.inner.hash_algorithm()
    }

    fn supported_hash_algorithms(&self) -> &[HashAlgorithm] {
        self.inner.supported_hash_algorithms()
    }
}

impl fmt::Debug for NarrowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NarrowKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webrtc::{Dtls, DtlsEvent, Identity};

    /// Carries datagrams between a client and the real server until both are silent; the server's
    /// keys.
    fn shake(client: &mut Handshake, identity: &Identity, own: &Fingerprint) -> Option<Srtp> {
        let now = Instant::now();
        let mut server = Dtls::new(identity, vec![*own], now);
        let mut out = [0; DTLS_DATAGRAM_BYTES_MAX];
        loop {
            let flight: Vec<_> = std::iter::from_fn(|| client.poll_output()).collect();
            flight.iter().for_each(|datagram| server.handle(now, datagram).unwrap());
            let mut silent = flight.is_empty();
            while let Some(len) = server.poll_output(&mut out) {
                silent = false;
                client.handle(now, &out[..len]).unwrap();
            }
            if silent {
                break;
            }
        }
        let DtlsEvent::Connected { profile, material } = server.poll_event()? else { return None };
        Srtp::new(Profile::from_id(profile.0)?, &material, Role::Server)
    }

    #[test]
    fn each_profile_is_offered_alone_and_both_sides_have_its_keys() {
        let identity = Identity::generate().unwrap();
        for profile in Profile::PREFERRED {
            let setup = Setup::new(profile).unwrap();
            let mut client =
                Handshake::begin(&setup, *identity.fingerprint(), Instant::now()).unwrap();
            let server = shake(&mut client, &identity, setup.fingerprint()).expect("connected");
            assert_eq!(server.profile(), profile, "the server's favourite is another");
            let client = client.take_keys().expect("connected");
            let mut packet = [0; 100];
            packet[0] = 0x80;
            packet[12..40].fill(7);
            let len = server.seal(&mut packet, 40, 0).unwrap();
            let range = client.open(&mut packet[..len], 0).unwrap();
            assert_eq!(packet[range][12..], [7; 28]);
        }
    }

    #[test]
    fn a_server_with_another_certificate_is_refused() {
        let (one, other) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let setup = Setup::new(Profile::AeadAes256Gcm).unwrap();
        let now = Instant::now();
        let mut client = Handshake::begin(&setup, *other.fingerprint(), now).unwrap();
        let mut server = Dtls::new(&one, vec![*setup.fingerprint()], now);
        let mut out = [0; DTLS_DATAGRAM_BYTES_MAX];
        let mut fault = None;
        for _ in 0..4 {
            while let Some(datagram) = client.poll_output() {
                server.handle(now, &datagram).unwrap();
            }
            while let Some(len) = server.poll_output(&mut out) {
                fault = fault.or(client.handle(now, &out[..len]).err());
            }
        }
        assert_eq!(fault, Some(DtlsFault::WrongFingerprint));
        assert!(client.take_keys().is_none());
    }

    #[test]
    fn a_hello_without_an_answer_is_said_again_and_then_given_up() {
        let identity = Identity::generate().unwrap();
        let setup = Setup::new(Profile::AeadAes128Gcm).unwrap();
        let mut now = Instant::now();
        let mut client = Handshake::begin(&setup, *identity.fingerprint(), now).unwrap();
        let mut said = 0;
        let fault = loop {
            while let Some(hello) = client.poll_output() {
                assert!(!hello.windows(OFFER.len()).any(|it| it == OFFER));
                said += 1;
            }
            now = client.poll_timeout().expect("it waits").max(now);
            if let Err(fault) = client.handle_timeout(now) {
                break fault;
            }
        };
        assert!(said > 2, "said {said} times");
        assert!(matches!(fault, DtlsFault::Library(_)), "{fault}");
    }
}

//! DTLS clients that are not ours, behind one face: `rtc-dtls`, of another family than the server's
//! library, and `dimpl` itself. OpenSSL has a clock of its own and is in `openssl`.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use dimpl::{DtlsCertificate, Output, crypto::SrtpProfile};
use rcgen::{CertificateParams, KeyPair};
use rtc_dtls::{
    config::{ConfigBuilder, ExtendedMasterSecretType},
    crypto::{Certificate, CryptoPrivateKey},
    endpoint::{Endpoint, EndpointEvent},
    extension::extension_use_srtp::SrtpProtectionProfile,
};
use rtc_shared::TransportProtocol;
use stentor::webrtc::{Fingerprint, fingerprint::Algorithm};

/// Numbers of the SRTP profiles (RFC 5764 §4.1.2, RFC 7714 §14.2) with the length of their keys and
/// salts for both directions.
pub const PROFILES: [(u16, usize); 3] = [(7, 56), (8, 88), (1, 60)];

/// What a client and a server must have alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    pub profile: u16,
    pub material: Vec<u8>,
}

/// A client as the path drives it.
pub trait Client {
    fn handle(&mut self, now: Instant, datagram: &[u8]);
    fn handle_timeout(&mut self, now: Instant);
    fn poll_output(&mut self) -> Option<Vec<u8>>;
    fn poll_timeout(&self) -> Option<Instant>;
    /// What it connected with.
    fn agreed(&self) -> Option<&Agreed>;
    /// Why it gave up, in its own words.
    fn gave_up(&self) -> Option<&str>;
    fn certificate(&self) -> &[u8];

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(Algorithm::Sha256, self.certificate())
    }
}

/// A certificate whose subject has this many names, each of 60 bytes, and its key.
pub fn certificate(names: usize) -> (Vec<u8>, KeyPair) {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let names: Vec<_> = (0..names).map(|n| format!("{n:050}.example.org")).collect();
    let params = CertificateParams::new(names).unwrap();
    (params.self_signed(&key).unwrap().der().to_vec(), key)
}

/// How an rtc-dtls client is to be.
pub struct Rtc {
    pub profiles: Vec<u16>,
    pub certificate: Option<(Vec<u8>, KeyPair)>,
    pub mtu: usize,
    pub extended_master_secret: bool,
}

impl Default for Rtc {
    fn default() -> Self {
        Self {
            profiles: vec![7],
            certificate: Some(certificate(1)),
            mtu: 1_200,
            extended_master_secret: true,
        }
    }
}

/// webrtc-rs's sans-IO DTLS.
pub struct RtcClient {
    endpoint: Endpoint,
    certificate: Vec<u8>,
    connected: bool,
    agreed: Option<Agreed>,
    gave_up: Option<String>,
}

impl Rtc {
    pub fn start(self, now: Instant) -> RtcClient {
        let provider = rtc_crypto::default_provider().unwrap();
        let ems = if self.extended_master_secret {
            ExtendedMasterSecretType::Require
        } else {
            ExtendedMasterSecretType::Disable
        };
        let mut config = ConfigBuilder::default()
            .with_crypto_provider(provider.clone())
            .with_insecure_skip_verify(true)
            .with_extended_master_secret(ems)
            // It never doubles this, and gives up after seven.
            .with_flight_interval(Duration::from_millis(1_000))
            .with_mtu(self.mtu)
            .with_srtp_protection_profiles(
                self.profiles.into_iter().map(SrtpProtectionProfile::from).collect(),
            );
        let mut der = Vec::new();
        if let Some((certificate, key)) = self.certificate {
            der.clone_from(&certificate);
            let private_key = CryptoPrivateKey::from_key_pair(&key, provider.crypto()).unwrap();
            let certificate = vec![certificate.into()];
            config = config.with_certificates(vec![Certificate { certificate, private_key }]);
        }
        let config = Arc::new(config.build(true, None).unwrap());
        let mut endpoint = Endpoint::new(here(), TransportProtocol::UDP, None);
        endpoint.connect(now, there(), config, None).unwrap();
        RtcClient { endpoint, certificate: der, connected: false, agreed: None, gave_up: None }
    }
}

fn here() -> SocketAddr {
    ([127, 0, 0, 1], 4_444).into()
}

fn there() -> SocketAddr {
    ([127, 0, 0, 1], 4_445).into()
}

impl RtcClient {
    /// Sends close_notify.
    pub fn close(&mut self, now: Instant) {
        self.endpoint.close(now).unwrap();
    }

    /// Sends data where nobody has asked for any.
    pub fn send(&mut self, now: Instant, bytes: &[u8]) {
        self.endpoint.write(now, there(), bytes).unwrap();
    }

    fn agree(&mut self) {
        let state = self.endpoint.get_connection_state(there()).unwrap();
        let profile = state.srtp_protection_profile() as u16;
        let Some((_, length)) = PROFILES.into_iter().find(|(id, _)| *id == profile) else { return };
        let material = state.export_keying_material("EXTRACTOR-dtls_srtp", &[], length).unwrap();
        let material = material.as_ref().to_vec();
        self.agreed = Some(Agreed { profile, material });
    }
}

impl Client for RtcClient {
    fn handle(&mut self, now: Instant, datagram: &[u8]) {
        if self.gave_up.is_some() {
            return;
        }
        match self.endpoint.read(now, there(), None, BytesMut::from(datagram)) {
            Ok(events) => {
                for event in events {
                    match event {
                        EndpointEvent::HandshakeComplete => {
                            self.connected = true;
                            self.agree();
                        }
                        EndpointEvent::PeerClosed => self.gave_up = Some("closed".into()),
                        _ => {}
                    }
                }
            }
            Err(error) => self.gave_up = Some(error.to_string()),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let Err(error) = self.endpoint.handle_timeout(there(), now) {
            self.gave_up = Some(error.to_string());
        }
    }

    fn poll_output(&mut self) -> Option<Vec<u8>> {
        self.endpoint.poll_transmit().map(|transmit| transmit.message.to_vec())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let waits = self.gave_up.is_none() && !self.connected;
        self.endpoint.poll_timeout(&there()).filter(|_| waits)
    }

    fn agreed(&self) -> Option<&Agreed> {
        self.agreed.as_ref()
    }

    fn gave_up(&self) -> Option<&str> {
        self.gave_up.as_deref()
    }

    fn certificate(&self) -> &[u8] {
        &self.certificate
    }
}

/// The server's own library in the other role.
pub struct DimplClient {
    dtls: dimpl::Dtls,
    certificate: Vec<u8>,
    unsent: Vec<Vec<u8>>,
    timeout: Option<Instant>,
    agreed: Option<Agreed>,
    gave_up: Option<String>,
}

impl DimplClient {
    pub fn start(now: Instant, mtu: usize) -> Self {
        let (certificate, key) = certificate(1);
        let own =
            DtlsCertificate { certificate: certificate.clone(), private_key: key.serialize_der() };
        let config = dimpl::Config::builder()
            .mtu(mtu)
            .flight_start_rto(Duration::from_millis(200))
            .flight_retries(8)
            .dangerously_set_rng_seed(7)
            .build()
            .unwrap();
        let mut dtls = dimpl::Dtls::new_12(Arc::new(config), own, now);
        dtls.set_active(true);
        let mut client = Self {
            dtls,
            certificate,
            unsent: Vec::new(),
            timeout: None,
            agreed: None,
            gave_up: None,
        };
        client.handle_timeout(now);
        client
    }

    fn settle(&mut self, now: Instant, result: Result<(), dimpl::Error>) {
        if let Err(error) = result {
            self.gave_up = Some(error.to_string());
            self.timeout = None;
            return;
        }
        let mut buffer = vec![0; 4_096];
        loop {
            match self.dtls.poll_output(&mut buffer) {
                Output::Packet(datagram) => self.unsent.push(datagram.to_vec()),
                Output::KeyingMaterial(material, profile) => {
                    let profile = match profile {
                        SrtpProfile::AEAD_AES_128_GCM => 7,
                        SrtpProfile::AEAD_AES_256_GCM => 8,
                        SrtpProfile::AES128_CM_SHA1_80 => 1,
                        other => panic!("{other:?}"),
                    };
                    self.agreed = Some(Agreed { profile, material: material.to_vec() });
                }
                Output::CloseNotify => self.gave_up = Some("closed".into()),
                Output::Timeout(at) => {
                    let waits = at - now < Duration::from_secs(3_600) && self.agreed.is_none();
                    self.timeout = waits.then_some(at);
                    return;
                }
                _ => {}
            }
        }
    }
}

impl Client for DimplClient {
    fn handle(&mut self, now: Instant, datagram: &[u8]) {
        if self.gave_up.is_none() {
            let result =
                self.dtls.handle_timeout(now).and_then(|()| self.dtls.handle_packet(datagram));
            self.settle(now, result);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        let result = self.dtls.handle_timeout(now);
        self.settle(now, result);
    }

    fn poll_output(&mut self) -> Option<Vec<u8>> {
        (!self.unsent.is_empty()).then(|| self.unsent.remove(0))
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.timeout
    }

    fn agreed(&self) -> Option<&Agreed> {
        self.agreed.as_ref()
    }

    fn gave_up(&self) -> Option<&str> {
        self.gave_up.as_deref()
    }

    fn certificate(&self) -> &[u8] {
        &self.certificate
    }
}

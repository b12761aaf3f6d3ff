//! A browser for the fuzzer: checks its pairs, shakes hands by `dimpl` in the client's role, seals
//! with the crate's own SRTP from the other end.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use dimpl::{Config, DtlsCertificate, Output, crypto::SrtpProfile};
use stentor::{
    crypto::{Profile, ReplayWindow, Role, Srtp},
    id::Ssrc,
    rtp::Packet,
    webrtc::{
        Fingerprint,
        fingerprint::Algorithm,
        stun::{self, BINDING, Class, Key, Transaction, Writer},
    },
};

/// What the browser calls Opus.
const OPUS: u8 = 111;

/// Keys and certificates take longer than the rest and are the same for all.
fn own() -> &'static (DtlsCertificate, Arc<Config>) {
    static OWN: OnceLock<(DtlsCertificate, Arc<Config>)> = OnceLock::new();
    OWN.get_or_init(|| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let params = rcgen::CertificateParams::default();
        let certificate = params.self_signed(&key).expect("a certificate").der().to_vec();
        let config = Config::builder().dangerously_set_rng_seed(2).build().expect("a config");
        let certificate = DtlsCertificate { certificate, private_key: key.serialize_der() };
        (certificate, Arc::new(config))
    })
}

/// The lines of its offer.
pub fn offer() -> String {
    let fingerprint = Fingerprint::of(Algorithm::Sha256, &own().0.certificate);
    format!(
        "a=ice-ufrag:theirs\na=ice-pwd:0123456789012345678901\na=fingerprint:{fingerprint}\n\
         a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\n\
         a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
    )
}

/// One transport of a browser, from op 4 on.
pub struct Browser {
    ufrag: String,
    pwd: String,
    dtls: Option<dimpl::Dtls>,
    unsent: Vec<Vec<u8>>,
    srtp: Option<(Profile, Srtp)>,
    theirs: Vec<(Ssrc, ReplayWindow)>,
    transactions: u32,
}

impl Browser {
    /// Reads the server's answer.
    pub fn new(sdp: &str, now: Instant) -> Self {
        let value = |prefix: &str| {
            let line = sdp.lines().find_map(|line| line.strip_prefix(prefix));
            line.expect("an answer has it").to_owned()
        };
        let (certificate, config) = own().clone();
        let mut dtls = dimpl::Dtls::new_12(config, certificate, now);
        dtls.set_active(true);
        dtls.handle_timeout(now).expect("a fresh one");
        let mut browser = Self {
            ufrag: value("a=ice-ufrag:"),
            pwd: value("a=ice-pwd:"),
            dtls: Some(dtls),
            unsent: Vec::new(),
            srtp: None,
            theirs: Vec::new(),
            transactions: 0,
        };
        browser.listen();
        browser
    }

    /// A signed check.
    pub fn check(&mut self, nominate: bool, honest: bool) -> Vec<u8> {
        self.transactions += 1;
        let mut transaction = [0; 12];
        transaction[..4].copy_from_slice(&self.transactions.to_be_bytes());
        let key = Key::new(if honest { &self.pwd } else { "a password that is not its own" });
        let mut out = vec![0; 256];
        let mut writer = Writer::new(&mut out, Class::Request, BINDING, Transaction(transaction));
        writer.username(&self.ufrag, "theirs").priority(7).role(stun::Role::Controlling(1));
        if nominate {
            writer.use_candidate();
        }
        let len = writer.finish(&key).expect("room enough");
        out.truncate(len);
        out
    }

    /// What it has to say by DTLS.
    pub fn take_unsent(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.unsent)
    }

    /// A datagram of DTLS has come.
    pub fn handle(&mut self, datagram: &[u8]) {
        let Some(dtls) = &mut self.dtls else { return };
        if dtls.handle_packet(datagram).is_err() {
            self.dtls = None;
        }
        self.listen();
    }

    /// Time has passed.
    pub fn elapse(&mut self, now: Instant) {
        let Some(dtls) = &mut self.dtls else { return };
        if dtls.handle_timeout(now).is_err() {
            self.dtls = None;
        }
        self.listen();
    }

    fn listen(&mut self) {
        let Some(dtls) = &mut self.dtls else { return };
        let mut buffer = vec![0; 4_096];
        loop {
            match dtls.poll_output(&mut buffer) {
                Output::Packet(datagram) => self.unsent.push(datagram.to_vec()),
                Output::KeyingMaterial(material, profile) => {
                    let profile = match profile {
                        SrtpProfile::AEAD_AES_128_GCM => Profile::AeadAes128Gcm,
                        SrtpProfile::AEAD_AES_256_GCM => Profile::AeadAes256Gcm,
                        _ => Profile::Aes128CmSha1_80,
                    };
                    let srtp = Srtp::new(profile, &material, Role::Client);
                    self.srtp = Some((profile, srtp.expect("keys of the profile")));
                }
                Output::Timeout(_) => break,
                _ => {}
            }
        }
    }

    /// Whether it has keys.
    pub fn is_connected(&self) -> bool {
        self.srtp.is_some()
    }

    /// Seals a packet of its microphone.
    pub fn seal(&self, ssrc: u32, seq: u16, payload: &[u8]) -> Option<Vec<u8>> {
        let mut packet = vec![0x80, OPUS];
        packet.extend(seq.to_be_bytes());
        packet.extend((u32::from(seq) * 960).to_be_bytes());
        packet.extend(ssrc.to_be_bytes());
        packet.extend(payload);
        let (profile, srtp) = self.srtp.as_ref()?;
        let len = packet.len();
        packet.resize(len + profile.overhead(), 0);
        // The fuzzer never speaks for a whole lap.
        srtp.seal(&mut packet, len, 0)?;
        Some(packet)
    }

    /// Opens a packet of media; `None` before it has keys.
    pub fn open(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        let (_, srtp) = self.srtp.as_ref()?;
        let mut bytes = datagram.to_vec();
        let header = Packet::new(&bytes).expect("RTP");
        let (ssrc, seq) = (header.ssrc(), header.seq());
        let known = self.theirs.iter().position(|(known, _)| *known == ssrc);
        let place = known.unwrap_or_else(|| {
            self.theirs.push((ssrc, ReplayWindow::new()));
            self.theirs.len() - 1
        });
        let window = &mut self.theirs[place].1;
        let accept = window.check_lasting(seq).expect("no number comes twice");
        let range = srtp.open(&mut bytes, accept.laps()).expect("sealed for it");
        window.commit(accept);
        Some(bytes[range].to_vec())
    }
}

//! OpenSSL as the client: its library with a ClientHello of any size, and its command over
//! loopback. It has a clock of its own, so nothing is lost here.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, Read, Write},
    net::UdpSocket,
    process::{Command, Stdio},
    rc::Rc,
    time::{Duration, Instant},
};

use openssl::{
    pkey::PKey,
    ssl::{
        ErrorCode, ExtensionContext, Ssl, SslContext, SslMethod, SslOptions, SslStream,
        SslVerifyMode,
    },
    x509::X509,
};
use stentor::{
    limits::DTLS_DATAGRAM_BYTES_MAX,
    webrtc::{Dtls, DtlsEvent, DtlsFailure, Fingerprint, Identity, fingerprint::Algorithm},
};

use crate::client::{Agreed, PROFILES, certificate};

/// What OpenSSL calls the profiles.
const NAMES: [(u16, &str); 3] =
    [(7, "SRTP_AEAD_AES_128_GCM"), (8, "SRTP_AEAD_AES_256_GCM"), (1, "SRTP_AES128_CM_SHA1_80")];

/// Datagrams in both directions: what OpenSSL takes for its socket.
#[derive(Clone, Default)]
struct Wire {
    to_client: Rc<RefCell<VecDeque<Vec<u8>>>>,
    to_server: Rc<RefCell<VecDeque<Vec<u8>>>>,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let datagram = self.to_client.borrow_mut().pop_front();
        let datagram = datagram.ok_or(io::ErrorKind::WouldBlock)?;
        buffer[..datagram.len()].copy_from_slice(&datagram);
        Ok(datagram.len())
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to_server.borrow_mut().push_back(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How an OpenSSL client is to be.
struct Client {
    profiles: Option<&'static str>,
    /// PEM of certificate and key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
    /// Bytes of an extension that nobody knows, in its ClientHello.
    extra: usize,
}

struct Outcome {
    ssl: SslStream<Wire>,
    connected: bool,
    events: Vec<DtlsEvent>,
    /// Pieces of the first ClientHello.
    hello: usize,
}

fn ecdsa() -> (Vec<u8>, Vec<u8>) {
    let (der, key) = certificate(1);
    (X509::from_der(&der).unwrap().to_pem().unwrap(), key.serialize_pem().into_bytes())
}

impl Client {
    /// Runs a handshake, with the datagrams of each turn of the client in an order of `arrange`'s.
    fn connect(self, arrange: impl Fn(&mut Vec<Vec<u8>>)) -> Outcome {
        let mut context = SslContext::builder(SslMethod::dtls_client()).unwrap();
        context.set_verify(SslVerifyMode::NONE);
        context.set_options(SslOptions::NO_QUERY_MTU);
        let mut expected = Fingerprint::of(Algorithm::Sha256, b"nobody");
        if let Some((certificate, key)) = &self.identity {
            let certificate = X509::from_pem(certificate).unwrap();
            expected = Fingerprint::of(Algorithm::Sha256, &certificate.to_der().unwrap());
            context.set_certificate(&certificate).unwrap();
            context.set_private_key(&PKey::private_key_from_pem(key).unwrap()).unwrap();
        }
        if let Some(profiles) = self.profiles {
            context.set_tlsext_use_srtp(profiles).unwrap();
        }
        if self.extra > 0 {
            let body = vec![0x4D; self.extra];
            let add = context.add_custom_ext(
                0xFA4D,
                ExtensionContext::CLIENT_HELLO,
                move |_, _, _| Ok(Some(body.clone())),
                |_, _, _, _| Ok(()),
            );
            add.unwrap();
        }
        let mut ssl = Ssl::new(&context.build()).unwrap();
        ssl.set_mtu(1_200).unwrap();
        let wire = Wire::default();
        let mut ssl = SslStream::new(ssl, wire.clone()).unwrap();

        let now = Instant::now();
        let mut server = Dtls::new(&Identity::generate().unwrap(), vec![expected], now);
        let (mut connected, mut events, mut hello) = (false, Vec::new(), 0);
        for _ in 0..20 {
            match ssl.connect() {
                Ok(()) => connected = true,
                Err(error) if error.code() == ErrorCode::WANT_READ => {}
                Err(_) => break,
            }
            let mut turn: Vec<_> = wire.to_server.borrow_mut().drain(..).collect();
            if hello == 0 {
                hello = turn.len();
            }
            arrange(&mut turn);
            for datagram in turn {
                let _ = server.handle(now, &datagram);
            }
            let mut out = [0; DTLS_DATAGRAM_BYTES_MAX];
            while let Some(len) = server.poll_output(&mut out) {
                wire.to_client.borrow_mut().push_back(out[..len].to_vec());
            }
            events.extend(std::iter::from_fn(|| server.poll_event()));
        }
        Outcome { ssl, connected, events, hello }
    }
}

fn agreed(events: &[DtlsEvent]) -> Agreed {
    let [DtlsEvent::Connected { profile, material }] = events else { panic!("{events:?}") };
    Agreed { profile: profile.0, material: material.to_vec() }
}

impl Outcome {
    fn is_connected_with(&self, profile: u16) {
        assert!(self.connected);
        let ours = agreed(&self.events);
        assert_eq!(ours.profile, profile);
        let length = PROFILES.iter().find(|(id, _)| *id == profile).unwrap().1;
        let mut material = vec![0; length];
        let ssl = self.ssl.ssl();
        ssl.export_keying_material(&mut material, "EXTRACTOR-dtls_srtp", None).unwrap();
        assert_eq!(ours.material, material);
        let named = ssl.selected_srtp_profile().unwrap().name();
        assert_eq!(NAMES.iter().find(|(_, name)| *name == named).unwrap().0, profile);
    }

    fn has_failed(&self, why: DtlsFailure) {
        assert!(!self.connected);
        let failed = matches!(self.events[..], [DtlsEvent::Failed(it)] if it == why);
        assert!(failed, "{:?}", self.events);
    }
}

#[test]
fn openssl_connects_with_each_profile_and_has_the_same_keys() {
    for (profile, name) in NAMES {
        let client = Client { profiles: Some(name), identity: Some(ecdsa()), extra: 0 };
        client.connect(|_| ()).is_connected_with(profile);
    }
}

#[test]
fn a_hello_of_post_quantum_size_connects_with_its_pieces_in_any_order() {
    let client =
        |extra| Client { profiles: Some("SRTP_AEAD_AES_128_GCM"), identity: Some(ecdsa()), extra };
    for (extra, pieces) in [(1_300, 2), (2_600, 3), (4_000, 4)] {
        let as_sent = client(extra).connect(|_| ());
        assert_eq!(as_sent.hello, pieces);
        as_sent.is_connected_with(7);
        client(extra).connect(|turn| turn.reverse()).is_connected_with(7);
        let twice = client(extra).connect(|turn| {
            let again = turn.clone();
            turn.extend(again);
        });
        twice.is_connected_with(7);
    }
}

#[test]
fn openssl_without_srtp_with_an_unknown_profile_or_no_certificate_fails() {
    let client = Client { profiles: None, identity: Some(ecdsa()), extra: 0 };
    client.connect(|_| ()).has_failed(DtlsFailure::NoProfile);
    let profiles = Some("SRTP_AES128_CM_SHA1_32");
    let client = Client { profiles, identity: Some(ecdsa()), extra: 0 };
    client.connect(|_| ()).has_failed(DtlsFailure::NoProfile);
    let client = Client { profiles: Some(NAMES[0].1), identity: None, extra: 0 };
    client.connect(|_| ()).has_failed(DtlsFailure::NoCertificate);
}

/// What the command prints after this word.
fn printed<'a>(output: &'a str, before: &str) -> &'a str {
    let (_, after) = output.split_once(before).unwrap_or_else(|| panic!("{output}"));
    after.lines().next().unwrap().trim()
}

#[test]
fn the_openssl_command_connects_over_loopback() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = ecdsa();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("certificate"), &certificate).unwrap();
    std::fs::write(path("key"), &key).unwrap();
    let der = X509::from_pem(&certificate).unwrap().to_der().unwrap();

    for (profile, name) in NAMES {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let length = PROFILES.iter().find(|(id, _)| *id == profile).unwrap().1.to_string();
        let mut child = Command::new("openssl")
            .args(["s_client", "-dtls1_2", "-connect", &address, "-use_srtp", name])
            .args(["-cert", &path("certificate"), "-key", &path("key")])
            .args(["-keymatexport", "EXTRACTOR-dtls_srtp", "-keymatexportlen", &length])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the openssl command is installed");
        // As long as it can be typed to, it stays.
        let mut input = child.stdin.take();

        let expected = vec![Fingerprint::of(Algorithm::Sha256, &der)];
        let begun = Instant::now();
        let mut server = Dtls::new(&Identity::generate().unwrap(), expected, begun);
        let mut events = Vec::new();
        let mut buffer = [0; 2_048];
        while !matches!(events.last(), Some(DtlsEvent::Closed | DtlsEvent::Failed(_))) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{events:?}");
            let Ok((len, client)) = socket.recv_from(&mut buffer) else {
                server.handle_timeout(Instant::now());
                continue;
            };
            let _ = server.handle(Instant::now(), &buffer[..len]);
            while let Some(len) = server.poll_output(&mut buffer) {
                socket.send_to(&buffer[..len], client).unwrap();
            }
            events.extend(std::iter::from_fn(|| server.poll_event()));
            if matches!(events[..], [DtlsEvent::Connected { .. }]) {
                // It leaves with a goodbye, once it has printed what it got.
                drop(input.take());
            }
        }
        let output = child.wait_with_output().unwrap();
        let output = String::from_utf8_lossy(&output.stdout);
        let ours = agreed(&events[..1]);
        assert_eq!(ours.profile, profile);
        assert_eq!(printed(&output, "SRTP Extension negotiated, profile="), name);
        let hex: String = ours.material.iter().map(|byte| format!("{byte:02X}")).collect();
        assert_eq!(printed(&output, "Keying material: "), hex);
    }
}

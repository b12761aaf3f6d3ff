//! What does a DTLS handshake cost the shard it runs on? Each datagram of a client that makes the
//! server work, by itself: the most that one call of `Dtls::handle` takes. The client is the
//! server's library in the other role.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{BatchSize, Criterion};
use dimpl::{Config, DtlsCertificate, Output};
use rcgen::{CertificateParams, KeyPair};
use stentor::{
    limits::DTLS_DATAGRAM_BYTES_MAX,
    webrtc::{Dtls, DtlsEvent, Fingerprint, Identity, fingerprint::Algorithm},
};

/// Datagrams of a client in their order, by what the server does with them.
const STEPS: [&str; 3] = [
    "hello without a cookie: an HMAC",
    "hello with a cookie: a key made, a signature",
    "last flight: an exchange, a verification, keys",
];

/// A client with a certificate of its own.
struct Client {
    dtls: dimpl::Dtls,
    expected: Fingerprint,
}

impl Client {
    fn new(config: &Arc<Config>, own: &DtlsCertificate, now: Instant) -> Self {
        let mut dtls = dimpl::Dtls::new_12(Arc::clone(config), own.clone(), now);
        dtls.set_active(true);
        dtls.handle_timeout(now).unwrap();
        let expected = Fingerprint::of(Algorithm::Sha256, &own.certificate);
        Self { dtls, expected }
    }

    fn datagram(&mut self) -> Vec<u8> {
        let mut buffer = [0; 2_048];
        let mut datagrams = Vec::new();
        loop {
            match self.dtls.poll_output(&mut buffer) {
                Output::Packet(datagram) => datagrams.push(datagram.to_vec()),
                Output::Timeout(_) => break,
                _ => {}
            }
        }
        let Ok([datagram]) = <[_; 1]>::try_from(datagrams) else { panic!("one for each flight") };
        datagram
    }
}

/// A server that is about to be handed the datagram of a step.
fn before(identity: &Identity, client: &mut Client, now: Instant, step: usize) -> (Dtls, Vec<u8>) {
    let mut server = Dtls::new(identity, vec![client.expected], now);
    let mut out = [0; DTLS_DATAGRAM_BYTES_MAX];
    for _ in 0..step {
        server.handle(now, &client.datagram()).unwrap();
        while let Some(len) = server.poll_output(&mut out) {
            client.dtls.handle_packet(&out[..len]).unwrap();
        }
    }
    (server, client.datagram())
}

fn own() -> DtlsCertificate {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = CertificateParams::default().self_signed(&key).unwrap().der().to_vec();
    DtlsCertificate { certificate, private_key: key.serialize_der() }
}

fn bench(c: &mut Criterion) {
    let now = Instant::now();
    let identity = Identity::generate().unwrap();
    let config = Arc::new(Config::builder().build().unwrap());
    let own = own();

    let mut group = c.benchmark_group("dtls");
    group.measurement_time(Duration::from_secs(3));
    group.bench_function("a session's server made", |b| {
        b.iter(|| black_box(Dtls::new(&identity, Vec::new(), now)));
    });
    for (step, name) in STEPS.into_iter().enumerate() {
        group.bench_function(name, |b| {
            b.iter_batched(
                || before(&identity, &mut Client::new(&config, &own, now), now, step),
                |(mut server, datagram)| {
                    server.handle(now, black_box(&datagram)).unwrap();
                    server
                },
                BatchSize::PerIteration,
            );
        });
    }
    let (mut server, datagram) = before(&identity, &mut Client::new(&config, &own, now), now, 2);
    server.handle(now, &datagram).unwrap();
    assert!(matches!(server.poll_event(), Some(DtlsEvent::Connected { .. })));
    let forged = [&[23, 254, 253, 0, 1, 0, 0, 0, 0, 9, 9, 4, 176][..], &[7; 1_200]].concat();
    group.bench_function("a forged record of 1,200 bytes once connected", |b| {
        b.iter(|| server.handle(now, black_box(&forged)).unwrap_err());
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    bench(&mut criterion);
    criterion.final_summary();
}

//! A DTLS server and a client that wants to connect, with a fuzzer in between: it delivers,
//! changes, repeats and withholds the client's datagrams, makes up its own, and lets time pass.
//! What connects has the client's keys; what has ended stays so; nothing piles up.
#![no_main]

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use dimpl::{Config, DtlsCertificate, Output};
use libfuzzer_sys::fuzz_target;
use stentor::{
    limits::{DTLS_DATAGRAM_BYTES_MAX, DTLS_HANDSHAKE_TIMEOUT, DTLS_UNSENT_DATAGRAMS_MAX},
    metrics::DropReason,
    webrtc::{Dtls, DtlsEvent, Fingerprint, Identity, fingerprint::Algorithm},
};

struct Party {
    identity: Identity,
    own: DtlsCertificate,
    config: Arc<Config>,
    start: Instant,
}

/// Keys and certificates take longer than the rest and are the same for all.
fn party() -> &'static Party {
    static PARTY: OnceLock<Party> = OnceLock::new();
    PARTY.get_or_init(|| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let params = rcgen::CertificateParams::default();
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        Party {
            identity: Identity::generate().unwrap().seeded(1).unwrap(),
            own: DtlsCertificate { certificate, private_key: key.serialize_der() },
            config: Arc::new(Config::builder().dangerously_set_rng_seed(2).build().unwrap()),
            start: Instant::now(),
        }
    })
}

struct World {
    now: Instant,
    server: Dtls,
    client: Option<dimpl::Dtls>,
    /// All that the client has sent, and how many of it were taken.
    sent: Vec<Vec<u8>>,
    taken: usize,
    theirs: Option<Vec<u8>>,
    ours: Option<Vec<u8>>,
    over: bool,
}

impl World {
    fn new() -> Self {
        let party = party();
        let now = party.start;
        let expected = vec![Fingerprint::of(Algorithm::Sha256, &party.own.certificate)];
        let mut client = dimpl::Dtls::new_12(Arc::clone(&party.config), party.own.clone(), now);
        client.set_active(true);
        client.handle_timeout(now).unwrap();
        let mut world = Self {
            now,
            server: Dtls::new(&party.identity, expected, now),
            client: Some(client),
            sent: Vec::new(),
            taken: 0,
            theirs: None,
            ours: None,
            over: false,
        };
        world.listen();
        world
    }

    fn give(&mut self, datagram: &[u8]) {
        let result = self.server.handle(self.now, datagram);
        if self.over && !matches!(result, Err(DropReason::Malformed | DropReason::Oversize)) {
            assert_eq!(result, Err(DropReason::DtlsOver));
        }
        self.settle();
    }

    fn elapse(&mut self, time: Duration) {
        self.now += time;
        if self.server.poll_timeout().is_some_and(|at| at <= self.now) {
            self.server.handle_timeout(self.now);
            assert!(self.server.poll_timeout().is_none_or(|at| at > self.now), "time stands still");
        }
        let now = self.now;
        self.client_does(|client| client.handle_timeout(now));
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(event) = self.server.poll_event() {
            assert!(!self.over, "an event after the end: {event:?}");
            match event {
                DtlsEvent::Connected { material, .. } => {
                    assert!(self.ours.is_none(), "connected twice");
                    self.ours = Some(material.to_vec());
                }
                DtlsEvent::Failed(_) => {
                    assert!(self.ours.is_none(), "failed after it was connected");
                    self.over = true;
                }
                DtlsEvent::Closed => {
                    assert!(self.ours.is_some(), "closed what never was");
                    self.over = true;
                }
            }
        }
        let mut out = [0; DTLS_DATAGRAM_BYTES_MAX];
        let mut count = 0;
        while let Some(len) = self.server.poll_output(&mut out) {
            count += 1;
            assert!(count <= DTLS_UNSENT_DATAGRAMS_MAX);
            self.client_does(|client| client.handle_packet(&out[..len]));
        }
        self.listen();
        if let (Some(ours), Some(theirs)) = (&self.ours, &self.theirs) {
            assert_eq!(ours, theirs);
        }
    }

    /// A client that errs is no more.
    fn client_does(&mut self, step: impl FnOnce(&mut dimpl::Dtls) -> Result<(), dimpl::Error>) {
        if self.client.as_mut().is_some_and(|client| step(client).is_err()) {
            self.client = None;
        }
    }

    fn listen(&mut self) {
        let Some(client) = &mut self.client else { return };
        let mut buffer = [0; 2_048];
        loop {
            match client.poll_output(&mut buffer) {
                Output::Packet(datagram) => self.sent.push(datagram.to_vec()),
                Output::KeyingMaterial(material, _) => self.theirs = Some(material.to_vec()),
                Output::Timeout(_) => return,
                _ => {}
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut world = World::new();
    let mut input = input;
    let mut take = |count: usize| {
        let (taken, rest) = input.split_at(count.min(input.len()));
        input = rest;
        taken.to_vec()
    };
    let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte));
    for _ in 0..64 {
        let Some(&operation) = take(1).first() else { break };
        match operation % 8 {
            // The client's next datagram, as it is.
            0 => {
                if let Some(datagram) = world.sent.get(world.taken).cloned() {
                    world.taken += 1;
                    world.give(&datagram);
                }
            }
            // The same, withheld.
            1 => world.taken += 1,
            // One that was before, or comes too early.
            2 => {
                let index = number(&take(1));
                if let Some(datagram) = world.sent.get(index).cloned() {
                    world.give(&datagram);
                }
            }
            // The next one with some bytes changed.
            3 => {
                let (at, mask) = (number(&take(2)), take(4));
                if let Some(mut datagram) = world.sent.get(world.taken).cloned() {
                    let len = datagram.len();
                    for (index, bits) in mask.into_iter().enumerate() {
                        datagram[(at + index) % len] ^= bits;
                    }
                    world.give(&datagram);
                }
            }
            // The next one cut.
            4 => {
                let len = number(&take(2));
                if let Some(datagram) = world.sent.get(world.taken).cloned() {
                    world.give(&datagram[..len % datagram.len()]);
                }
            }
            // Any bytes.
            5 => {
                let len = number(&take(1));
                let datagram = take(len);
                world.give(&datagram);
            }
            // A record of any kind around any bytes, some of them many times.
            6 => {
                let head = take(6);
                let [kind, epoch, sequence, times, high, low] = head[..] else { break };
                let body = take(number(&[high % 4, low]));
                let length = (body.len() as u16).to_be_bytes();
                let record =
                    [&[kind, 254, 253, 0, epoch, 0, 0, 0, 0, 0, sequence][..], &length, &body]
                        .concat();
                world.give(&record.repeat(1 + usize::from(times % 10)));
            }
            // Time, up to the longest a handshake may take.
            _ => {
                let time = DTLS_HANDSHAKE_TIMEOUT * number(&take(1)) as u32 / 255;
                world.elapse(time);
            }
        }
    }
});

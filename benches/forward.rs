//! Did forwarding get slower? One voice packet from its datagram to a sealed copy for each of 1,
//! 10, 50 and 500 hearers, without a kernel, beside the bare aws-lc seals it contains; and to
//! browsers beside the same to clients over plain UDP. Under `cargo bench` it ends with the ratios,
//! which are what to watch; times are this machine's.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use aws_lc_rs::aead::{
    AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use criterion::{BenchmarkId, Criterion, Throughput};
use stentor::{crypto::Mode, egress::Path};

use crate::{
    browser::{AEAD_128, AEAD_256, CM_SHA1, Choices},
    client::Profile,
    rig::Rig,
};

#[allow(dead_code, reason = "shared with tests that use all of it")]
#[path = "../tests/shard/browser.rs"]
mod browser;

#[allow(dead_code, reason = "shared with tests that use all of it")]
#[path = "../tests/sim/client.rs"]
mod client;
#[allow(dead_code, reason = "shared with tests that use all of it")]
#[path = "../tests/dtls/client.rs"]
mod dtls_client;
#[allow(dead_code, reason = "shared with tests that use all of it")]
#[path = "../tests/shard/rig.rs"]
mod rig;

const HEARERS: [usize; 4] = [1, 10, 50, 500];
const MODES: [(Mode, &str); 2] =
    [(Mode::Aes256GcmRtpsize, "AES"), (Mode::XChaCha20Poly1305Rtpsize, "XChaCha")];
/// Profiles of SRTP.
const PROFILES: [(u16, &str); 3] =
    [(AEAD_128, "AEAD-128"), (AEAD_256, "AEAD-256"), (CM_SHA1, "CM-SHA1")];
const PAYLOAD: [u8; 160] = [7; 160];
/// What a hearer's copy has before its ciphertext, and in it.
const CLEAR: usize = 16;
const BODY: usize = 8 + PAYLOAD.len();

/// A speaker, its hearers and one whole lap of sealed packets: after it the same numbers, and with
/// them the same datagrams, are new again.
struct Forwarding {
    rig: Rig,
    from: Path,
    lap: Vec<Vec<u8>>,
    turn: usize,
    datagram: [u8; 256],
}

impl Forwarding {
    fn new(mode: Mode, hearers: usize) -> Self {
        let mut rig = Rig::new();
        let profile = || Profile { mode, ..Profile::default() };
        let speaker = rig.joined(1, 1, profile());
        for user in 2..hearers as u64 + 2 {
            rig.joined(1, user, profile());
        }
        Self::spoken(rig, speaker)
    }

    /// The same speaker, heard by browsers.
    fn to_browsers(profile: u16, hearers: usize) -> Self {
        let mut rig = Rig::new();
        let speaker = rig.joined(1, 1, Profile::default());
        for user in 2..hearers as u64 + 2 {
            rig.browser(1, user, Choices { profile, ..Choices::default() });
        }
        Self::spoken(rig, speaker)
    }

    fn spoken(mut rig: Rig, speaker: usize) -> Self {
        let from = Path::to(rig.clients[speaker].address);
        let lap = (0..=u16::MAX).map(|_| rig.clients[speaker].voice(&PAYLOAD)).collect();
        Self { rig, from, lap, turn: 0, datagram: [0; 256] }
    }

    /// Forwards the next packet; returns how many copies that made.
    fn step(&mut self) -> usize {
        let sealed = &self.lap[self.turn % self.lap.len()];
        self.turn += 1;
        let datagram = &mut self.datagram[..sealed.len()];
        datagram.copy_from_slice(sealed);
        let Rig { shard, egress, now, .. } = &mut self.rig;
        shard.handle_datagram(*now, self.from, black_box(datagram), egress);
        let copies = egress.len();
        drop(black_box(egress.flight()));
        copies
    }
}

/// The seals that a packet for so many hearers contains, each with its own key. XChaCha20 has a new
/// key for every packet, so there setting it up is part of the seal.
struct Bare {
    mode: Mode,
    keys: Vec<[u8; 32]>,
    aes: Vec<LessSafeKey>,
    buffer: [u8; CLEAR + BODY + 16],
    nonce: u32,
}

impl Bare {
    fn new(mode: Mode, hearers: usize) -> Self {
        let key = |index| std::array::from_fn(|byte| (index * 31 + byte * 7) as u8);
        let keys: Vec<_> = (0..hearers).map(key).collect();
        let aes = keys.iter().map(|key| set_up(&AES_256_GCM, key)).collect();
        Self { mode, keys, aes, buffer: [0x5A; _], nonce: 0 }
    }

    fn step(&mut self) {
        for hearer in 0..self.keys.len() {
            self.nonce = self.nonce.wrapping_add(1);
            let buffer = &mut self.buffer;
            match self.mode {
                Mode::Aes256GcmRtpsize => seal(&self.aes[hearer], self.nonce, buffer),
                _ => {
                    let key = set_up(&CHACHA20_POLY1305, black_box(&self.keys[hearer]));
                    seal(&key, self.nonce, buffer);
                }
            }
        }
    }
}

fn set_up(algorithm: &'static Algorithm, key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(algorithm, key).expect("32 bytes"))
}

fn seal(key: &LessSafeKey, number: u32, buffer: &mut [u8; CLEAR + BODY + 16]) {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&number.to_be_bytes());
    let (clear, rest) = buffer.split_at_mut(CLEAR);
    let body = black_box(&mut rest[..BODY]);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key.seal_in_place_separate_tag(nonce, Aad::from(&clear[..]), body).expect("a seal");
    rest[BODY..].copy_from_slice(tag.as_ref());
}

fn benches(criterion: &mut Criterion) {
    for (mode, name) in MODES {
        let mut group = criterion.benchmark_group(format!("forward {name}"));
        for hearers in HEARERS {
            group.throughput(Throughput::Elements(hearers as u64));
            let mut forwarding = Forwarding::new(mode, hearers);
            assert_eq!(forwarding.step(), hearers, "everyone is due a copy");
            let shard = BenchmarkId::new("shard", hearers);
            group.bench_function(shard, |b| b.iter(|| forwarding.step()));
            let mut bare = Bare::new(mode, hearers);
            let seals = BenchmarkId::new("bare seals", hearers);
            group.bench_function(seals, |b| b.iter(|| bare.step()));
        }
        group.finish();
    }
}

/// Both in turn, in short rounds, so that a noisy neighbour slows both; the median of the rounds.
fn print_ratios(mode: Mode, name: &str) {
    const ROUNDS: usize = 31;
    for hearers in HEARERS {
        let (mut forwarding, mut bare) = (Forwarding::new(mode, hearers), Bare::new(mode, hearers));
        let steps = 20_000 / hearers;
        let mut ratios: Vec<(f64, Duration, Duration)> = (0..ROUNDS)
            .map(|_| {
                let ours = time(steps, || {
                    black_box(forwarding.step());
                });
                let theirs = time(steps, || bare.step());
                (ours.as_secs_f64() / theirs.as_secs_f64(), ours, theirs)
            })
            .collect();
        ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (ratio, ours, theirs) = ratios[ROUNDS / 2];
        let copies = (steps * hearers) as u32;
        println!(
            "forward {name} to {hearers:>3}: {:?} a copy, bare {:?}, ratio {ratio:.2} ({:.2} to {:.2})",
            ours / copies,
            theirs / copies,
            ratios[0].0,
            ratios[ROUNDS - 1].0,
        );
    }
}

/// Browsers beside clients over plain UDP, in turn as above.
fn print_browser_ratios(profile: u16, name: &str) {
    const ROUNDS: usize = 31;
    for hearers in HEARERS {
        let mut browsers = Forwarding::to_browsers(profile, hearers);
        let mut plain = Forwarding::new(Mode::Aes256GcmRtpsize, hearers);
        assert_eq!((browsers.step(), plain.step()), (hearers, hearers), "everyone is due a copy");
        let steps = 20_000 / hearers;
        let mut ratios: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let ours = time(steps, || {
                    black_box(browsers.step());
                });
                let theirs = time(steps, || {
                    black_box(plain.step());
                });
                ours.as_secs_f64() / theirs.as_secs_f64()
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        println!(
            "forward to {hearers:>3} browsers, {name}: {:.2} of UDP with AES ({:.2} to {:.2})",
            ratios[ROUNDS / 2],
            ratios[0],
            ratios[ROUNDS - 1],
        );
    }
}

fn time(steps: usize, mut step: impl FnMut()) -> Duration {
    let start = Instant::now();
    (0..steps).for_each(|_| step());
    start.elapsed()
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    benches(&mut criterion);
    criterion.final_summary();
    if std::env::args().any(|argument| argument == "--bench")
        && !std::env::args().any(|argument| argument == "--test")
    {
        for (mode, name) in MODES {
            print_ratios(mode, name);
        }
        for (profile, name) in PROFILES {
            print_browser_ratios(profile, name);
        }
    }
}

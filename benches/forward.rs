//! Did forwarding get slower? One voice packet of 160 bytes through `Shard::handle_datagram` to 1,
//! 10, 50 and 500 hearers, without a kernel, beside the bare aws-lc seals that are in it: as many
//! keys, the same bytes. Under `cargo bench` it ends with the ratios, which are what to watch;
//! times are this machine's.

use std::{hint::black_box, time::Instant};

use aws_lc_rs::aead::{
    AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use criterion::{BenchmarkId, Criterion, Throughput};
use stentor::crypto::Mode;

#[allow(dead_code, reason = "shared with the simulation, of which this needs a part")]
#[path = "../tests/sim/client.rs"]
mod client;
#[path = "../tests/sim/stage.rs"]
mod stage;

use stage::Stage;

const HEARERS: [usize; 4] = [1, 10, 50, 500];
const PAYLOAD: usize = 160;
/// What every hearer's copy has in clear: fixed header and the extension's preamble.
const CLEAR: usize = 16;
/// What is encrypted: the extension's elements and the payload.
const PLAIN: usize = 8 + PAYLOAD;

/// A whole lap of sequence numbers, so that packets can come round again and be new.
const PACKETS: usize = 1 << 16;

/// Forwards the next of the speaker's packets.
fn ours(hearers: usize, mode: Mode) -> impl FnMut() {
    let mut stage = Stage::new(hearers, mode);
    let packets: Vec<Vec<u8>> = (0..PACKETS).map(|_| stage.packet(&[0x5A; PAYLOAD])).collect();
    let (len, packets) = (packets[0].len(), packets.concat());
    let (mut arrived, mut turn) = (vec![0; len], 0);
    move || {
        arrived.copy_from_slice(&packets[turn * len..][..len]);
        turn = (turn + 1) % PACKETS;
        let forwarded = stage.forward(black_box(&mut arrived));
        assert_eq!(forwarded, hearers);
    }
}

/// One bare seal for each hearer, keys set up before.
fn bare_aes(hearers: usize) -> impl FnMut() {
    let keys: Vec<LessSafeKey> =
        (0..hearers).map(|index| bare_key(&AES_256_GCM, &key(index))).collect();
    let (mut buffer, mut turn) = ([0x5A; 256], 0u32);
    move || {
        for key in &keys {
            turn = turn.wrapping_add(1);
            bare_seal(key, turn, &mut buffer);
        }
    }
}

/// One bare seal for each hearer, with the key set up that every packet of XChaCha20 needs.
fn bare_chacha(hearers: usize) -> impl FnMut() {
    let keys: Vec<[u8; 32]> = (0..hearers).map(key).collect();
    let (mut buffer, mut turn) = ([0x5A; 256], 0u32);
    move || {
        for key in &keys {
            turn = turn.wrapping_add(1);
            bare_seal(&bare_key(&CHACHA20_POLY1305, black_box(key)), turn, &mut buffer);
        }
    }
}

fn key(index: usize) -> [u8; 32] {
    std::array::from_fn(|byte| (index * 31 + byte * 7) as u8)
}

fn bare_key(algorithm: &'static Algorithm, key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(algorithm, key).unwrap())
}

#[inline]
fn bare_seal(key: &LessSafeKey, turn: u32, buffer: &mut [u8; 256]) {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&turn.to_be_bytes());
    let (header, rest) = black_box(buffer).split_at_mut(CLEAR);
    let aad = Aad::from(&*header);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key.seal_in_place_separate_tag(nonce, aad, &mut rest[..PLAIN]);
    let _ = black_box(tag);
}

fn bench(c: &mut Criterion) {
    let modes = [Mode::Aes256GcmRtpsize, Mode::XChaCha20Poly1305Rtpsize];
    for hearers in HEARERS {
        let mut group = c.benchmark_group(format!("forward to {hearers}"));
        group.throughput(Throughput::Elements(hearers as u64));
        let mut bare = bare_aes(hearers);
        group.bench_function("bare aws-lc AES-256-GCM", |b| b.iter(&mut bare));
        let mut bare = bare_chacha(hearers);
        group.bench_function("bare aws-lc ChaCha20-Poly1305, key set-up", |b| b.iter(&mut bare));
        for mode in modes {
            let mut ours = ours(hearers, mode);
            group.bench_function(BenchmarkId::from_parameter(mode.name()), |b| b.iter(&mut ours));
        }
        group.finish();
    }
}

/// Nanoseconds of one call, from as many as seal about 20,000 packets.
fn time(call: &mut impl FnMut(), hearers: usize) -> f64 {
    let calls = 20_000 / hearers;
    let start = Instant::now();
    for _ in 0..calls {
        call();
    }
    start.elapsed().as_secs_f64() * 1e9 / calls as f64
}

/// Times both in turn, so that what disturbs one disturbs the other, and prints the medians' ratio.
fn ratio(what: &str, hearers: usize, mut bare: impl FnMut(), mut ours: impl FnMut()) {
    const ROUNDS: usize = 51;
    let (mut bares, mut ourses) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        bares.push(time(&mut bare, hearers));
        ourses.push(time(&mut ours, hearers));
    }
    bares.sort_by(f64::total_cmp);
    ourses.sort_by(f64::total_cmp);
    let (bare, ours) = (bares[ROUNDS / 2], ourses[ROUNDS / 2]);
    let ratio = ours / bare;
    println!("ratio {what} to {hearers}: bare {bare:.0} ns, ours {ours:.0} ns, {ratio:.2}x");
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    bench(&mut criterion);
    criterion.final_summary();
    if std::env::args().any(|argument| argument == "--bench") {
        for hearers in HEARERS {
            let (aes, xchacha) = (Mode::Aes256GcmRtpsize, Mode::XChaCha20Poly1305Rtpsize);
            ratio("AES-256-GCM", hearers, bare_aes(hearers), ours(hearers, aes));
            ratio("XChaCha20", hearers, bare_chacha(hearers), ours(hearers, xchacha));
        }
    }
}

//! Did sealing and opening get slower? Each AEAD mode beside the bare aws-lc calls it is made of,
//! the secretbox modes alone: a voice packet of 160 bytes, 256 keys in turn. Under `cargo bench` it
//! ends with the ratios, which are what to watch; times are this machine's.

use std::{hint::black_box, time::Instant};

use aws_lc_rs::aead::{
    AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use criterion::{BenchmarkId, Criterion, Throughput};
use stentor::crypto::{Cipher, Mode, NonceCounter, ReplayWindow, SecretKey};

const KEYS: usize = 256;
const HEADER: usize = 12;
const PAYLOAD: usize = 160;
const PLAIN: usize = HEADER + PAYLOAD;

fn key(index: usize) -> [u8; 32] {
    std::array::from_fn(|byte| (index * 31 + byte * 7) as u8)
}

fn ciphers(mode: Mode) -> Vec<Cipher> {
    (0..KEYS).map(|index| Cipher::new(mode, &SecretKey::new(key(index)), [9; 20])).collect()
}

fn plain() -> [u8; 256] {
    let mut buffer = [0x5A; 256];
    buffer[..2].copy_from_slice(&[0x80, 120]);
    buffer
}

/// Our seal, with the next of 256 keys on every call. What was sealed is sealed again.
fn ours_seal(mode: Mode) -> impl FnMut() {
    let (ciphers, mut buffer, mut turn) = (ciphers(mode), plain(), 0u32);
    move || {
        turn = turn.wrapping_add(1);
        let cipher = &ciphers[turn as usize % KEYS];
        let len = cipher.seal(black_box(&mut buffer), black_box(PLAIN), turn.to_be_bytes());
        black_box(len);
    }
}

/// The call of aws-lc that seals the same bytes, with a key schedule made before.
fn bare_aes_seal() -> impl FnMut() {
    let keys: Vec<LessSafeKey> = (0..KEYS).map(|index| bare_key(&AES_256_GCM, index)).collect();
    let (mut buffer, mut turn) = (plain(), 0u32);
    move || {
        turn = turn.wrapping_add(1);
        bare_seal(&keys[turn as usize % KEYS], turn, &mut buffer);
    }
}

/// The calls of aws-lc that set up a ChaCha20-Poly1305 key and seal the same bytes.
fn bare_chacha_seal() -> impl FnMut() {
    let keys: Vec<[u8; 32]> = (0..KEYS).map(key).collect();
    let (mut buffer, mut turn) = (plain(), 0u32);
    move || {
        turn = turn.wrapping_add(1);
        let key = UnboundKey::new(&CHACHA20_POLY1305, black_box(&keys[turn as usize % KEYS]));
        bare_seal(&LessSafeKey::new(key.unwrap()), turn, &mut buffer);
    }
}

fn bare_key(algorithm: &'static Algorithm, index: usize) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(algorithm, &key(index)).unwrap())
}

#[inline]
fn nonce(turn: u32) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&turn.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[inline]
fn bare_seal(key: &LessSafeKey, turn: u32, buffer: &mut [u8; 256]) {
    let (header, rest) = black_box(buffer).split_at_mut(HEADER);
    let aad = Aad::from(&*header);
    let tag = key.seal_in_place_separate_tag(nonce(turn), aad, &mut rest[..PAYLOAD]);
    let _ = black_box(tag);
}

/// Our open. Opening destroys its input, so a fresh copy is part of the time.
fn ours_open(mode: Mode) -> impl FnMut() {
    let ciphers = ciphers(mode);
    let sealed: Vec<([u8; 256], usize)> = ciphers
        .iter()
        .map(|cipher| {
            let mut buffer = plain();
            let len = cipher.seal(&mut buffer, PLAIN, [1, 2, 3, 4]).unwrap();
            (buffer, len)
        })
        .collect();
    let mut turn = 0usize;
    move || {
        turn = (turn + 1) % KEYS;
        let (mut buffer, len) = black_box(&sealed)[turn];
        ciphers[turn].open(&mut buffer[..len]).unwrap();
        black_box(&buffer);
    }
}

/// The call of aws-lc that opens the same bytes, a fresh copy included.
fn bare_aes_open() -> impl FnMut() {
    let keys: Vec<LessSafeKey> = (0..KEYS).map(|index| bare_key(&AES_256_GCM, index)).collect();
    let sealed: Vec<[u8; 256]> = keys
        .iter()
        .map(|key| {
            let mut buffer = plain();
            let (header, rest) = buffer.split_at_mut(HEADER);
            let aad = Aad::from(&*header);
            let tag = key.seal_in_place_separate_tag(nonce(1), aad, &mut rest[..PAYLOAD]).unwrap();
            rest[PAYLOAD..PAYLOAD + 16].copy_from_slice(tag.as_ref());
            buffer
        })
        .collect();
    let mut turn = 0usize;
    move || {
        turn = (turn + 1) % KEYS;
        let mut buffer = black_box(&sealed)[turn];
        let (header, rest) = buffer.split_at_mut(HEADER);
        let aad = Aad::from(&*header);
        keys[turn].open_in_place(nonce(1), aad, &mut rest[..PAYLOAD + 16]).unwrap();
        black_box(&buffer);
    }
}

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal");
    group.throughput(Throughput::Elements(1));
    let mut bare = bare_aes_seal();
    group.bench_function("bare aws-lc AES-256-GCM", |b| b.iter(&mut bare));
    let mut bare = bare_chacha_seal();
    group.bench_function("bare aws-lc ChaCha20-Poly1305, key set-up", |b| b.iter(&mut bare));
    for mode in Mode::ALL {
        let mut ours = ours_seal(mode);
        group.bench_function(BenchmarkId::from_parameter(mode.name()), |b| b.iter(&mut ours));
    }
    group.finish();

    let mut group = c.benchmark_group("open");
    group.throughput(Throughput::Elements(1));
    let mut bare = bare_aes_open();
    group.bench_function("bare aws-lc AES-256-GCM", |b| b.iter(&mut bare));
    for mode in Mode::ALL {
        let mut ours = ours_open(mode);
        group.bench_function(BenchmarkId::from_parameter(mode.name()), |b| b.iter(&mut ours));
    }
    group.finish();

    let mut nonces = NonceCounter::new([1, 2, 3]);
    c.bench_function("nonce/observe and next", |b| {
        b.iter(|| {
            nonces.observe(black_box([0, 0, 0, 1]));
            black_box(nonces.next())
        });
    });
    let (mut window, mut seq) = (ReplayWindow::new(), 0u16);
    c.bench_function("replay/check and commit", |b| {
        b.iter(|| {
            seq = seq.wrapping_add(1);
            let accept = window.check(black_box(seq)).unwrap();
            window.commit(accept);
        });
    });
}

/// Nanoseconds of one call, from `CALLS` of them.
fn time(call: &mut impl FnMut()) -> f64 {
    const CALLS: u32 = 20_000;
    let start = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}

/// Times both in turn, so that what disturbs one disturbs the other, and prints the medians' ratio.
fn ratio(what: &str, mut bare: impl FnMut(), mut ours: impl FnMut()) {
    const ROUNDS: usize = 51;
    let (mut bares, mut ourses) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        bares.push(time(&mut bare));
        ourses.push(time(&mut ours));
    }
    bares.sort_by(f64::total_cmp);
    ourses.sort_by(f64::total_cmp);
    let (bare, ours) = (bares[ROUNDS / 2], ourses[ROUNDS / 2]);
    println!("ratio {what}: bare {bare:.1} ns, ours {ours:.1} ns, {:.2}x", ours / bare);
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    bench(&mut criterion);
    criterion.final_summary();
    if std::env::args().any(|argument| argument == "--bench") {
        ratio("seal AES-256-GCM", bare_aes_seal(), ours_seal(Mode::Aes256GcmRtpsize));
        ratio("seal XChaCha20", bare_chacha_seal(), ours_seal(Mode::XChaCha20Poly1305Rtpsize));
        ratio("open AES-256-GCM", bare_aes_open(), ours_open(Mode::Aes256GcmRtpsize));
    }
}

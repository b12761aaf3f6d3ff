//! Did sealing and opening get slower? Each AEAD mode and each profile of SRTP beside the bare
//! aws-lc calls it is made of, the secretbox modes alone: a voice packet of 160 bytes, 256 keys in
//! turn. Under `cargo bench` it ends with the ratios, which are what to watch; times are this
//! machine's.

use std::{hint::black_box, time::Instant};

use aws_lc_rs::{
    aead::{
        AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
    },
    cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey},
    hmac,
    iv::FixedLength,
};
use criterion::{BenchmarkId, Criterion, Throughput};
use stentor::crypto::{Cipher, Mode, NonceCounter, Profile, ReplayWindow, Role, SecretKey, Srtp};

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
fn bare_aes_seal(algorithm: &'static Algorithm) -> impl FnMut() {
    let keys: Vec<LessSafeKey> = (0..KEYS).map(|index| bare_key(algorithm, index)).collect();
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
    LessSafeKey::new(UnboundKey::new(algorithm, &key(index)[..algorithm.key_len()]).unwrap())
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

/// One end of each of 256 handshakes.
fn srtps(profile: Profile, role: Role) -> Vec<Srtp> {
    let material = |index: usize| [key(index), key(index + 1), key(index + 2)].concat();
    (0..KEYS)
        .map(|index| Srtp::new(profile, &material(index)[..profile.material_len()], role).unwrap())
        .collect()
}

/// Our seal of SRTP, as `ours_seal`.
fn srtp_seal(profile: Profile) -> impl FnMut() {
    let (srtps, mut buffer, mut turn) = (srtps(profile, Role::Server), plain(), 0u32);
    move || {
        turn = turn.wrapping_add(1);
        let srtp = &srtps[turn as usize % KEYS];
        black_box(srtp.seal(black_box(&mut buffer), black_box(PLAIN), turn));
    }
}

/// The calls of aws-lc that do what AES-CM with HMAC-SHA1-80 does, with all computed before that
/// can be.
fn bare_cm_seal() -> impl FnMut() {
    let keys: Vec<(EncryptingKey, hmac::Key)> = (0..KEYS)
        .map(|index| {
            let cipher = UnboundCipherKey::new(&AES_128, &key(index)[..16]).unwrap();
            let hmac = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key(index)[..20]);
            (EncryptingKey::ctr(cipher).unwrap(), hmac)
        })
        .collect();
    let (mut buffer, mut turn) = (plain(), 0u32);
    move || {
        turn = turn.wrapping_add(1);
        let (cipher, authentication) = &keys[turn as usize % KEYS];
        let mut iv = [0; 16];
        iv[..4].copy_from_slice(&turn.to_be_bytes());
        let iv = EncryptionContext::Iv128(FixedLength::from(iv));
        let packet = &mut black_box(&mut buffer)[..PLAIN];
        let _ = black_box(cipher.less_safe_encrypt(&mut packet[HEADER..], iv));
        let mut context = hmac::Context::with_key(authentication);
        context.update(packet);
        context.update(&turn.to_be_bytes());
        black_box(context.sign());
    }
}

/// A sealed packet, and how long it is.
type Sealed = ([u8; 256], usize);

fn sealed(seal: impl FnOnce(&mut [u8; 256]) -> Option<usize>) -> Sealed {
    let mut buffer = plain();
    let len = seal(&mut buffer).expect("room enough");
    (buffer, len)
}

/// Opens with the next of 256 keys on every call. Opening destroys its input, so a fresh copy is
/// part of the time.
fn opening(sealed: Vec<Sealed>, open: impl Fn(usize, &mut [u8])) -> impl FnMut() {
    let mut turn = 0usize;
    move || {
        turn = (turn + 1) % KEYS;
        let (mut buffer, len) = black_box(&sealed)[turn];
        open(turn, &mut buffer[..len]);
        black_box(&buffer);
    }
}

/// Our open.
fn ours_open(mode: Mode) -> impl FnMut() {
    let ciphers = ciphers(mode);
    let seal = |cipher: &Cipher| sealed(|buffer| cipher.seal(buffer, PLAIN, [1, 2, 3, 4]));
    let sealed = ciphers.iter().map(seal).collect();
    opening(sealed, move |turn, packet| {
        ciphers[turn].open(packet).unwrap();
    })
}

/// Our open of SRTP.
fn srtp_open(profile: Profile) -> impl FnMut() {
    let (servers, clients) = (srtps(profile, Role::Server), srtps(profile, Role::Client));
    let seal = |client: &Srtp| sealed(|buffer| client.seal(buffer, PLAIN, 1));
    let sealed = clients.iter().map(seal).collect();
    opening(sealed, move |turn, packet| {
        servers[turn].open(packet, 1).unwrap();
    })
}

/// The call of aws-lc that opens the same bytes.
fn bare_aes_open() -> impl FnMut() {
    let keys: Vec<LessSafeKey> = (0..KEYS).map(|index| bare_key(&AES_256_GCM, index)).collect();
    let seal = |key: &LessSafeKey| {
        sealed(|buffer| {
            let (header, rest) = buffer.split_at_mut(HEADER);
            let aad = Aad::from(&*header);
            let tag = key.seal_in_place_separate_tag(nonce(1), aad, &mut rest[..PAYLOAD]).ok()?;
            rest[PAYLOAD..PAYLOAD + 16].copy_from_slice(tag.as_ref());
            Some(PLAIN + 16)
        })
    };
    let sealed = keys.iter().map(seal).collect();
    opening(sealed, move |turn, packet| {
        let (header, rest) = packet.split_at_mut(HEADER);
        let aad = Aad::from(&*header);
        keys[turn].open_in_place(nonce(1), aad, rest).unwrap();
    })
}

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal");
    group.throughput(Throughput::Elements(1));
    let mut bare = bare_aes_seal(&AES_256_GCM);
    group.bench_function("bare aws-lc AES-256-GCM", |b| b.iter(&mut bare));
    let mut bare = bare_chacha_seal();
    group.bench_function("bare aws-lc ChaCha20-Poly1305, key set-up", |b| b.iter(&mut bare));
    for mode in Mode::ALL {
        let mut ours = ours_seal(mode);
        group.bench_function(BenchmarkId::from_parameter(mode.name()), |b| b.iter(&mut ours));
    }
    let mut bare = bare_aes_seal(&AES_128_GCM);
    group.bench_function("bare aws-lc AES-128-GCM", |b| b.iter(&mut bare));
    let mut bare = bare_cm_seal();
    group.bench_function("bare aws-lc AES-128-CTR, HMAC-SHA1", |b| b.iter(&mut bare));
    for profile in Profile::PREFERRED {
        let mut ours = srtp_seal(profile);
        group.bench_function(BenchmarkId::from_parameter(profile.name()), |b| b.iter(&mut ours));
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
    for profile in Profile::PREFERRED {
        let mut ours = srtp_open(profile);
        group.bench_function(BenchmarkId::from_parameter(profile.name()), |b| b.iter(&mut ours));
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
        ratio("seal AES-256-GCM", bare_aes_seal(&AES_256_GCM), ours_seal(Mode::Aes256GcmRtpsize));
        ratio("seal XChaCha20", bare_chacha_seal(), ours_seal(Mode::XChaCha20Poly1305Rtpsize));
        ratio("open AES-256-GCM", bare_aes_open(), ours_open(Mode::Aes256GcmRtpsize));
        ratio(
            "seal SRTP AES-128-GCM",
            bare_aes_seal(&AES_128_GCM),
            srtp_seal(Profile::AeadAes128Gcm),
        );
        ratio(
            "seal SRTP AES-256-GCM",
            bare_aes_seal(&AES_256_GCM),
            srtp_seal(Profile::AeadAes256Gcm),
        );
        ratio("seal SRTP AES-CM", bare_cm_seal(), srtp_seal(Profile::Aes128CmSha1_80));
        // A browser beside a client of plain UDP.
        for profile in Profile::PREFERRED {
            let name = profile.name();
            let udp = Mode::Aes256GcmRtpsize;
            ratio(&format!("seal {name} to UDP"), ours_seal(udp), srtp_seal(profile));
            ratio(&format!("open {name} to UDP"), ours_open(udp), srtp_open(profile));
        }
    }
}

//! What a browser's ICE costs a shard: finding a check's session, answering a check, refusing one,
//! and reading an offer.

use std::{hint::black_box, time::Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use stentor::{
    egress::Path,
    webrtc::{
        Credentials, Ice, Offer,
        credentials::RANDOM_BYTES,
        ice::{ANSWER_BYTES_MAX, local_ufrag},
        stun::{BINDING, Class, Key, Role, Transaction, Writer},
    },
};

/// A check as Chromium sends it, signed with `pwd`.
fn check(to: &Credentials, pwd: &str) -> Vec<u8> {
    let mut out = [0; 256];
    let len = Writer::new(&mut out, Class::Request, BINDING, Transaction([9; 12]))
        .username(to.ufrag(), "9WZo")
        .push(0xC057, &[0, 1, 3, 132])
        .role(Role::Controlling(1))
        .use_candidate()
        .priority(1_853_824_767)
        .finish(&Key::new(pwd))
        .expect("there is room");
    out[..len].to_vec()
}

fn bench(c: &mut Criterion) {
    let (local, other) =
        (Credentials::generate([7; RANDOM_BYTES]), Credentials::generate([8; RANDOM_BYTES]));
    let (good, forged) = (check(&local, local.pwd()), check(&local, other.pwd()));
    let path = Path::to(([192, 0, 2, 1], 5_000).into());
    let now = Instant::now();
    let mut out = [0; ANSWER_BYTES_MAX];

    c.bench_function("ice/find the session", |b| {
        b.iter(|| local_ufrag(black_box(&good)).is_some())
    });
    let mut ice = Ice::new(local, now);
    c.bench_function("ice/answer a check", |b| {
        b.iter(|| ice.handle(now, path, black_box(&good), &mut out).expect("a good check"))
    });
    c.bench_function("ice/refuse a check", |b| {
        b.iter(|| ice.handle(now, path, black_box(&forged), &mut out).expect_err("a forged check"))
    });

    let lines: String = (0..22).flat_map(|_| OFFER_LINES).map(|line| format!("{line}\n")).collect();
    let name = format!("sdp/read an offer of {} KB", lines.len() / 1_000);
    c.bench_function(&name, |b| b.iter(|| Offer::parse(black_box(&lines)).expect("an offer")));
}

/// What Fermi sends for one m-line; it sends twenty-two.
const OFFER_LINES: [&str; 12] = [
    "a=ice-ufrag:9WZo",
    "a=ice-pwd:vcfFowC3gQI1KHu0Fm5ZTXum",
    "a=ice-options:trickle",
    "a=fingerprint:sha-256 71:20:4C:BE:C2:D0:B7:9B:73:5B:4B:29:7C:32:41:25:\
     D8:D2:BC:66:74:D3:93:98:B3:0D:01:F7:67:19:01:13",
    "a=extmap:14 urn:ietf:params:rtp-hdrext:toffset",
    "a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
    "a=extmap:13 urn:3gpp:video-orientation",
    "a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
    "a=extmap:5 http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
    "a=extmap:8 http://www.webrtc.org/experiments/rtp-hdrext/color-space",
    "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid",
    "a=rtpmap:111 opus/48000/2",
];

criterion_group!(benches, bench);
criterion_main!(benches);

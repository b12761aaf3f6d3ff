//! The packet path does not touch Rust's heap: opening and sealing in any mode and in any profile
//! of SRTP, and a packet of voice or video from its datagram to fifty sealed copies, with what
//! mends losses of video. (aws-lc sets up ChaCha20-Poly1305 keys in memory of its own, which is
//! C's.)
#![expect(unsafe_code, reason = "a global allocator is unsafe to implement")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    net::SocketAddr,
    time::Duration,
};

use stentor::{
    crypto::{self, Cipher, Mode, NonceCounter, ReplayWindow, Role, SecretKey, Srtp},
    egress::Path,
    rtp::{
        feedback::write_nack,
        rtcp::{Blocks, ReceiverReport},
    },
};

use crate::{
    client::{Outgoing, Profile, Rtp, rtp},
    rig::Rig,
};

#[allow(dead_code, reason = "shared with tests that use all of it")]
#[path = "sim/client.rs"]
mod client;
#[allow(dead_code, reason = "shared with tests that use all of it")]
#[path = "shard/rig.rs"]
mod rig;

/// Counts what the current thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract;
// the counter has neither a destructor nor a lazy initialiser, so counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `realloc`'s contract, and `pointer` came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract, and `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(of: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    of();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

#[test]
fn opening_and_sealing_allocate_nothing_in_any_mode() {
    for mode in Mode::ALL {
        let cipher = Cipher::new(mode, &SecretKey::new([7; 32]), [9; 20]);
        let mut nonces = NonceCounter::new([1, 2, 3]);
        let mut window = ReplayWindow::new();
        let mut buffer = [0x5A; 400];
        let count = allocations(|| {
            for seq in 0..100u16 {
                buffer[..2].copy_from_slice(&[0x80, 120]);
                buffer[2..4].copy_from_slice(&seq.to_be_bytes());
                let len = cipher.seal(&mut buffer, 172, nonces.next().unwrap()).unwrap();
                let accept = window.check(seq).unwrap();
                let opened = cipher.open(&mut buffer[..len]).unwrap();
                window.commit(accept);
                opened.suffix.into_iter().for_each(|suffix| nonces.observe(suffix));
                buffer.copy_within(opened.range, 0);
                assert!(cipher.open(&mut [0x80; 200]).is_err());
            }
        });
        assert_eq!(count, 0, "{}", mode.name());
    }
}

#[test]
fn opening_and_sealing_allocate_nothing_in_any_srtp_profile() {
    for profile in crypto::Profile::PREFERRED {
        let material = vec![7; profile.material_len()];
        let mut server = Srtp::new(profile, &material, Role::Server).unwrap();
        let mut client = Srtp::new(profile, &material, Role::Client).unwrap();
        let mut buffer = [0x5A; 1_400];
        let count = allocations(|| {
            for seq in 0..100u16 {
                for plain_len in [172, 1_200] {
                    buffer[..2].copy_from_slice(&[0x80, 111]);
                    buffer[2..4].copy_from_slice(&seq.to_be_bytes());
                    let len = server.seal(&mut buffer, plain_len, 1).unwrap();
                    client.open(&mut buffer[..len], 1).unwrap();
                }
                // As many sources as come and go in a call, so that windows give way too.
                buffer[..2].copy_from_slice(&[0x80, 200]);
                buffer[4..8].copy_from_slice(&[0, 0, 0, seq as u8]);
                let len = server.seal_rtcp(&mut buffer, 28).unwrap();
                client.open_rtcp(&mut buffer[..len]).unwrap();
                assert!(client.open(&mut [0x80; 200], 0).is_err());
                assert!(client.open_rtcp(&mut [0x80; 200]).is_err());
            }
        });
        assert_eq!(count, 0, "{}", profile.name());
    }
}

#[test]
fn forwarding_voice_to_fifty_hearers_allocates_nothing() {
    for mode in Mode::ALL {
        let mut rig = Rig::new();
        let speaker = rig.joined(1, 1, Profile { mode, ..Profile::default() });
        for user in 2..=51 {
            rig.joined(1, user, Profile { mode, ..Profile::default() });
        }
        // The first packet makes room for what the stream's hearers have heard.
        rig.speak(speaker, &[7; 160]);
        let from = Path::to(rig.clients[speaker].address);
        let mut voice: Vec<_> = (0..100).map(|_| rig.clients[speaker].voice(&[7; 160])).collect();
        let Rig { shard, egress, now, .. } = &mut rig;
        let mut copies = 0;
        let count = allocations(|| {
            for datagram in &mut voice {
                shard.handle_datagram(*now, from, datagram, egress);
                copies += egress.len();
                drop(egress.flight());
            }
        });
        assert_eq!((copies, count), (5_000, 0), "{}", mode.name());
    }
}

/// A camera's packets, one in four of which comes as a retransmission only, a viewer's requests,
/// and what the shard does of its own accord in three seconds of that.
#[test]
fn forwarding_and_mending_video_allocates_nothing() {
    let mut rig = Rig::new();
    let camera = rig.joined(1, 1, Profile::video(103, 104));
    let viewers: Vec<_> =
        (2..=51).map(|user| rig.joined(1, user, Profile::video(103, 104))).collect();
    rig.say(camera, |client| client.camera(true));
    let mut rounds = (0..150).map(|_| round(&mut rig, camera, viewers[0])).collect::<Vec<_>>();
    let Rig { shard, egress, now, .. } = &mut rig;
    let mut copies = 0;
    let mut play = |rounds: &mut [Vec<(SocketAddr, Vec<u8>)>]| {
        allocations(|| {
            for (from, bytes) in rounds.iter_mut().flatten() {
                shard.handle_datagram(*now, Path::to(*from), bytes, egress);
                copies += egress.len();
                drop(egress.flight());
                *now += Duration::from_millis(4);
                shard.handle_timeout(*now, egress);
                drop(egress.flight());
            }
        })
    };
    let (first, rest) = rounds.split_at_mut(50);
    assert!(play(first) > 0, "what a stream needs is allocated when it begins");
    assert_eq!(play(rest), 0);
    let counters = shard.counters();
    assert_eq!((counters.mended, counters.retransmitted), (0, 150), "in time, and asked for");
    assert_eq!(copies, 150 * (4 * 50 + 1));
}

/// Four packets of video, the third as a retransmission behind the fourth, and a viewer's request
/// for the first.
fn round(rig: &mut Rig, camera: usize, viewer: usize) -> Vec<(SocketAddr, Vec<u8>)> {
    let client = &mut rig.clients[camera];
    let (address, video) = (client.address, client.streams[1].ssrc);
    let first = client.streams[1].seq;
    let payload = [0x65; 900];
    let mut sent = Vec::new();
    for seq in [first, first + 1, first + 3, first + 2] {
        let [high, low] = seq.to_be_bytes();
        let elements = [0x51, high, low, 0];
        let timestamp = u32::from(first) * 3_000;
        let again = [&seq.to_be_bytes()[..], &payload].concat();
        let mut packet = Rtp {
            payload_type: 103,
            seq,
            timestamp,
            extension: Some((0xBEDE, &elements)),
            payload: &payload,
            ..rtp(video)
        };
        if seq == first + 2 {
            let Outgoing { ssrc, seq, .. } = client.streams[2];
            client.streams[2].seq = seq + 1;
            packet = Rtp { ssrc, payload_type: 104, seq, payload: &again, ..packet };
        }
        sent.push((address, client.seal(&packet.plain())));
    }
    client.streams[1].seq = first + 4;
    let client = &mut rig.clients[viewer];
    let (address, ssrc) = (client.address, client.ssrc());
    let mut out = [0; 64];
    let head = ReceiverReport { ssrc, blocks: Blocks::default() }.write(&mut out);
    let head = head.expect("room enough");
    let nack = write_nack(&mut out[head..], ssrc, video, [first]).expect("room enough");
    sent.push((address, client.seal(&out[..head + nack])));
    sent
}

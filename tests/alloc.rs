//! The packet path does not touch Rust's heap: opening and sealing in any mode, and a packet of
//! voice or video from its datagram to fifty sealed copies, with what mends losses of video. (aws-lc sets up ChaCha20-Poly1305 keys in memory
//! of its own, which is C's.)
#![expect(unsafe_code, reason = "a global allocator is unsafe to implement")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use stentor::{
    crypto::{Cipher, Mode, NonceCounter, ReplayWindow, SecretKey},
    egress::Path,
};

use stentor::rtp::{
    feedback::write_nack,
    rtcp::{Blocks, ReceiverReport},
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

/// A camera's packets with losses, its retransmissions, a viewer's requests, and everything that
/// the shard does of its own accord in two seconds of that.
#[test]
fn forwarding_and_mending_video_allocates_nothing() {
    let mut rig = Rig::new();
    let camera = rig.joined(1, 1, Profile::video(103, 104));
    let viewers: Vec<_> =
        (2..=51).map(|user| rig.joined(1, user, Profile::video(103, 104))).collect();
    rig.say(camera, |client| client.camera(true));
    let (from, viewer) = (rig.clients[camera].address, viewers[0]);
    let asking = rig.clients[viewer].address;
    let video = rig.clients[camera].streams[1].ssrc;
    let rounds: Vec<Vec<_>> = (0..150u16)
        .map(|round| {
            let client = &mut rig.clients[camera];
            let mut sent = Vec::new();
            for packet in 0..4 {
                let Outgoing { ssrc, seq, timestamp } = client.streams[1];
                client.streams[1].seq = seq.wrapping_add(1);
                let [high, low] = seq.to_be_bytes();
                let (payload, elements) = ([0x65; 900], [0x51, high, low, 0]);
                let extension = Some((0xBEDE, &elements[..]));
                let packet_ = rtp(ssrc);
                let plain = Rtp {
                    payload_type: 103,
                    seq,
                    timestamp,
                    extension,
                    payload: &payload,
                    ..packet_
                };
                match packet {
                    // It is lost, and comes as a retransmission.
                    2 => {
                        let again = [&seq.to_be_bytes()[..], &payload].concat();
                        let ssrc = client.streams[2].ssrc;
                        let again = Rtp {
                            payload_type: 104,
                            seq: round,
                            payload: &again,
                            timestamp,
                            ..rtp(ssrc)
                        };
                        sent.push((from, client.seal(&again.plain())));
                        sent.rotate_right(1);
                    }
                    _ => sent.push((from, client.seal(&plain.plain()))),
                }
            }
            let client = &mut rig.clients[viewer];
            let ssrc = client.ssrc();
            let mut out = [0; 64];
            let head = ReceiverReport { ssrc, blocks: Blocks::default() }.write(&mut out).unwrap();
            let lost = [round.wrapping_mul(4)];
            let len = head + write_nack(&mut out[head..], ssrc, video, lost).unwrap();
            sent.push((asking, client.seal(&out[..len])));
            sent
        })
        .collect();
    let Rig { shard, egress, now, .. } = &mut rig;
    let (mut copies, mut warm) = (0, 0);
    let mut play = |rounds: Vec<Vec<(std::net::SocketAddr, Vec<u8>)>>| {
        allocations(|| {
            for mut round in rounds {
                // The retransmission came to the front; it comes last but one.
                round[..4].rotate_left(1);
                for (from, bytes) in &mut round {
                    shard.handle_datagram(*now, Path::to(*from), bytes, egress);
                    copies += egress.len();
                    drop(egress.flight());
                }
                *now += std::time::Duration::from_millis(20);
                shard.handle_timeout(*now, egress);
                drop(egress.flight());
                // What the test itself frees is not counted, and it allocates nothing.
            }
        })
    };
    let mut rounds = rounds.into_iter();
    warm += play(rounds.by_ref().take(50).collect());
    let count = play(rounds.collect());
    assert!(warm > 0, "what is kept for a stream is allocated when it begins");
    assert_eq!(count, 0);
    let counters = shard.counters();
    assert_eq!(counters.retransmitted, 150);
    assert!(copies > 150 * 4 * 50, "{copies}");
}

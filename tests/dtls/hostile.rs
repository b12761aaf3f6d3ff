//! What must not disturb: bytes that are cut, forged, replayed, too many or too large.

use std::time::{Duration, Instant};

use stentor::{
    metrics::DropReason,
    webrtc::{DtlsEvent, DtlsFailure},
};

use crate::{
    client::{Client, DimplClient, Rtc, RtcClient, certificate},
    dice::Dice,
    path::{To, World},
};

fn record(kind: u8, epoch: u8, number: u64, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [&[kind, 254, 253, 0, epoch][..], &number.to_be_bytes()[2..], &length, body].concat()
}

fn connected() -> World<'static, RtcClient> {
    let now = Instant::now();
    let mut world = World::new(now, Rtc::default().start(now));
    world.connect();
    world
}

/// That both ends of it are still what they were.
fn is_undisturbed(world: &mut World<RtcClient>) {
    assert_eq!(world.events.len(), 1, "{:?}", world.events);
    world.client.close(world.now);
    world.run(Duration::from_secs(1));
    assert!(matches!(world.events[..], [_, DtlsEvent::Closed]), "{:?}", world.events);
}

#[test]
fn every_cut_of_every_datagram_is_dropped_and_the_handshake_goes_on() {
    let now = Instant::now();
    let mut cuts = 0;
    let mut world = World::new(now, Rtc::default().start(now)).with_meddler(|to, datagram| {
        if to == To::Client {
            return vec![datagram];
        }
        let mut all: Vec<_> = (1..datagram.len()).map(|len| datagram[..len].to_vec()).collect();
        // What ends with a record is whole.
        all.retain(|cut| {
            let mut rest = &cut[..];
            while rest.len() >= 13 {
                let length = 13 + usize::from(u16::from_be_bytes([rest[11], rest[12]]));
                let Some(after) = rest.get(length..) else { return true };
                rest = after;
            }
            !rest.is_empty()
        });
        cuts += all.len();
        all.push(datagram);
        all
    });
    world.connect();
    let drops = std::mem::take(&mut world.drops);
    drop(world);
    assert!(cuts > 500 && drops.len() == cuts, "{cuts}");
    assert!(drops.iter().all(|reason| *reason == DropReason::Malformed));
}

#[test]
fn noise_between_the_flights_changes_nothing() {
    for seed in 0..30 {
        let now = Instant::now();
        let mut dice = Dice::new(seed);
        let mut world = World::new(now, Rtc::default().start(now)).with_meddler(|to, datagram| {
            let mut all = vec![datagram];
            for _ in 0..10 {
                let len = dice.within(1..300);
                let noise = match dice.within(0..4) {
                    0 => dice.bytes(len),
                    // Handshake records without a message in them.
                    1 => record(22, 0, dice.next() >> 20, &dice.bytes(len % 11 + 1)),
                    // Records of epochs that there never are.
                    2 => record(22, 2 + dice.next() as u8 % 200, dice.next() >> 20, &[1; 60]),
                    // Alerts that are only a warning.
                    _ => record(21, 0, dice.next() >> 20, &[1, 90]),
                };
                let place = dice.within(0..all.len() + 1);
                if to == To::Server {
                    all.insert(place, noise);
                }
            }
            all
        });
        world.connect();
    }
}

#[test]
fn a_hello_from_anywhere_gets_one_short_answer_and_no_work_is_done_for_it() {
    let now = Instant::now();
    let mut world = World::new(now, Rtc::default().start(now));
    let mut spoofed = Rtc::default().start(now);
    let hello = spoofed.poll_output().unwrap();
    let mut received = 0;
    let mut sent = 0;
    for round in 0..200 {
        world.now = now + Duration::from_millis(10 * round);
        world.arrive(&hello);
        received += hello.len();
        while world.server.poll_timeout().is_some_and(|at| at <= world.now) {
            world.server.handle_timeout(world.now);
        }
        for answer in world.answers() {
            assert_eq!(answer[13], 3, "a HelloVerifyRequest: no key was made, nothing signed");
            sent += answer.len();
        }
    }
    assert!(sent < received, "{sent} bytes for {received}");
    assert!(world.events.is_empty());
}

#[test]
fn a_hello_spoofed_before_does_not_keep_the_client_out() {
    let now = Instant::now();
    let mut world = World::new(now, Rtc::default().start(now));
    let hello = Rtc::default().start(now).poll_output().unwrap();
    world.arrive(&hello);
    world.run(Duration::from_secs(10));
    assert_eq!(world.agreed().as_ref(), world.client.agreed());
    assert!(world.agreed().is_some(), "{:?}", world.events);
}

#[test]
fn what_is_replayed_after_connecting_ends_nothing() {
    let mut world = connected();
    let replays: Vec<_> =
        world.arrived.iter().filter(|(to, _)| *to == To::Server).cloned().collect();
    for _ in 0..3 {
        for (_, datagram) in &replays {
            world.arrive(datagram);
        }
    }
    let answers = world.answers();
    // The client's last flight asks for ours again. More often than a timer allows it gets nothing.
    assert_eq!(answers.iter().map(|it| it[0]).collect::<Vec<_>>(), [20]);
    assert_eq!(world.drops, vec![DropReason::DtlsUseless; 3 * replays.len() - 1]);
    is_undisturbed(&mut world);
}

#[test]
fn what_is_forged_after_connecting_ends_nothing() {
    let mut world = connected();
    let mut forged = 0;
    for kind in 20..=23 {
        for epoch in [0, 1, 2, 255] {
            for number in 0..40 {
                for body in [&[2, 40][..], &[1, 0], &[1], &[7; 16], &[7; 25], &[1; 60], &[0; 400]] {
                    world.arrive(&record(kind, epoch, number, body));
                    forged += 1;
                }
            }
        }
    }
    // Messages that belong to a handshake, in the clear.
    for kind in 0..=25 {
        for sequence in 0..10 {
            let message = [&[kind, 0, 0, 2, 0, sequence, 0, 0, 0, 0, 0, 2][..], &[0, 0]].concat();
            world.arrive(&record(22, 0, 1_000 + u64::from(sequence), &message));
            forged += 1;
        }
    }
    let answered = world.answers().len();
    assert_eq!(world.drops, vec![DropReason::DtlsUseless; forged - answered]);
    assert!(answered <= 1, "our last flight, once");
    is_undisturbed(&mut world);
}

#[test]
fn a_flipped_bit_in_the_last_flight_never_connects_to_other_keys() {
    for seed in 0..60 {
        let now = Instant::now();
        let mut dice = Dice::new(seed);
        let mut world =
            World::new(now, Rtc::default().start(now)).with_meddler(|to, mut datagram| {
                if to == To::Server && datagram[13] == 11 {
                    let bit = dice.within(0..datagram.len() * 8);
                    datagram[bit / 8] ^= 1 << (bit % 8);
                }
                vec![datagram]
            });
        world.run(Duration::from_secs(60));
        if let Some(agreed) = world.agreed() {
            assert_eq!(world.client.agreed(), Some(&agreed), "seed {seed}");
        } else {
            assert!(matches!(world.events[..], [DtlsEvent::Failed(_)]), "seed {seed}");
        }
    }
}

#[test]
fn a_peers_alert_ends_an_unfinished_handshake() {
    let now = Instant::now();
    let mut world = World::new(now, Rtc::default().start(now));
    world.run(Duration::from_millis(25));
    world.arrive(&record(21, 0, 50, &[2, 49]));
    world.run(Duration::from_secs(1));
    let why = DtlsFailure::PeerAlert(49);
    assert!(matches!(world.events[..], [DtlsEvent::Failed(it)] if it == why), "{:?}", world.events);
}

#[test]
fn more_messages_than_a_handshake_has_end_it() {
    let now = Instant::now();
    let mut world = World::new(now, Rtc::default().start(now));
    for sequence in 1..=200 {
        // A piece of a message that is not due for long.
        let message = [&[11, 0, 4, 0, 0, sequence, 0, 0, 0, 0, 0, 200][..], &[0; 200]].concat();
        world.arrive(&record(22, 0, u64::from(sequence), &message));
    }
    world.run(Duration::from_secs(1));
    let why = DtlsFailure::Flooded;
    assert!(matches!(world.events[..], [DtlsEvent::Failed(it)] if it == why), "{:?}", world.events);
    assert!(world.drops.contains(&DropReason::DtlsOver));
}

#[test]
fn a_certificate_larger_than_can_be_held_is_refused_and_does_no_harm() {
    let now = Instant::now();
    let client = Rtc { certificate: Some(certificate(700)), ..Rtc::default() }.start(now);
    assert!(client.certificate().len() > 40_000);
    let mut world = World::new(now, client);
    world.run(Duration::from_secs(60));
    assert!(matches!(world.events[..], [DtlsEvent::Failed(_)]), "{:?}", world.events);
}

#[test]
fn the_largest_certificate_that_can_be_held_panics_nobody() {
    for names in [100, 150, 200, 250, 300, 350] {
        let now = Instant::now();
        let client =
            Rtc { certificate: Some(certificate(names)), mtu: 1_400, ..Rtc::default() }.start(now);
        let mut world = World::new(now, client);
        world.run(Duration::from_secs(60));
        assert_eq!(world.events.len(), 1, "{names} names");
    }
}

/// What the fuzz target does, by the dice: it delivers, changes, cuts, repeats and withholds.
#[test]
fn whatever_is_done_to_its_datagrams_a_client_connects_to_its_own_keys_or_not_at_all() {
    let mut connected = 0;
    for seed in 0..300 {
        let now = Instant::now();
        let mut dice = Dice::new(seed);
        let mut seen: Vec<Vec<u8>> = Vec::new();
        let client = DimplClient::start(now, 400);
        let mut world = World::new(now, client).with_meddler(|to, datagram| {
            if to == To::Client {
                return vec![datagram];
            }
            seen.push(datagram.clone());
            let mut all = vec![datagram];
            match dice.within(0..10) {
                0 => all.clear(),
                1 => all.extend(dice.pick(&[0, 1, 2, 3]).and_then(|it| seen.get(it).cloned())),
                2 => {
                    let mut changed = all[0].clone();
                    for _ in 0..dice.within(1..4) {
                        let at = dice.within(0..changed.len());
                        changed[at] ^= 1 << dice.within(0..8);
                    }
                    all.push(changed);
                }
                3 => {
                    let len = dice.within(0..all[0].len());
                    all.insert(0, all[0][..len].to_vec());
                }
                4 => {
                    let (kind, epoch) = (20 + dice.within(0..4) as u8, dice.within(0..3) as u8);
                    let body = dice.bytes(1 + seed as usize % 90);
                    // A fatal alert may end it, and does in another test.
                    let body = if kind == 21 { vec![1, 90] } else { body };
                    all.push(record(kind, epoch, dice.next() >> 20, &body));
                }
                _ => {}
            }
            all
        });
        world.run(Duration::from_secs(90));
        if let Some(agreed) = world.agreed() {
            connected += u32::from(world.client.agreed() == Some(&agreed));
            assert!(world.client.agreed().is_none_or(|theirs| *theirs == agreed), "seed {seed}");
        } else {
            assert!(matches!(world.events[..], [DtlsEvent::Failed(_)]), "seed {seed}");
            assert_eq!(world.server.poll_timeout(), None, "seed {seed}");
        }
    }
    assert!(connected > 150, "{connected} of 300: the dice are too hard to show anything");
}

//! Lost, repeated, late and reordered flights, and silence. Where the client has to send something
//! again it is dimpl: rtc-dtls 0.21 forgets its timer when a part of a flight has come.

use std::time::{Duration, Instant};

use stentor::{
    limits::{DTLS_HANDSHAKE_TIMEOUT, DTLS_UNSENT_DATAGRAMS_MAX},
    metrics::DropReason,
    webrtc::{DtlsEvent, DtlsFailure},
};

use crate::{
    client::{Client, DimplClient, Rtc},
    path::{Faults, To, World},
};

const BAD: Faults = Faults { lost: 25, repeated: 20, delay_ms: (5, 400) };

/// Handshakes over a bad path, one for each seed: how many of them connected both sides.
fn over_a_bad_path<C: Client>(seeds: u64, start: impl Fn(Instant) -> C) -> u64 {
    let mut connected = 0;
    for seed in 0..seeds {
        let now = Instant::now();
        let mut world = World::new(now, start(now)).with_faults(BAD, seed);
        world.run(2 * DTLS_HANDSHAKE_TIMEOUT);
        match (world.agreed(), world.client.agreed()) {
            (Some(ours), Some(theirs)) => {
                assert_eq!(&ours, theirs, "seed {seed}");
                connected += 1;
            }
            // The client may give up first; what we must not do is wait for ever.
            (ours, _) => {
                assert!(ours.is_some() || world.events.len() == 1, "seed {seed}");
                assert!(world.server.poll_timeout().is_none(), "seed {seed}");
            }
        }
    }
    connected
}

#[test]
fn a_bad_path_keeps_hardly_anybody_out() {
    let connected = over_a_bad_path(100, |now| DimplClient::start(now, 1_150));
    assert!(connected >= 95, "{connected} of 100");
    let connected = over_a_bad_path(100, |now| DimplClient::start(now, 200));
    assert!(connected >= 95, "in small pieces, {connected} of 100");
}

#[test]
fn any_one_datagram_may_be_lost() {
    let mut number = 0;
    loop {
        let now = Instant::now();
        let mut sent = 0;
        let mut world =
            World::new(now, DimplClient::start(now, 200)).with_meddler(|_, datagram| {
                sent += 1;
                if sent == number { Vec::new() } else { vec![datagram] }
            });
        world.connect();
        drop(world);
        if sent < number {
            break;
        }
        number += 1;
    }
    assert!(number > 8, "{number}");
}

#[test]
fn our_last_flight_is_sent_again_when_the_client_asks() {
    let now = Instant::now();
    let mut lost = 0;
    let mut world = World::new(now, Rtc::default().start(now)).with_meddler(|to, datagram| {
        let last = to == To::Client && datagram[0] == 20;
        if last && lost < 3 {
            lost += 1;
            return Vec::new();
        }
        vec![datagram]
    });
    world.run(Duration::from_secs(20));
    let agreed = world.agreed().expect("the server is connected since the first");
    assert_eq!(world.client.agreed(), Some(&agreed));
    // Who asks faster than a timer of ours that doubles is not answered each time.
    assert!(world.drops.iter().all(|it| *it == DropReason::DtlsUseless), "{:?}", world.drops);
}

#[test]
fn a_silent_client_costs_a_handshakes_time_and_no_more() {
    for answered in [1, 2] {
        let now = Instant::now();
        let mut hellos = 0;
        let mut world = World::new(now, Rtc::default().start(now)).with_meddler(|to, datagram| {
            hellos += usize::from(to == To::Server);
            let heard = to == To::Client || hellos <= answered;
            if heard { vec![datagram] } else { Vec::new() }
        });
        world.run(DTLS_HANDSHAKE_TIMEOUT - Duration::from_millis(1));
        assert!(world.events.is_empty(), "{:?}", world.events);
        world.run(Duration::from_secs(1));
        assert!(
            matches!(world.events[..], [DtlsEvent::Failed(DtlsFailure::TimedOut)]),
            "{:?}",
            world.events
        );
        assert_eq!(world.server.poll_timeout(), None);
        let sent = world.arrived.iter().filter(|(to, _)| *to == To::Client).count();
        // The cookie goes out once, the flight after it again and again by a timer that doubles.
        assert!(if answered == 1 { sent == 1 } else { (6..=9).contains(&sent) }, "{sent}");
    }
}

#[test]
fn a_server_that_nobody_talks_to_waits_for_nothing() {
    let now = Instant::now();
    let mut world = World::new(now, Rtc::default().start(now)).with_meddler(|_, _| Vec::new());
    world.run(Duration::from_secs(3_600));
    assert_eq!(world.server.poll_timeout(), None);
    assert!(world.events.is_empty());
}

#[test]
fn what_nobody_takes_away_does_not_pile_up() {
    let now = Instant::now();
    let mut client = Rtc::default().start(now);
    let mut world = World::new(now, Rtc::default().start(now));
    let hello = client.poll_output().unwrap();
    for second in 0..1_000 {
        let _ = world.server.handle(now + Duration::from_millis(20 * second), &hello);
    }
    assert!(world.answers().len() <= DTLS_UNSENT_DATAGRAMS_MAX);
}

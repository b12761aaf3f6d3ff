//! Who connects, with which keys, and who does not.

use std::time::{Duration, Instant};

use stentor::{
    metrics::DropReason,
    webrtc::{DtlsEvent, DtlsFailure, Fingerprint, fingerprint::Algorithm},
};

use crate::{
    client::{Client, DimplClient, PROFILES, Rtc, RtcClient, certificate},
    path::{To, World},
};

const LONG: Duration = Duration::from_secs(60);

/// Runs a handshake that must fail, and checks that its client was told.
fn fails(mut world: World<RtcClient>, why: DtlsFailure, alert: u8) {
    world.run(LONG);
    assert!(matches!(world.events[..], [DtlsEvent::Failed(it)] if it == why), "{:?}", world.events);
    assert!(world.client.agreed().is_none(), "the client does not believe it is connected");
    assert!(world.client.gave_up().is_some(), "the client knows");
    let (_, told) = world.arrived.iter().rfind(|(to, _)| *to == To::Client).unwrap();
    assert_eq!((told[0], &told[13..]), (21, &[2, alert][..]), "{told:02x?}");
    assert_eq!(world.server.poll_timeout(), None);
    world.arrive(&[22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 1]);
    assert_eq!(world.drops.last(), Some(&DropReason::DtlsOver));
}

#[test]
fn rtc_dtls_connects_with_each_profile_and_has_the_same_keys() {
    for (profile, length) in PROFILES {
        let now = Instant::now();
        let client = Rtc { profiles: vec![profile], ..Rtc::default() }.start(now);
        let mut world = World::new(now, client);
        let agreed = world.connect();
        assert_eq!((agreed.profile, agreed.material.len()), (profile, length));
        assert!(world.drops.is_empty());
    }
}

#[test]
fn dimpl_connects_and_has_the_same_keys() {
    let now = Instant::now();
    let agreed = World::new(now, DimplClient::start(now, 1_150)).connect();
    assert_eq!(agreed.profile, 8, "it offers all three");
}

/// The library's order and not ours (docs/decisions.md): whatever the client's.
#[test]
fn of_all_three_profiles_the_longest_key_is_taken() {
    for profiles in [vec![7, 8, 1], vec![1, 7, 8], vec![2, 1, 7, 8]] {
        let now = Instant::now();
        let client = Rtc { profiles, ..Rtc::default() }.start(now);
        assert_eq!(World::new(now, client).connect().profile, 8);
    }
    let now = Instant::now();
    let client = Rtc { profiles: vec![1, 7], ..Rtc::default() }.start(now);
    assert_eq!(World::new(now, client).connect().profile, 7);
}

#[test]
fn a_fingerprint_of_any_hash_is_enough_and_one_of_several() {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
        let now = Instant::now();
        let client = Rtc::default().start(now);
        let right = Fingerprint::of(algorithm, client.certificate());
        let wrong = Fingerprint::of(algorithm, b"another certificate");
        World::expecting(now, client, vec![wrong, right]).connect();
    }
}

#[test]
fn three_round_trips_connect_the_client() {
    let now = Instant::now();
    let mut world = World::new(now, Rtc::default().start(now));
    world.run(Duration::from_millis(59));
    assert!(world.agreed().is_some(), "the server after two and a half of 20 ms");
    assert!(world.client.agreed().is_none());
    world.run(Duration::from_millis(1));
    assert!(world.client.agreed().is_some());
}

#[test]
fn a_wrong_fingerprint_fails_whatever_else_is_right() {
    let now = Instant::now();
    let client = Rtc::default().start(now);
    let other = Fingerprint::of(Algorithm::Sha256, &certificate(1).0);
    fails(World::expecting(now, client, vec![other]), DtlsFailure::WrongFingerprint, 42);
    let client = Rtc::default().start(now);
    fails(World::expecting(now, client, Vec::new()), DtlsFailure::WrongFingerprint, 42);
}

#[test]
fn a_wrong_fingerprint_fails_before_the_rest_of_the_flight_is_there() {
    let now = Instant::now();
    let client = Rtc { certificate: Some(certificate(40)), mtu: 400, ..Rtc::default() }.start(now);
    let other = Fingerprint::of(Algorithm::Sha256, b"another");
    fails(World::expecting(now, client, vec![other]), DtlsFailure::WrongFingerprint, 42);
}

#[test]
fn without_srtp_there_is_no_connection() {
    let now = Instant::now();
    let client = Rtc { profiles: Vec::new(), ..Rtc::default() }.start(now);
    fails(World::new(now, client), DtlsFailure::NoProfile, 40);
}

/// A client that will have SRTP leaves by itself, when we agree to no profile of its.
#[test]
fn with_unknown_profiles_alone_the_client_gives_up() {
    let now = Instant::now();
    let client = Rtc { profiles: vec![2], ..Rtc::default() }.start(now);
    let mut world = World::new(now, client);
    world.run(LONG);
    let why = DtlsFailure::PeerAlert(71);
    assert!(matches!(world.events[..], [DtlsEvent::Failed(it)] if it == why), "{:?}", world.events);
    assert!(world.client.agreed().is_none());
}

#[test]
fn without_a_certificate_there_is_no_connection() {
    let now = Instant::now();
    let client = Rtc { certificate: None, ..Rtc::default() }.start(now);
    fails(World::new(now, client), DtlsFailure::NoCertificate, 40);
}

#[test]
fn without_extended_master_secret_there_is_no_connection() {
    let now = Instant::now();
    let client = Rtc { extended_master_secret: false, ..Rtc::default() }.start(now);
    fails(World::new(now, client), DtlsFailure::NothingInCommon, 40);
}

#[test]
fn a_chain_longer_than_a_datagram_is_taken() {
    let now = Instant::now();
    let client = Rtc { certificate: Some(certificate(150)), ..Rtc::default() }.start(now);
    assert!(client.certificate().len() > 9_000);
    World::new(now, client).connect();
}

#[test]
fn a_clients_goodbye_closes_and_is_answered() {
    let now = Instant::now();
    let mut world = World::new(now, Rtc::default().start(now));
    world.connect();
    world.client.close(world.now);
    let before = world.arrived.len();
    world.run(LONG);
    assert!(matches!(world.events[..], [_, DtlsEvent::Closed]), "{:?}", world.events);
    let answers = world.arrived[before..].iter().filter(|(to, _)| *to == To::Client);
    assert_eq!(answers.map(|(_, datagram)| datagram[0]).collect::<Vec<_>>(), [21]);
    let replay = world.arrived[before].1.clone();
    world.arrive(&replay);
    assert_eq!(world.drops, [DropReason::DtlsOver]);
}

#[test]
fn a_client_is_told_of_our_goodbye() {
    let now = Instant::now();
    let mut world = World::new(now, Rtc::default().start(now));
    world.connect();
    world.server.close(world.now);
    world.run(LONG);
    assert_eq!(world.client.gave_up(), Some("closed"));
    assert_eq!(world.events.len(), 1, "who closes need not be told");
    assert_eq!(world.server.poll_timeout(), None);
}

#[test]
fn data_that_nobody_asked_for_is_dropped_and_changes_nothing() {
    let now = Instant::now();
    let mut world = World::new(now, Rtc::default().start(now));
    world.connect();
    for _ in 0..100 {
        world.client.send(world.now, b"is there a data channel?");
    }
    world.run(LONG);
    assert_eq!(world.drops, [DropReason::DtlsUseless; 100]);
    world.client.close(world.now);
    world.run(LONG);
    assert!(matches!(world.events[..], [_, DtlsEvent::Closed]));
}

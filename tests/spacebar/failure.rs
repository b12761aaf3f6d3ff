//! The database or the bus goes away in mid-call and comes back: those who talk go on, joins are
//! answered, and nothing is lost or done twice.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    enter, hears, refused,
    support::{
        client::Client,
        gateway::{Door, Gateway},
        metrics::Metrics,
        spacebar::{CHANNEL, OTHER_CHANNEL, Spacebar},
        wait_until,
    },
    talk,
};

/// Answered in time for a client to be told within five seconds.
const ANSWER: Duration = Duration::from_secs(5);

/// Speaks for so long; every packet must arrive.
fn speak_for(time: Duration, speaker: &mut Client, hearer: &mut Client) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        hears(hearer, speaker);
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_database_that_goes_away_and_comes_back_is_not_heard() {
    let mut spacebar = Spacebar::start();
    let server = spacebar.server("poll", &[("RESUME_WINDOW", "1s")]);
    let grants = [10, 11, 12, 13].map(|user| spacebar.join(user, CHANNEL));
    let [mut alice, mut bob, carol, _] =
        grants.each_ref().map(|grant| (grant.user != 13).then(|| enter(&server, grant)));
    let (alice, bob) = (alice.as_mut().unwrap(), bob.as_mut().unwrap());
    talk(alice, bob);
    let mark = server.metrics();

    spacebar.postgres.stop();
    speak_for(Duration::from_secs(2), alice, bob);
    // One joins meanwhile, and is told to come back.
    let began = Instant::now();
    assert_eq!(refused(&server, &grants[3]), 4015);
    assert!(began.elapsed() < ANSWER, "{:?}", began.elapsed());
    // One leaves meanwhile.
    carol.unwrap().gateway.leave(1000);
    speak_for(Duration::from_secs(4), alice, bob);
    let metrics = server.metrics();
    assert_eq!(metrics.sum(&["stentor_spacebar_database_up"]), 0.0);
    let drops = |metrics: &Metrics| metrics.sum(&["stentor_drops_total"]);
    assert_eq!(drops(&metrics), drops(&mark), "no packet was dropped");

    // One joins just before it is back, and gets in.
    let mut patient = Gateway::open(&server, Door::plain(8));
    patient.identify(&grants[3]);
    spacebar.postgres.resume();
    patient.expect(2);
    spacebar.postgres.eventually(&Spacebar::row_query(12), "|f|f");
    talk(alice, bob);
    thread::sleep(Duration::from_secs(2));
    assert_eq!(spacebar.row(10), format!("{CHANNEL}||f"));
    let metrics = server.metrics();
    assert_eq!(metrics.sum(&["stentor_spacebar_departures_total", "written"]), 1.0);
}

#[test]
fn a_database_that_hangs_costs_a_join_less_than_five_seconds() {
    let spacebar = Spacebar::start();
    let server = spacebar.server("poll", &[]);
    let grants: Vec<_> = (10..40).map(|user| spacebar.enter(user, CHANNEL)).collect();
    let (mut alice, mut bob) = (enter(&server, &grants[0]), enter(&server, &grants[1]));
    let lock = spacebar.postgres.lock("voice_states");
    let began = Instant::now();
    let mut waiting: Vec<Gateway> = grants[2..]
        .iter()
        .map(|grant| {
            let mut gateway = Gateway::open(&server, Door::plain(8));
            gateway.identify(grant);
            gateway
        })
        .collect();
    // The API, metrics and resumes are not behind them.
    let asked = Instant::now();
    assert_eq!(server.api("GET", "/v1/rooms", None).0, 200);
    assert!(asked.elapsed() < Duration::from_secs(1));
    talk(&mut alice, &mut bob);
    for gateway in &mut waiting {
        assert_eq!(gateway.closed(), 4015);
    }
    assert!(began.elapsed() < ANSWER, "{:?}", began.elapsed());
    // Nor do statements that nobody waits for pile up.
    let waiting = "SELECT count(*) <= 8 FROM pg_stat_activity WHERE application_name = 'stentor'";
    assert_eq!(spacebar.postgres.sql(waiting), "t");
    drop(lock);
    // A connection that hung is not used again.
    for grant in &grants[2..6] {
        enter(&server, grant);
    }
}

#[test]
fn a_bus_directory_that_is_cleared_is_listened_to_again() {
    let spacebar = Spacebar::start();
    let server = spacebar.server("unix", &[]);
    let (a, b) = (spacebar.join(10, CHANNEL), spacebar.join(11, CHANNEL));
    let (mut alice, mut bob) = (enter(&server, &a), enter(&server, &b));
    let ours = || {
        let entries = fs::read_dir(spacebar.bus()).unwrap().flatten();
        entries.map(|it| it.path()).find(|it| it.to_string_lossy().contains("stentor-"))
    };
    fs::remove_file(ours().expect("it listens")).unwrap();
    wait_until("a new socket", || ours().is_some());
    let moved = spacebar.move_to(&a, OTHER_CHANNEL);
    let _there = enter(&server, &moved);
    assert_eq!(alice.gateway.closed(), 4014);
    let (guild, channel) = (b.server.to_string(), CHANNEL.to_string());
    spacebar.emit(&json!({"id": guild, "event": {"event": "CHANNEL_DELETE", "guild_id": guild,
        "data": {"id": channel, "guild_id": guild, "type": 2}}}));
    assert_eq!(bob.gateway.closed(), 4022);
}

#[test]
fn what_happened_while_nobody_could_hear_is_seen_afterwards() {
    let mut spacebar = Spacebar::start();
    let server = spacebar.server("notify", &[]);
    let (a, b) = (spacebar.join(10, CHANNEL), spacebar.join(11, CHANNEL));
    let (mut alice, mut bob) = (enter(&server, &a), enter(&server, &b));
    spacebar.postgres.stop();
    thread::sleep(Duration::from_secs(1));
    spacebar.postgres.resume();
    spacebar
        .postgres
        .sql("UPDATE voice_states SET channel_id = NULL, guild_id = NULL WHERE user_id = 10");
    assert_eq!(alice.gateway.closed(), 4014);
    bob.gateway.drain();
}

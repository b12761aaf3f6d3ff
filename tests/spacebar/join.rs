//! Who gets in: by his own row, with his own session and token, where the row says.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    enter, refused,
    support::{
        cipher::Mode,
        client::Client,
        gateway::{Door, Gateway},
        server::Grant,
        spacebar::{CALL, CHANNEL, OTHER_CHANNEL, Spacebar},
    },
    talk,
};

#[test]
fn those_with_rows_in_one_channel_hear_each_other_and_nobody_else_gets_in() {
    let spacebar = Spacebar::start();
    let server = spacebar.server("poll", &[]);
    let (a, b) = (spacebar.join(10, CHANNEL), spacebar.join(11, CHANNEL));
    let (mut alice, mut bob) = (enter(&server, &a), enter(&server, &b));
    talk(&mut alice, &mut bob);

    let c = spacebar.join(12, CHANNEL);
    for wrong in [
        Grant { token: "0123456789abcdef".to_owned(), ..c.clone() },
        Grant { token: a.token.clone(), ..c.clone() },
        Grant { session: a.session.clone(), ..c.clone() },
        Grant { user: 13, ..c.clone() },
        Grant { server: CHANNEL, ..c.clone() },
        Grant { server: u64::MAX, ..c.clone() },
        Grant { token: "'; DROP TABLE voice_states; --".to_owned(), ..c.clone() },
        Grant { token: "\0".to_owned(), ..c.clone() },
    ] {
        assert_eq!(refused(&server, &wrong), 4004, "{wrong:?}");
    }
    // A v9 client that believes itself elsewhere has lost a race.
    let mut lost = Gateway::open(&server, Door::plain(9));
    lost.identify_with(&c, json!({"channel_id": OTHER_CHANNEL.to_string()}));
    assert_eq!(lost.closed(), 4004);

    let mut carol = Client::enter(&server, &c, Door::plain(9), Mode::AesRtpsize, json!({}));
    talk(&mut alice, &mut carol);
    let metrics = server.metrics();
    assert_eq!(metrics.sum(&["stentor_spacebar_database_up"]), 1.0);
    assert_eq!(metrics.sum(&["stentor_spacebar_lookups_total", "found"]), 3.0);
    assert!(!server.log().contains("hunter2"), "the password is nobody's business");
}

#[test]
fn a_private_call_is_joined_by_its_channel() {
    let spacebar = Spacebar::start();
    let server = spacebar.server("poll", &[]);
    let (a, b) = (spacebar.join(10, CALL), spacebar.join(11, CALL));
    assert_eq!(a.server, CALL);
    talk(&mut enter(&server, &a), &mut enter(&server, &b));
}

#[test]
fn a_row_that_is_a_moment_late_is_waited_for() {
    let spacebar = Spacebar::start();
    let server = spacebar.server("poll", &[]);
    let grant = spacebar.enter(10, CHANNEL);
    let row = format!("UPDATE voice_states SET token = '{}' WHERE user_id = 10", grant.token);
    spacebar.postgres.sql("UPDATE voice_states SET token = 'another' WHERE user_id = 10");
    let mut gateway = Gateway::open(&server, Door::plain(8));
    gateway.identify(&grant);
    spacebar.postgres.sql(&row);
    gateway.expect(2);
}

#[test]
fn a_streams_token_is_good_for_one_connection_and_its_end_takes_the_row_away() {
    const STREAM: u64 = 555;
    let spacebar = Spacebar::start();
    let server = spacebar.server("unix", &[("RESUME_WINDOW", "1s")]);
    let (a, b) = (spacebar.join(10, CHANNEL), spacebar.join(11, CHANNEL));
    let (_alice, _bob) = (enter(&server, &a), enter(&server, &b));
    let (owner, viewer) = (spacebar.stream(&a, STREAM), spacebar.watch(&b, STREAM));

    let owner_stream = enter(&server, &owner);
    let viewer_stream = enter(&server, &viewer);
    for used in [&owner, &viewer] {
        assert_eq!(refused(&server, used), 4004, "a token is good once");
    }
    let room = server.api("GET", &format!("/v1/rooms/{STREAM}"), None).1;
    assert_eq!(room["kind"], "stream");
    assert_eq!(room["sessions"].as_array().unwrap().len(), 2, "{room}");

    // Resume needs no row.
    let mut resumed = Gateway::open(&server, Door::plain(8));
    viewer_stream.gateway.cut();
    resumed.resume(&viewer, None);
    resumed.expect(9);
    resumed.leave(1000);
    let sessions = "SELECT user_id FROM stream_sessions ORDER BY user_id";
    spacebar.postgres.eventually(sessions, "10");

    owner_stream.gateway.leave(1000);
    let event =
        spacebar.hear("the stream ends", |event| event["event"]["event"] == "STREAM_DELETE");
    assert_eq!(event["event"]["data"]["reason"], "stream_ended");
    let key = format!("guild:{}:{CHANNEL}:10", a.server);
    assert_eq!(event["event"]["data"]["stream_key"], key);
    let shown = spacebar.hear("its owner shows none", |event| {
        event["event"]["event"] == "VOICE_STATE_UPDATE"
            && event["event"]["data"]["self_stream"] == false
    });
    assert_eq!(shown["event"]["data"]["channel_id"], CHANNEL.to_string());
    spacebar.postgres.eventually("SELECT count(*) FROM streams", "0");
    spacebar.postgres.eventually(&Spacebar::row_query(10), &format!("{CHANNEL}|f|f"));
}

#[test]
fn five_hundred_joins_at_once_are_no_storm_for_the_database() {
    const COUNT: u64 = 500;
    let spacebar = Spacebar::start();
    let server = spacebar.server("poll", &[]);
    spacebar.postgres.sql(&format!(
        "INSERT INTO voice_states SELECT n, {}, {CHANNEL}, n, 's' || n, 't' || n, false, false,
           false, false, NULL, false, false, NULL FROM generate_series(1, {COUNT}) n",
        crate::support::server::GUILD
    ));
    let grant = |user: u64| Grant {
        endpoint: String::new(),
        server: crate::support::server::GUILD,
        channel: CHANNEL,
        user,
        session: format!("s{user}"),
        token: format!("t{user}"),
    };
    let mut gateways: Vec<Gateway> =
        (1..=COUNT).map(|_| Gateway::open(&server, Door::plain(8))).collect();
    let began = Instant::now();
    for (gateway, user) in gateways.iter_mut().zip(1..) {
        gateway.identify(&grant(user));
    }
    let mut connections_max = 0;
    for gateway in &mut gateways {
        gateway.expect(2);
    }
    let took = began.elapsed();
    let connections = spacebar
        .postgres
        .sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stentor'");
    connections_max = connections_max.max(connections.parse::<u32>().unwrap());
    assert!(connections_max <= 8, "{connections_max} connections");
    assert!(took < Duration::from_secs(15), "{took:?} for {COUNT}");
    let metrics = server.metrics();
    let found = metrics.sum(&["stentor_spacebar_lookups_total", "found"]);
    assert_eq!(found, COUNT as f64);
}

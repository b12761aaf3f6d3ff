//! Who has gone is gone for everybody: from the tables, and on the bus. Who only seems to have gone
//! is not.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    enter,
    support::{
        cipher::Mode,
        client::Client,
        gateway::{Door, Gateway},
        server::{GUILD, Grant, Server},
        spacebar::{CALL, CHANNEL, FAR_CHANNEL, OTHER_CHANNEL, Spacebar},
        wait_until,
    },
    talk,
};

#[test]
fn who_leaves_is_taken_out_of_his_channel_and_everyone_is_told() {
    let spacebar = Spacebar::start();
    let server = spacebar.server("unix", &[]);
    let (a, b) = (spacebar.join(10, CHANNEL), spacebar.join(11, CHANNEL));
    let (alice, mut bob) = (enter(&server, &a), enter(&server, &b));
    spacebar.postgres.sql("UPDATE voice_states SET self_video = true, self_mute = true");
    alice.gateway.leave(1000);
    let event = spacebar.hear_leave(10);
    let guild = GUILD.to_string();
    assert_eq!((&event["id"], &event["event"]["guild_id"]), (&guild.clone().into(), &guild.into()));
    let data = &event["event"]["data"];
    assert_eq!(data["guild_id"], GUILD.to_string(), "clients look for the guild that was left");
    assert_eq!(data["session_id"], a.session);
    assert_eq!((&data["self_video"], &data["self_mute"]), (&false.into(), &true.into()));
    for key in ["suppress", "self_deaf", "self_stream", "mute", "deaf"] {
        assert_eq!(data[key], Value::Bool(false), "{key}: {data}");
    }
    assert!(data.get("request_to_speak_timestamp").is_some_and(Value::is_null));
    assert!(!event.to_string().contains(&a.token), "a token is nobody else's business");
    assert_eq!(spacebar.row(10), "|f|f");
    assert_eq!(spacebar.row(11), format!("{CHANNEL}||t"));
    bob.gateway.drain();
    assert!(spacebar.heard().is_empty(), "told once: {:?}", spacebar.heard());
}

#[test]
fn who_leaves_a_call_is_reported_to_the_call() {
    let spacebar = Spacebar::start();
    let server = spacebar.server("unix", &[]);
    enter(&server, &spacebar.join(10, CALL)).gateway.leave(1000);
    let event = spacebar.hear_leave(10);
    assert_eq!(event["event"]["channel_id"], CALL.to_string());
    assert!(event["event"].get("guild_id").is_none());
    assert!(event["event"]["data"]["guild_id"].is_null());
}

#[test]
fn a_client_that_is_killed_is_gone_within_the_resume_window() {
    let spacebar = Spacebar::start();
    let server = spacebar.server("unix", &[("RESUME_WINDOW", "3s")]);
    let (a, b) = (spacebar.join(10, CHANNEL), spacebar.join(11, CHANNEL));
    let (alice, mut bob) = (enter(&server, &a), enter(&server, &b));
    let began = Instant::now();
    alice.gateway.cut();
    drop(alice.media);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(spacebar.row(10), format!("{CHANNEL}||f"), "he may yet come back");
    spacebar.hear_leave(10);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    bob.gateway.expect(13);
    assert_eq!(spacebar.row(10), "|f|f");
}

#[test]
fn nothing_is_written_for_who_is_elsewhere_or_back_already() {
    let spacebar = Spacebar::start();
    let server = spacebar.server("poll", &[]);
    let grants = [10, 11, 12, 13].map(|user| spacebar.join(user, CHANNEL));
    let [moved, rejoined, returned, gone] = grants.each_ref().map(|grant| enter(&server, grant));

    // One has moved by the time his old socket closes, with the token he had.
    spacebar.move_to(&grants[0], OTHER_CHANNEL);
    moved.gateway.leave(4014);
    // One has left and joined again: another main session, in the same channel.
    let again = spacebar.join(11, CHANNEL);
    rejoined.gateway.leave(1000);
    // One closes, and identifies again with what he has.
    returned.gateway.leave(1000);
    let mut back = Gateway::open(&server, Door::plain(8));
    back.identify(&grants[2]);
    back.expect(2);
    gone.gateway.leave(1000);
    spacebar.postgres.eventually(&Spacebar::row_query(13), "|f|f");
    thread::sleep(Duration::from_secs(1));
    assert_eq!(spacebar.row(10), format!("{OTHER_CHANNEL}||f"));
    assert_eq!(spacebar.row(11), format!("{CHANNEL}||f"));
    assert_eq!(spacebar.row(12), format!("{CHANNEL}||f"));
    enter(&server, &again);
    back.drain();
    let metrics = server.metrics();
    assert_eq!(metrics.sum(&["stentor_spacebar_departures_total", "written"]), 1.0);
    assert_eq!(metrics.sum(&["stentor_spacebar_departures_total", "overtaken"]), 3.0);
}

#[test]
fn a_restart_empties_no_channel_and_leaves_no_ghosts() {
    let spacebar = Spacebar::start();
    let mut server = spacebar.server("unix", &[]);
    let grants = [10, 11].map(|user| spacebar.join(user, CHANNEL));
    let [mut alice, mut bob] = grants.each_ref().map(|grant| enter(&server, grant));
    let far = spacebar.enter(12, FAR_CHANNEL);
    spacebar.stream(&grants[1], 555);
    talk(&mut alice, &mut bob);

    assert!(server.terminate().success());
    assert_eq!(alice.gateway.closed(), 4015);
    assert_eq!(bob.gateway.closed(), 4015);
    let rows = "SELECT user_id, channel_id FROM voice_states ORDER BY user_id";
    let all = format!("10|{CHANNEL}\n11|{CHANNEL}\n12|{FAR_CHANNEL}");
    assert_eq!(spacebar.postgres.sql(rows), all, "a restart is no departure");
    drop(server);

    // One comes back with what he has; the other one's client died with the server.
    let server = spacebar.server("unix", &[("RESUME_WINDOW", "3s")]);
    let mut alice = enter(&server, &grants[0]);
    assert_eq!(spacebar.postgres.sql(rows), all);
    // Whoever is not back yet may be waiting to be told where to connect.
    let told = spacebar
        .hear("the other one is called", |event| event["event"]["event"] == "VOICE_SERVER_UPDATE");
    assert_eq!(told["event"]["user_id"], "11");
    assert_eq!(told["event"]["data"]["token"], grants[1].token);
    spacebar.hear_leave(11);
    spacebar.hear("his stream ends", |event| event["event"]["event"] == "STREAM_DELETE");
    spacebar.postgres.eventually(rows, &format!("10|{CHANNEL}\n11|\n12|{FAR_CHANNEL}"));
    alice.gateway.drain();
    let of_alice = |event: &Value| {
        event["event"]["data"]["user_id"] == "10" || event["event"]["user_id"] == "10"
    };
    assert!(!spacebar.heard().iter().any(of_alice), "{:?}", spacebar.heard());
    assert_eq!(far.channel, FAR_CHANNEL, "another region's people are not ours to judge");
}

#[test]
fn who_resumes_after_a_restart_is_given_a_new_session_or_told_to_identify() {
    let spacebar = Spacebar::start();
    let mut server = spacebar.server("unix", &[]);
    let grants = [10, 11, 12].map(|user| spacebar.join(user, CHANNEL));
    let [alice, bob, carol] = grants.each_ref().map(|grant| enter(&server, grant));
    assert!(server.terminate().success());
    drop((alice, bob, carol));
    server.start_again();
    let resume = |grant| {
        let mut gateway = Gateway::open(&server, Door::plain(8));
        gateway.resume(grant, Some(3));
        gateway
    };
    // With what Spacebar never gave, as ever.
    let wrong = Grant { token: "0123456789abcdef".to_owned(), ..grants[0].clone() };
    assert_eq!(resume(&wrong).closed(), 4006);
    // One takes up what it is given, and all is well.
    let mut alice = Client::negotiate(resume(&grants[0]), &grants[0], Mode::AesRtpsize);
    let mut carol = enter(&server, &grants[2]);
    talk(&mut alice, &mut carol);
    // One does not understand, and is told to begin anew, as it then does.
    let mut bob = resume(&grants[1]);
    let began = Instant::now();
    assert_eq!(bob.closed(), 4006);
    assert!(began.elapsed() >= Duration::from_millis(2_500), "{:?}", began.elapsed());
    let mut bob = enter(&server, &grants[1]);
    talk(&mut alice, &mut bob);
    // Who is here has nothing to bring back: that would be two of one.
    carol.gateway.cut();
    let mut again = resume(&grants[2]);
    again.expect(9);
    talk(&mut alice, &mut bob);
    let rows = "SELECT count(*) FROM voice_states WHERE channel_id IS NOT NULL";
    assert_eq!(spacebar.postgres.sql(rows), "3");
}

#[test]
fn who_has_gone_elsewhere_during_a_restart_is_not_called_back() {
    let spacebar = Spacebar::start();
    let mut server = spacebar.server("unix", &[]);
    let grants = [10, 11].map(|user| spacebar.join(user, CHANNEL));
    let [alice, bob] = grants.each_ref().map(|grant| enter(&server, grant));
    assert!(server.terminate().success());
    drop((alice, bob));
    server.start_again();
    wait_until("it knows who was here", || server.log().contains("waiting for those who were"));
    let elsewhere = format!("UPDATE voice_states SET channel_id = {OTHER_CHANNEL}");
    spacebar.postgres.sql(&format!("{elsewhere} WHERE user_id = 10"));
    let told = spacebar.hear("bob is called", |event| event["event"]["user_id"] == "11");
    assert_eq!(told["event"]["event"], "VOICE_SERVER_UPDATE");
    let of_alice = |event: &Value| event["event"]["user_id"] == "10";
    assert!(!spacebar.heard().iter().any(of_alice), "{:?}", spacebar.heard());
}

#[test]
fn a_server_that_is_killed_leaves_no_ghosts_either() {
    let spacebar = Spacebar::start();
    let server = spacebar.server("unix", &[]);
    let _alice = enter(&server, &spacebar.join(10, CHANNEL));
    server.kill();
    let _server: Server = spacebar.server("unix", &[("RESUME_WINDOW", "1s")]);
    spacebar.hear_leave(10);
    assert_eq!(spacebar.row(10), "|f|f");
}

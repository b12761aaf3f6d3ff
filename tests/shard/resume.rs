//! Resume, with numbers and without (protocol.md §1.7).

use std::time::Duration;

use serde_json::json;
use stentor::{
    id::{ChannelId, ShardId},
    limits::REPLAY_MESSAGES_MAX,
    sfu::{Command, Event, Verdict},
};

use crate::{
    client::{Client, Grant, Profile, message},
    rig::{RESUME_WINDOW, Rig},
};

#[test]
fn a_numbered_resume_replays_what_was_missed_with_its_own_numbers() {
    for version in [8, 9] {
        let mut rig = Rig::new();
        let a = rig.joined(1, 10, Profile::v(version));
        let b = rig.speaker(1, 11);
        let last = rig.clients[a].last_seq.expect("numbered");
        rig.hang_up(a, 1006);
        rig.say(b, |client| client.speaking(1));
        rig.speaker(1, 12);
        rig.clients[a].told.clear();
        rig.resume(a);
        let told = rig.clients[a].take_told();
        let ops: Vec<_> = told.iter().map(|message| message["op"].as_u64().unwrap()).collect();
        assert_eq!(ops, [8, 9, 5, 11, 5], "Resumed comes before the replay");
        assert_eq!(told[1], json!({"op": 9, "d": null}));
        let seqs: Vec<_> = told[2..].iter().map(|m| m["seq"].as_u64().unwrap() as u16).collect();
        assert_eq!(seqs, [last + 1, last + 2, last + 3]);
        rig.say(b, |client| client.speaking(0));
        assert_eq!(rig.clients[a].take_told()[0]["seq"], last + 4, "then live");
        assert_eq!(rig.clients[a].misnumbered, 0);
    }
}

#[test]
fn a_resume_that_knows_nothing_gets_everything_again() {
    for seq_ack in [Some(-1), Some(0), None] {
        let mut rig = Rig::new();
        let a = rig.speaker(1, 10);
        rig.hang_up(a, 1006);
        rig.open(a);
        rig.say(a, |client| client.resume_after(seq_ack));
        assert_eq!(rig.clients[a].take_ops(), [8, 9, 2, 4], "{seq_ack:?}");
    }
}

#[test]
fn a_resume_that_control_answers_with_a_new_session_gets_ready_and_talks() {
    let mut rig = Rig::new();
    let b = rig.speaker(1, 11);
    let a = rig.client(Grant::new(1, 10), Profile::default());
    rig.answers_admissions = false;
    rig.open(a);
    rig.say(a, |client| client.resume_after(Some(7)));
    let (connection, _) = rig.asked.pop().expect("control is asked");
    let admission = rig.clients[a].grant.clone().admission(77, Default::default());
    let verdict = Verdict::Join { shard: ShardId(0), admission: Box::new(admission) };
    rig.command(Command::Decide { connection, verdict });
    assert_eq!(rig.clients[b].take_ops(), [11], "he is announced as whoever joins");
    // Discovery is answered a moment later: the client's socket is older than its question.
    let answered = rig.shard.counters().answered;
    rig.send(a, |client| client.discovery());
    assert_eq!(rig.shard.counters().answered, answered);
    rig.advance(Duration::from_millis(60));
    assert_eq!(rig.shard.counters().answered, answered + 1);
    rig.advance(Duration::from_millis(60));
    assert_eq!(rig.shard.counters().answered, answered + 1);
    rig.connect_media(a);
    let ops = rig.clients[a].take_ops();
    assert!(ops.starts_with(&[8, 2, 11]) && ops.contains(&4), "{ops:?}");
    rig.speak(a, b"here I am again");
    assert_eq!(rig.clients[b].mail.len(), 1);
}

#[test]
fn acknowledged_messages_are_not_replayed() {
    let mut rig = Rig::new();
    let a = rig.speaker(1, 10);
    let b = rig.speaker(1, 11);
    rig.say(a, Client::heartbeat);
    rig.hang_up(a, 1006);
    rig.say(b, |client| client.speaking(1));
    rig.open(a);
    rig.say(a, |client| client.resume_after(None));
    assert_eq!(rig.clients[a].take_ops(), [8, 9, 5]);
    rig.hang_up(a, 1006);
    rig.open(a);
    rig.say(a, |client| client.resume_after(Some(1)));
    assert_eq!(rig.clients[a].closed, Some(4006), "it asks for what it had acknowledged");
}

#[test]
fn an_unnumbered_resume_tells_the_present_state() {
    for profile in [Profile::v(4), Profile::legacy()] {
        let mut rig = Rig::new();
        let a = rig.joined(1, 10, profile);
        let b = rig.joined(1, 11, Profile::video(103, 104));
        let c = rig.speaker(1, 12);
        rig.hang_up(a, 1006);
        rig.say(b, |client| client.camera(true));
        rig.say(b, |client| client.speaking(1));
        rig.hang_up(c, 1000);
        rig.clients[a].told.clear();
        rig.resume(a);
        let told = rig.clients[a].take_told();
        let ops: Vec<_> = told.iter().map(|message| message["op"].as_u64().unwrap()).collect();
        assert_eq!(ops, [8, 9, 13, 11, 5, 12]);
        assert_eq!(told[2]["d"], json!({"user_id": "12"}), "who left meanwhile");
        assert_eq!(told[3]["d"]["user_ids"], json!(["11"]), "who left is not there");
        assert!(told.iter().all(|message| message.get("seq").is_none()));
    }
}

#[test]
fn an_unnumbered_resume_tells_what_ended_meanwhile() {
    let mut rig = Rig::new();
    let a = rig.joined(1, 10, Profile::v(4));
    let b = rig.joined(1, 11, Profile::video(103, 104));
    let (c, d) = (rig.speaker(1, 12), rig.speaker(1, 13));
    rig.say(b, |client| client.camera(true));
    rig.hang_up(a, 1006);
    rig.say(b, |client| client.camera(false));
    rig.hang_up(c, 1000);
    rig.hang_up(d, 1000);
    rig.speaker(1, 13);
    rig.clients[a].told.clear();
    rig.resume(a);
    let told = rig.clients[a].take_told();
    let left = told.iter().filter(|message| message["op"] == 13);
    let left: Vec<_> = left.map(|message| message["d"]["user_id"].clone()).collect();
    assert_eq!(left, [json!("12")], "and who has come back has not left");
    let camera = told.iter().find(|message| message["op"] == 12).expect("its camera is off");
    assert_eq!(camera["d"]["user_id"], json!("11"));
    assert_eq!(camera["d"]["streams"], json!([]));
    rig.hang_up(a, 1006);
    rig.resume(a);
    let again = rig.clients[a].take_told();
    assert!(again.iter().any(|message| message["op"] == 13), "it may not have heard");
    rig.say(a, Client::heartbeat);
    rig.hang_up(a, 1006);
    rig.resume(a);
    assert!(rig.clients[a].take_told().iter().all(|message| message["op"] != 13), "it has heard");
}

#[test]
fn who_resumes_again_and_again_is_closed_4021() {
    let mut rig = Rig::new();
    let a = rig.speaker(1, 10);
    for _ in 0..20 {
        rig.resume(a);
        assert_eq!(rig.clients[a].closed, None);
        rig.advance(Duration::from_millis(1));
    }
    rig.resume(a);
    assert_eq!(rig.clients[a].closed, Some(4021));
    rig.advance(Duration::from_secs(1));
    rig.resume(a);
    assert_eq!(rig.clients[a].closed, None, "the session is still there");
}

#[test]
fn a_resume_keeps_key_ssrc_and_media() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    rig.speak(a, b"before");
    rig.hang_up(a, 1006);
    rig.speak(a, b"meanwhile");
    rig.speak(b, b"to it");
    rig.resume(a);
    rig.speak(a, b"after");
    assert_eq!(rig.clients[b].take_payloads(), [&b"before"[..], b"meanwhile", b"after"]);
    assert_eq!(rig.clients[a].take_payloads(), [b"to it"]);
    assert!(rig.clients[b].take_told().is_empty(), "the others notice nothing");
}

#[test]
fn a_resume_after_too_much_was_missed_is_refused() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    rig.hang_up(a, 1006);
    for turn in 0..=REPLAY_MESSAGES_MAX {
        rig.say(b, |client| client.speaking(1 + turn as u32 % 2));
        rig.advance(Duration::from_millis(51));
    }
    rig.resume(a);
    assert_eq!(rig.clients[a].closed, Some(4006));
    rig.open(a);
    rig.say(a, |client| client.resume_after(None));
    assert_eq!(rig.clients[a].closed, Some(4006));
}

#[test]
fn a_resume_with_a_number_never_given_is_refused() {
    for seq_ack in [9_999, 70_000, -2, i64::MIN] {
        let mut rig = Rig::new();
        let a = rig.speaker(1, 10);
        rig.hang_up(a, 1006);
        rig.open(a);
        rig.say(a, |client| client.resume_after(Some(seq_ack)));
        assert_eq!(rig.clients[a].closed, Some(4006), "{seq_ack}");
    }
}

#[test]
fn a_resume_with_another_version_or_credential_is_refused() {
    let mut rig = Rig::new();
    let a = rig.speaker(1, 10);
    rig.hang_up(a, 1006);
    rig.clients[a].profile = Profile::v(4);
    rig.resume(a);
    assert_eq!(rig.clients[a].closed, Some(4006), "another version");

    rig.clients[a].profile = Profile::default();
    rig.answers_admissions = false;
    rig.open(a);
    rig.say(a, |client| {
        let mut other = Grant::new(1, 10);
        other.token = "another".into();
        Client::new(other, client.profile.clone()).resume()
    });
    let (connection, _) = rig.asked.pop().expect("control is asked");
    let verdict =
        stentor::sfu::Verdict::Resume { shard: stentor::id::ShardId(0), serial: rig.serial(a) };
    rig.command(stentor::sfu::Command::Decide { connection, verdict });
    assert_eq!(rig.clients[a].closed, Some(4006), "another token");
    rig.answers_admissions = true;
    rig.resume(a);
    assert_eq!(rig.clients[a].closed, None, "and the session was not harmed");
}

#[test]
fn a_resume_comes_too_late_after_the_window() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    rig.hang_up(a, 1006);
    rig.advance(RESUME_WINDOW - Duration::from_millis(1));
    assert!(rig.clients[b].take_told().is_empty());
    rig.resume(a);
    assert_eq!(rig.clients[a].closed, None);
    rig.hang_up(a, 1006);
    rig.say(b, Client::heartbeat);
    rig.forget();
    rig.advance(RESUME_WINDOW);
    assert_eq!(rig.clients[b].take_told()[0]["d"], json!({"user_id": "10"}));
    rig.resume(a);
    assert_eq!(rig.clients[a].closed, Some(4006));
}

#[test]
fn an_earlier_absence_does_not_end_a_later_one() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    rig.hang_up(a, 1006);
    rig.advance(RESUME_WINDOW / 2);
    rig.resume(a);
    rig.hang_up(a, 1006);
    rig.advance(RESUME_WINDOW - Duration::from_millis(1));
    assert!(rig.clients[b].take_told().is_empty());
    rig.advance(Duration::from_millis(1));
    assert_eq!(rig.clients[b].take_ops(), [13]);
}

#[test]
fn a_resume_takes_the_session_from_a_socket_that_still_seems_alive() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    let old = rig.clients[a].connection.expect("connected");
    rig.resume(a);
    assert_eq!(rig.clients[a].take_ops(), [8, 9]);
    assert_eq!(rig.shard.connections(), 2);
    rig.shard.handle_closed(rig.now, old, 1006);
    rig.pump();
    rig.say(b, |client| client.speaking(1));
    assert_eq!(rig.clients[a].take_ops(), [5], "the old socket's end means nothing");
}

#[test]
fn after_a_4015_the_description_is_said_again() {
    let mut rig = Rig::new();
    let a = rig.speaker(1, 10);
    let key = rig.clients[a].agreed[0].key;
    rig.command(Command::Reconnect { channel: ChannelId(1) });
    assert_eq!(rig.clients[a].closed, Some(4015));
    assert!(rig.events.is_empty(), "the session keeps its place: {:?}", rig.events);
    rig.resume(a);
    assert_eq!(rig.clients[a].take_ops(), [8, 9, 4]);
    assert_eq!(rig.clients[a].agreed.len(), 1);
    assert_eq!(rig.clients[a].agreed[0].key, key);
    rig.hang_up(a, 1006);
    rig.resume(a);
    assert_eq!(rig.clients[a].take_ops(), [8, 9], "once");
}

#[test]
fn the_end_of_an_absence_is_reported_with_its_beginning() {
    let mut rig = Rig::new();
    let a = rig.speaker(1, 10);
    rig.hang_up(a, 1005);
    rig.advance(RESUME_WINDOW);
    assert!(
        matches!(
            rig.events[..],
            [Event::Disconnected {
                reason: stentor::sfu::DisconnectReason::ResumeTimeout,
                close_code: 1005,
                ..
            }]
        ),
        "{:?}",
        rig.events
    );
    assert_eq!((rig.shard.sessions(), rig.shard.channels()), (0, 0));
    rig.advance(Duration::from_secs(200));
    assert!(rig.shard.poll_timeout().is_none());
}

#[test]
fn a_heartbeat_that_acknowledges_nonsense_changes_nothing() {
    let mut rig = Rig::new();
    let a = rig.speaker(1, 10);
    for seq_ack in [-1_i64, 0, 60_000, 1 << 40] {
        rig.say(a, |_| message(3, json!({"t": 1, "seq_ack": seq_ack})));
    }
    rig.hang_up(a, 1006);
    rig.open(a);
    rig.say(a, |client| client.resume_after(Some(-1)));
    assert_eq!(rig.clients[a].take_ops(), [8, 9, 2, 4]);
}

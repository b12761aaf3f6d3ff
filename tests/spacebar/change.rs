//! What Spacebar or its operator changes is done to those who are here, whichever way it is learnt.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    enter, hears,
    support::{
        client::Client,
        gateway::{Door, Gateway},
        spacebar::{CHANNEL, OTHER_CHANNEL, Spacebar, state_event},
        wait_until,
    },
    talk,
};

/// Whether what `speaker` says gets through to `hearer` within a moment.
fn gets_through(speaker: &mut Client, hearer: &mut Client) -> bool {
    let word = crate::support::server::random_hex().into_bytes();
    speaker.media.speak(&word);
    let end = Instant::now() + Duration::from_millis(150);
    while Instant::now() < end {
        let heard = hearer.media.try_hear(Duration::from_millis(20));
        if heard.is_some_and(|packet| packet.payload == word) {
            return true;
        }
    }
    false
}

#[test]
fn a_move_takes_the_session_along_and_closes_the_old_one() {
    let spacebar = Spacebar::start();
    let server = spacebar.server("unix", &[]);
    let a = spacebar.join(10, CHANNEL);
    let (mut alice, mut bob) =
        (enter(&server, &a), enter(&server, &spacebar.join(11, OTHER_CHANNEL)));
    let moved = spacebar.move_to(&a, OTHER_CHANNEL);
    assert_eq!(moved.token, a.token, "Spacebar gives no new token for a move");
    let mut there = enter(&server, &moved);
    assert_eq!(alice.gateway.closed(), 4014);
    talk(&mut there, &mut bob);
    // The move is over; nothing of it ends the new session later.
    thread::sleep(Duration::from_secs(3));
    talk(&mut there, &mut bob);
    assert_eq!(spacebar.row(10), format!("{OTHER_CHANNEL}||f"));
}

#[test]
fn who_is_moved_and_does_not_follow_is_closed_after_a_grace() {
    let spacebar = Spacebar::start();
    let server = spacebar.server("unix", &[]);
    let a = spacebar.join(10, CHANNEL);
    let mut alice = enter(&server, &a);
    let began = Instant::now();
    spacebar.move_to(&a, OTHER_CHANNEL);
    assert_eq!(alice.gateway.closed(), 4014);
    assert!(began.elapsed() >= Duration::from_millis(1_900), "{:?}", began.elapsed());
    // He is where he was put; only his voice is not.
    thread::sleep(Duration::from_millis(1_500));
    assert_eq!(spacebar.row(10), format!("{OTHER_CHANNEL}||f"));
}

/// Mutes, kicks and deletions, seen in the tables alone.
fn changes_in_the_tables_are_obeyed(events: &str) {
    let spacebar = Spacebar::start();
    let server = spacebar.server(events, &[]);
    let (mut alice, mut bob) =
        (enter(&server, &spacebar.join(10, CHANNEL)), enter(&server, &spacebar.join(11, CHANNEL)));
    talk(&mut alice, &mut bob);

    spacebar.postgres.sql("UPDATE voice_states SET mute = true WHERE user_id = 10");
    wait_until("the muted one is not heard", || !gets_through(&mut alice, &mut bob));
    hears(&mut alice, &mut bob);
    spacebar.postgres.sql("UPDATE voice_states SET mute = false, suppress = true");
    wait_until("both are silent", || {
        !gets_through(&mut alice, &mut bob) && !gets_through(&mut bob, &mut alice)
    });
    spacebar.postgres.sql("UPDATE voice_states SET suppress = false");
    wait_until("they are heard again", || gets_through(&mut alice, &mut bob));
    spacebar.postgres.sql("UPDATE voice_states SET deaf = true WHERE user_id = 11");
    wait_until("the deaf one hears nothing", || !gets_through(&mut alice, &mut bob));

    let kick = "UPDATE voice_states SET channel_id = NULL, guild_id = NULL WHERE user_id = 11";
    spacebar.postgres.sql(kick);
    assert_eq!(bob.gateway.closed(), 4014);
    spacebar.postgres.sql(&format!("DELETE FROM channels WHERE id = {CHANNEL}"));
    // The row went with the channel, which looks like a wipe: nobody is closed in a hurry.
    assert_eq!(alice.gateway.poll_end(), None);
}

#[test]
fn changes_in_the_tables_are_obeyed_by_notification() {
    changes_in_the_tables_are_obeyed("notify");
}

#[test]
fn changes_in_the_tables_are_obeyed_by_polling() {
    changes_in_the_tables_are_obeyed("poll");
}

#[test]
fn events_of_the_bus_are_obeyed_at_once() {
    let spacebar = Spacebar::start();
    let server = spacebar.server("unix", &[]);
    let grants = [10, 11, 12, 13].map(|user| spacebar.join(user, CHANNEL));
    let [mut alice, mut bob, mut carol, mut dave] =
        grants.each_ref().map(|grant| enter(&server, grant));
    let [a, b, ..] = &grants;
    talk(&mut alice, &mut bob);

    // Events that are none of ours, and no events at all.
    spacebar.emit(&json!({"id": "1", "event": {"event": "MESSAGE_CREATE", "data": {"x": [1]}}}));
    spacebar.emit(&json!({"id": "1", "event": {"event": "VOICE_STATE_UPDATE", "data": null}}));
    spacebar.emit(&json!([1, 2, {"event": 7}]));
    spacebar.emit(&Value::String("x".repeat(1_000_000)));

    spacebar.emit_state_with(a, Some(CHANNEL), json!({"mute": true}));
    wait_until("the muted one is not heard", || !gets_through(&mut alice, &mut bob));

    // A member is removed: he goes, and his row with him.
    let user = json!({"id": b.user.to_string(), "username": "b"});
    let guild = b.server.to_string();
    spacebar.emit(&json!({"id": guild, "event": {"event": "GUILD_MEMBER_REMOVE",
        "guild_id": guild, "data": {"guild_id": guild, "user": user}}}));
    assert_eq!(bob.gateway.closed(), 4014);
    spacebar.postgres.eventually(&Spacebar::row_query(11), "|f|f");
    spacebar.hear_leave(11);

    // Somebody leaves the guild: an event of the same name, but to him alone.
    spacebar.emit(&json!({"id": "12", "event": {"event": "GUILD_DELETE", "user_id": "12",
        "data": {"id": guild}}}));
    assert_eq!(carol.gateway.closed(), 4014);
    assert_eq!(dave.gateway.poll_end(), None, "the guild is still there for him");

    let channel = CHANNEL.to_string();
    spacebar.emit(&json!({"id": guild, "event": {"event": "CHANNEL_DELETE", "guild_id": guild,
        "data": {"id": channel, "guild_id": guild, "type": 2}}}));
    assert_eq!(alice.gateway.closed(), 4022);
    assert_eq!(dave.gateway.closed(), 4022);
}

#[test]
fn an_event_that_the_table_contradicts_ends_no_conversation() {
    let spacebar = Spacebar::start();
    let server = spacebar.server("unix", &[]);
    let (a, b) = (spacebar.join(10, CHANNEL), spacebar.join(11, CHANNEL));
    let (mut alice, mut bob) = (enter(&server, &a), enter(&server, &b));
    // Late, or of a departure that he has come back from: his row is where he is.
    for _ in 0..3 {
        spacebar.emit_state(&a, None);
        thread::sleep(Duration::from_millis(2_300));
        talk(&mut alice, &mut bob);
    }
}

#[test]
fn a_stream_that_ends_in_spacebar_ends_here() {
    const STREAM: u64 = 555;
    let spacebar = Spacebar::start();
    let server = spacebar.server("unix", &[]);
    let (a, b) = (spacebar.join(10, CHANNEL), spacebar.join(11, CHANNEL));
    let (_alice, _bob) = (enter(&server, &a), enter(&server, &b));
    let mut owner = enter(&server, &spacebar.stream(&a, STREAM));
    let mut viewer = enter(&server, &spacebar.watch(&b, STREAM));
    let key = format!("guild:{}:{CHANNEL}:10", a.server);
    // The viewer stops watching.
    spacebar.emit(&json!({"id": "11", "event": {"event": "STREAM_DELETE", "user_id": "11",
        "data": {"stream_key": key}}}));
    assert_eq!(viewer.gateway.closed(), 4014);
    assert_eq!(owner.gateway.poll_end(), None);
    let guild = a.server.to_string();
    spacebar.emit(&json!({"id": guild, "event": {"event": "STREAM_DELETE", "guild_id": guild,
        "channel_id": CHANNEL.to_string(), "data": {"stream_key": key}}}));
    assert_eq!(owner.gateway.closed(), 4022);
}

#[test]
fn a_gateway_that_wipes_all_rows_ends_no_conversation() {
    for events in ["unix", "notify"] {
        let spacebar = Spacebar::start();
        let server = spacebar.server(events, &[]);
        let (a, b) = (spacebar.join(10, CHANNEL), spacebar.join(11, CHANNEL));
        let (mut alice, mut bob) = (enter(&server, &a), enter(&server, &b));
        spacebar.postgres.sql("TRUNCATE voice_states");
        // Longer than whoever is moved gets, and than the tables are left unread.
        for _ in 0..7 {
            thread::sleep(Duration::from_secs(1));
            talk(&mut alice, &mut bob);
        }
        // One joins anew, with another main session; his old session gives way.
        let again = spacebar.join(10, CHANNEL);
        let mut alice_again = enter(&server, &again);
        assert_eq!(alice.gateway.closed(), 4014);
        talk(&mut alice_again, &mut bob);
        assert_eq!(spacebar.row(10), format!("{CHANNEL}||f"));
    }
}

#[test]
fn who_waits_for_a_server_that_spacebar_does_not_name_again_is_told() {
    let spacebar = Spacebar::start();
    let server = spacebar.server("unix", &[]);
    let a = spacebar.join(10, CHANNEL);
    enter(&server, &a).gateway.cut();
    // A library that gave its session up asks for the same channel: the state, and nothing more.
    let b = spacebar.enter(11, CHANNEL);
    spacebar.emit(&state_event(&b, Some(CHANNEL), json!({})));
    let told =
        spacebar.hear("where to connect", |event| event["event"]["event"] == "VOICE_SERVER_UPDATE");
    assert_eq!(told["id"], "11");
    assert_eq!(told["event"]["user_id"], "11");
    assert_eq!(
        told["event"]["data"],
        json!({"token": b.token, "guild_id": b.server.to_string(), "endpoint": b.endpoint})
    );
    let state = spacebar.hear("that it is in its channel", |event| {
        event["event"]["event"] == "VOICE_STATE_UPDATE" && event["event"]["user_id"] == "11"
    });
    assert_eq!(state["event"]["data"]["channel_id"], CHANNEL.to_string());
    // Who is here, or was told by Spacebar, is not told again.
    let mut bob = enter(&server, &b);
    spacebar.emit_state_with(&b, Some(CHANNEL), json!({"self_mute": true}));
    let c = spacebar.join(12, CHANNEL);
    thread::sleep(Duration::from_secs(3));
    let mut carol = Gateway::open(&server, Door::plain(8));
    carol.identify(&c);
    carol.expect(2);
    bob.gateway.drain();
    let again =
        spacebar.heard().into_iter().find(|it| it["event"]["event"] == "VOICE_SERVER_UPDATE");
    assert_eq!(again, None);
}

//! How connections and sessions end: every close code the shard decides, and what the others and
//! control are told (protocol.md §1.6, §1.8).

use std::time::Duration;

use serde_json::{Value, json};
use stentor::{
    id::{ChannelId, ServerId},
    limits::{
        CHANNEL_SESSIONS_MAX, HEARTBEAT_TIMEOUT, IDENTIFY_TIMEOUT, MESSAGE_BURST_MAX,
        SHARD_SESSIONS_MAX,
    },
    sfu::{Command, DisconnectReason, E2ee, Event},
    signalling::{CloseCode, Frame},
};

use crate::{
    client::{Client, Grant, Profile, message},
    rig::{RESUME_WINDOW, Rig},
};

/// The one session's end that control was told of.
fn ending(rig: &Rig) -> (DisconnectReason, u16) {
    let mut endings = rig.events.iter().filter_map(|event| match event {
        Event::Disconnected { reason, close_code, .. } => Some((*reason, *close_code)),
        _ => None,
    });
    let ending = endings.next().expect("a session's end");
    assert!(endings.next().is_none(), "{:?}", rig.events);
    ending
}

fn text(text: &str) -> Frame {
    Frame::Text(text.to_owned())
}

#[test]
fn strangers_are_refused_with_the_code_of_their_fault() {
    let identify = || Client::new(Grant::new(1, 99), Profile::default()).identify();
    let resume = || Client::new(Grant::new(1, 99), Profile::default()).resume();
    for (what, said, code) in [
        ("an opcode above 64", message(65, Value::Null), 4001),
        ("no JSON", text("{"), 4002),
        ("a d of the wrong type", message(0, json!(5)), 4002),
        ("an empty binary frame", Frame::Binary(Vec::new()), 4002),
        ("Speaking before Identify", message(5, json!({"speaking": 1})), 4003),
        ("a server's opcode before Identify", message(2, json!({})), 4003),
        ("Identify without a grant", identify(), 4004),
        ("Resume of nothing", resume(), 4006),
        (
            "an over-long session",
            message(
                0,
                json!({"server_id": "1", "user_id": "2",
            "session_id": "x".repeat(3_000), "token": "t"}),
            ),
            4020,
        ),
    ] {
        let mut rig = Rig::new();
        let a = rig.client(Grant::new(1, 10), Profile::default());
        rig.open(a);
        rig.say(a, |_| said);
        assert_eq!(rig.clients[a].closed, Some(code), "{what}");
        assert_eq!((rig.shard.connections(), rig.shard.sessions()), (0, 0), "{what}");
        assert!(rig.events.is_empty(), "{what}: {:?}", rig.events);
    }
}

#[test]
fn members_are_closed_with_the_code_of_their_fault_and_leave() {
    let select =
        |protocol: &str, data: Value| message(1, json!({"protocol": protocol, "data": data}));
    let udp = |mode: &str| select("udp", json!({"address": "1.2.3.4", "port": 1, "mode": mode}));
    let foreign = message(12, json!({"audio_ssrc": 5, "video_ssrc": 6, "streams": []}));
    let again = Client::new(Grant::new(1, 10), Profile::default());
    for (what, said, code) in [
        ("an opcode above 64", message(200, Value::Null), 4001),
        ("no JSON", text("nonsense"), 4002),
        ("speaking that is text", message(5, json!({"speaking": "yes"})), 4002),
        ("a JSON opcode in binary", Frame::Binary(vec![5, 1]), 4002),
        ("a second Identify", again.identify(), 4005),
        ("a Resume after Identify", again.resume(), 4005),
        ("neither udp nor webrtc", select("webrtc-p2p", json!({})), 4012),
        ("an SDP without anything in it", select("webrtc", json!("v=0")), 4020),
        ("a mode that does not exist", udp("plain"), 4016),
        ("an SSRC of somebody else", foreign, 4020),
    ] {
        let mut rig = Rig::new();
        let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
        rig.say(a, |_| said);
        assert_eq!(rig.clients[a].closed, Some(code), "{what}");
        assert_eq!(ending(&rig), (DisconnectReason::ProtocolError, code), "{what}");
        assert_eq!(rig.clients[b].take_ops(), [13], "{what}");
        assert_eq!(rig.shard.sessions(), 1, "{what}");
    }
}

#[test]
fn a_mode_that_is_not_offered_is_refused() {
    let mut config = crate::rig::config();
    config.modes = stentor::crypto::Mode::DEFAULT.to_vec();
    let mut rig = Rig::with(config);
    let mode = stentor::crypto::Mode::XSalsa20Poly1305Lite;
    let a = rig.client(Grant::new(1, 10), Profile { mode, ..Profile::default() });
    rig.identify(a);
    rig.say(a, Client::select_protocol);
    assert_eq!(rig.clients[a].closed, Some(4016));
}

#[test]
fn a_slip_with_a_servers_opcode_is_forgiven_a_habit_is_not() {
    let mut rig = Rig::new();
    let a = rig.speaker(1, 10);
    for _ in 0..3 {
        rig.say(a, |_| message(6, Value::Null));
    }
    assert_eq!(rig.clients[a].closed, None);
    rig.say(a, |_| message(6, Value::Null));
    assert_eq!(rig.clients[a].closed, Some(4001));
}

#[test]
fn dead_and_unknown_opcodes_and_missing_routes_are_passed_over() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    for op in [10, 17, 19, 32, 33, 64] {
        rig.say(a, |_| message(op, json!({})));
    }
    rig.say(a, |_| Frame::Binary(vec![26, 1, 2, 3]));
    rig.say(a, |_| message(23, json!({"transition_id": 1})));
    assert_eq!(rig.clients[a].closed, None);
    assert!(rig.clients[a].take_told().is_empty() && rig.clients[b].take_told().is_empty());
}

#[test]
fn a_flood_of_messages_is_cut_off() {
    let mut rig = Rig::new();
    let a = rig.speaker(1, 10);
    for turn in 0.. {
        rig.say(a, |client| client.speaking(turn % 2));
        if rig.clients[a].closed.is_some() {
            assert!((MESSAGE_BURST_MAX - 5..=MESSAGE_BURST_MAX).contains(&turn));
            break;
        }
    }
    assert_eq!(rig.clients[a].closed, Some(4021));
}

#[test]
fn who_does_not_identify_in_time_is_closed() {
    let mut rig = Rig::new();
    let a = rig.client(Grant::new(1, 10), Profile::default());
    rig.open(a);
    rig.advance(IDENTIFY_TIMEOUT - Duration::from_millis(1));
    rig.say(a, Client::heartbeat);
    assert_eq!(rig.clients[a].closed, None);
    rig.advance(Duration::from_millis(1));
    assert_eq!(rig.clients[a].closed, Some(4003), "heartbeats do not help");
}

#[test]
fn who_falls_silent_is_closed_4009_and_may_resume() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    rig.advance(HEARTBEAT_TIMEOUT / 2);
    rig.say(b, Client::heartbeat);
    rig.advance(HEARTBEAT_TIMEOUT / 2);
    rig.say(b, Client::heartbeat);
    assert_eq!((rig.clients[a].closed, rig.clients[b].closed), (Some(4009), None));
    assert!(rig.events.is_empty());
    rig.resume(a);
    assert_eq!(rig.clients[a].closed, None);
    rig.advance(HEARTBEAT_TIMEOUT / 2);
    rig.say(b, Client::heartbeat);
    rig.advance(HEARTBEAT_TIMEOUT / 2);
    rig.say(b, Client::heartbeat);
    rig.advance(RESUME_WINDOW);
    assert_eq!(ending(&rig), (DisconnectReason::HeartbeatTimeout, 4009));
    assert!(rig.clients[b].take_ops().contains(&13));
}

#[test]
fn a_goodbye_ends_the_session_at_once_and_a_loss_does_not() {
    for (code, goodbye) in
        [(1000, true), (1001, true), (4014, true), (1005, false), (1006, false), (4000, false)]
    {
        let mut rig = Rig::new();
        let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
        rig.hang_up(a, code);
        let expected: &[u64] = if goodbye { &[13] } else { &[] };
        assert_eq!(rig.clients[b].take_ops(), expected, "{code}");
        if goodbye {
            assert_eq!(ending(&rig), (DisconnectReason::ClientLeft, code));
        }
        assert_eq!(rig.shard.sessions(), if goodbye { 1 } else { 2 });
    }
}

#[test]
fn a_close_without_a_code_is_a_goodbye_from_who_names_no_version() {
    for (version, goodbye) in [(None, true), (Some(1), false), (Some(8), false)] {
        let mut rig = Rig::new();
        let a = rig.joined(1, 10, Profile { version, ..Profile::default() });
        let b = rig.speaker(1, 11);
        rig.hang_up(a, 1005);
        assert_eq!(rig.clients[b].take_ops().contains(&13), goodbye, "{version:?}");
        assert_eq!(rig.shard.sessions(), if goodbye { 1 } else { 2 }, "{version:?}");
    }
}

#[test]
fn a_newer_session_of_the_same_user_replaces_the_old_one_unseen() {
    for away in [false, true] {
        let mut rig = Rig::new();
        let (a, b) = (rig.joined(1, 10, Profile::video(103, 104)), rig.speaker(1, 11));
        rig.say(a, |client| client.camera(true));
        if away {
            rig.hang_up(a, 1006);
        }
        rig.forget();
        let again =
            rig.client(Grant { session: "newer".into(), ..Grant::new(1, 10) }, Profile::default());
        rig.clients[again].address.set_port(7_777);
        rig.join(again);
        assert_eq!(rig.clients[a].closed, if away { None } else { Some(4014) });
        assert_eq!(ending(&rig), (DisconnectReason::Replaced, 4014));
        assert_eq!(rig.clients[b].take_ops(), [12, 5], "no leaving and coming; its camera is off");
        assert!(!rig.clients[b].roster[&stentor::id::UserId(10)].video);
        rig.speak(again, b"new");
        assert_eq!(rig.clients[b].take_payloads(), [b"new"]);
        assert_eq!(rig.shard.sessions(), 2);
    }
}

#[test]
fn a_user_who_moves_to_another_channel_leaves_the_old_one() {
    let mut rig = Rig::new();
    let (a, b, c) = (rig.speaker(1, 10), rig.speaker(1, 11), rig.speaker(2, 12));
    let moved = rig.client(Grant::new(2, 10), Profile::default());
    rig.join(moved);
    assert_eq!(rig.clients[a].closed, Some(4014));
    assert_eq!(rig.clients[b].take_ops(), [13]);
    assert_eq!(rig.clients[c].take_ops(), [11, 5]);
}

#[test]
fn a_kick_closes_one_and_tells_the_others() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    rig.kick(a, CloseCode::Disconnected);
    assert_eq!(rig.clients[a].closed, Some(4014));
    assert_eq!(ending(&rig), (DisconnectReason::Kicked, 4014));
    assert_eq!(rig.clients[b].take_ops(), [13]);
    rig.forget();
    rig.kick(a, CloseCode::Disconnected);
    assert!(rig.events.is_empty(), "it is gone already");
}

#[test]
fn closing_a_channel_closes_everyone_in_it_and_nobody_else() {
    let mut rig = Rig::new();
    let (a, b, c) = (rig.speaker(1, 10), rig.speaker(1, 11), rig.speaker(2, 12));
    rig.hang_up(b, 1006);
    let (code, reason) = (CloseCode::RoomClosed, DisconnectReason::RoomClosed);
    rig.command(Command::CloseChannel { channel: ChannelId(1), code, reason });
    assert_eq!((rig.clients[a].closed, rig.clients[c].closed), (Some(4022), None));
    assert!(rig.clients[a].take_told().is_empty(), "nobody hears of the others' leaving");
    assert_eq!(rig.events.len(), 2, "who was away has left too");
    assert_eq!((rig.shard.channels(), rig.shard.sessions()), (1, 1));
    rig.command(Command::CloseChannel { channel: ChannelId(5), code, reason });
}

#[test]
fn calling_a_channel_back_lets_its_members_resume() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    rig.command(Command::Reconnect { channel: ChannelId(1) });
    assert_eq!((rig.clients[a].closed, rig.clients[b].closed), (Some(4015), Some(4015)));
    assert!(rig.events.is_empty());
    rig.resume(a);
    assert_eq!(rig.clients[a].closed, None);
    rig.advance(RESUME_WINDOW);
    assert_eq!(ending(&rig), (DisconnectReason::ResumeTimeout, 4015));
}

#[test]
fn a_session_the_backend_ends_is_gone_whatever_the_code() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    rig.clients[b].take_told();
    rig.kick(a, CloseCode::ServerCrashed);
    assert_eq!(rig.clients[a].closed, Some(4015));
    assert_eq!(ending(&rig), (DisconnectReason::Kicked, 4015));
    assert_eq!(rig.clients[b].take_told()[0]["op"], 13);
    assert_eq!(rig.shard.sessions(), 1);
}

#[test]
fn draining_closes_everyone_and_refuses_newcomers() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(2, 11));
    let waiting = rig.client(Grant::new(1, 12), Profile::default());
    rig.open(waiting);
    rig.answers_admissions = false;
    let asking = rig.client(Grant::new(1, 13), Profile::default());
    rig.identify(asking);
    rig.command(Command::Drain { code: CloseCode::ServerCrashed });
    for who in [a, b, waiting, asking] {
        assert_eq!(rig.clients[who].closed, Some(4015));
    }
    assert_eq!(rig.events.len(), 2);
    assert!(rig.events.iter().all(|event| matches!(
        event,
        Event::Disconnected { reason: DisconnectReason::Shutdown, close_code: 4015, .. }
    )));
    assert_eq!((rig.shard.sessions(), rig.shard.connections(), rig.shard.channels()), (0, 0, 0));
    let late = rig.client(Grant::new(1, 14), Profile::default());
    rig.open(late);
    assert_eq!(rig.clients[late].closed, Some(4015));
    assert_eq!(rig.shard.connections(), 0);
}

#[test]
fn a_channel_that_requires_encryption_between_ends_is_closed_to_all() {
    let mut rig = Rig::new();
    rig.policies.entry(stentor::id::UserId(10)).or_default().room.e2ee = E2ee::Required;
    let a = rig.client(Grant::new(1, 10), Profile::default());
    rig.identify(a);
    assert_eq!(rig.clients[a].closed, Some(4017));
    assert_eq!(ending(&rig), (DisconnectReason::ProtocolError, 4017));
}

#[test]
fn a_channel_is_full_at_its_bound() {
    let mut rig = Rig::new();
    for user in 0..CHANNEL_SESSIONS_MAX as u64 {
        // Nobody reads what thousands of members are told of each other: it is not the point.
        let who = rig.client(Grant::new(1, 10_000 + user), Profile::legacy());
        rig.open(who);
        let connection = rig.clients[who].connection.take().expect("open");
        let identify = rig.clients[who].identify();
        rig.shard.handle_frame(rig.now, connection, identify);
        rig.pump();
        rig.shard.handle_closed(rig.now, connection, 1006);
        rig.clients.clear();
    }
    assert_eq!(rig.shard.sessions(), CHANNEL_SESSIONS_MAX);
    rig.forget();
    let late = rig.client(Grant::new(1, 1), Profile::default());
    rig.identify(late);
    assert_eq!(rig.clients[late].closed, Some(4014));
    assert_eq!(ending(&rig).1, 4014);
    let elsewhere = rig.client(Grant::new(2, 2), Profile::default());
    rig.identify(elsewhere);
    assert_eq!(rig.clients[elsewhere].closed, None);
}

#[test]
fn a_shard_is_full_at_its_bound_but_not_for_who_is_in_it() {
    let mut rig = Rig::new();
    // Each in a channel of its own, and of two servers for want of ports to tell clients apart.
    for n in 0..SHARD_SESSIONS_MAX as u64 {
        let grant = Grant { server: ServerId(1 + n / 50_000), ..Grant::new(n, n % 50_000) };
        let who = rig.client(grant, Profile::legacy());
        rig.identify(who);
        rig.hang_up(who, 1006);
        rig.clients.clear();
    }
    assert_eq!(rig.shard.sessions(), SHARD_SESSIONS_MAX);
    rig.forget();
    let late = rig.client(Grant::new(1_000_000, 50_000), Profile::default());
    rig.identify(late);
    assert_eq!(rig.clients[late].closed, Some(4014));
    assert_eq!(ending(&rig).1, 4014);
    let again = rig.client(Grant::new(5, 5), Profile::default());
    rig.identify(again);
    assert_eq!(rig.clients[again].closed, None, "its old session makes room");
    assert_eq!(rig.shard.sessions(), SHARD_SESSIONS_MAX);
}

#[test]
fn nothing_is_left_of_those_who_left() {
    let mut rig = Rig::new();
    let many: Vec<_> = (0..20).map(|user| rig.speaker(user % 3, 100 + user)).collect();
    for &who in &many {
        rig.speak(who, b"x");
    }
    for (turn, &who) in many.iter().enumerate() {
        rig.hang_up(who, if turn % 2 == 0 { 1000 } else { 1006 });
    }
    rig.advance(HEARTBEAT_TIMEOUT + RESUME_WINDOW);
    assert_eq!((rig.shard.sessions(), rig.shard.connections(), rig.shard.channels()), (0, 0, 0));
    assert!(rig.shard.poll_timeout().is_none() && rig.shard.poll_output().is_none());
    assert!(rig.shard.rooms().is_empty());
    for who in many {
        let from = rig.clients[who].address;
        assert_eq!(rig.dropped(from, &[0xC9]), stentor::metrics::DropReason::Noise);
    }
}

//! The order of a connection, versions, and what members learn of each other (protocol.md §1).

use std::time::Duration;

use serde_json::json;
use stentor::{
    id::{SessionId, ShardId, Ssrc, UserId},
    sfu::{Command, DisconnectReason, Event, Shard, Verdict},
};

use crate::{
    client::{Client, Grant, Profile, message},
    rig::{Rig, config},
};

#[test]
fn a_connection_goes_in_order() {
    let mut rig = Rig::new();
    let a = rig.client(Grant::new(1, 10), Profile::default());
    rig.open(a);
    assert_eq!(rig.clients[a].take_ops(), [8], "Hello before anything is said");
    rig.say(a, Client::identify);
    let told = rig.clients[a].take_told();
    assert_eq!(told.len(), 1, "alone: Ready and no Clients Connect");
    let ready = &told[0];
    assert_eq!((&ready["op"], &ready["seq"]), (&json!(2), &json!(1)));
    assert_eq!(ready["d"]["ip"], "198.51.100.7");
    assert_eq!(ready["d"]["port"], 50_000);
    assert_eq!(ready["d"]["modes"][0], "aead_aes256_gcm_rtpsize");
    assert_eq!(ready["d"]["streams"], json!([]));
    rig.say(a, Client::select_protocol);
    let told = rig.clients[a].take_told();
    assert_eq!(told.len(), 1);
    let d = &told[0]["d"];
    assert_eq!(told[0]["op"], 4);
    assert_eq!(d["mode"], "aead_aes256_gcm_rtpsize");
    assert_eq!(d["secret_key"].as_array().unwrap().len(), 32);
    assert_eq!((&d["audio_codec"], &d["video_codec"]), (&json!("opus"), &json!("H264")));
    assert_eq!(d["dave_protocol_version"], 0);
    assert_eq!(d["media_session_id"].as_str().unwrap().len(), 32);
}

#[test]
fn newcomers_and_members_learn_of_each_other() {
    let mut rig = Rig::new();
    let a = rig.joined(1, 10, Profile::video(103, 104));
    let b = rig.joined(1, 11, Profile::default());
    rig.say(a, |client| client.speaking(1));
    rig.say(a, |client| client.camera(true));
    rig.forget();

    let c = rig.client(Grant::new(1, 12), Profile::default());
    rig.identify(c);
    let told = rig.clients[c].take_told();
    let ops: Vec<_> = told.iter().map(|message| message["op"].as_u64().unwrap()).collect();
    assert_eq!(ops, [8, 2, 11, 5, 12, 5], "Ready, then who is there, then each one's state");
    assert_eq!(told[2]["d"]["user_ids"], json!(["10", "11"]));
    let (ssrc, video) = (rig.clients[a].ssrc(), rig.clients[a].streams[1].ssrc);
    assert_eq!(told[3]["d"], json!({"user_id": "10", "ssrc": ssrc, "speaking": 1}));
    assert_eq!(told[4]["d"]["video_ssrc"], json!(video));
    assert_eq!(told[4]["d"]["audio_ssrc"], json!(ssrc));
    assert_eq!(told[4]["d"]["streams"][0]["ssrc"], json!(video));
    assert!(told[4]["d"]["streams"][0].get("max_bitrate").is_none());
    for member in [a, b] {
        let told = rig.clients[member].take_told();
        assert_eq!(told.len(), 1);
        assert_eq!((&told[0]["op"], &told[0]["d"]["user_ids"]), (&json!(11), &json!(["12"])));
    }

    rig.connect_media(c);
    let told = rig.clients[a].take_told();
    assert_eq!(told.len(), 1, "the first Speaking is told even when it is 0");
    let ssrc = rig.clients[c].ssrc();
    assert_eq!(told[0]["d"], json!({"user_id": "12", "ssrc": ssrc, "speaking": 0}));
    for _ in 0..20 {
        rig.say(c, |client| client.speaking(0));
    }
    assert_eq!(
        rig.clients[a].take_told().len(),
        10,
        "said again it is told again, but not for ever"
    );
    for flags in [1, 0, 1] {
        rig.say(c, |client| client.speaking(flags));
        assert_eq!(rig.clients[a].take_told()[0]["d"]["speaking"], json!(flags), "news is told");
    }
    rig.advance(Duration::from_secs(1));
    rig.say(c, |client| client.speaking(1));
    assert_eq!(rig.clients[a].take_told().len(), 1);
}

#[test]
fn channels_do_not_learn_of_each_other() {
    let mut rig = Rig::new();
    let a = rig.speaker(1, 10);
    let b = rig.speaker(2, 11);
    rig.say(b, |client| client.speaking(1));
    rig.hang_up(b, 1000);
    assert!(rig.clients[a].take_told().is_empty());
    assert_eq!((rig.shard.channels(), rig.shard.sessions()), (1, 1));
}

#[test]
fn every_version_gets_its_dialect() {
    // Version asked for; Hello's; whether numbered; whether legacy.
    for (version, hello, numbered, legacy) in [
        (None, 8, false, true),
        (Some(3), 3, false, true),
        (Some(4), 4, false, false),
        (Some(7), 7, false, false),
        (Some(8), 8, true, false),
        (Some(9), 9, true, false),
    ] {
        let mut rig = Rig::new();
        let a = rig.speaker(1, 10);
        rig.say(a, |client| client.speaking(3));
        let b = rig.client(Grant::new(1, 11), Profile { version, ..Profile::default() });
        rig.identify(b);
        let told = rig.clients[b].take_told();
        assert_eq!(told[0]["d"]["v"], hello);
        assert_eq!(told[0]["d"]["heartbeat_interval"], 41_250);
        assert_eq!(told[1]["d"].get("heartbeat_interval").is_some(), legacy, "{version:?}");
        let speaking = if legacy { json!(true) } else { json!(3) };
        assert_eq!(told[3]["d"]["speaking"], speaking, "{version:?}");
        let seqs: Vec<_> = told.iter().filter_map(|message| message["seq"].as_u64()).collect();
        assert_eq!(seqs, if numbered { vec![1, 2, 3] } else { vec![] }, "{version:?}");
        assert!(told.iter().all(|message| message.get("d").is_some()));
    }
}

#[test]
fn heartbeats_are_answered_in_their_shape_before_identify_too() {
    let mut rig = Rig::new();
    let a = rig.client(Grant::new(1, 10), Profile::default());
    rig.open(a);
    for (d, answer) in [
        (json!({"t": 17, "seq_ack": -1}), json!({"t": 17})),
        (json!(1_501_184_119_561_u64), json!(1_501_184_119_561_u64)),
    ] {
        rig.clients[a].told.clear();
        rig.say(a, |_| message(3, d));
        assert_eq!(rig.clients[a].take_told(), [json!({"op": 6, "d": answer})]);
    }
    rig.say(a, Client::identify);
    rig.clients[a].told.clear();
    rig.say(a, |_| message(16, json!({})));
    let told = rig.clients[a].take_told();
    assert_eq!(told[0]["op"], 16);
    assert!(told[0].get("seq").is_none(), "no number without state");
}

#[test]
fn what_is_said_while_control_decides_is_heard_afterwards() {
    let mut rig = Rig::new();
    rig.answers_admissions = false;
    let a = rig.client(Grant::new(1, 10), Profile::default());
    rig.identify(a);
    let (connection, request) = rig.asked.pop().expect("control is asked");
    assert!(rig.shard.is_undecided(connection));
    rig.say(a, Client::select_protocol);
    rig.say(a, Client::heartbeat);
    assert_eq!(rig.clients[a].take_ops(), [8, 6], "heartbeats do not wait");
    let verdict = rig.verdict(&request, ShardId(0));
    rig.command(Command::Decide { connection, verdict });
    assert!(!rig.shard.is_undecided(connection));
    assert_eq!(rig.clients[a].take_ops(), [2, 4]);
}

#[test]
fn a_connection_moves_to_its_channels_shard_with_all_it_has_said() {
    let mut rig = Rig::new();
    rig.answers_admissions = false;
    let a = rig.client(Grant::new(1, 10), Profile::default());
    rig.identify(a);
    rig.say(a, Client::select_protocol);
    let (connection, request) = rig.asked.pop().expect("control is asked");
    let verdict = rig.verdict(&request, ShardId(1));
    rig.command(Command::Decide { connection, verdict });
    let (to, arrival) = rig.moved.pop().expect("the connection moves");
    assert_eq!((to, rig.shard.connections(), rig.shard.sessions()), (ShardId(1), 0, 0));

    let mut home = Rig::with(stentor::sfu::ShardConfig { id: ShardId(1), ..config() });
    home.clients = std::mem::take(&mut rig.clients);
    home.shard.handle_arrival(home.now, *arrival);
    home.pump();
    assert_eq!(home.clients[a].take_ops(), [8, 2, 4]);
    assert_eq!((home.shard.connections(), home.shard.sessions()), (1, 1));
}

#[test]
fn a_join_that_nobody_waits_for_is_reported_as_ended() {
    let mut rig = Rig::new();
    rig.answers_admissions = false;
    let a = rig.client(Grant::new(1, 10), Profile::default());
    rig.identify(a);
    let (connection, request) = rig.asked.pop().expect("control is asked");
    rig.hang_up(a, 1006);
    for shard in [ShardId(0), ShardId(1)] {
        let verdict = rig.verdict(&request, shard);
        rig.command(Command::Decide { connection, verdict });
        let serial = rig.serial(a);
        assert!(
            matches!(
                rig.events[..],
                [Event::Disconnected {
                    serial: ended,
                    reason: DisconnectReason::ClientLeft,
                    close_code: 1006
                }] if ended == serial
            ),
            "{:?}",
            rig.events
        );
        rig.forget();
    }
    assert_eq!((rig.shard.sessions(), rig.moved.len()), (0, 0));
}

#[test]
fn a_second_verdict_ends_its_own_session_and_no_other() {
    let mut rig = Rig::new();
    rig.answers_admissions = false;
    let a = rig.client(Grant::new(1, 10), Profile::default());
    rig.identify(a);
    let (connection, request) = rig.asked.pop().expect("control is asked");
    let first = rig.verdict(&request, ShardId(0));
    rig.command(Command::Decide { connection, verdict: first.clone() });
    rig.forget();
    rig.command(Command::Decide { connection, verdict: first });
    assert!(rig.events.is_empty(), "the session it names lives: {:?}", rig.events);
    let second = rig.verdict(&request, ShardId(0));
    rig.command(Command::Decide { connection, verdict: second });
    let serial = rig.serial(a);
    assert!(
        matches!(rig.events[..], [Event::Disconnected { serial: ended, .. }] if ended == serial)
    );
    assert_eq!(rig.shard.sessions(), 1);
    assert!(rig.clients[a].connection.is_some());
}

#[test]
fn a_verdict_that_answers_another_question_ends_the_session_it_made() {
    let mut rig = Rig::new();
    let a = rig.speaker(1, 10);
    rig.hang_up(a, 1006);
    rig.answers_admissions = false;
    rig.resume(a);
    let (connection, _) = rig.asked.pop().expect("control is asked");
    // A Resume may be answered with another session, but not with somebody else's.
    let mut admission = Box::new(rig.clients[a].grant.admission(99, Default::default()));
    admission.session = SessionId("another".into());
    let verdict = Verdict::Join { shard: ShardId(0), admission };
    rig.forget();
    rig.command(Command::Decide { connection, verdict });
    assert_eq!(rig.clients[a].closed, Some(4004));
    assert!(matches!(rig.events[..], [Event::Disconnected { serial, .. }] if serial.0 == 99));
}

#[test]
fn control_hears_of_a_session_from_beginning_to_end() {
    let mut rig = Rig::new();
    let a = rig.client(Grant::new(1, 10), Profile::video(103, 104));
    rig.join(a);
    rig.say(a, |client| client.speaking(1));
    rig.say(a, |client| client.camera(true));
    rig.say(a, |client| client.camera(false));
    rig.hang_up(a, 1000);
    let serial = rig.serial(a);
    let told: Vec<_> = rig.events.iter().map(|event| format!("{event:?}")).collect();
    let expected = [
        Event::Identified { serial },
        Event::Connected { serial, transport: "udp" },
        Event::Speaking { serial, flags: 0 },
        Event::Speaking { serial, flags: 1 },
        Event::Video { serial, active: true },
        Event::Video { serial, active: false },
        Event::Disconnected { serial, reason: DisconnectReason::ClientLeft, close_code: 1000 },
    ];
    assert_eq!(told, expected.map(|event| format!("{event:?}")));
}

#[test]
fn selecting_again_changes_the_key_and_keeps_the_ssrc() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    rig.speak(a, b"one");
    let (key, ssrc) = (rig.clients[a].agreed[0].key, rig.clients[a].ssrc());
    rig.say(a, Client::select_protocol);
    assert_eq!(rig.clients[a].take_ops(), [4]);
    assert_ne!(rig.clients[a].agreed[1].key, key);
    rig.clients[a].streams[0].seq = 40_000;
    rig.speak(a, b"two");
    let heard = rig.clients[b].take_heard();
    assert_eq!((heard[0].payload(), heard[1].payload()), (&b"one"[..], &b"two"[..]));
    assert_eq!((heard[0].seq(), heard[1].seq()), (Some(0), Some(1)), "one sequence");
    assert_eq!(rig.clients[a].ssrc(), ssrc);
}

#[test]
fn client_flags_are_told_to_both_sides() {
    let mut rig = Rig::new();
    rig.policies.entry(UserId(10)).or_default().flags = 2;
    rig.policies.entry(UserId(11)).or_default().flags = 4;
    let a = rig.speaker(1, 10);
    let b = rig.client(Grant::new(1, 11), Profile::default());
    rig.identify(b);
    let flags = |told: Vec<serde_json::Value>| {
        let of = told.into_iter().find(|message| message["op"] == 18);
        of.expect("Client Flags")["d"].clone()
    };
    assert_eq!(flags(rig.clients[b].take_told()), json!({"user_id": "10", "flags": 2}));
    assert_eq!(flags(rig.clients[a].take_told()), json!({"user_id": "11", "flags": 4}));
    rig.update(a, |policy| policy.flags = 3);
    assert_eq!(flags(rig.clients[b].take_told()), json!({"user_id": "10", "flags": 3}));
}

#[test]
fn a_speaking_message_cannot_name_somebody_elses_ssrc() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    let foreign = rig.clients[b].ssrc();
    rig.say(a, |_| message(5, json!({"speaking": 1, "ssrc": foreign})));
    let told = rig.clients[b].take_told();
    assert_eq!(told[0]["d"]["ssrc"], json!(rig.clients[a].ssrc()));
}

#[test]
fn the_room_is_reported_as_it_is() {
    let mut rig = Rig::new();
    let a = rig.joined(1, 10, Profile::video(103, 104));
    let b = rig.client(Grant::new(1, 11), Profile::legacy());
    rig.identify(b);
    rig.say(a, |client| client.camera(true));
    let c = rig.speaker(1, 12);
    rig.hang_up(c, 1006);
    let rooms = rig.shard.rooms();
    let [room] = &rooms[..] else { panic!("one room") };
    assert_eq!(room.room_id.0, 1);
    let sessions: Vec<_> = room
        .sessions
        .iter()
        .map(|s| (s.user_id.0, s.state, s.mode.is_some(), s.video, s.gateway_version))
        .collect();
    let expected = [
        (10, "ready", true, true, 8),
        (11, "identified", false, false, 0),
        (12, "resuming", true, false, 8),
    ];
    assert_eq!(sessions, expected);
    assert_eq!(room.sessions[0].audio_ssrc, rig.clients[a].ssrc());
}

#[test]
fn ssrcs_of_a_session_are_consecutive_and_nobody_elses() {
    let mut rig = Rig::new();
    let mut all: Vec<Ssrc> = Vec::new();
    for user in 0..50 {
        let profile = Profile { layers: (user % 3) as usize, ..Profile::default() };
        let who = rig.joined(user % 4, 100 + user, profile);
        let ssrcs = rig.clients[who].streams.iter().map(|stream| stream.ssrc);
        let ssrcs: Vec<_> = ssrcs.collect();
        assert!(ssrcs.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1));
        all.extend(ssrcs);
    }
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn two_shards_of_one_seed_are_alike() {
    let now = std::time::Instant::now();
    let shards = [(); 2].map(|()| format!("{:?}", Shard::new(config(), [3; 32], now)));
    assert_eq!(shards[0], shards[1]);
    assert!(shards[0].contains("Random(…)"), "and keep their secret");
}

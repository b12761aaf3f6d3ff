//! Mutes, deafens and permissions acting on live media (protocol.md §6.3, PATCH).

use std::time::Duration;

use serde_json::json;
use stentor::{
    id::UserId,
    metrics::DropReason,
    sfu::{Kind, Policy, StreamPolicy, Verdict},
};

use crate::{
    client::{Grant, Heard, Profile},
    rig::Rig,
    rtcp::KEYFRAME,
};

const SILENCE: [u8; 3] = [0xF8, 0xFF, 0xFE];

type Change = fn(&mut Policy, bool);

/// Every way of taking a voice away, and of giving it back.
const SILENCERS: [(&str, Change); 3] = [
    ("mute", |policy, on| policy.state.mute = on),
    ("suppress", |policy, on| policy.state.suppress = on),
    ("no permission to speak", |policy, on| policy.permissions.speak = !on),
];

fn seqs(heard: &[Heard]) -> Vec<u16> {
    heard.iter().filter_map(Heard::seq).collect()
}

#[test]
fn a_silenced_speaker_ends_in_silence_and_leaves_no_hole() {
    for (what, change) in SILENCERS {
        let mut rig = Rig::new();
        let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
        rig.say(a, |client| client.speaking(1));
        rig.speak(a, b"1");
        rig.speak(a, b"2");
        rig.forget();
        rig.update(a, |policy| change(policy, true));
        let heard = rig.clients[b].take_heard();
        assert_eq!(seqs(&heard), [2, 3, 4, 5, 6], "{what}: five frames that go on in the sequence");
        for (step, heard) in heard.iter().enumerate() {
            let Heard::Rtp { payload, timestamp, extension, .. } = heard else { panic!("media") };
            assert_eq!((&payload[..], *timestamp), (&SILENCE[..], 960 * (step as u32 + 2)));
            assert_eq!(extension.as_ref().unwrap().1[4..], [0x10, 127, 0x90, 0]);
        }
        let told = rig.clients[b].take_told();
        assert_eq!((told.len(), &told[0]["d"]["speaking"]), (1, &json!(0)), "{what}");
        for _ in 0..10 {
            let from = rig.clients[a].address;
            let packet = rig.clients[a].voice(b"unheard");
            assert_eq!(rig.dropped(from, &packet), DropReason::Muted, "{what}");
        }
        rig.say(a, |client| client.speaking(5));
        assert!(rig.clients[b].take_told().is_empty(), "{what}: what it says is not shown");
        rig.update(a, |policy| change(policy, false));
        assert_eq!(rig.clients[b].take_told()[0]["d"]["speaking"], json!(1), "without priority");
        rig.speak(a, b"3");
        let heard = rig.clients[b].take_heard();
        assert_eq!((seqs(&heard), heard[0].payload()), (vec![7], &b"3"[..]), "{what}");
    }
}

#[test]
fn a_short_mute_turns_no_clock_back() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    rig.speak(a, b"1");
    rig.update(a, |policy| policy.state.mute = true);
    rig.update(a, |policy| policy.state.mute = false);
    for payload in [b"2", b"3"] {
        rig.speak(a, payload);
    }
    let heard = rig.clients[b].take_heard();
    let stamps: Vec<_> = heard
        .iter()
        .map(|heard| match heard {
            Heard::Rtp { timestamp, .. } => *timestamp,
            Heard::Rtcp(_) => panic!("media"),
        })
        .collect();
    assert_eq!(seqs(&heard), (0..8).collect::<Vec<_>>());
    assert!(stamps.windows(2).all(|pair| pair[0] < pair[1]), "{stamps:?}");
}

#[test]
fn a_second_reason_for_silence_adds_nothing() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    rig.speak(a, b"1");
    rig.update(a, |policy| policy.state.mute = true);
    rig.forget();
    rig.update(a, |policy| policy.state.suppress = true);
    rig.update(a, |policy| policy.state.mute = false);
    assert!(rig.clients[b].take_heard().is_empty() && rig.clients[b].take_told().is_empty());
    let packet = rig.clients[a].voice(b"x");
    let from = rig.clients[a].address;
    assert_eq!(rig.dropped(from, &packet), DropReason::Muted);
}

#[test]
fn who_never_spoke_is_muted_without_a_sound() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    rig.update(a, |policy| policy.state.mute = true);
    assert!(rig.clients[b].take_heard().is_empty());
    let before = rig.shard.counters().clone();
    rig.update(a, |_| {});
    assert_eq!(*rig.shard.counters(), before);
}

#[test]
fn silence_that_we_insert_is_no_datagram_of_the_speakers() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    rig.speak(a, b"1");
    let before = rig.shard.counters().clone();
    rig.update(a, |policy| policy.state.mute = true);
    let after = rig.shard.counters();
    assert_eq!((after.opened, after.packets_in), (before.opened, before.packets_in));
    assert_eq!(after.forwarded, before.forwarded + 5);
    rig.update(a, |policy| policy.state.mute = false);
    rig.hang_up(b, 1000);
    let drops = rig.drops_during(|rig| rig.update(a, |policy| policy.state.mute = true));
    assert_eq!(drops, [], "nobody hears it, and nobody sent it");
}

#[test]
fn late_packets_from_before_a_mute_take_no_number_of_the_silence() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    let from = rig.clients[a].address;
    let [zero, late, two, muted, after] =
        [0, 1, 2, 3, 4].map(|seq| rig.clients[a].voice_at(seq, b"x"));
    rig.datagram(from, &zero);
    rig.datagram(from, &two);
    rig.update(a, |policy| policy.state.mute = true);
    rig.datagram(from, &muted);
    rig.update(a, |policy| policy.state.mute = false);
    assert_eq!(rig.dropped(from, &late), DropReason::LateAfterCut);
    rig.datagram(from, &after);
    assert_eq!(seqs(&rig.clients[b].take_heard()), [0, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn who_is_deafened_hears_nothing_and_misses_nothing() {
    let mut rig = Rig::new();
    let (a, b, c) = (rig.speaker(1, 10), rig.speaker(1, 11), rig.speaker(1, 12));
    rig.speak(a, b"1");
    rig.update(b, |policy| policy.state.deaf = true);
    for _ in 0..7 {
        let drops = rig.drops_during(|rig| rig.speak(a, b"unheard"));
        assert_eq!(drops, [DropReason::Deafened]);
    }
    rig.speak(b, b"the deaf may speak");
    rig.update(b, |policy| policy.state.deaf = false);
    rig.speak(a, b"2");
    let heard = rig.clients[b].take_heard();
    assert_eq!(seqs(&heard), [0, 1], "no hole in its own sequence");
    assert_eq!(heard[1].payload(), b"2");
    let others = rig.clients[c].take_heard();
    assert_eq!(others.len(), 10, "and the others hear on");
}

#[test]
fn late_packets_repeat_no_number_around_a_deafening() {
    // Late before the ears open again, and after.
    for late_first in [true, false] {
        let mut rig = Rig::new();
        let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
        let from = rig.clients[a].address;
        let packets: Vec<_> = (0..8).map(|seq| rig.clients[a].voice_at(seq, b"x")).collect();
        for seq in [0, 1, 3] {
            rig.datagram(from, &packets[seq]);
        }
        rig.update(b, |policy| policy.state.deaf = true);
        if late_first {
            rig.datagram(from, &packets[2]);
        }
        rig.datagram(from, &packets[5]);
        rig.update(b, |policy| policy.state.deaf = false);
        for seq in [4, 2, 6, 7] {
            rig.datagram(from, &packets[seq]);
        }
        let heard = seqs(&rig.clients[b].take_heard());
        assert_eq!(heard, [0, 1, 3, 4, 5], "late first: {late_first}");
    }
}

#[test]
fn deafness_outlives_a_new_key_and_a_resume() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    rig.update(b, |policy| policy.state.deaf = true);
    rig.say(b, crate::client::Client::select_protocol);
    rig.hang_up(b, 1006);
    rig.resume(b);
    assert_eq!(rig.drops_during(|rig| rig.speak(a, b"x")), [DropReason::Deafened]);
}

#[test]
fn a_policy_holds_from_the_first_packet() {
    let mut rig = Rig::new();
    rig.policies.entry(UserId(10)).or_default().state.mute = true;
    rig.policies.entry(UserId(11)).or_default().state.deaf = true;
    let (a, _, c) = (rig.speaker(1, 10), rig.speaker(1, 11), rig.speaker(1, 12));
    let (from, packet) = (rig.clients[a].address, rig.clients[a].voice(b"x"));
    assert_eq!(rig.dropped(from, &packet), DropReason::Muted);
    assert_eq!(rig.drops_during(|rig| rig.speak(c, b"y")), [DropReason::Deafened]);
    assert_eq!(rig.clients[a].take_payloads(), [b"y"]);
}

#[test]
fn a_camera_without_permission_goes_off_and_stays_off() {
    let mut rig = Rig::new();
    let (a, b) =
        (rig.joined(1, 10, Profile::video(103, 104)), rig.joined(1, 11, Profile::video(96, 97)));
    rig.say(a, |client| client.camera(true));
    rig.send(a, |client| client.next_packet(1, 103, b"picture"));
    assert_eq!(rig.clients[b].take_payloads(), [b"picture"]);
    rig.forget();
    rig.update(a, |policy| policy.permissions.video = false);
    let told = rig.clients[b].take_told();
    assert_eq!(told[0]["op"], 12);
    assert_eq!((&told[0]["d"]["video_ssrc"], &told[0]["d"]["streams"]), (&json!(0), &json!([])));
    assert_eq!(told[0]["d"]["audio_ssrc"], json!(rig.clients[a].ssrc()));
    let from = rig.clients[a].address;
    let packet = rig.clients[a].next_packet(1, 103, b"picture");
    assert_eq!(rig.dropped(from, &packet), DropReason::VideoNotAllowed);
    rig.say(a, |client| client.camera(true));
    assert!(rig.clients[b].take_told().is_empty());
    rig.speak(a, b"voice");
    assert_eq!(rig.clients[b].take_payloads(), [b"voice"], "its voice is another matter");
    rig.update(a, |policy| policy.permissions.video = true);
    rig.say(a, |client| client.camera(true));
    assert_eq!(rig.clients[b].take_ops(), [12]);
    rig.send(a, |client| client.next_packet(1, 103, KEYFRAME));
    let heard = rig.clients[b].take_heard();
    assert_eq!(heard[0].payload(), KEYFRAME);
    assert_eq!(seqs(&heard), [1], "no hole where the forbidden packet was");
}

#[test]
fn in_a_stream_only_its_owner_is_heard_and_not_while_it_is_paused() {
    let mut rig = Rig::new();
    rig.answers_admissions = false;
    let stream = |paused| StreamPolicy {
        stream_key: "guild:1:2:10".into(),
        owner_id: UserId(10),
        viewer_limit: 0,
        paused,
    };
    let [owner, viewer] = [10, 11].map(|user| {
        let who = rig.client(Grant::new(5, user), Profile::video(103, 104));
        rig.identify(who);
        let (connection, request) = rig.asked.pop().expect("control is asked");
        let Verdict::Join { shard, mut admission } = rig.verdict(&request, stentor::id::ShardId(0))
        else {
            panic!("let in")
        };
        admission.kind = Kind::Stream;
        admission.policy.stream = Some(stream(false));
        let verdict = Verdict::Join { shard, admission };
        rig.command(stentor::sfu::Command::Decide { connection, verdict });
        rig.connect_media(who);
        who
    });
    for who in [owner, viewer] {
        rig.say(who, |client| client.camera(true));
        rig.speak(who, b"sound");
        rig.send(who, |client| client.next_packet(1, 103, b"picture"));
    }
    assert_eq!(rig.clients[viewer].take_payloads(), [&b"sound"[..], b"picture"]);
    assert!(rig.clients[owner].take_heard().is_empty());
    rig.update(owner, |policy| policy.stream = Some(stream(true)));
    rig.clients[viewer].take_heard();
    rig.speak(owner, b"sound");
    rig.send(owner, |client| client.next_packet(1, 103, b"picture"));
    rig.advance(Duration::from_millis(20));
    assert!(rig.clients[viewer].take_heard().is_empty());
}

#[test]
fn no_more_members_show_video_than_the_channel_allows() {
    let mut rig = Rig::new();
    for user in [10, 11, 12] {
        rig.policies.entry(UserId(user)).or_default().room.video_limit = 1;
    }
    let [a, b, c] = [10, 11, 12].map(|user| rig.joined(1, user, Profile::video(103, 104)));
    rig.say(a, |client| client.camera(true));
    rig.forget();
    rig.say(b, |client| client.camera(true));
    assert!(rig.clients[c].take_told().is_empty(), "there is no room for another picture");
    let from = rig.clients[b].address;
    let packet = rig.clients[b].next_packet(1, 103, b"unseen");
    assert_eq!(rig.dropped(from, &packet), DropReason::VideoNotAllowed);

    rig.say(a, |client| client.camera(false));
    assert_eq!(rig.clients[c].take_ops(), [12, 12], "who waits takes the place");
    rig.send(b, |client| client.next_packet(1, 103, KEYFRAME));
    assert_eq!(rig.clients[c].take_heard().len(), 1);
    rig.say(a, |client| client.camera(true));
    assert!(rig.clients[c].take_told().is_empty());
    rig.hang_up(b, 1000);
    assert_eq!(rig.clients[c].take_ops(), [13, 12], "a place that a leaver had is free as well");
    rig.say(c, |client| client.camera(true));
    rig.forget();
    rig.update(c, |policy| policy.room.video_limit = 0);
    assert_eq!(rig.clients[a].take_ops(), [12], "and so is one that the backend adds");
}

#[test]
fn video_that_was_forbidden_for_a_while_is_shown_again() {
    let mut rig = Rig::new();
    let (a, b) = (rig.joined(1, 10, Profile::video(103, 104)), rig.speaker(1, 11));
    let c = rig.joined(1, 12, Profile::video(103, 104));
    rig.say(a, |client| client.camera(true));
    rig.forget();
    rig.update(a, |policy| policy.permissions.video = false);
    let told = rig.clients[b].take_told();
    assert_eq!((&told[0]["op"], &told[0]["d"]["streams"]), (&json!(12), &json!([])));
    let from = rig.clients[a].address;
    let packet = rig.clients[a].next_packet(1, 103, b"unseen");
    assert_eq!(rig.dropped(from, &packet), DropReason::VideoNotAllowed);
    rig.update(a, |policy| policy.permissions.video = true);
    let told = rig.clients[b].take_told();
    assert_eq!(told[0]["d"]["streams"].as_array().unwrap().len(), 1, "as it was declared");
    rig.send(a, |client| client.next_packet(1, 103, KEYFRAME));
    assert_eq!(rig.clients[c].take_payloads(), [KEYFRAME]);
    use stentor::sfu::Event;
    let shown = rig.events.iter().filter_map(|event| match event {
        Event::Video { active, .. } => Some(*active),
        _ => None,
    });
    assert_eq!(shown.collect::<Vec<_>>(), [false, true]);
}

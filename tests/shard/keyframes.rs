//! Hearers of video begin with a keyframe, and its sender is asked for one (protocol.md §4.4).

use std::time::Duration;

use serde_json::json;
use stentor::metrics::DropReason;

use crate::{
    client::{Profile, codec, message, opus},
    rig::Rig,
    rtcp::{KEYFRAME, OTHER, keyframes_asked, media, nack, watched},
};

const INTERVAL: Duration = Duration::from_millis(500);

/// What a viewer sees of the next packet of a camera.
fn seen(rig: &mut Rig, camera: usize, viewer: usize, payload: &[u8]) -> Vec<(u16, Vec<u8>)> {
    rig.clients[viewer].mail.clear();
    rig.send(camera, |client| client.next_packet(1, 103, payload));
    let heard = media(rig, viewer);
    heard.iter().map(|it| (it.seq().unwrap(), it.payload().to_vec())).collect()
}

#[test]
fn who_comes_later_sees_nothing_before_a_keyframe() {
    let (mut rig, a, b, _, _) = watched();
    let d = rig.joined(1, 13, Profile::video(103, 104));
    rig.clients[b].mail.clear();
    let drops = rig.drops_during(|rig| assert!(seen(rig, a, d, OTHER).is_empty()));
    assert_eq!(drops, [DropReason::AwaitingKeyframe]);
    assert_eq!(media(&mut rig, b).len(), 1, "who was there goes on seeing");
    let [(first, _)] = seen(&mut rig, a, d, KEYFRAME)[..] else { panic!("the keyframe") };
    let [(second, _)] = seen(&mut rig, a, d, OTHER)[..] else { panic!("what follows") };
    assert_eq!(second, first + 1);
}

#[test]
fn a_newcomers_keyframe_is_asked_for_at_once_and_until_it_comes() {
    let (mut rig, a, _, _, _) = watched();
    rig.joined(1, 13, Profile::video(103, 104));
    rig.advance(Duration::ZERO);
    assert_eq!(keyframes_asked(&mut rig, a), 1, "before another packet has come");
    rig.advance(INTERVAL);
    assert_eq!(keyframes_asked(&mut rig, a), 1);
    rig.send(a, |client| client.next_packet(1, 103, KEYFRAME));
    rig.advance(10 * INTERVAL);
    assert_eq!(keyframes_asked(&mut rig, a), 0);
}

#[test]
fn a_bots_coming_asks_for_nothing() {
    let (mut rig, a, _, _, _) = watched();
    rig.speaker(1, 13);
    rig.advance(INTERVAL);
    assert_eq!(keyframes_asked(&mut rig, a), 0);
}

#[test]
fn newcomers_at_one_time_ask_for_one_keyframe() {
    let (mut rig, a, _, _, _) = watched();
    for user in 13..20 {
        rig.joined(1, user, Profile::video(103, 104));
    }
    rig.advance(INTERVAL - Duration::from_millis(1));
    assert_eq!(keyframes_asked(&mut rig, a), 1);
}

#[test]
fn a_stream_whose_keyframes_cannot_be_told_is_seen_in_the_end() {
    let (mut rig, a, _, _, _) = watched();
    let d = rig.joined(1, 13, Profile::video(103, 104));
    for _ in 0..4 {
        assert!(seen(&mut rig, a, d, OTHER).is_empty());
        rig.advance(INTERVAL);
    }
    assert_eq!(keyframes_asked(&mut rig, a), 4);
    assert_eq!(seen(&mut rig, a, d, OTHER).len(), 1);
    let e = rig.joined(1, 14, Profile::video(103, 104));
    assert_eq!(seen(&mut rig, a, e, OTHER).len(), 1, "and at once by who comes after");
    seen(&mut rig, a, e, KEYFRAME);
    let f = rig.joined(1, 15, Profile::video(103, 104));
    assert!(seen(&mut rig, a, f, OTHER).is_empty(), "until one is seen after all");
}

#[test]
fn a_stream_of_no_named_codec_is_seen_at_once() {
    let mut rig = Rig::new();
    let anything = || Profile { layers: 1, ..Profile::default() };
    let (a, _) = (rig.joined(1, 10, anything()), rig.joined(1, 11, anything()));
    rig.say(a, |client| client.camera(true));
    rig.send(a, |client| client.next_packet(1, 103, OTHER));
    let c = rig.joined(1, 12, anything());
    assert_eq!(seen(&mut rig, a, c, OTHER).len(), 1);
}

#[test]
fn after_a_gap_a_hearer_goes_on_with_a_keyframe_and_without_a_hole() {
    let (mut rig, a, b, c, _) = watched();
    rig.update(b, |policy| policy.state.deaf = true);
    rig.say(c, |_| message(14, json!({"codecs": [opus(), codec("VP8", 1000, 96, None)]})));
    for _ in 0..5 {
        seen(&mut rig, a, b, OTHER);
    }
    assert_eq!(keyframes_asked(&mut rig, a), 0);
    rig.update(b, |policy| policy.state.deaf = false);
    rig.advance(Duration::ZERO);
    assert_eq!(keyframes_asked(&mut rig, a), 1, "it hears again");
    rig.say(c, |_| message(14, json!({"codecs": [opus(), codec("H264", 1000, 99, None)]})));
    rig.advance(INTERVAL);
    assert_eq!(keyframes_asked(&mut rig, a), 1, "for both");
    for viewer in [b, c] {
        assert!(seen(&mut rig, a, viewer, OTHER).is_empty());
    }
    rig.clients[c].mail.clear();
    assert_eq!(seen(&mut rig, a, b, KEYFRAME), [(1, KEYFRAME.to_vec())]);
    assert_eq!(media(&mut rig, c)[0].seq(), Some(1));
}

#[test]
fn a_camera_that_was_forbidden_goes_on_with_a_keyframe() {
    let (mut rig, a, b, _, _) = watched();
    rig.update(a, |policy| policy.permissions.video = false);
    assert!(seen(&mut rig, a, b, OTHER).is_empty());
    rig.update(a, |policy| policy.permissions.video = true);
    rig.forget();
    assert!(seen(&mut rig, a, b, OTHER).is_empty());
    rig.advance(Duration::ZERO);
    assert_eq!(keyframes_asked(&mut rig, a), 1);
    assert_eq!(seen(&mut rig, a, b, KEYFRAME), [(1, KEYFRAME.to_vec())]);
}

#[test]
fn a_camera_that_was_on_alone_goes_on_with_a_keyframe() {
    let mut rig = Rig::new();
    let a = rig.joined(1, 10, Profile::video(103, 104));
    rig.say(a, |client| client.camera(true));
    rig.send(a, |client| client.next_packet(1, 103, KEYFRAME));
    let b = rig.joined(1, 11, Profile::video(103, 104));
    assert!(seen(&mut rig, a, b, OTHER).is_empty());
    assert_eq!(seen(&mut rig, a, b, KEYFRAME).len(), 1);
}

#[test]
fn a_keyframe_that_was_overtaken_is_seen_with_what_overtook_it() {
    let (mut rig, a, b, _, video) = watched();
    rig.update(b, |policy| policy.state.deaf = true);
    rig.send(a, |client| client.next_packet(1, 103, OTHER));
    rig.update(b, |policy| policy.state.deaf = false);
    rig.forget();
    let from = rig.clients[a].address;
    let keyframe = rig.clients[a].next_packet(1, 103, KEYFRAME);
    let rest: Vec<_> = (0..3u8).map(|n| rig.clients[a].next_packet(1, 103, &[0x41, n])).collect();
    for packet in rest.iter().chain([&keyframe]) {
        rig.datagram(from, packet);
    }
    let heard = media(&mut rig, b);
    let got: Vec<_> = heard.iter().map(|it| (it.seq().unwrap(), it.payload())).collect();
    assert_eq!(got, [(1, KEYFRAME), (2, &[0x41, 0][..]), (3, &[0x41, 1]), (4, &[0x41, 2])]);
    rig.send(a, |client| client.next_packet(1, 103, OTHER));
    assert_eq!(media(&mut rig, b)[0].seq(), Some(5));
    nack(&mut rig, b, video, &[3]);
    assert_eq!(media(&mut rig, b)[0].payload(), [0, 3, 0x41, 1]);
}

#[test]
fn a_viewer_that_selects_again_begins_again() {
    let (mut rig, a, b, _, _) = watched();
    rig.say(b, crate::client::Client::select_protocol);
    assert!(seen(&mut rig, a, b, OTHER).is_empty());
    rig.advance(Duration::ZERO);
    assert_eq!(keyframes_asked(&mut rig, a), 1);
    assert_eq!(seen(&mut rig, a, b, KEYFRAME), [(1, KEYFRAME.to_vec())]);
}

//! Which SSRC of a browser is what, and what browsers and bots are told of it (protocol.md §3.4).

use std::time::Duration;

use serde_json::{Value, json};
use stentor::metrics::DropReason;

use crate::{
    browser::{Choices, VP8, media, told},
    client::{Grant, Heard, Profile, message},
    rig::Rig,
};

#[test]
fn voice_before_op_5_is_told_by_its_payload_type_and_announced_before_it_is_forwarded() {
    let mut rig = Rig::new();
    let bot = rig.speaker(1, 10);
    let hearer = rig.browser(1, 11, Choices::default());
    let mut early = rig.selected(1, 12, Choices { ssrcs: [9, 10, 11], ..Choices::default() });
    early.connect(&mut rig);
    rig.forget();
    early.speak(&mut rig, b"1");
    let ssrc = rig.clients[early.who].ssrc();
    assert!(rig.clients[bot].mail.is_empty(), "the news goes first");
    let speaking = told(&mut rig, bot, 5);
    assert_eq!(speaking, [json!({"speaking": 0, "ssrc": ssrc, "user_id": "12"})]);
    let shown = told(&mut rig, hearer.who, 12);
    let expected = json!({"user_id": "12", "audio_ssrc": ssrc, "video_ssrc": 0, "streams": []});
    assert_eq!(shown, [expected]);
    early.speak(&mut rig, b"2");
    assert_eq!(rig.clients[bot].take_payloads(), [b"1", b"2"]);
    early.say_hello(&mut rig);
    assert!(told(&mut rig, hearer.who, 12).is_empty(), "nothing has changed");
}

#[test]
fn a_lone_early_packet_is_forwarded_without_waiting_for_the_next() {
    let mut rig = Rig::new();
    let bot = rig.speaker(1, 10);
    let mut early = rig.selected(1, 12, Choices::default());
    early.connect(&mut rig);
    early.speak(&mut rig, b"1");
    rig.advance(Duration::from_millis(1));
    assert_eq!(rig.clients[bot].take_payloads(), [b"1"]);
}

#[test]
fn video_before_op_12_is_kept_for_a_second() {
    let mut rig = Rig::new();
    let mut viewer = rig.browser(1, 10, Choices::default());
    let mut early = rig.browser(1, 11, Choices { ssrcs: [9, 10, 11], ..Choices::default() });
    for payload in [b"1", b"2"] {
        let packet = early.packet(1, VP8, payload);
        rig.datagram(early.address, &packet);
    }
    assert!(viewer.hear(&mut rig).is_empty());
    rig.advance(Duration::from_millis(900));
    let frame = early.announcement(true);
    rig.say(early.who, |_| frame);
    rig.advance(Duration::from_millis(1));
    let heard = viewer.hear(&mut rig);
    let heard: Vec<_> = heard.iter().map(media).collect();
    let ssrc = rig.clients[early.who].streams[1].ssrc;
    assert_eq!(heard, [(ssrc, VP8, 200, &b"1"[..]), (ssrc, VP8, 201, b"2")]);

    let mut late = rig.browser(1, 12, Choices { ssrcs: [19, 20, 21], ..Choices::default() });
    let packet = late.packet(1, VP8, b"for nobody");
    rig.datagram(late.address, &packet);
    let drops = rig.drops_during(|rig| rig.advance(Duration::from_secs(1)));
    assert_eq!(drops, [DropReason::Unannounced]);
    let frame = late.announcement(true);
    rig.say(late.who, |_| frame);
    rig.advance(Duration::from_secs(1));
    assert!(viewer.hear(&mut rig).iter().all(|heard| matches!(heard, Heard::Rtcp(_))));
    assert_eq!(
        late.dropped(&mut rig, &packet),
        DropReason::Replayed,
        "what was dropped does not come back"
    );
}

#[test]
fn early_packets_are_bounded() {
    let mut rig = Rig::new();
    rig.browser(1, 10, Choices::default());
    let mut early = rig.browser(1, 11, Choices { ssrcs: [9, 10, 11], ..Choices::default() });
    let drops = rig.drops_during(|rig| {
        for _ in 0..200 {
            let packet = early.packet(1, VP8, b"picture");
            rig.datagram(early.address, &packet);
        }
    });
    assert_eq!(drops, vec![DropReason::Unannounced; 104]);
    let drops = rig.drops_during(|rig| rig.hang_up(early.who, 1000));
    assert_eq!(drops, vec![DropReason::Unannounced; 96], "and go with their session");
}

#[test]
fn op_12_names_the_given_ssrcs_to_everyone() {
    let mut rig = Rig::new();
    let bot = rig.speaker(1, 10);
    let viewer = rig.browser(1, 11, Choices::default());
    let sender = rig.browser(1, 12, Choices::default());
    let [voice, video, rtx] =
        [0, 1, 2].map(|stream: usize| rig.clients[sender.who].streams[stream].ssrc);
    rig.forget();
    let frame = sender.announcement(true);
    rig.say(sender.who, |_| frame);
    let layer = json!({"type": "video", "rid": "100", "quality": 100, "active": true,
        "ssrc": video, "rtx_ssrc": rtx, "max_framerate": 30,
        "max_resolution": {"type": "fixed", "width": 1280, "height": 720}});
    let expected = json!({"user_id": "12", "audio_ssrc": voice, "video_ssrc": video,
        "streams": [layer]});
    for who in [bot, viewer.who] {
        assert_eq!(told(&mut rig, who, 12), std::slice::from_ref(&expected));
    }
    let frame = sender.announcement(true);
    rig.say(sender.who, |_| frame);
    assert!(told(&mut rig, viewer.who, 12).is_empty(), "said again it is no news");
    let frame = sender.announcement(false);
    rig.say(sender.who, |_| frame);
    let off = json!({"user_id": "12", "audio_ssrc": voice, "video_ssrc": 0, "streams": []});
    assert_eq!(told(&mut rig, viewer.who, 12), [off]);
}

#[test]
fn a_browser_learns_of_those_who_only_speak_by_op_12_and_bots_do_not() {
    let mut rig = Rig::new();
    let bot = rig.speaker(1, 10);
    let other = rig.joined(1, 11, Profile::default());
    let silent = rig.client(Grant::new(1, 12), Profile::default());
    rig.identify(silent);
    let shown = |d: &Value| (d["user_id"].clone(), d["audio_ssrc"].clone(), d["streams"].clone());
    let browser = rig.selected(1, 13, Choices { version: None, ..Choices::default() });
    let mut expected = Vec::new();
    for who in [bot, other] {
        let client = &rig.clients[who];
        expected.push((json!(client.user()), json!(client.ssrc()), json!([])));
    }
    let told_of: Vec<_> = told(&mut rig, browser.who, 12).iter().map(shown).collect();
    assert_eq!(told_of, expected);
    rig.connect_media(silent);
    let told_of: Vec<_> = told(&mut rig, browser.who, 12).iter().map(shown).collect();
    let client = &rig.clients[silent];
    assert_eq!(told_of, [(json!(client.user()), json!(client.ssrc()), json!([]))]);
    assert!(told(&mut rig, bot, 12).is_empty());
}

#[test]
fn fermi_may_repeat_its_op_12_for_ever() {
    let mut rig = Rig::new();
    let fermi = || Choices { version: None, ..Choices::default() };
    let mut a = rig.browser(1, 10, fermi());
    let mut b = rig.browser(1, 11, Choices { ssrcs: [1, 2, 3], ..fermi() });
    for _ in 0..3 {
        for browser in [&a, &b] {
            let frame = browser.announcement(false);
            rig.say(browser.who, |_| frame);
        }
    }
    assert!(told(&mut rig, a.who, 12).is_empty() && told(&mut rig, b.who, 12).is_empty());
    let ssrc = a.choices.ssrcs[0];
    rig.say(a.who, |_| message(5, json!({"speaking": true, "delay": 0, "ssrc": ssrc})));
    let given = rig.clients[a.who].ssrc();
    let expected = json!({"speaking": true, "ssrc": given, "user_id": "10"});
    assert_eq!(told(&mut rig, b.who, 5), [expected]);
    a.speak(&mut rig, b"voice");
    assert_eq!(b.hear_payloads(&mut rig), [b"voice"]);
}

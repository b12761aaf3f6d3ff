//! Video: payload types, the choice of a codec, sink wants (protocol.md §1.9, §4.1, §4.4).

use std::time::Duration;

use serde_json::{Value, json};
use stentor::metrics::DropReason;

use crate::{
    client::{Grant, Heard, Profile, codec, message, opus},
    rig::Rig,
    rtcp::KEYFRAME,
};

fn with_codecs(codecs: Vec<Value>) -> Profile {
    Profile { layers: 1, codecs: Some(json!(codecs)), ..Profile::default() }
}

fn payload_types(heard: &[Heard]) -> Vec<u8> {
    heard
        .iter()
        .map(|heard| match heard {
            Heard::Rtp { payload_type, .. } => *payload_type,
            Heard::Rtcp(_) => panic!("media"),
        })
        .collect()
}

#[test]
fn ready_gives_every_layer_its_ssrcs() {
    let mut rig = Rig::new();
    let a = rig.client(Grant::new(1, 10), Profile { layers: 2, ..Profile::default() });
    rig.identify(a);
    let told = rig.clients[a].take_told();
    let ssrc = rig.clients[a].ssrc().0;
    let layer = |rid: &str, quality, offset| {
        json!({"type": "video", "rid": rid, "quality": quality, "active": false,
            "ssrc": ssrc + offset, "rtx_ssrc": ssrc + offset + 1})
    };
    assert_eq!(told[1]["d"]["streams"], json!([layer("100", 100, 1), layer("50", 50, 3)]));
}

#[test]
fn who_supports_video_and_lists_no_layer_has_one() {
    let mut rig = Rig::new();
    let a = rig.client(Grant::new(1, 10), Profile::default());
    rig.open(a);
    let mut identify: Value = match rig.clients[a].identify() {
        stentor::signalling::Frame::Text(text) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    };
    identify["d"]["video"] = json!(true);
    let frame = message(0, identify["d"].clone());
    rig.say(a, |_| frame);
    let told = rig.clients[a].take_told();
    let ssrc = rig.clients[a].ssrc().0;
    assert_eq!(
        told[1]["d"]["streams"],
        json!([{"type": "video", "rid": "100", "quality": 100, "active": false,
            "ssrc": ssrc + 1, "rtx_ssrc": ssrc + 2}])
    );
}

#[test]
fn every_hearer_gets_its_own_payload_types() {
    let mut rig = Rig::new();
    let a = rig.joined(1, 10, Profile::video(103, 104));
    let other_numbers = rig.joined(1, 11, Profile::video(126, 127));
    let anything = rig.joined(1, 12, Profile { layers: 1, ..Profile::default() });
    let vp8_only = rig.joined(1, 13, with_codecs(vec![codec("VP8", 1000, 103, None)]));
    let no_rtx = rig.joined(1, 14, with_codecs(vec![codec("H264", 1000, 99, None)]));
    let bot = rig.speaker(1, 15);
    rig.say(a, |client| client.camera(true));
    let drops = rig.drops_during(|rig| {
        rig.send(a, |client| client.next_packet(1, 103, b"picture"));
        rig.send(a, |client| client.next_packet(2, 104, b"\0\x01lost"));
        rig.speak(a, b"voice");
    });
    assert_eq!(drops, [DropReason::CodecNotSupported; 4]);
    for (who, expected) in [
        (other_numbers, &[126, 126, 120][..]),
        (anything, &[103, 103, 120]),
        (vp8_only, &[120]),
        (no_rtx, &[99, 99, 120]),
        (bot, &[120]),
    ] {
        assert_eq!(payload_types(&rig.clients[who].take_heard()), expected, "{who}");
    }
}

#[test]
fn a_marker_and_the_extensions_that_stay_true_are_passed_on() {
    let mut rig = Rig::new();
    let a = rig.joined(1, 10, Profile::video(103, 104));
    let b = rig.joined(1, 11, Profile::video(103, 104));
    rig.say(a, |client| client.camera(true));
    rig.advance(Duration::from_secs(1));
    // Send time, transport-wide number, playout delay, content type, rid.
    let elements = [0x32, 9, 9, 9, 0x51, 1, 2, 0x62, 0, 0, 0, 0x70, 1, 0xB0, b'1', 0];
    let ssrc = rig.clients[a].streams[1].ssrc;
    let packet = crate::client::Rtp {
        payload_type: 103,
        marker: true,
        extension: Some((0xBEDE, &elements)),
        payload: b"picture",
        ..crate::client::rtp(ssrc)
    };
    rig.send(a, |client| client.seal(&packet.plain()));
    let heard = rig.clients[b].take_heard();
    let [Heard::Rtp { marker: true, extension: Some((0xBEDE, elements)), payload, .. }] =
        &heard[..]
    else {
        panic!("{heard:?}")
    };
    let sent = stentor::rtp::extension::abs_send_time(Duration::from_secs(1));
    assert_eq!(elements[..7], [&[0x51, 0, 0, 0x32][..], &sent].concat(), "this hop's own");
    assert_eq!(elements[7..], [0x62, 0, 0, 0, 0x70, 1, 0, 0, 0]);
    assert_eq!(payload, b"picture");
}

#[test]
fn a_hearer_that_changes_its_codecs_sees_no_hole() {
    let mut rig = Rig::new();
    let a = rig.joined(1, 10, Profile::video(103, 104));
    let b = rig.joined(1, 11, Profile::video(126, 127));
    rig.say(a, |client| client.camera(true));
    rig.send(a, |client| client.next_packet(1, 103, b"1"));
    rig.say(b, |_| message(14, json!({"codecs": [opus(), codec("VP8", 1000, 96, None)]})));
    rig.send(a, |client| client.next_packet(1, 103, b"not decodable"));
    rig.say(b, |_| message(14, json!({"codecs": [opus(), codec("H264", 1000, 99, None)]})));
    rig.send(a, |client| client.next_packet(1, 103, KEYFRAME));
    let heard = rig.clients[b].take_heard();
    let got: Vec<_> = heard.iter().map(|heard| (heard.seq().unwrap(), heard.payload())).collect();
    assert_eq!(got, [(0, &b"1"[..]), (1, KEYFRAME)]);
    assert_eq!(payload_types(&heard), [126, 99]);
}

#[test]
fn a_session_update_without_codecs_changes_none() {
    let mut rig = Rig::new();
    let a = rig.joined(1, 10, Profile::video(103, 104));
    let b = rig.joined(1, 11, Profile::video(126, 127));
    rig.say(b, |_| message(14, json!({})));
    rig.say(a, |client| client.camera(true));
    rig.send(a, |client| client.next_packet(1, 103, b"picture"));
    assert_eq!(payload_types(&rig.clients[b].take_heard()), [126]);
}

#[test]
fn opus_may_have_a_number_of_the_senders_own() {
    let mut rig = Rig::new();
    let opus = json!({"name": "opus", "type": "audio", "priority": 1000, "payload_type": 111});
    let a = rig.joined(1, 10, Profile { codecs: Some(json!([opus])), ..Profile::default() });
    let b = rig.speaker(1, 11);
    for payload_type in [111, 120] {
        rig.send(a, |client| client.next_packet(0, payload_type, b"x"));
    }
    assert_eq!(payload_types(&rig.clients[b].take_heard()), [120, 120]);
    let (from, packet) = (rig.clients[a].address, rig.clients[a].next_packet(0, 96, b"x"));
    assert_eq!(rig.dropped(from, &packet), DropReason::UnknownPayloadType);
}

#[test]
fn the_codec_is_one_that_everyone_decodes_and_follows_who_is_there() {
    let mut rig = Rig::new();
    let chosen = |told: Vec<Value>, op: u64| {
        let of = told.into_iter().find(|message| message["op"] == op);
        of.map(|message| message["d"]["video_codec"].as_str().unwrap().to_owned())
    };
    let modern = vec![opus(), codec("AV1", 1000, 101, None), codec("H264", 2000, 103, None)];
    let a = rig.client(Grant::new(1, 10), with_codecs(modern));
    rig.join(a);
    assert_eq!(chosen(rig.clients[a].take_told(), 4).as_deref(), Some("AV1"), "alone");
    let bot = rig.speaker(1, 11);
    assert_eq!(chosen(rig.clients[a].take_told(), 14), None, "a bot is no viewer");
    let b = rig.client(Grant::new(1, 12), with_codecs(vec![codec("H264", 1000, 96, None)]));
    rig.join(b);
    assert_eq!(chosen(rig.clients[b].take_told(), 4).as_deref(), Some("H264"));
    assert_eq!(chosen(rig.clients[a].take_told(), 14).as_deref(), Some("H264"));
    let both = json!({"codecs": [codec("AV1", 1000, 45, None), codec("H264", 2000, 96, None)]});
    rig.say(b, |_| message(14, both));
    assert_eq!(chosen(rig.clients[a].take_told(), 14).as_deref(), Some("AV1"));
    assert_eq!(chosen(rig.clients[b].take_told(), 14).as_deref(), Some("AV1"));
    rig.say(b, |_| message(14, json!({"codecs": [codec("VP9", 1000, 98, None)]})));
    assert_eq!(chosen(rig.clients[a].take_told(), 14), None, "none fits: its first, as before");
    rig.say(b, |_| message(14, json!({"codecs": [codec("H264", 1000, 98, None)]})));
    assert_eq!(chosen(rig.clients[a].take_told(), 14).as_deref(), Some("H264"));
    rig.hang_up(b, 1000);
    assert_eq!(chosen(rig.clients[a].take_told(), 14).as_deref(), Some("AV1"), "alone again");
    assert_eq!(chosen(rig.clients[bot].take_told(), 14), None);
}

#[test]
fn an_unlisted_codec_and_a_probe_go_nowhere() {
    let mut rig = Rig::new();
    let a = rig.joined(1, 10, Profile::video(103, 104));
    rig.joined(1, 11, Profile::video(103, 104));
    let from = rig.clients[a].address;
    let early = rig.clients[a].next_packet(1, 103, b"before op 12");
    assert_eq!(rig.dropped(from, &early), DropReason::VideoNotAllowed);
    rig.say(a, |client| client.camera(true));
    let probe = rig.clients[a].next_packet(1, 96, b"probe");
    assert_eq!(rig.dropped(from, &probe), DropReason::UnknownPayloadType);
    let empty = rig.clients[a].next_packet(1, 103, b"");
    assert_eq!(rig.dropped(from, &empty), DropReason::EmptyPayload);
    rig.say(a, |client| client.camera(false));
    let late = rig.clients[a].next_packet(1, 103, b"after op 12");
    assert_eq!(rig.dropped(from, &late), DropReason::VideoNotAllowed);
}

const NOTHING: [u64; 0] = [];

/// What a sender was told to send of its first layer, in order.
fn wants(rig: &mut Rig, who: usize) -> Vec<u64> {
    let ssrc = rig.clients[who].streams[1].ssrc.to_string();
    let told = rig.clients[who].take_told();
    let wants = told.iter().filter(|message| message["op"] == 15);
    wants.map(|message| message["d"][&ssrc].as_u64().expect("an integer")).collect()
}

#[test]
fn wants_are_raised_at_once_and_lowered_after_a_pause() {
    const PAUSE: Duration = Duration::from_millis(250);
    let mut rig = Rig::new();
    let a = rig.joined(1, 10, Profile::video(103, 104));
    let b = rig.joined(1, 11, Profile::video(103, 104));
    rig.say(a, |client| client.camera(true));
    rig.advance(PAUSE);
    assert_eq!(wants(&mut rig, a), NOTHING, "everything is wanted until somebody says otherwise");
    let ssrc = rig.clients[a].streams[1].ssrc.to_string();
    let want = |quality: u64| message(15, json!({&ssrc: quality, "any": 100}));

    rig.say(b, |_| want(30));
    rig.advance(PAUSE - Duration::from_millis(1));
    assert_eq!(wants(&mut rig, a), NOTHING);
    rig.advance(Duration::from_millis(1));
    assert_eq!(wants(&mut rig, a), [30]);

    rig.say(b, |_| want(70));
    assert_eq!(wants(&mut rig, a), [70], "at once");
    rig.say(b, |_| want(10));
    rig.say(b, |_| want(70));
    rig.advance(PAUSE * 2);
    assert_eq!(wants(&mut rig, a), NOTHING, "nothing has changed in the end");

    let c = rig.client(Grant::new(1, 12), Profile::video(103, 104));
    rig.join(c);
    assert_eq!(wants(&mut rig, a), [100], "a viewer that has not spoken wants everything");
    rig.say(c, |_| message(15, json!({"any": 0})));
    rig.advance(PAUSE);
    assert_eq!(wants(&mut rig, a), [70], "the most that anyone wants");
    rig.hang_up(b, 1000);
    rig.advance(PAUSE);
    assert_eq!(wants(&mut rig, a), [0], "nobody watches");
    rig.hang_up(c, 1000);
    rig.advance(PAUSE);
    assert_eq!(wants(&mut rig, a), NOTHING, "and without viewers it is left as it is");
}

#[test]
fn who_wants_nothing_of_a_camera_is_sent_nothing_of_it() {
    let mut rig = Rig::new();
    let a = rig.joined(1, 10, Profile::video(103, 104));
    let [b, c] = [11, 12].map(|user| rig.joined(1, user, Profile::video(103, 104)));
    let ssrc = rig.clients[a].streams[1].ssrc.to_string();
    let want = |quality: u64| message(15, json!({&ssrc: quality, "any": 100}));
    // Said before there is a stream, or while there is one.
    rig.say(b, |_| want(0));
    rig.say(a, |client| client.camera(true));
    let film = |rig: &mut Rig, payload: &[u8]| {
        let drops = rig.drops_during(|rig| {
            rig.send(a, |client| client.next_packet(1, 103, payload));
            rig.speak(a, b"voice");
        });
        let seen = [b, c].map(|who| {
            let heard = rig.clients[who].take_heard();
            let media: Vec<_> =
                heard.iter().filter_map(|it| Some((it.seq()?, it.payload()))).collect();
            let pictures = media.iter().filter(|(_, payload)| payload != b"voice");
            let pictures: Vec<u16> = pictures.map(|(seq, _)| *seq).collect();
            assert_eq!(media.len(), pictures.len() + 1, "voice is not asked about");
            pictures
        });
        (seen, drops)
    };
    let unwanted = [DropReason::Unwanted];
    let (seen, drops) = film(&mut rig, KEYFRAME);
    assert_eq!((&seen, &drops[..]), (&[vec![], vec![0]], &unwanted[..]));
    rig.say(b, |_| want(50));
    rig.say(c, |_| want(0));
    let (seen, drops) = film(&mut rig, b"\x41other");
    assert!(seen.iter().all(Vec::is_empty), "{seen:?}");
    assert_eq!(drops, [DropReason::AwaitingKeyframe, DropReason::Unwanted]);
    let (seen, drops) = film(&mut rig, KEYFRAME);
    assert_eq!((seen[0].len(), seen[1].len(), &drops[..]), (1, 0, &unwanted[..]));
    rig.say(c, |_| want(1));
    let (seen, _) = film(&mut rig, KEYFRAME);
    assert_eq!(seen[1], [1], "no hole");
}

#[test]
fn those_who_take_no_video_have_no_say() {
    let mut rig = Rig::new();
    let a = rig.joined(1, 10, Profile::video(103, 104));
    let b = rig.joined(1, 11, Profile::video(103, 104));
    let bot = rig.speaker(1, 12);
    rig.say(a, |client| client.camera(true));
    rig.say(b, |_| message(15, json!({"any": 20})));
    rig.advance(Duration::from_secs(1));
    assert_eq!(wants(&mut rig, a), [20]);
    rig.say(bot, |_| message(15, json!({"any": 100})));
    rig.advance(Duration::from_secs(1));
    assert_eq!(wants(&mut rig, a), NOTHING);
}

#[test]
fn op_12_echoes_the_layers_and_repeats_nothing() {
    let mut rig = Rig::new();
    let a = rig.joined(1, 10, Profile { layers: 2, ..Profile::video(103, 104) });
    let b = rig.speaker(1, 11);
    rig.say(a, |client| client.camera(true));
    let told = rig.clients[b].take_told();
    assert_eq!(told[0]["d"]["streams"].as_array().unwrap().len(), 2);
    rig.say(a, |client| client.camera(true));
    assert!(rig.clients[b].take_told().is_empty());
    for off in [json!({"audio_ssrc": 0}), json!({"video_ssrc": 0, "streams": []}), json!({})] {
        rig.say(a, |_| message(12, off));
    }
    assert_eq!(rig.clients[b].take_ops(), [12]);
}

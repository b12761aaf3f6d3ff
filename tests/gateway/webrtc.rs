//! Browsers over real sockets (protocol.md §3): str0m as the browser, bots beside it.

use serde_json::json;

use crate::{
    CHANNEL,
    browser::{Browser, OPUS, audio_ssrc, video_ssrc},
    support::{
        client::{Client, u32_of},
        gateway::{Door, Gateway},
        server::Server,
        wait_until,
    },
};

#[test]
fn op_4_for_webrtc_is_the_text_that_web_clients_parse() {
    let server = Server::start();
    let browser = Browser::join_by(&server, CHANNEL, 10, Door::plain(9));
    let d = browser.description.d.as_object().expect("an object").clone();
    let mut keys: Vec<&str> = d.keys().map(String::as_str).collect();
    keys.sort_unstable();
    let expected =
        ["audio_codec", "dave_protocol_version", "media_session_id", "sdp", "video_codec"];
    assert_eq!(keys, expected);
    assert_eq!((&d["audio_codec"], &d["dave_protocol_version"]), (&json!("opus"), &json!(0)));
    let sdp = d["sdp"].as_str().expect("a string");
    let lines: Vec<&str> = sdp.trim_end().split('\n').collect();
    let port = server.media_port();
    let [media, fingerprint, connection, rtcp, ufrag, pwd, again, candidate] = lines[..] else {
        panic!("{sdp}")
    };
    assert_eq!(media, format!("m=audio {port} ICE/SDP"));
    assert!(fingerprint.starts_with("a=fingerprint:sha-256 ") && fingerprint == again);
    assert_eq!((connection, rtcp), ("c=IN IP4 127.0.0.1", &*format!("a=rtcp:{port}")));
    assert!(ufrag.starts_with("a=ice-ufrag:") && pwd.starts_with("a=ice-pwd:"));
    let expected = format!("a=candidate:1 1 UDP 4261412862 127.0.0.1 {port} typ host");
    assert_eq!(candidate, expected);
    assert!(!sdp.contains('\r') && sdp.matches('=').count() == 8, "{sdp}");
}

#[test]
fn an_offer_without_what_is_needed_closes_4020() {
    let server = Server::start();
    for wrong in ["", "a=ice-ufrag:abcd", &"a=mid:0\n".repeat(20_000)] {
        let mut gateway = Gateway::open(&server, Door::plain(8));
        let grant = server.grant(CHANNEL, 10);
        gateway.identify_with(&grant, json!({}));
        let _ = gateway.expect(2);
        gateway.send(1, json!({"protocol": "webrtc", "data": wrong}));
        assert_eq!(gateway.closed(), 4020, "{wrong:.20}");
    }
    let metrics = server.metrics();
    assert_eq!(metrics.sum(&["stentor_closes_total", "code=\"4020\""]), 3.0);
    assert_eq!(metrics.sum(&["stentor_closes_total"]), 3.0);
}

#[test]
fn a_browser_and_a_bot_hear_each_other() {
    let server = Server::start();
    let mut bot = Client::join(&server, CHANNEL, 10);
    bot.start_speaking();
    let mut browser = Browser::join(&server, CHANNEL, 11);
    let of_bot = audio_ssrc(&mut browser.gateway, 10);
    assert_eq!(of_bot, bot.media.ssrc);
    browser.listen_to(of_bot);
    browser.start_speaking();
    for n in 0..50_u16 {
        let payload = vec![n as u8; 60 + usize::from(n)];
        browser.speak(&payload);
        let heard = bot.media.hear();
        assert_eq!((heard.payload_type, &heard.payload), (120, &payload));
        assert_eq!(heard.ssrc, u32_of(&browser.ready.d["ssrc"]), "the SSRC it was given");
        bot.media.speak(&payload);
        let heard = browser.hear();
        assert_eq!((*heard.header.payload_type, &heard.payload[..]), (OPUS, &payload[..]));
        assert_eq!(*heard.header.ssrc, of_bot);
        assert!(heard.header.ext_vals.audio_level.is_some());
        assert_eq!(heard.header.ext_vals.transport_cc, Some(n), "counted for this hearer alone");
    }
    wait_until("connected", || {
        let (_, rooms) = server.api("GET", &format!("/v1/rooms/{CHANNEL}"), None);
        let sessions = rooms["sessions"].as_array().cloned().unwrap_or_default();
        sessions.iter().any(|it| it["transport"] == "webrtc" && it["state"] == "ready")
    });
}

#[test]
fn two_browsers_hear_each_other() {
    let server = Server::start();
    let mut a = Browser::join(&server, CHANNEL, 10);
    a.start_speaking();
    let mut b = Browser::join(&server, CHANNEL, 11);
    b.start_speaking();
    let (of_b, of_a) = (audio_ssrc(&mut a.gateway, 11), audio_ssrc(&mut b.gateway, 10));
    assert_ne!((of_a, of_b), (a.ssrc, b.ssrc), "not under the SSRCs they chose");
    a.listen_to(of_b);
    b.listen_to(of_a);
    for n in 0..50_u8 {
        a.speak(&[n; 80]);
        assert_eq!(b.hear().payload[..], [n; 80]);
        b.speak(&[n; 90]);
        assert_eq!(a.hear().payload[..], [n; 90]);
    }
}

/// A picture in H.264 that needs no other: parameter sets together, then a slice in three fragments
/// (RFC 6184 §5.7.1, §5.8). Of another picture, one slice.
const KEYFRAME: [&[u8]; 4] = [
    &[0x78, 0, 4, 0x67, 0x42, 0xE0, 0x1F, 0, 2, 0x68, 0xCE],
    &[0x7C, 0x85, 1, 2, 3, 4],
    &[0x7C, 0x05, 5, 6, 7, 8],
    &[0x7C, 0x45, 9, 10],
];
const OTHER: &[u8] = &[0x41, 0x9A, 0x02, 0x03];

#[test]
fn h264_between_browsers_begins_with_a_keyframe_and_comes_whole() {
    let server = Server::start();
    let mut sender = Browser::join_with_camera(&server, CHANNEL, 10, [108, 109]);
    let mut present = Browser::join_with_camera(&server, CHANNEL, 11, [102, 103]);
    sender.show_camera();
    let ssrc = video_ssrc(&mut present.gateway, 10);
    assert_eq!(ssrc, u32_of(&sender.ready.d["streams"][0]["ssrc"]), "the one it was given");
    present.watch(ssrc);
    for payload in KEYFRAME {
        sender.film(payload, payload == KEYFRAME[3]);
        let seen = present.hear();
        assert_eq!((*seen.header.payload_type, &seen.payload[..]), (102, payload));
    }

    // Who comes later sees nothing of what is in between, and the sender is asked for a beginning.
    let mut late = Browser::join_with_camera(&server, CHANNEL, 12, [126, 127]);
    assert_eq!(video_ssrc(&mut late.gateway, 10), ssrc);
    late.watch(ssrc);
    sender.run_until("a request for a keyframe", |it| it.keyframes_asked > 0);
    sender.film(OTHER, true);
    assert_eq!(present.hear().payload[..], *OTHER);
    let expected = [&KEYFRAME[..], &[OTHER, OTHER]].concat();
    let mut before = None;
    for (place, payload) in expected.iter().enumerate() {
        let last = place >= KEYFRAME.len() - 1;
        sender.film(payload, last);
        assert_eq!(present.hear().payload[..], **payload);
        let seen = late.hear();
        assert_eq!((*seen.header.payload_type, seen.header.marker), (126, last));
        assert_eq!((*seen.header.ssrc, &seen.payload[..]), (ssrc, *payload), "packet {place}");
        let number = seen.header.sequence_number;
        assert!(before.is_none_or(|before: u16| number == before.wrapping_add(1)), "no hole");
        before = Some(number);
    }
    assert!(present.has_heard_all() && late.has_heard_all());
    assert_eq!(server.metrics().drops("awaiting_keyframe"), 1.0, "the picture in between");
}

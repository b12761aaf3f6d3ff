//! Browsers: their transport, and what they hear and are heard of (protocol.md §3).

use std::time::Duration;

use serde_json::{Value, json};
use stentor::{
    id::Ssrc,
    metrics::DropReason,
    rtp::feedback::{write_nack, write_pli},
    sfu::{DisconnectReason, Event},
    signalling::CloseCode,
    webrtc::{Fingerprint, fingerprint::Algorithm},
};

use crate::{
    browser::{
        AEAD_128, AEAD_256, Browser, CM_SHA1, Choices, FIREFOX, OPUS, VP8, VP8_RTX,
        foreign_fingerprint,
    },
    client::{Grant, Heard, Profile, Rtp, codec, message, opus, rtp},
    dtls_client::Client as _,
    rig::{Rig, STRANGER, config, identity},
};

fn media(heard: &Heard) -> (Ssrc, u8, u16, &[u8]) {
    match heard {
        Heard::Rtp { ssrc, payload_type, seq, payload, .. } => {
            (*ssrc, *payload_type, *seq, payload)
        }
        Heard::Rtcp(_) => panic!("media"),
    }
}

/// What was said with one opcode, in order.
fn told(rig: &mut Rig, who: usize, op: u64) -> Vec<Value> {
    let told = rig.clients[who].take_told();
    told.into_iter().filter(|message| message["op"] == op).map(|it| it["d"].clone()).collect()
}

#[test]
fn browsers_and_bots_hear_each_other_under_every_profile() {
    for profile in [AEAD_128, AEAD_256, CM_SHA1] {
        let mut rig = Rig::new();
        let bot = rig.speaker(1, 10);
        let mut browser = rig.browser(1, 11, Choices { profile, ..Choices::default() });
        for number in 0..50_u8 {
            let payload = [number; 60];
            browser.speak(&mut rig, &payload);
            rig.speak(bot, &payload);
            let to_bot = rig.clients[bot].take_heard();
            let ssrc = rig.clients[browser.who].ssrc();
            assert_eq!(to_bot.len(), 1, "{profile}");
            let (seq, expected) = (100 + u16::from(number), &payload[..]);
            assert_eq!(media(&to_bot[0]), (ssrc, 120, seq, expected));
            let to_browser = browser.hear(&mut rig);
            assert_eq!(to_browser.len(), 1, "{profile}");
            let ssrc = rig.clients[bot].ssrc();
            assert_eq!(media(&to_browser[0]), (ssrc, OPUS, u16::from(number), expected));
        }
    }
}

#[test]
fn a_hearer_gets_extensions_under_its_own_numbers_and_none_it_did_not_offer() {
    let mut rig = Rig::new();
    let bot = rig.speaker(1, 10);
    let mut chromium = rig.browser(1, 11, Choices::default());
    let mut firefox = rig.browser(1, 12, Choices { extensions: FIREFOX, ..Choices::default() });
    let mut bare = rig.browser(1, 13, Choices { extensions: "", ..Choices::default() });
    for number in 0..3_u8 {
        rig.speak(bot, b"voice");
        let extension = |heard: Vec<Heard>| match &heard[..] {
            [Heard::Rtp { extension, .. }] => extension.clone(),
            other => panic!("{other:?}"),
        };
        let level = 0x80 | 30;
        let [to_chromium, to_firefox, to_bare] = [&mut chromium, &mut firefox, &mut bare]
            .map(|browser| extension(browser.hear(&mut rig)));
        // transport-cc counts for each hearer alone.
        assert_eq!(to_chromium, Some((0xBEDE, vec![0x31, 0, number, 0x10, level, 0, 0, 0])));
        assert_eq!(to_firefox, Some((0xBEDE, vec![0x71, 0, number, 0x10, level, 0, 0, 0])));
        assert_eq!(to_bare, None);
    }
    let elements = [0x40, b'0', 0x10, 0x95, 0x31, 9, 9, 0];
    let packet = Rtp {
        payload_type: OPUS,
        seq: 7,
        extension: Some((0xBEDE, &elements)),
        payload: b"voice",
        ..rtp(Ssrc(chromium.choices.ssrcs[0]))
    };
    let sealed = chromium.seal(&packet.plain());
    rig.datagram(chromium.address, &sealed);
    let heard = rig.clients[bot].take_heard();
    let [Heard::Rtp { extension: Some((0xBEDE, elements)), .. }] = &heard[..] else {
        panic!("{heard:?}")
    };
    assert_eq!((elements.len(), &elements[4..]), (8, &[0x10, 0x95, 0x90, 2][..]));
}

#[test]
fn two_browsers_that_chose_the_same_ssrcs_hear_each_other() {
    let mut rig = Rig::new();
    let mut a = rig.browser(1, 10, Choices::default());
    let mut b = rig.browser(1, 11, Choices { profile: CM_SHA1, ..Choices::default() });
    let mut c = rig.browser(1, 12, Choices::default());
    a.speak(&mut rig, b"from a");
    b.speak(&mut rig, b"from b");
    let ssrc = |rig: &Rig, browser: &Browser| rig.clients[browser.who].ssrc();
    let heard = c.hear(&mut rig);
    let heard: Vec<_> = heard.iter().map(media).map(|(ssrc, _, _, it)| (ssrc, it)).collect();
    assert_eq!(heard, [(ssrc(&rig, &a), &b"from a"[..]), (ssrc(&rig, &b), b"from b")]);
    assert_eq!(a.hear_payloads(&mut rig), [b"from b"]);
    assert_eq!(b.hear_payloads(&mut rig), [b"from a"]);
}

#[test]
fn sequence_numbers_go_round_in_both_directions() {
    for profile in [AEAD_128, CM_SHA1] {
        let mut rig = Rig::new();
        let mut a = rig.browser(1, 10, Choices { profile, ..Choices::default() });
        let mut b = rig.browser(1, 11, Choices { profile, ..Choices::default() });
        a.continue_at(0, 65_000);
        let mut count = 0_u32;
        for number in 0..70_000_u32 {
            let packet = a.packet(0, OPUS, &number.to_be_bytes());
            // Most are lost on the way in, but never half a lap in a row.
            if number % 1_000 < 10 {
                rig.datagram(a.address, &packet);
                for payload in b.hear_payloads(&mut rig) {
                    assert_eq!(payload, number.to_be_bytes());
                    count += 1;
                }
            }
        }
        assert_eq!(count, 700);
    }
}

#[test]
fn session_description_is_what_web_clients_parse() {
    let mut rig = Rig::new();
    let browser = rig.selected(1, 10, Choices::default());
    let described = told(&mut rig, browser.who, 4);
    let [d] = &described[..] else { panic!("{described:?}") };
    let fingerprint = identity().fingerprint().to_string();
    assert!(fingerprint.starts_with("sha-256 ") && fingerprint.len() == 8 + 95);
    let lines = [
        "m=audio 50000 ICE/SDP".to_owned(),
        format!("a=fingerprint:{fingerprint}"),
        "c=IN IP4 198.51.100.7".to_owned(),
        "a=rtcp:50000".to_owned(),
        format!("a=ice-ufrag:{}", browser.ufrag),
        format!("a=ice-pwd:{}", browser.pwd),
        format!("a=fingerprint:{fingerprint}"),
        "a=candidate:1 1 UDP 4261412862 198.51.100.7 50000 typ host".to_owned(),
    ];
    assert_eq!(d["sdp"].as_str().unwrap().trim_end(), lines.join("\n"));
    let mut keys: Vec<_> = d.as_object().unwrap().keys().collect();
    keys.sort();
    let expected =
        ["audio_codec", "dave_protocol_version", "media_session_id", "sdp", "video_codec"];
    assert_eq!(keys, expected);
    assert_eq!((&d["audio_codec"], &d["video_codec"]), (&json!("opus"), &json!("VP8")));
    assert_eq!(d["dave_protocol_version"], 0);
    assert_eq!(d["media_session_id"].as_str().unwrap().len(), 32);
    for value in [&browser.ufrag, &browser.pwd] {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+/".contains(&byte);
        assert!(value.bytes().all(plain), "{value}");
    }
}

#[test]
fn a_whole_sdp_serves_as_well_as_a_fragment() {
    let mut rig = Rig::new();
    let bot = rig.speaker(1, 10);
    let mut browser = rig.selected(1, 11, Choices::default());
    let fragment = browser.offer(&Fingerprint::of(Algorithm::Sha256, browser.dtls.certificate()));
    let whole = format!(
        "v=0\r\no=rtc 1 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=setup:actpass\r\n{}\r\n",
        fragment.replace('\n', "\r\n")
    );
    let codecs = browser.choices.codecs.clone();
    rig.say(browser.who, |_| {
        message(1, json!({"protocol": "webrtc", "data": whole, "codecs": codecs}))
    });
    browser.read_answer(&mut rig);
    browser.connect(&mut rig);
    browser.say_hello(&mut rig);
    browser.speak(&mut rig, b"voice");
    assert_eq!(rig.clients[bot].take_payloads(), [b"voice"]);
}

#[test]
fn an_offer_that_cannot_be_answered_closes_the_connection_and_says_why() {
    let good = {
        let mut rig = Rig::new();
        let browser = rig.selected(1, 10, Choices::default());
        browser.offer(&foreign_fingerprint())
    };
    let without = |prefix: &str| -> String {
        let lines = good.lines().filter(|line| !line.starts_with(prefix));
        lines.collect::<Vec<_>>().join("\n")
    };
    let padding = "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\n";
    let long = padding.repeat(200 * 1_024 / padding.len()) + &good;
    for wrong in [
        without("a=ice-ufrag"),
        without("a=ice-pwd"),
        without("a=fingerprint"),
        format!("{good}\na=setup:passive"),
        long,
        String::new(),
    ] {
        let mut rig = Rig::new();
        let who = rig.client(Grant::new(1, 10), Profile::default());
        rig.identify(who);
        rig.say(who, |_| message(1, json!({"protocol": "webrtc", "data": wrong})));
        assert_eq!(rig.clients[who].closed, Some(CloseCode::BadRequest.code()), "{wrong:.60}");
        assert_eq!(rig.shard.sessions(), 0);
    }
}

#[test]
fn control_hears_that_a_browser_is_connected_once_its_handshake_is_over() {
    let mut rig = Rig::new();
    let mut browser = rig.selected(1, 10, Choices::default());
    browser.check(&mut rig, true);
    let connected = |rig: &Rig| {
        let mut events = rig.events.iter();
        events.any(|event| matches!(event, Event::Connected { transport: "webrtc", .. }))
    };
    let report = |rig: &Rig| {
        let rooms = rig.shard.rooms();
        let session = &rooms[0].sessions[0];
        (session.state, session.transport, session.mode)
    };
    assert!(!connected(&rig));
    assert_eq!(report(&rig), ("identified", None, None));
    browser.shake_hands(&mut rig);
    assert!(connected(&rig));
    assert_eq!(report(&rig), ("ready", Some("webrtc"), Some("SRTP_AEAD_AES_128_GCM")));
}

#[test]
fn a_wrong_fingerprint_gets_no_keys_and_harms_nobody() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    let mut browser = rig.selected(1, 12, Choices::default());
    let offer = browser.offer(&foreign_fingerprint());
    rig.say(browser.who, |_| message(1, json!({"protocol": "webrtc", "data": offer})));
    browser.read_answer(&mut rig);
    browser.check(&mut rig, true);
    browser.shake_hands(&mut rig);
    assert!(!browser.is_connected());
    assert!(browser.dtls.gave_up().is_some_and(|why| !why.is_empty()), "it was told");
    rig.advance(Duration::from_secs(1));
    let check = browser.check_bytes(&browser.pwd.clone(), false);
    assert_eq!(browser.dropped(&mut rig, &check), DropReason::UnknownUfrag, "and is forgotten");
    assert!(rig.clients[browser.who].connection.is_some(), "its WebSocket stays");
    rig.speak(a, b"on and on");
    assert_eq!(rig.clients[b].take_payloads(), [b"on and on"]);
}

#[test]
fn what_does_not_belong_to_a_browser_is_dropped_for_its_reason() {
    let mut rig = Rig::new();
    let mut browser = rig.selected(1, 10, Choices::default());
    let mut connected = rig.browser(1, 11, Choices::default());
    let pwd = browser.pwd.clone();

    let mut stranger = browser.check_bytes(&pwd, true);
    let at = stranger.windows(4).position(|it| it == &browser.ufrag.as_bytes()[..4]).unwrap();
    stranger[at] ^= 1;
    assert_eq!(browser.dropped(&mut rig, &stranger), DropReason::UnknownUfrag);
    let unsigned = browser.check_bytes("another password entirely", true);
    assert_eq!(browser.dropped(&mut rig, &unsigned), DropReason::BadIntegrity);
    let hello = browser.dtls.poll_output().expect("a ClientHello");
    assert_eq!(browser.dropped(&mut rig, &hello), DropReason::UnknownSource, "no check yet");
    assert!(browser.take_strays(&mut rig).is_empty(), "and nobody is answered");

    browser.check(&mut rig, true);
    let early = rtp(Ssrc(browser.choices.ssrcs[0])).plain();
    assert_eq!(browser.dropped(&mut rig, &[&early[..], &[0; 16]].concat()), DropReason::NoKey);
    assert_eq!(browser.dropped(&mut rig, &hello[..20]), DropReason::Malformed, "cut off");
    assert_eq!(rig.dropped(STRANGER, &hello), DropReason::UnknownSource);

    let bot = rig.speaker(1, 12);
    let packet = connected.packet(0, OPUS, b"voice");
    rig.datagram(connected.address, &packet);
    assert_eq!(rig.clients[bot].take_payloads(), [b"voice"]);
    assert_eq!(connected.dropped(&mut rig, &packet), DropReason::Replayed);
    assert_eq!(rig.dropped(STRANGER, &packet), DropReason::UnknownSource);
    let mut forged = connected.packet(0, OPUS, b"voice");
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(connected.dropped(&mut rig, &forged), DropReason::BadTag);
    // The server's own SSRC for it is not what a browser sends under.
    let given = rig.clients[connected.who].ssrc();
    let sealed = connected.seal(&Rtp { payload_type: 0, ..rtp(given) }.plain());
    rig.datagram(connected.address, &sealed);
    let drops = rig.drops_during(|rig| rig.advance(Duration::from_secs(2)));
    assert_eq!(drops, [DropReason::Unannounced]);
}

#[test]
fn a_handshake_is_dealt_with_a_datagram_at_a_time_and_within_bounds() {
    let mut rig = Rig::new();
    let mut browser = rig.selected(1, 10, Choices::default());
    browser.check(&mut rig, true);
    let hello = browser.dtls.poll_output().expect("a ClientHello");
    let path = stentor::egress::Path::to(browser.address);
    for _ in 0..stentor::limits::SESSION_HANDSHAKE_DATAGRAMS_MAX {
        rig.shard.handle_datagram(rig.now, path, &mut hello.clone(), &mut rig.egress);
    }
    let before = rig.shard.counters().drops_for(DropReason::HandshakeFlood);
    rig.shard.handle_datagram(rig.now, path, &mut hello.clone(), &mut rig.egress);
    assert_eq!(rig.shard.counters().drops_for(DropReason::HandshakeFlood), before + 1);
    assert!(rig.egress.is_empty(), "nothing is computed as they come");
    for left in (0..stentor::limits::SESSION_HANDSHAKE_DATAGRAMS_MAX).rev() {
        assert!(rig.shard.has_handshakes());
        rig.shard.handle_handshake(rig.now, &mut rig.egress);
        assert_eq!(rig.shard.has_handshakes(), left > 0);
    }
}

#[test]
fn a_new_source_port_takes_over_once_it_is_nominated() {
    let mut rig = Rig::new();
    let bot = rig.speaker(1, 10);
    let mut browser = rig.browser(1, 11, Choices::default());
    let old = browser.address;
    browser.move_to(&mut rig, ([10, 0, 0, 77], 4_321).into());
    let packet = browser.packet(0, OPUS, b"from nowhere");
    assert_eq!(browser.dropped(&mut rig, &packet), DropReason::UnknownSource);
    browser.check(&mut rig, false);
    browser.speak(&mut rig, b"from a checked pair");
    assert_eq!(rig.clients[bot].take_payloads(), [b"from a checked pair"]);
    rig.speak(bot, b"still to the old one");
    assert!(rig.clients[browser.who].mail.is_empty());
    assert_eq!(rig.strays.iter().filter(|(to, _)| *to == old).count(), 1);
    browser.check(&mut rig, true);
    rig.speak(bot, b"to the new one");
    let heard = browser.hear(&mut rig);
    assert_eq!(media(&heard[0]).3, b"to the new one");
}

#[test]
fn a_browser_that_no_longer_consents_is_sent_nothing_and_may_select_again() {
    let mut rig = Rig::new();
    let bot = rig.speaker(1, 10);
    let mut browser = rig.browser(1, 11, Choices::default());
    for _ in 0..6 {
        rig.advance(Duration::from_secs(10));
        rig.say(bot, crate::client::Client::heartbeat);
        let who = browser.who;
        rig.say(who, crate::client::Client::heartbeat);
        browser.check(&mut rig, true);
    }
    rig.speak(bot, b"heard");
    assert_eq!(browser.hear_payloads(&mut rig), [b"heard"]);
    rig.advance(Duration::from_secs(31));
    browser.hear(&mut rig);
    assert_eq!(rig.drops_during(|rig| rig.speak(bot, b"x")), [DropReason::NotConnected]);
    assert!(rig.clients[browser.who].mail.is_empty());
    assert!(rig.clients[browser.who].connection.is_some());
    let ssrc = rig.clients[browser.who].ssrc();
    let mut again = Browser::select(&mut rig, browser.who, Choices::default());
    again.connect(&mut rig);
    again.say_hello(&mut rig);
    again.speak(&mut rig, b"back");
    let heard = rig.clients[bot].take_heard();
    assert_eq!((media(&heard[0]).0, media(&heard[0]).3), (ssrc, &b"back"[..]));
    rig.speak(bot, b"heard again");
    assert_eq!(again.hear_payloads(&mut rig), [b"heard again"]);
}

#[test]
fn selecting_again_replaces_the_transport_and_keeps_the_ssrcs() {
    let mut rig = Rig::new();
    let bot = rig.speaker(1, 10);
    let mut first = rig.browser(1, 11, Choices::default());
    first.speak(&mut rig, b"1");
    rig.speak(bot, b"1");
    first.hear(&mut rig);
    let ssrc = rig.clients[first.who].ssrc();
    let choices = Choices { profile: CM_SHA1, ssrcs: [5_555, 6_666, 7_777], ..Choices::default() };
    let mut second = Browser::select(&mut rig, first.who, choices);
    assert_ne!((&first.ufrag, &first.pwd), (&second.ufrag, &second.pwd));
    assert_eq!(rig.drops_during(|rig| rig.speak(bot, b"2")), [DropReason::NotConnected]);
    second.connect(&mut rig);
    second.say_hello(&mut rig);
    second.speak(&mut rig, b"3");
    let heard = rig.clients[bot].take_heard();
    let heard: Vec<_> = heard.iter().map(media).map(|it| (it.0, it.2, it.3)).collect();
    assert_eq!(heard, [(ssrc, 100, &b"1"[..]), (ssrc, 101, b"3")]);
    rig.speak(bot, b"4");
    assert_eq!(second.hear_payloads(&mut rig), [b"4"]);

    // And plain UDP after that.
    rig.connect_media(second.who);
    rig.speak(second.who, b"5");
    assert_eq!(rig.clients[bot].take_payloads(), [b"5"]);
    rig.speak(bot, b"6");
    assert_eq!(rig.clients[second.who].take_payloads(), [b"6"]);
    let packet = second.packet(0, OPUS, b"of before");
    let (from, packet) = (second.address, packet);
    assert_eq!(rig.dropped(from, &packet), DropReason::ForeignSsrc);
}

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
        assert_eq!(told(&mut rig, who, 12), [expected.clone()]);
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

#[test]
fn pictures_reach_viewers_under_their_own_payload_types() {
    let mut rig = Rig::new();
    let mut sender = rig.browser(1, 10, Choices::default());
    let firefox = json!([
        {"name": "opus", "type": "audio", "priority": 1000, "payload_type": 109},
        codec("VP8", 1000, 120, Some(124)), codec("H264", 2000, 126, Some(127))
    ]);
    let firefox = Choices { codecs: firefox, extensions: FIREFOX, ..Choices::default() };
    let mut firefox = rig.browser(1, 11, firefox);
    let listed = json!([opus(), codec("VP8", 1000, 101, Some(102))]);
    let desktop = Profile { layers: 1, codecs: Some(listed), ..Profile::default() };
    let desktop = rig.joined(1, 12, desktop);
    let bot = rig.speaker(1, 13);
    let frame = sender.announcement(true);
    rig.say(sender.who, |_| frame);
    // Orientation and playout delay stay true, mid and transport-cc do not, offset does.
    let elements =
        [0x40, b'1', 0x31, 9, 9, 0xD0, 1, 0x52, 0, 0, 7, 0xE2, 0, 0, 5, 0x22, 1, 2, 3, 0];
    let ssrc = Ssrc(sender.choices.ssrcs[1]);
    let packet = Rtp {
        payload_type: VP8,
        marker: true,
        seq: 9,
        extension: Some((0xBEDE, &elements)),
        payload: b"\x10\0\0\0picture",
        ..rtp(ssrc)
    };
    let sealed = sender.seal(&packet.plain());
    rig.datagram(sender.address, &sealed);
    let heard = firefox.hear(&mut rig);
    let [Heard::Rtp { marker: true, payload_type: 120, extension, payload, .. }] = &heard[..]
    else {
        panic!("{heard:?}")
    };
    assert_eq!(payload, b"\x10\0\0\0picture");
    let (_, elements) = extension.as_ref().expect("Firefox takes extensions");
    assert_eq!(elements[..4], [0x71, 0, 0, 0x42], "transport-cc, abs-send-time");
    assert_eq!(elements[7..], [0x52, 0, 0, 5, 0], "toffset, and nothing it did not offer");
    let heard = rig.clients[desktop].take_heard();
    assert_eq!(media(&heard[0]).1, 101);
    assert!(rig.clients[bot].mail.is_empty());
}

#[test]
fn feedback_of_a_viewer_reaches_a_browser_under_the_browsers_own_ssrc() {
    let mut rig = Rig::new();
    let mut sender = rig.browser(1, 10, Choices::default());
    let mut viewer = rig.browser(1, 11, Choices { profile: CM_SHA1, ..Choices::default() });
    let frame = sender.announcement(true);
    rig.say(sender.who, |_| frame);
    rig.advance(Duration::from_secs(5));
    sender.hear(&mut rig);
    let video = rig.clients[sender.who].streams[1].ssrc;
    let mut pli = vec![0x80, 201, 0, 1, 0, 0, 0, 1];
    let mut feedback = [0; 64];
    let len = write_pli(&mut feedback, Ssrc(1), video).unwrap();
    pli.extend(&feedback[..len]);
    let report = viewer.seal_rtcp(&pli);
    assert_eq!(viewer.dropped(&mut rig, &report), DropReason::RtcpConsumed);
    assert_eq!(viewer.dropped(&mut rig, &report), DropReason::Replayed);
    let heard = sender.hear(&mut rig);
    let [Heard::Rtcp(compound)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!(compound[8..12], [0x81, 206, 0, 2]);
    assert_eq!(compound[16..20], sender.choices.ssrcs[1].to_be_bytes());
}

#[test]
fn sender_reports_are_mapped_both_ways() {
    let mut rig = Rig::new();
    let mut sender = rig.browser(1, 10, Choices::default());
    let mut hearer = rig.browser(1, 11, Choices::default());
    sender.speak(&mut rig, b"voice");
    hearer.hear(&mut rig);
    sender.hear(&mut rig);
    let mut report = vec![0x80, 200, 0, 6];
    report.extend(sender.choices.ssrcs[0].to_be_bytes());
    report.extend([0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 5]);
    let sealed = sender.seal_rtcp(&report);
    assert_eq!(sender.dropped(&mut rig, &sealed), DropReason::RtcpConsumed);
    let to_hearer = hearer.hear(&mut rig);
    let [Heard::Rtcp(compound)] = &to_hearer[..] else { panic!("{to_hearer:?}") };
    let given = rig.clients[sender.who].ssrc();
    assert_eq!((compound[1], &compound[4..8]), (200, &given.0.to_be_bytes()[..]));
    let to_sender = sender.hear(&mut rig);
    let [Heard::Rtcp(compound)] = &to_sender[..] else { panic!("{to_sender:?}") };
    assert_eq!((compound[0], compound[1]), (0x81, 201));
    assert_eq!(compound[8..12], sender.choices.ssrcs[0].to_be_bytes());
}

#[test]
fn a_resume_leaves_the_media_path_alone_and_tells_it_all_again() {
    for version in [Some(8), None] {
        let mut rig = Rig::new();
        let bot = rig.speaker(1, 10);
        let mut browser = rig.browser(1, 11, Choices { version, ..Choices::default() });
        rig.hang_up(browser.who, 1006);
        browser.speak(&mut rig, b"away");
        assert_eq!(rig.clients[bot].take_payloads(), [b"away"]);
        let late = rig.speaker(1, 12);
        rig.resume(browser.who);
        rig.speak(late, b"voice");
        assert_eq!(browser.hear_payloads(&mut rig), [b"voice"]);
        let ssrc = json!(rig.clients[late].ssrc());
        let shown = told(&mut rig, browser.who, 12);
        assert!(shown.iter().any(|d| d["audio_ssrc"] == ssrc), "{version:?} {shown:?}");
    }
}

#[test]
fn nothing_is_left_of_a_browser_that_goes() {
    let mut rig = Rig::with(config());
    let mut browser = rig.browser(1, 11, Choices::default());
    rig.hang_up(browser.who, 1000);
    assert_eq!((rig.shard.sessions(), rig.shard.channels()), (0, 0));
    let pwd = browser.pwd.clone();
    let check = browser.check_bytes(&pwd, true);
    assert_eq!(browser.dropped(&mut rig, &check), DropReason::UnknownUfrag);
    let packet = browser.packet(0, OPUS, b"voice");
    assert_eq!(browser.dropped(&mut rig, &packet), DropReason::UnknownSource);
    rig.advance(Duration::from_secs(300));
    assert!(rig.shard.poll_timeout().is_none(), "nothing is left to wait for");
}

#[test]
fn a_close_notify_ends_the_transport_and_not_the_session() {
    let mut rig = Rig::new();
    let bot = rig.speaker(1, 10);
    let mut browser = rig.browser(1, 11, Choices::default());
    browser.dtls.close(rig.now);
    browser.shake_hands(&mut rig);
    assert_eq!(rig.drops_during(|rig| rig.speak(bot, b"x")), [DropReason::NotConnected]);
    assert!(rig.clients[browser.who].connection.is_some());
    assert!(!rig.events.iter().any(|event| {
        matches!(event, Event::Disconnected { reason: DisconnectReason::ClientLeft, .. })
    }));
}

#[test]
fn a_lost_flight_is_sent_again() {
    let mut rig = Rig::new();
    let bot = rig.speaker(1, 10);
    let mut browser = rig.selected(1, 11, Choices::default());
    browser.check(&mut rig, true);
    browser.shake_hands_losing(&mut rig, &[1, 3, 7]);
    assert!(browser.is_connected(), "{:?}", browser.dtls.gave_up());
    browser.say_hello(&mut rig);
    browser.speak(&mut rig, b"at last");
    assert_eq!(rig.clients[bot].take_payloads(), [b"at last"]);
}

#[test]
fn the_retransmissions_of_a_browser_are_known_by_op_12_and_by_payload_type() {
    let mut rig = Rig::new();
    let mut viewer = rig.browser(1, 10, Choices::default());
    let mut sender = rig.browser(1, 11, Choices { ssrcs: [9, 10, 11], ..Choices::default() });
    let frame = sender.announcement(true);
    rig.say(sender.who, |_| frame);
    let first = sender.packet(1, VP8, b"200");
    let lost = sender.packet(1, VP8, b"201");
    let third = sender.packet(1, VP8, b"202");
    rig.datagram(sender.address, &first);
    rig.datagram(sender.address, &third);
    let again = sender.packet(2, VP8_RTX, b"\0\xC9201");
    rig.datagram(sender.address, &again);
    assert_eq!(sender.dropped(&mut rig, &lost), DropReason::Replayed, "it has come already");
    let ssrc = rig.clients[sender.who].streams[1].ssrc;
    let heard = viewer.hear(&mut rig);
    let heard: Vec<_> = heard.iter().map(media).collect();
    let expected = [(200, b"200"), (202, b"202"), (201, b"201")];
    assert_eq!(heard, expected.map(|(seq, payload)| (ssrc, VP8, seq, &payload[..])));
}

#[test]
fn a_viewer_is_sent_again_what_it_lacks_as_a_retransmission_of_its_own_kind() {
    for profile in [AEAD_128, AEAD_256, CM_SHA1] {
        let mut rig = Rig::new();
        let mut sender = rig.browser(1, 10, Choices::default());
        let mut viewer = rig.browser(1, 11, Choices { profile, ..Choices::default() });
        let frame = sender.announcement(true);
        rig.say(sender.who, |_| frame);
        for payload in [b"200", b"201", b"202"] {
            let packet = sender.packet(1, VP8, payload);
            rig.datagram(sender.address, &packet);
        }
        assert_eq!(viewer.hear_payloads(&mut rig), [b"200", b"201", b"202"]);
        let [video, rtx] = [1, 2].map(|stream: usize| rig.clients[sender.who].streams[stream].ssrc);
        let mut numbers = None;
        for again in 0..2_u8 {
            let mut compound = vec![0x80, 201, 0, 1, 0, 0, 0, 1];
            let mut nack = [0; 64];
            let len = write_nack(&mut nack, Ssrc(1), video, [201]).unwrap();
            compound.extend(&nack[..len]);
            let sealed = viewer.seal_rtcp(&compound);
            rig.datagram(viewer.address, &sealed);
            let heard = viewer.hear(&mut rig);
            let [Heard::Rtp { ssrc, payload_type: VP8_RTX, seq, payload, extension, .. }] =
                &heard[..]
            else {
                panic!("{heard:?}")
            };
            assert_eq!((*ssrc, &payload[..]), (rtx, &b"\0\xC9201"[..]));
            let before = numbers.replace(*seq);
            assert!(before.is_none_or(|before| *seq == before + 1), "numbers of their own");
            let (_, elements) = extension.as_ref().expect("Chromium takes extensions");
            assert_eq!(elements[..3], [0x31, 0, 3 + again], "counted on");
            rig.advance(Duration::from_secs(1));
            viewer.hear(&mut rig);
        }
    }
}

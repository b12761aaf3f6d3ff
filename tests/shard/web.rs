//! Browsers' transport and what they hear by it (protocol.md §3).

use std::time::Duration;

use serde_json::json;
use stentor::{
    id::Ssrc,
    metrics::DropReason,
    sfu::{DisconnectReason, Event},
    signalling::CloseCode,
    webrtc::{Fingerprint, fingerprint::Algorithm},
};

use crate::{
    browser::{
        AEAD_128, AEAD_256, Browser, CM_SHA1, Choices, FIREFOX, OPUS, foreign_fingerprint, media,
        told,
    },
    client::{Grant, Heard, Profile, Rtp, message, rtp},
    dtls_client::Client as _,
    rig::{Rig, STRANGER, config, identity},
};

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

/// Sealed twice under one number, two packets lay open what they differ in, and the key that signs.
#[test]
fn a_stream_that_leaps_turns_no_hearers_numbers_back() {
    let mut rig = Rig::new();
    let mut a = rig.browser(1, 10, Choices::default());
    let mut b = rig.browser(1, 11, Choices::default());
    a.speak(&mut rig, b"100");
    a.speak(&mut rig, b"101");
    // Too long for anyone, and each as far ahead as may be: together they lead back.
    for _ in 0..2 {
        a.skip(0, 32_766);
        let long = a.packet(0, OPUS, &[0; 1_420]);
        assert_eq!(a.dropped(&mut rig, &long), DropReason::Oversize);
    }
    a.speak(&mut rig, b"100 once more");
    let heard = b.hear(&mut rig);
    let heard: Vec<_> = heard.iter().map(media).map(|it| (it.2, it.3)).collect();
    let expected = [(100, &b"100"[..]), (101, b"101"), (104, b"100 once more")];
    assert_eq!(heard, expected, "two were lost on the way");
}

#[test]
fn who_misses_the_end_of_a_lap_hears_what_comes_after_it() {
    for profile in [AEAD_128, CM_SHA1] {
        let mut rig = Rig::new();
        let mut a = rig.browser(1, 10, Choices::default());
        a.continue_at(0, 65_534);
        a.speak(&mut rig, b"65534");
        let mut b = rig.browser(1, 11, Choices { profile, ..Choices::default() });
        // Sent under the new key, and lost on the way.
        a.speak(&mut rig, b"65535");
        rig.clients[b.who].mail.clear();
        for payload in [b"0", b"1"] {
            a.speak(&mut rig, payload);
            assert_eq!(b.hear_payloads(&mut rig), [payload], "{profile}");
        }
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
    let counters = rig.shard.counters();
    assert_eq!((counters.handshakes, counters.handshakes_failed), (0, 1));
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
fn a_check_from_a_borrowed_address_takes_nothing_from_who_lives_there() {
    let mut rig = Rig::new();
    let bot = rig.speaker(1, 10);
    let mut victim = rig.browser(1, 11, Choices::default());
    let mut borrower = rig.selected(1, 12, Choices::default());
    rig.speak(bot, b"the bot's address is its own");
    for address in [victim.address, rig.clients[bot].address] {
        let pwd = borrower.pwd.clone();
        let check = borrower.check_bytes(&pwd, true);
        rig.datagram(address, &check);
    }
    victim.speak(&mut rig, b"still heard");
    assert_eq!(rig.clients[bot].take_payloads(), [b"still heard"]);
    victim.hear(&mut rig);
    rig.speak(bot, b"so is the bot");
    assert_eq!(victim.hear_payloads(&mut rig), [b"so is the bot"]);
}

#[test]
fn an_address_that_was_left_is_free_for_the_next_who_comes_from_it() {
    for gone in [true, false] {
        let mut rig = Rig::new();
        let bot = rig.speaker(1, 10);
        // One whose tab is gone without a word, and one that only ever checked.
        let address = match gone {
            true => {
                let old = rig.browser(1, 11, Choices::default());
                rig.hang_up(old.who, 1006);
                rig.advance(Duration::from_secs(13));
                old.address
            }
            false => {
                let mut old = rig.selected(1, 11, Choices::default());
                old.check(&mut rig, true);
                old.address
            }
        };
        rig.clients[1].address = STRANGER;
        let mut next = rig.selected(1, 12, Choices::default());
        next.move_to(&mut rig, address);
        next.connect(&mut rig);
        next.say_hello(&mut rig);
        next.speak(&mut rig, b"here now");
        assert_eq!(rig.clients[bot].take_payloads(), [b"here now"]);
    }
}

#[test]
fn a_voice_is_known_though_much_comes_that_nobody_knows() {
    let mut rig = Rig::new();
    let bot = rig.speaker(1, 10);
    let mut browser = rig.selected(1, 11, Choices::default());
    browser.connect(&mut rig);
    for number in 0..100 {
        let ssrc = Ssrc(browser.choices.ssrcs[1]);
        let packet = Rtp { payload_type: 45, seq: number, ..rtp(ssrc) };
        let sealed = browser.seal(&packet.plain());
        rig.datagram(browser.address, &sealed);
    }
    browser.speak(&mut rig, b"lost for want of room");
    browser.speak(&mut rig, b"known by its payload type");
    assert_eq!(rig.clients[bot].take_payloads(), [b"known by its payload type"]);
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
    assert_eq!(rig.shard.counters().consent_expired, 1);
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

//! What a broken or hostile browser may send (protocol.md §3). The claim is each time the same
//! three: it gets its answer, it is counted for what it is, and the call beside it goes on.

use std::time::Duration;

use serde_json::json;
use stentor::{
    id::Ssrc,
    limits::{DTLS_HANDSHAKE_TIMEOUT, SESSION_HANDSHAKE_DATAGRAMS_MAX},
    metrics::DropReason,
    signalling::CloseCode,
};

use crate::{
    browser::{Browser, Choices, OPUS, foreign_fingerprint, told},
    client::{Client, Heard, Rtp, message, rtp},
    dtls_client::Client as _,
    rig::{Rig, STRANGER},
    rtcp::receiver_report,
};

/// Two bots and a browser who talk in the channel that the hostile one joins.
struct Call {
    bots: [usize; 2],
    browser: Browser,
    spoken: u32,
}

impl Call {
    fn begin(rig: &mut Rig) -> Self {
        let bots = [90, 91].map(|user| rig.speaker(1, user));
        let browser = rig.browser(1, 92, Choices { ssrcs: [21, 22, 23], ..Choices::default() });
        let mut call = Self { bots, browser, spoken: 0 };
        call.goes_on(rig);
        call
    }

    /// Everyone hears the next word of everyone.
    fn goes_on(&mut self, rig: &mut Rig) {
        self.spoken += 1;
        let word = self.spoken.to_be_bytes();
        let [a, b] = self.bots;
        self.browser.check(rig, true);
        for bot in self.bots {
            rig.say(bot, Client::heartbeat);
            rig.speak(bot, &word);
        }
        rig.say(self.browser.who, Client::heartbeat);
        self.browser.speak(rig, &word);
        for who in [a, b] {
            assert_eq!(rig.clients[who].take_payloads(), [word, word], "word {}", self.spoken);
        }
        let heard = self.browser.hear(rig);
        let words = heard.iter().filter(|heard| matches!(heard, Heard::Rtp { .. }));
        assert_eq!(words.map(Heard::payload).collect::<Vec<_>>(), [word, word]);
    }
}

/// A browser of the same channel that has got as far as Session Description.
fn selected(rig: &mut Rig) -> Browser {
    rig.selected(1, 10, Choices::default())
}

#[test]
fn a_wrong_fingerprint_is_told_so_and_counted() {
    let mut rig = Rig::new();
    let mut call = Call::begin(&mut rig);
    let mut browser = selected(&mut rig);
    let offer = browser.offer(&foreign_fingerprint());
    rig.say(browser.who, |_| message(1, json!({"protocol": "webrtc", "data": offer})));
    browser.read_answer(&mut rig);
    browser.check(&mut rig, true);
    browser.shake_hands(&mut rig);
    assert!(!browser.is_connected());
    let why = browser.dtls.gave_up().expect("an alert has come");
    assert!(!why.is_empty());
    let counters = rig.shard.counters();
    assert_eq!((counters.handshakes, counters.handshakes_failed), (1, 1), "the call's, and this");
    assert!(rig.clients[browser.who].connection.is_some(), "it may select again");
    call.goes_on(&mut rig);
    let mut again = Browser::select(&mut rig, browser.who, Choices::default());
    again.connect(&mut rig);
    assert_eq!(rig.shard.counters().handshakes, 2);
}

#[test]
fn a_handshake_that_stops_half_way_is_given_up_and_counted() {
    let mut rig = Rig::new();
    let mut call = Call::begin(&mut rig);
    let mut browser = selected(&mut rig);
    browser.check(&mut rig, true);
    for _ in 0..2 {
        let hello = browser.dtls.poll_output().expect("a ClientHello");
        rig.datagram(browser.address, &hello);
        for answer in browser.take_strays(&mut rig) {
            browser.dtls.handle(rig.now, &answer);
        }
    }
    let mut waited = Duration::ZERO;
    while waited < DTLS_HANDSHAKE_TIMEOUT + Duration::from_secs(5) {
        rig.advance(Duration::from_secs(5));
        waited += Duration::from_secs(5);
        call.goes_on(&mut rig);
        // It goes on checking, so that only the handshake is at fault.
        browser.take_strays(&mut rig);
        if rig.shard.counters().handshakes_failed == 0 {
            browser.check(&mut rig, true);
        }
    }
    assert_eq!(rig.shard.counters().handshakes_failed, 1);
    let check = browser.check_bytes(&browser.pwd.clone(), true);
    assert_eq!(browser.dropped(&mut rig, &check), DropReason::UnknownUfrag);
}

#[test]
fn an_unknown_ufrag_is_counted_and_not_answered() {
    let mut rig = Rig::new();
    let mut call = Call::begin(&mut rig);
    let mut browser = selected(&mut rig);
    let known = browser.ufrag.clone();
    for ufrag in ["", "abcd", &"a".repeat(16), &"a".repeat(200), &call.browser.pwd.clone()] {
        browser.ufrag = ufrag.to_owned();
        let check = browser.check_bytes(&browser.pwd.clone(), true);
        assert_eq!(browser.dropped(&mut rig, &check), DropReason::UnknownUfrag, "{ufrag:?}");
        assert!(browser.take_strays(&mut rig).is_empty(), "nobody is answered");
    }
    // Somebody else's, with a password of one's own.
    browser.ufrag = call.browser.ufrag.clone();
    let check = browser.check_bytes(&browser.pwd.clone(), true);
    assert_eq!(browser.dropped(&mut rig, &check), DropReason::BadIntegrity);
    call.goes_on(&mut rig);
    browser.ufrag = known;
    browser.connect(&mut rig);
}

#[test]
fn dtls_that_was_sent_before_is_counted_and_breaks_nothing() {
    let mut rig = Rig::new();
    let mut call = Call::begin(&mut rig);
    let mut browser = selected(&mut rig);
    browser.check(&mut rig, true);
    let mut sent = Vec::new();
    while !browser.is_connected() {
        let flight: Vec<_> = std::iter::from_fn(|| browser.dtls.poll_output()).collect();
        for datagram in &flight {
            rig.datagram(browser.address, datagram);
        }
        sent.extend(flight);
        let answers = browser.take_strays(&mut rig);
        assert!(!answers.is_empty(), "the handshake goes on");
        answers.iter().for_each(|answer| browser.dtls.handle(rig.now, answer));
        browser.take_keys();
    }
    browser.say_hello(&mut rig);
    for datagram in &sent {
        let before = (rig.shard.counters().answered, browser.take_strays(&mut rig).len());
        assert_eq!(before.1, 0);
        let drops = rig.drops_during(|rig| rig.datagram(browser.address, datagram));
        let answered = rig.shard.counters().answered - before.0;
        // Our last flight may have been lost: it is sent again, and no more than that.
        let answers = browser.take_strays(&mut rig);
        assert!(answers.len() <= 2, "{} datagrams", answers.len());
        match &drops[..] {
            [] => assert_eq!(answered, 1),
            [reason] => assert_eq!((*reason, answered), (DropReason::DtlsUseless, 0)),
            several => panic!("{several:?}"),
        }
        assert_eq!(rig.dropped(STRANGER, datagram), DropReason::UnknownSource);
        assert!(rig.strays.is_empty(), "a stranger gets nothing");
    }
    call.goes_on(&mut rig);
    browser.hear(&mut rig);
    browser.speak(&mut rig, b"still connected");
    assert_eq!(rig.clients[call.bots[0]].take_payloads(), [b"still connected"]);
}

#[test]
fn dtls_that_is_cut_off_is_counted_and_breaks_nothing() {
    let mut rig = Rig::new();
    let mut call = Call::begin(&mut rig);
    let mut browser = selected(&mut rig);
    browser.check(&mut rig, true);
    let mut count = 0;
    while !browser.is_connected() {
        let flight: Vec<_> = std::iter::from_fn(|| browser.dtls.poll_output()).collect();
        for datagram in &flight {
            // Cut between two records it is whole as far as it goes; signatures differ in length.
            let ends = record_ends(datagram);
            for len in (1..datagram.len()).step_by(7).filter(|len| !ends.contains(len)) {
                let reason = browser.dropped(&mut rig, &datagram[..len]);
                // Below a record's header it is no DTLS, and a client's keepalive may look so.
                let expected = if len < 13 { DropReason::Keepalive } else { DropReason::Malformed };
                assert_eq!(reason, expected, "{len} of {}", datagram.len());
                count += 1;
            }
            assert!(browser.take_strays(&mut rig).is_empty(), "nothing is answered");
            rig.datagram(browser.address, datagram);
        }
        let answers = browser.take_strays(&mut rig);
        assert!(!answers.is_empty(), "the handshake goes on");
        answers.iter().for_each(|answer| browser.dtls.handle(rig.now, answer));
        browser.take_keys();
    }
    assert!(count > 50, "{count}");
    call.goes_on(&mut rig);
}

/// Where each of a datagram's records ends.
fn record_ends(datagram: &[u8]) -> Vec<usize> {
    let mut ends = vec![];
    while let Some(length) =
        datagram.get(ends.last().unwrap_or(&0) + 11..).filter(|it| it.len() > 1)
    {
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        ends.push(ends.last().unwrap_or(&0) + 13 + length);
    }
    ends
}

#[test]
fn media_before_a_handshake_is_counted_and_reaches_nobody() {
    let mut rig = Rig::new();
    let mut call = Call::begin(&mut rig);
    let mut browser = selected(&mut rig);
    browser.say_hello(&mut rig);
    let ssrc = Ssrc(browser.choices.ssrcs[0]);
    let voice = Rtp { payload_type: OPUS, payload: b"too early", ..rtp(ssrc) }.plain();
    let voice = [&voice[..], &[0; 16]].concat();
    let report = [receiver_report(ssrc, &[]), vec![0; 20]].concat();
    for early in [&voice, &report] {
        assert_eq!(browser.dropped(&mut rig, early), DropReason::UnknownSource);
    }
    browser.check(&mut rig, true);
    for early in [&voice, &report] {
        assert_eq!(browser.dropped(&mut rig, early), DropReason::NoKey);
    }
    let hello = browser.dtls.poll_output().expect("a ClientHello");
    rig.datagram(browser.address, &hello);
    for early in [&voice, &report] {
        assert_eq!(browser.dropped(&mut rig, early), DropReason::NoKey);
    }
    for bot in call.bots {
        assert!(rig.clients[bot].mail.is_empty());
    }
    call.goes_on(&mut rig);
}

#[test]
fn an_offer_of_200_kib_closes_its_connection_alone() {
    let mut rig = Rig::new();
    let mut call = Call::begin(&mut rig);
    let browser = selected(&mut rig);
    let offer = browser.offer(&browser.dtls.fingerprint());
    let line = "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\n";
    let vast = line.repeat(200 * 1_024 / line.len()) + &offer;
    rig.say(browser.who, |_| message(1, json!({"protocol": "webrtc", "data": vast})));
    let code = CloseCode::BadRequest.code();
    assert_eq!(rig.clients[browser.who].closed, Some(code));
    assert_eq!(told(&mut rig, call.bots[0], 13).len(), 1, "it has left");
    call.goes_on(&mut rig);
}

#[test]
fn a_storm_of_selections_is_cut_off() {
    let mut rig = Rig::new();
    let mut call = Call::begin(&mut rig);
    for opcode in [1, 14] {
        let browser = selected(&mut rig);
        let frame = || match opcode {
            1 => browser.select_protocol(),
            _ => message(14, json!({"codecs": browser.choices.codecs})),
        };
        let mut count = 1;
        while rig.clients[browser.who].connection.is_some() {
            rig.say(browser.who, |_| frame());
            count += 1;
        }
        assert_eq!(rig.clients[browser.who].closed, Some(CloseCode::RateLimited.code()));
        assert_eq!(count, 21, "op {opcode}");
        call.goes_on(&mut rig);
        rig.clients.pop();
    }
}

#[test]
fn a_flood_of_one_handshake_leaves_room_for_others() {
    let mut rig = Rig::new();
    let mut call = Call::begin(&mut rig);
    let mut browser = selected(&mut rig);
    browser.check(&mut rig, true);
    let hello = browser.dtls.poll_output().expect("a ClientHello");
    let path = stentor::egress::Path::to(browser.address);
    for _ in 0..4 * SESSION_HANDSHAKE_DATAGRAMS_MAX {
        rig.shard.handle_datagram(rig.now, path, &mut hello.clone(), &mut rig.egress);
    }
    let flooded = rig.shard.counters().drops_for(DropReason::HandshakeFlood);
    assert_eq!(flooded, 3 * SESSION_HANDSHAKE_DATAGRAMS_MAX as u64);
    call.goes_on(&mut rig);
    let mut other = rig.selected(1, 11, Choices { ssrcs: [31, 32, 33], ..Choices::default() });
    other.connect(&mut rig);
}

/// A camera's SSRC that becomes the microphone's leaves the camera without a name, and with packets
/// that it still lacks.
#[test]
fn a_stream_that_loses_its_name_keeps_nobody_busy() {
    let mut rig = Rig::new();
    let mut call = Call::begin(&mut rig);
    let mut browser = rig.browser(1, 10, Choices::default());
    let frame = browser.announcement(true);
    rig.say(browser.who, |_| frame);
    for lost in [0, 3] {
        browser.skip(1, lost);
        let packet = browser.packet(1, crate::browser::VP8, b"\x10\0\0\0picture");
        rig.datagram(browser.address, &packet);
    }
    let camera = browser.choices.ssrcs[1];
    rig.say(browser.who, |_| message(5, json!({"speaking": 1, "ssrc": camera})));
    rig.advance(Duration::from_secs(2));
    rig.clients[call.bots[0]].mail.clear();
    rig.clients[call.bots[1]].mail.clear();
    call.browser.hear(&mut rig);
    call.goes_on(&mut rig);
}

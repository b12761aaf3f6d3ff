//! UDP from a client's side (protocol.md §2): discovery, keepalives, what is forwarded and how it
//! looks, whose packets count, where answers go.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;

use crate::{
    CHANNEL, heard_before,
    support::{
        WAIT,
        cipher::{Mode, unhex},
        client::Client,
        gateway::Door,
        media::{FRAME, Media, SILENCE},
        rtp::Rtp,
        server::Server,
        wait_until,
    },
};

/// A speaker and a hearer.
fn pair(server: &Server) -> [Client; 2] {
    let mut clients = [10, 11].map(|user| Client::join(server, CHANNEL, user));
    clients.iter_mut().for_each(Client::start_speaking);
    clients
}

/// Waits until exactly this many drops are counted for the reason.
fn until_drops(server: &Server, reason: &str, count: f64) {
    wait_until(reason, || server.metrics().drops(reason) >= count);
    assert_eq!(server.metrics().drops(reason), count, "{reason}");
}

#[test]
fn discovery_tells_the_source_in_ipv4_text_and_network_order() {
    let server = Server::start();
    let client = Client::join(&server, CHANNEL, 10);
    let seen = client.media.discover();
    assert_eq!((seen.text.as_str(), seen.port), ("127.0.0.1", client.media.address().port()));
    assert!(seen.raw[8 + "127.0.0.1".len()..72].iter().all(|byte| *byte == 0), "padded with NUL");
}

#[test]
fn discovery_for_an_ssrc_of_nobody_is_met_with_silence() {
    let server = Server::start();
    let client = Client::join(&server, CHANNEL, 10);
    let gone = Client::join(&server, CHANNEL, 11);
    let unknown = gone.media.ssrc;
    gone.gateway.leave(1000);
    for ssrc in [0, unknown, client.media.ssrc.wrapping_add(1), u32::MAX] {
        client.media.ask_discovery(ssrc);
    }
    // Loopback keeps order: the first answer is the one to the last question.
    let _ = client.media.discover();
    until_drops(&server, "unknown_discovery", 4.0);
}

#[test]
fn the_last_discovery_before_any_media_says_where_media_goes() {
    let server = Server::start();
    let mut hearer = Client::join(&server, CHANNEL, 11);
    let mut speaker = Client::join(&server, CHANNEL, 10);
    speaker.start_speaking();
    let mut later = hearer.media.moved();
    let _ = later.discover();
    speaker.media.speak(b"to the newer socket");
    assert_eq!(later.hear().payload, b"to the newer socket");
    assert_eq!(hearer.media.try_hear(Duration::from_millis(50)), None);
}

#[test]
fn the_one_keepalive_is_answered_and_the_others_are_not() {
    let server = Server::start();
    let client = Client::join(&server, CHANNEL, 10);
    let quiet = [
        "2a00000000000000",
        "000000000000002a",
        "c90000000000000000",
        "80c0000000000000",
        "1337caff00000001",
        "1337cafe000000",
        "1337cafe0000000000",
    ];
    for bytes in quiet {
        client.media.send_raw(&unhex(bytes));
    }
    client.media.send_raw(&client.media.ssrc.to_be_bytes());
    client.media.send_raw(&unhex("1337cafe00000007"));
    assert_eq!(client.media.receive(WAIT), Some(unhex("1337f00d00000007")));
}

#[test]
fn what_is_said_is_heard_by_all_the_others_bit_for_bit_and_in_order() {
    let server = Server::start();
    let mut clients: Vec<Client> =
        (10..15).map(|user| Client::join(&server, CHANNEL, user)).collect();
    clients.iter_mut().for_each(Client::start_speaking);
    let (speaker, hearers) = clients.split_first_mut().unwrap();
    let mut last = [(); 4].map(|()| None::<Rtp>);
    for n in 1..=200_u16 {
        // Lengths up to the largest RTP a client sends.
        let payload = vec![n as u8; usize::from(n) * 5 + 1];
        let said = speaker.media.speak(&payload);
        for (hearer, last) in hearers.iter_mut().zip(&mut last) {
            let heard = hearer.media.hear();
            assert_eq!((heard.ssrc, &heard.payload), (speaker.media.ssrc, &said.payload));
            assert_eq!((heard.payload_type, heard.marker), (120, false));
            if let Some(last) = last.replace(heard.clone()) {
                assert_eq!(heard.sequence, last.sequence.wrapping_add(1));
                assert_eq!(heard.timestamp, last.timestamp.wrapping_add(FRAME));
            }
        }
    }
    assert_eq!(speaker.media.try_hear(Duration::from_millis(50)), None, "nobody hears himself");
}

#[test]
fn sequence_numbers_wrap_and_timestamps_jump_as_the_sender_s_do() {
    let server = Server::start();
    let [mut speaker, mut hearer] = pair(&server);
    let ssrc = speaker.media.ssrc;
    let mut last: Option<Rtp> = None;
    let mut timestamp = u32::MAX - 10_000;
    for (n, pause) in (0..40).map(|n: u16| (n, if n == 20 { 48_000 } else { 0 })) {
        let sequence = 65_520_u16.wrapping_add(n);
        timestamp = timestamp.wrapping_add(FRAME + pause);
        speaker.media.send(&Rtp::opus(ssrc, sequence, timestamp, &[n as u8]));
        let heard = hearer.media.hear();
        assert_eq!(heard.payload, [n as u8]);
        if let Some(last) = last.replace(heard.clone()) {
            assert_eq!(heard.sequence, last.sequence.wrapping_add(1));
            assert_eq!(heard.timestamp, last.timestamp.wrapping_add(FRAME + pause));
        }
    }
}

#[test]
fn audio_carries_exactly_the_eight_bytes_of_extension_and_nothing_of_the_sender_s() {
    let server = Server::start();
    let [mut speaker, mut hearer] = pair(&server);
    let plain = speaker.media.next_packet(b"opus");
    let with_level = Rtp {
        extension: Some((0xbede, vec![0x10, 0xa3, 0, 0])),
        ..speaker.media.next_packet(b"opus")
    };
    let with_others = Rtp {
        extension: Some((0xbede, vec![0x51, 1, 2, 0xa0, b'm', 0x30, 9, 0])),
        csrcs: vec![1, 2, 3],
        ..speaker.media.next_packet(b"opus")
    };
    let two_byte = Rtp {
        extension: Some((0x1000, vec![1, 1, 0xff, 0])),
        ..speaker.media.next_packet(b"opus")
    };
    let silence = speaker.media.next_packet(&SILENCE);
    for (sent, level) in [
        (plain, None),
        (with_level, Some(0xa3)),
        (with_others, None),
        (two_byte, None),
        (silence, None),
    ] {
        speaker.media.send(&sent);
        let heard = hearer.media.hear();
        assert_eq!(heard.payload, sent.payload);
        assert_eq!((heard.csrcs.len(), heard.padding), (0, 0));
        let (profile, body) = heard.extension.expect("an extension");
        assert_eq!((profile, body.len()), (0xbede, 8));
        assert_eq!((body[0], body[4], body[6], body[7]), (0x32, 0x10, 0x90, 0x02), "{body:x?}");
        if let Some(level) = level {
            assert_eq!(body[5], level, "the sender's level is passed on");
        }
    }
    speaker.speaking(2);
    speaker.media.speak(b"a stream's sound");
    assert_eq!(hearer.media.hear().extension.expect("an extension").1[7], 0x04, "SOUNDSHARE");
}

#[test]
fn padding_is_stripped() {
    let server = Server::start();
    let [mut speaker, mut hearer] = pair(&server);
    for padding in [1, 4, 200, 255] {
        let padded = Rtp { padding, ..speaker.media.next_packet(b"opus") };
        speaker.media.send(&padded);
        let heard = hearer.media.hear();
        assert_eq!((heard.padding, &heard.payload[..]), (0, &b"opus"[..]), "padding {padding}");
    }
    // More padding than there is packet is no packet.
    let mut lying = speaker.media.next_packet(b"opus").write();
    lying[0] |= 0x20;
    *lying.last_mut().unwrap() = 200;
    let datagram = speaker.media.seal(&lying);
    speaker.media.send_raw(&datagram);
    assert!(heard_before(&mut hearer, &mut speaker).is_empty());
    until_drops(&server, "malformed", 1.0);
}

#[test]
fn all_seven_modes_carry_voice_to_each_other_when_they_are_offered() {
    let names = Mode::ALL.map(Mode::name);
    let server = Server::with(&[("MODES", &names.join(","))]);
    let mut clients: Vec<Client> = (10..)
        .zip(Mode::ALL)
        .map(|(user, mode)| {
            let client = Client::join_in(&server, CHANNEL, user, mode);
            assert_eq!(client.ready.d["modes"], json!(names));
            client
        })
        .collect();
    clients.iter_mut().for_each(Client::start_speaking);
    for speaker in 0..clients.len() {
        for n in 0..5_u8 {
            let ssrc = clients[speaker].media.ssrc;
            // Two CSRCs and an extension: where clear header and body meet depends on the mode.
            let packet = Rtp {
                csrcs: vec![1, 2],
                extension: Some((0xbede, vec![0x10, 0x85, 0, 0])),
                ..clients[speaker].media.next_packet(&[n; 40])
            };
            clients[speaker].media.send(&packet);
            for hearer in (0..clients.len()).filter(|hearer| *hearer != speaker) {
                let heard = clients[hearer].media.hear();
                assert_eq!(
                    (heard.ssrc, heard.payload),
                    (ssrc, vec![n; 40]),
                    "{} to {}",
                    names[speaker],
                    names[hearer]
                );
            }
        }
    }
}

#[test]
fn modes_are_offered_in_the_operator_s_order() {
    let names = ["aead_xchacha20_poly1305_rtpsize", "aead_aes256_gcm_rtpsize"];
    let server = Server::with(&[("MODES", &names.join(","))]);
    let client = Client::join_in(&server, CHANNEL, 10, Mode::XChaChaRtpsize);
    assert_eq!(client.ready.d["modes"], json!(names));
}

#[test]
fn the_server_s_nonces_stay_in_the_half_the_client_does_not_use() {
    let server = Server::start();
    let [mut speaker, hearer] = pair(&server);
    let mut suffixes = BTreeSet::new();
    for _ in 0..50 {
        speaker.media.speak(b"count me");
        let datagram = hearer.media.receive(WAIT).expect("it is heard");
        let suffix = datagram.last_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes)).unwrap();
        assert!(suffix >= 0x8000_0000 && suffixes.insert(suffix), "{suffix:#x}");
    }
}

#[test]
fn a_foreign_ssrc_is_dropped() {
    let server = Server::start();
    let [mut speaker, mut hearer] = pair(&server);
    let hearer_ssrc = hearer.media.ssrc;
    for ssrc in [hearer_ssrc, speaker.media.ssrc.wrapping_add(1), 0, 7] {
        speaker.media.send(&Rtp::opus(ssrc, 1, 1, b"not mine"));
    }
    assert!(heard_before(&mut hearer, &mut speaker).is_empty());
    until_drops(&server, "foreign_ssrc", 4.0);
}

#[test]
fn a_replayed_packet_is_dropped_and_a_late_one_is_heard_once() {
    let server = Server::start();
    let [mut speaker, mut hearer] = pair(&server);
    let first = speaker.media.speak(b"first");
    assert_eq!(hearer.media.hear().payload, first.payload);
    let late = speaker.media.next_packet(b"late");
    let next = speaker.media.speak(b"next");
    let heard_next = hearer.media.hear();
    assert_eq!(heard_next.payload, next.payload);
    speaker.media.send(&late);
    let heard_late = hearer.media.hear();
    assert_eq!(heard_late.payload, late.payload);
    assert_eq!(heard_late.sequence.wrapping_add(1), heard_next.sequence, "in its own place");

    // Under a new nonce as well as byte for byte.
    for again in [&first, &next, &late] {
        speaker.media.send(again);
    }
    let twice = speaker.media.next_packet(b"twice");
    let datagram = speaker.media.seal(&twice.write());
    speaker.media.send_raw(&datagram);
    speaker.media.send_raw(&datagram);
    assert_eq!(hearer.media.hear().payload, b"twice");
    assert!(heard_before(&mut hearer, &mut speaker).is_empty());
    until_drops(&server, "replayed", 4.0);
}

#[test]
fn what_does_not_verify_is_dropped_and_costs_the_sender_nothing() {
    let server = Server::start();
    let [mut speaker, mut hearer] = pair(&server);
    speaker.media.speak(b"bound");
    let _ = hearer.media.hear();
    let packet = speaker.media.next_packet(b"the real one");
    let good = speaker.media.seal(&packet.write());
    let before = server.metrics();
    let mut forged = 0.0;
    for place in [1, 2, 5, 9, 12, 20, good.len() - 20, good.len() - 1] {
        let mut bad = good.clone();
        bad[place] ^= 1;
        speaker.media.send_raw(&bad);
        forged += 1.0;
    }
    // The forgeries have not used up the sequence number.
    speaker.media.send_raw(&good);
    assert_eq!(hearer.media.hear().payload, packet.payload);
    assert!(heard_before(&mut hearer, &mut speaker).is_empty());
    let drops = server.metrics();
    let counted = drops.sum(&["reason="]) - before.sum(&["reason="]);
    assert_eq!(counted, forged, "every forgery is counted once");
    assert!(drops.drops("bad_tag") >= 4.0);
}

#[test]
fn an_authenticated_packet_from_a_new_port_moves_the_session() {
    let server = Server::start();
    let [mut speaker, mut hearer] = pair(&server);
    hearer.media.speak(b"I am here");
    assert_eq!(speaker.media.hear().payload, b"I am here");

    let mut moved = hearer.media.moved();
    moved.speak(b"and now here");
    let heard = speaker.media.hear();
    assert_eq!((heard.ssrc, &heard.payload[..]), (hearer.media.ssrc, &b"and now here"[..]));
    speaker.media.speak(b"to the new place");
    assert_eq!(moved.hear().payload, b"to the new place");
    assert_eq!(hearer.media.try_hear(Duration::from_millis(50)), None);
}

#[test]
fn nothing_unauthenticated_moves_the_session() {
    let server = Server::start();
    let [mut speaker, mut hearer] = pair(&server);
    hearer.media.speak(b"I am here");
    let _ = speaker.media.hear();

    let mut thief = hearer.media.moved();
    let packet = thief.next_packet(b"forged");
    let mut forged = thief.seal(&packet.write());
    *forged.last_mut().unwrap() ^= 1;
    thief.send_raw(&forged);
    let mut replayed = Media::new(thief.peer(), hearer.media.ssrc);
    replayed.send_raw(&forged);
    thief.ask_discovery(hearer.media.ssrc);
    thief.send_raw(&hearer.media.ssrc.to_be_bytes());
    thief.send_raw(&unhex("1337cafe00000001"));
    thief.send_raw(&unhex("2a00000000000000"));

    speaker.media.speak(b"not for the thief");
    assert_eq!(hearer.media.hear().payload, b"not for the thief");
    while let Some(datagram) = thief.receive(Duration::from_millis(50)) {
        assert!(matches!(datagram.len(), 8 | 74), "the thief got media: {datagram:x?}");
    }
    assert_eq!(replayed.try_hear(Duration::from_millis(50)), None);
}

#[test]
fn the_address_in_select_protocol_is_never_sent_to() {
    let server = Server::start();
    let victim = Media::new(([127, 0, 0, 1], server.media_port()).into(), 1);
    let mut hearer = Client::join(&server, CHANNEL, 11);
    let mut speaker = Client::join(&server, CHANNEL, 10);
    speaker.start_speaking();
    let address = victim.address();
    let again = crate::support::client::select(
        &mut hearer.gateway,
        &mut hearer.media,
        Mode::AesRtpsize,
        &address.ip().to_string(),
        address.port(),
    );
    assert_eq!(again.op, 4);
    speaker.media.speak(b"not for the victim");
    assert_eq!(hearer.media.hear().payload, b"not for the victim");
    assert_eq!(victim.receive(Duration::from_millis(50)), None);
}

#[test]
fn rtcp_of_a_bot_is_consumed_in_silence() {
    let server = Server::start();
    let [mut speaker, mut hearer] = pair(&server);
    let mut report = vec![0x80, 201, 0, 1];
    report.extend(speaker.media.ssrc.to_be_bytes());
    let datagram = speaker.media.seal(&report);
    speaker.media.send_raw(&datagram);
    assert!(heard_before(&mut hearer, &mut speaker).is_empty());
    assert_eq!(server.metrics().drops("bad_tag"), 0.0);
}

#[test]
fn other_payload_types_are_not_audio() {
    let server = Server::start();
    let [mut speaker, mut hearer] = pair(&server);
    let odd = Rtp { payload_type: 96, ..speaker.media.next_packet(b"a probe") };
    speaker.media.send(&odd);
    assert!(heard_before(&mut hearer, &mut speaker).is_empty());
    until_drops(&server, "unknown_payload_type", 1.0);
}

#[test]
fn counters_tell_what_went_through() {
    let server = Server::start();
    let mut clients: Vec<Client> =
        (10..13).map(|user| Client::join_by(&server, CHANNEL, user, Door::tls(8))).collect();
    clients.iter_mut().for_each(Client::start_speaking);
    let before = server.metrics();
    for _ in 0..100 {
        clients[0].media.speak(b"count me");
        let _ = (clients[1].media.hear(), clients[2].media.hear());
    }
    let after = server.metrics();
    let grown = |parts: &[&str]| after.sum(parts) - before.sum(parts);
    assert_eq!(grown(&["packets_received"]), 100.0, "{after:?}");
    assert_eq!(grown(&["packets_sent"]), 200.0);
    assert_eq!(grown(&["reason="]), 0.0, "nothing was dropped");
    assert_eq!(after.sum(&["stentor_sessions"]), 3.0, "{after:?}");
}

//! Voice: what is forwarded and how, whose address it may come from, discovery and pings
//! (protocol.md §2).

use std::{net::SocketAddr, time::Duration};

use proptest::prelude::*;
use stentor::{
    crypto::Mode,
    id::Ssrc,
    metrics::DropReason,
    rtp::extension::{abs_send_time, id},
    sfu::Event,
};

use crate::{
    client::{Client, Grant, Heard, Nonces, Profile, discovery, rtp},
    rig::{Rig, STRANGER},
};

/// The only datagram that went to an address without a client.
fn stray(rig: &mut Rig) -> (SocketAddr, Vec<u8>) {
    let stray = rig.strays.pop().expect("an answer");
    assert!(rig.strays.is_empty(), "one answer");
    stray
}

#[test]
fn everyone_else_hears_a_speaker_once_in_whatever_mode() {
    let mut rig = Rig::new();
    let all: Vec<usize> = Mode::ALL
        .into_iter()
        .zip([Some(8), Some(4), None, Some(9), Some(3), Some(8), Some(4)])
        .enumerate()
        .map(|(n, (mode, version))| {
            let nonces = Nonces { counter: n as u32 * 1_000, little_endian: n % 2 == 1 };
            rig.joined(1, 10 + n as u64, Profile { version, mode, nonces, ..Profile::default() })
        })
        .collect();
    for &speaker in &all {
        for turn in 0..3_u8 {
            rig.speak(speaker, &[speaker as u8, turn, 1, 2, 3]);
        }
    }
    for &hearer in &all {
        let expected: Vec<Vec<u8>> = all
            .iter()
            .filter(|speaker| **speaker != hearer)
            .flat_map(|speaker| (0..3).map(|turn| vec![*speaker as u8, turn, 1, 2, 3]))
            .collect();
        assert_eq!(rig.clients[hearer].take_payloads(), expected);
    }
    let counters = rig.shard.counters();
    assert_eq!((counters.opened, counters.forwarded), (21, 21 * 6));
}

#[test]
fn a_hearer_gets_the_fixed_form_whatever_the_sender_wrote() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    rig.say(a, |client| client.speaking(1));
    rig.advance(Duration::from_millis(500));
    let ssrc = rig.clients[a].ssrc();
    let opus = b"an opus frame";
    let plain = rtp(ssrc);
    let level = [0x10, 0xAA, 0, 0];
    for (seq, (packet, level)) in [
        (plain, 0x80 | 30),
        (crate::client::Rtp { csrcs: &[1, 2, 3], ..plain }, 0x80 | 30),
        (crate::client::Rtp { padding: 9, ..plain }, 0x80 | 30),
        (crate::client::Rtp { extension: Some((0xBEDE, &level)), ..plain }, 0xAA),
        (crate::client::Rtp { extension: Some((0x1000, &[1, 1, 0x55, 0])), ..plain }, 0x55),
        (crate::client::Rtp { extension: Some((0xBEDE, &[])), padding: 255, ..plain }, 0x80 | 30),
    ]
    .into_iter()
    .enumerate()
    {
        let (seq, timestamp) = (seq as u16, 960 * seq as u32);
        let packet = crate::client::Rtp { seq, timestamp, payload: opus, ..packet };
        rig.send(a, |client| client.seal(&packet.plain()));
        let [s, e, nd] = abs_send_time(Duration::from_millis(500));
        let expected = Heard::Rtp {
            ssrc,
            payload_type: 120,
            marker: false,
            seq,
            timestamp,
            extension: Some((0xBEDE, vec![0x32, s, e, nd, 0x10, level, 0x90, 0x02])),
            payload: opus.to_vec(),
            csrcs: 0,
            padded: false,
        };
        assert_eq!(rig.clients[b].take_heard(), [expected]);
    }
}

#[test]
fn silence_passes_untouched_and_says_that_it_is_silent() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    rig.speak(a, &[0xF8, 0xFF, 0xFE]);
    let heard = rig.clients[b].take_heard();
    let [Heard::Rtp { payload, extension: Some((_, extension)), .. }] = &heard[..] else {
        panic!("one packet with an extension")
    };
    assert_eq!((&payload[..], extension[5]), (&[0xF8, 0xFF, 0xFE][..], 127));
}

#[test]
fn the_speaker_element_follows_op_5_and_priority_needs_permission() {
    for (flags, permitted, byte) in
        [(0, true, 0), (1, true, 2), (2, true, 4), (4, true, 1), (5, true, 3), (5, false, 2)]
    {
        let mut rig = Rig::new();
        let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
        rig.update(a, |policy| policy.permissions.priority_speaker = permitted);
        rig.say(a, |client| client.speaking(flags));
        rig.speak(a, b"x");
        let heard = rig.clients[b].take_heard();
        let [Heard::Rtp { extension: Some((_, extension)), .. }] = &heard[..] else {
            panic!("one packet with an extension")
        };
        assert_eq!(extension[6..], [id::SPEAKER << 4, byte], "{flags} {permitted}");
    }
}

#[test]
fn a_foreign_ssrc_has_no_effect() {
    let mut rig = Rig::new();
    let (a, b, c) = (rig.speaker(1, 10), rig.speaker(1, 11), rig.speaker(2, 12));
    for ssrc in [rig.clients[b].ssrc(), rig.clients[c].ssrc(), Ssrc(1), Ssrc(0), Ssrc(u32::MAX)] {
        let from = rig.clients[a].address;
        let forged =
            rig.clients[a].seal(&crate::client::Rtp { payload: b"x", ..rtp(ssrc) }.plain());
        assert_eq!(rig.dropped(from, &forged), DropReason::ForeignSsrc);
    }
    for who in [a, b, c] {
        assert!(rig.clients[who].take_heard().is_empty());
    }
    rig.speak(b, b"still itself");
    assert_eq!(rig.clients[a].take_payloads(), [b"still itself"]);
}

#[test]
fn a_replayed_packet_is_heard_once() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    let from = rig.clients[a].address;
    let packets: Vec<_> = (0..10).map(|seq| rig.clients[a].voice_at(seq, &[seq as u8])).collect();
    for packet in &packets {
        rig.datagram(from, packet);
    }
    for packet in &packets {
        assert_eq!(rig.dropped(from, packet), DropReason::Replayed);
        assert_eq!(rig.dropped(STRANGER, packet), DropReason::Replayed);
    }
    assert_eq!(rig.clients[b].take_heard().len(), 10);
    assert_eq!(rig.shard.counters().rebound, 0);
}

#[test]
fn reordered_packets_keep_their_numbers() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    let from = rig.clients[a].address;
    for seq in [65_534, 1, 65_535, 0, 2] {
        let packet = rig.clients[a].voice_at(seq, &[seq as u8, 0]);
        rig.datagram(from, &packet);
    }
    let heard = rig.clients[b].take_heard();
    let seqs: Vec<_> = heard.iter().map(|heard| heard.seq().unwrap()).collect();
    let begun = [65_534, 1, 65_535, 0, 2].map(|seq: u16| seq.wrapping_sub(1 << 15));
    assert_eq!(seqs, begun, "but for where they begin");
}

#[test]
fn a_source_that_starts_again_goes_on_in_the_hearers_sequence() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    let from = rig.clients[a].address;
    for seq in [100, 101, 30_000, 30_001, 30_002] {
        let packet = rig.clients[a].voice_at(seq, b"x");
        rig.datagram(from, &packet);
    }
    let heard = rig.clients[b].take_heard();
    let seqs: Vec<_> = heard.iter().map(|heard| heard.seq().unwrap()).collect();
    assert_eq!(seqs, [100, 101, 102, 103], "the first after the jump is only believed by the next");
    assert_eq!(rig.shard.counters().drops_for(DropReason::SequenceJump), 1);
}

#[test]
fn the_address_follows_authenticated_packets_alone() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    rig.speak(b, b"here I am");
    rig.clients[a].take_heard();
    let old = rig.clients[b].address;
    let new = SocketAddr::from(([10, 9, 9, 9], 9_999));

    let mut forged = rig.clients[b].voice(b"forged");
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(rig.dropped(new, &forged), DropReason::BadTag);
    let request = rig.clients[b].discovery();
    rig.datagram(new, &request);
    assert_eq!(rig.dropped(new, b"keepalive"), DropReason::Noise);
    rig.speak(a, b"to the old address");
    assert_eq!(rig.clients[b].take_payloads(), [b"to the old address"]);

    rig.clients[b].address = new;
    rig.speak(b, b"moved");
    assert_eq!(rig.shard.counters().rebound, 1);
    rig.strays.clear();
    rig.speak(a, b"to the new address");
    assert_eq!(rig.clients[b].take_payloads(), [b"to the new address"]);
    assert_eq!(rig.dropped(old, b"keepalive"), DropReason::Noise, "the old one is nobody's");
    assert_eq!(rig.dropped(new, b"keepalive"), DropReason::Keepalive);
}

#[test]
fn a_packet_far_from_the_sequence_moves_no_address() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    let from = rig.clients[b].address;
    // An old packet, kept by somebody who saw it pass.
    let kept = rig.clients[b].voice_at(0, b"kept");
    for seq in [10_000, 10_001] {
        let packet = rig.clients[b].voice_at(seq, b"x");
        rig.datagram(from, &packet);
    }
    assert_eq!(rig.dropped(STRANGER, &kept), DropReason::SequenceJump);
    rig.clients[b].mail.clear();
    rig.speak(a, b"y");
    assert_eq!(rig.clients[b].take_payloads(), [b"y"], "media goes where it went");
    assert!(rig.strays.is_empty());
    rig.hang_up(b, 1000);
    assert_eq!(rig.dropped(STRANGER, &kept), DropReason::UnknownSource);
}

#[test]
fn two_sessions_may_share_an_address_in_turn() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    let shared = rig.clients[a].address;
    let from_b = rig.clients[b].voice(b"from b");
    rig.datagram(shared, &from_b);
    rig.speak(a, b"from a");
    let from_b = rig.clients[b].voice(b"b again");
    rig.datagram(shared, &from_b);
    // Both now hear at that address, each sealed with its own key.
    assert_eq!(rig.shard.counters().forwarded, 3);
    rig.hang_up(a, 1000);
    assert_eq!(rig.dropped(shared, b"keepalive"), DropReason::Keepalive, "still b's");
    rig.hang_up(b, 1000);
    assert_eq!(rig.dropped(shared, b"keepalive"), DropReason::Noise);
}

#[test]
fn addresses_do_not_outlive_their_session_however_they_changed() {
    let addresses: Vec<_> = (1..=4).map(|n| SocketAddr::from(([10, 7, 7, n], 700))).collect();
    // Each is tried from several addresses: discovery, voice, or a new Select Protocol.
    for steps in 0..3_u32.pow(6) {
        let mut rig = Rig::new();
        let a = rig.client(Grant::new(1, 10), Profile::default());
        rig.identify(a);
        let mut left = steps;
        for turn in 0..6 {
            let from = addresses[(left as usize + turn) % addresses.len()];
            match left % 3 {
                0 => {
                    let request = rig.clients[a].discovery();
                    rig.datagram(from, &request);
                }
                1 if !rig.clients[a].agreed.is_empty() => {
                    let packet = rig.clients[a].voice(b"x");
                    rig.datagram(from, &packet);
                }
                1 => {}
                _ => rig.say(a, Client::select_protocol),
            }
            left /= 3;
        }
        rig.hang_up(a, 1000);
        for &from in &addresses {
            assert_eq!(rig.dropped(from, b"keepalive"), DropReason::Noise, "steps {steps}");
        }
    }
}

#[test]
fn a_new_key_is_used_where_the_client_was_last_seen() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    rig.clients[b].address = SocketAddr::from(([10, 9, 9, 9], 9_999));
    rig.speak(b, b"moved");
    rig.say(b, Client::select_protocol);
    rig.speak(a, b"x");
    assert_eq!(rig.clients[b].take_payloads(), [b"x"]);
    // Discovery asked anew, as clients do before they select again, is newer still.
    rig.clients[b].address = SocketAddr::from(([10, 9, 9, 9], 5_555));
    rig.send(b, |client| client.discovery());
    rig.say(b, Client::select_protocol);
    rig.speak(a, b"y");
    assert_eq!(rig.clients[b].take_payloads(), [b"y"]);
}

#[test]
fn discovery_tells_the_address_it_came_from() {
    let mut rig = Rig::new();
    let a = rig.client(Grant::new(1, 10), Profile::default());
    rig.identify(a);
    for from in ["192.0.2.33:4711", "[2001:db8::7]:53"] {
        let from: SocketAddr = from.parse().unwrap();
        let request = rig.clients[a].discovery();
        rig.datagram(from, &request);
        let (to, answer) = stray(&mut rig);
        assert_eq!(to, from);
        assert_eq!((answer.len(), &answer[..4]), (74, &[0, 2, 0, 70][..]));
        assert_eq!(answer[4..8], rig.clients[a].ssrc().0.to_be_bytes());
        let text: Vec<u8> = answer[8..72].iter().copied().take_while(|byte| *byte != 0).collect();
        assert_eq!(String::from_utf8(text).unwrap(), from.ip().to_string());
        assert_eq!(answer[72..], from.port().to_be_bytes());
    }
    assert_eq!(rig.shard.counters().answered, 2);
}

#[test]
fn the_last_discovery_wins_until_a_packet_authenticates() {
    let mut rig = Rig::new();
    let a = rig.speaker(1, 10);
    let b = rig.client(Grant::new(1, 11), Profile::default());
    rig.identify(b);
    for port in [1, 2, 3] {
        rig.clients[b].address.set_port(port);
        rig.send(b, |client| client.discovery());
    }
    rig.say(b, Client::select_protocol);
    rig.clients[b].address.set_port(4);
    rig.send(b, |client| client.discovery());
    rig.speak(a, b"before it spoke");
    assert_eq!(rig.clients[b].take_payloads(), [b"before it spoke"]);
    rig.speak(b, b"x");
    let request = rig.clients[b].discovery();
    rig.datagram(STRANGER, &request);
    rig.strays.clear();
    rig.speak(a, b"after");
    assert_eq!(rig.clients[b].take_payloads(), [b"after"]);
    assert!(rig.strays.is_empty(), "nothing goes where an unproven discovery came from");
}

#[test]
fn control_hears_that_media_is_up_once() {
    let mut rig = Rig::new();
    let connected = |rig: &Rig| {
        rig.events.iter().filter(|event| matches!(event, Event::Connected { .. })).count()
    };
    let silent = rig.client(Grant::new(1, 10), Profile::default());
    rig.identify(silent);
    rig.send(silent, |client| client.discovery());
    assert_eq!(connected(&rig), 0, "no key yet");
    rig.say(silent, Client::select_protocol);
    assert_eq!(connected(&rig), 1, "who only listens has both");
    rig.speak(silent, b"x");
    rig.say(silent, Client::select_protocol);
    assert_eq!(connected(&rig), 1);
    // Some clients know their address and never ask.
    let direct = rig.client(Grant::new(1, 11), Profile::default());
    rig.identify(direct);
    rig.say(direct, Client::select_protocol);
    assert_eq!(connected(&rig), 1);
    rig.speak(direct, b"x");
    assert_eq!(connected(&rig), 2);
}

#[test]
fn discovery_is_no_oracle() {
    let mut rig = Rig::new();
    let a = rig.speaker(1, 10);
    let ssrc = rig.clients[a].ssrc();
    rig.hang_up(a, 1000);
    for unknown in [ssrc, Ssrc(0), Ssrc(1), Ssrc(u32::MAX)] {
        assert_eq!(rig.dropped(STRANGER, &discovery(unknown)), DropReason::UnknownDiscovery);
    }
    assert!(rig.strays.is_empty());
}

#[test]
fn the_official_ping_is_answered_and_no_other() {
    let mut rig = Rig::new();
    rig.datagram(STRANGER, &[0x13, 0x37, 0xCA, 0xFE, 1, 2, 3, 4]);
    assert_eq!(stray(&mut rig), (STRANGER, vec![0x13, 0x37, 0xF0, 0x0D, 1, 2, 3, 4]));
    let a = rig.speaker(1, 10);
    let (from, ssrc) = (rig.clients[a].address, rig.clients[a].ssrc());
    for keepalive in
        [&[7, 0, 0, 0, 0, 0, 0, 0][..], &ssrc.0.to_be_bytes(), &[0xC9, 0, 0, 0, 0, 0, 0, 0, 0], &[]]
    {
        assert_eq!(rig.dropped(from, keepalive), DropReason::Keepalive);
        assert_eq!(rig.dropped(STRANGER, keepalive), DropReason::Noise);
    }
    assert!(rig.strays.is_empty());
}

#[test]
fn a_newcomer_hears_from_the_middle_and_a_leaver_nothing_more() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    rig.speak(a, b"1");
    let c = rig.client(Grant::new(1, 12), Profile::default());
    rig.join(c);
    rig.speak(a, b"2");
    rig.hang_up(b, 1000);
    rig.speak(a, b"3");
    assert_eq!(rig.clients[b].take_payloads(), [b"1", b"2"]);
    assert_eq!(rig.clients[c].take_payloads(), [b"2", b"3"]);
}

#[test]
fn our_nonces_keep_away_from_the_clients() {
    // Clients that count from what we ourselves were last seen with.
    for mode in [Mode::Aes256GcmRtpsize, Mode::XChaCha20Poly1305Rtpsize, Mode::XSalsa20Poly1305Lite]
    {
        for little_endian in [false, true] {
            for by_report in [false, true] {
                let mut rig = Rig::new();
                let a = rig.speaker(1, 10);
                let b = rig.joined(1, 11, Profile { mode, ..Profile::default() });
                rig.speak(a, b"x");
                let sealed = rig.clients[b].mail.pop_front().expect("a packet");
                let suffix = *sealed.last_chunk::<4>().unwrap();
                let ours = if little_endian {
                    u32::from_le_bytes(suffix)
                } else {
                    u32::from_be_bytes(suffix)
                };
                rig.clients[b].profile.nonces =
                    Nonces { counter: ours.wrapping_add(1), little_endian };
                let mut theirs = Vec::new();
                for turn in 0..40 {
                    let report = receiver_report(rig.clients[b].ssrc());
                    let packet = if by_report {
                        rig.clients[b].seal(&report)
                    } else {
                        rig.clients[b].voice(&[turn])
                    };
                    theirs.push(*packet.last_chunk::<4>().unwrap());
                    let from = rig.clients[b].address;
                    rig.datagram(from, &packet);
                    rig.speak(a, b"x");
                }
                let mail = std::mem::take(&mut rig.clients[b].mail);
                assert!(mail.len() >= 40);
                for sealed in mail {
                    assert!(
                        !theirs.contains(sealed.last_chunk().unwrap()),
                        "{mode:?}, little endian {little_endian}, by report {by_report}"
                    );
                }
            }
        }
    }
}

/// An empty receiver report.
fn receiver_report(ssrc: Ssrc) -> Vec<u8> {
    [&[0x80, 201, 0, 1][..], &ssrc.0.to_be_bytes()].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_datagram_panics_or_is_counted_twice(
        datagrams in proptest::collection::vec((
            prop_oneof![Just(None), (0usize..2).prop_map(Some)],
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..64),
                (
                    any::<u8>(),
                    prop_oneof![Just(120u8), 190u8..226],
                    proptest::collection::vec(any::<u8>(), 6..80),
                )
                    .prop_map(|(first, second, rest)| {
                        [&[first & 0x3F | 0x80, second], &rest[..]].concat()
                    }),
            ],
            any::<bool>(),
        ), 1..40),
    ) {
        let mut rig = Rig::new();
        let members = [rig.joined(1, 10, Profile::video(103, 104)), rig.speaker(1, 11)];
        let sent = rig.shard.counters().packets_in;
        for (member, bytes, seal) in &datagrams {
            let from = member.map_or(STRANGER, |member| rig.clients[members[member]].address);
            let mut bytes = bytes.clone();
            if let (Some(member), true, true) = (member, *seal, bytes.len() >= 12) {
                // Hostile from the inside: authentic, with the sender's own SSRC.
                let client = &mut rig.clients[members[*member]];
                let at = if (192..=223).contains(&bytes[1]) { 4 } else { 8 };
                let ssrc = client.ssrc().0.to_be_bytes();
                bytes[at..at + 4].copy_from_slice(&ssrc);
                if client.agreed[0].mode.clear_len(&bytes).is_some() {
                    bytes = client.seal(&bytes);
                }
            }
            rig.datagram(from, &bytes);
        }
        let counters = rig.shard.counters();
        let dropped: u64 = DropReason::ALL
            .iter()
            .filter(|reason| !reason.is_hearers())
            .map(|reason| counters.drops_for(*reason))
            .sum();
        prop_assert_eq!(counters.packets_in - sent, datagrams.len() as u64);
        prop_assert_eq!(counters.answered + counters.opened + dropped, counters.packets_in);
    }
}

/// Two neighbouring packets that are older than the window look like a source that starts again.
#[test]
fn old_packets_sent_again_by_a_stranger_are_no_restart() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    let (from, mut recorded) = (rig.clients[a].address, Vec::new());
    for number in 0..3_000_u16 {
        let packet = rig.clients[a].voice(&number.to_be_bytes());
        if (5..15).contains(&number) {
            recorded.push(packet.clone());
        }
        rig.datagram(from, &packet);
    }
    rig.clients[b].take_heard();
    for packet in &recorded {
        rig.datagram(STRANGER, packet);
    }
    assert!(rig.clients[b].take_heard().is_empty(), "nothing is heard twice");
    rig.speak(b, b"still for a");
    assert_eq!(rig.clients[a].take_payloads(), [b"still for a"], "and nobody has moved");
    rig.speak(a, b"still a");
    assert_eq!(rig.clients[b].take_payloads(), [b"still a"]);
}

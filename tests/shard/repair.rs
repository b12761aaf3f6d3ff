//! Losses of video are mended: towards hearers from what was kept, towards the sender once for
//! everyone (protocol.md §2.5, §3.5; RFC 4588).

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use stentor::{crypto::Mode, id::Ssrc, limits::RETRANSMISSION_STREAMS_MAX, metrics::DropReason};

use crate::{
    client::{Client, Heard, Profile, codec, opus},
    rig::Rig,
    rtcp::{KEYFRAME, OTHER, asked, compounds, media, nack, watched, watched_as},
};

const TRIP: Duration = Duration::from_millis(100);

/// The next packets of a client's video, each with a payload of its own.
fn film(rig: &mut Rig, who: usize, count: u16) {
    for _ in 0..count {
        let number = rig.clients[who].streams[1].seq;
        let payload = [OTHER, &number.to_be_bytes()].concat();
        rig.send(who, |client| client.next_packet(1, 103, &payload));
    }
}

/// A packet of a client's video that is lost on the way.
fn lose(rig: &mut Rig, who: usize) -> u16 {
    let outgoing = &mut rig.clients[who].streams[1];
    let seq = outgoing.seq;
    outgoing.seq = seq.wrapping_add(1);
    outgoing.timestamp = outgoing.timestamp.wrapping_add(960);
    seq
}

/// A client's retransmission of packet `seq` of its video.
fn repeat(client: &mut Client, seq: u16) -> Vec<u8> {
    let payload = [&seq.to_be_bytes()[..], OTHER, &seq.to_be_bytes()].concat();
    client.next_packet(2, 104, &payload)
}

/// Stream, payload type, number and payload of what has come.
fn parts(heard: &[Heard]) -> Vec<(Ssrc, u8, u16, Vec<u8>)> {
    heard
        .iter()
        .map(|heard| match heard {
            Heard::Rtp { ssrc, payload_type, seq, payload, .. } => {
                (*ssrc, *payload_type, *seq, payload.clone())
            }
            Heard::Rtcp(_) => panic!("media"),
        })
        .collect()
}

#[test]
fn who_listed_a_retransmission_type_is_answered_with_it() {
    let profiles = [Profile::video(103, 104), Profile::video(126, 127), Profile::video(103, 104)];
    let (mut rig, a, b, c, video) = watched_as(profiles);
    film(&mut rig, a, 9);
    let first = media(&mut rig, b);
    rig.forget();
    nack(&mut rig, b, video, &[3, 5]);
    let again = media(&mut rig, b);
    let original = |seq: u16| [&seq.to_be_bytes()[..], OTHER, &seq.to_be_bytes()].concat();
    let rtx = Ssrc(video.0 + 1);
    let heard = parts(&again);
    assert_eq!(heard[0].2.wrapping_add(1), heard[1].2, "numbers of its own");
    let heard: Vec<_> =
        heard.into_iter().map(|(ssrc, pt, _, payload)| (ssrc, pt, payload)).collect();
    assert_eq!(heard, [(rtx, 127, original(3)), (rtx, 127, original(5))]);
    let clock = |heard: &Heard| match heard {
        Heard::Rtp { timestamp, marker, .. } => (*timestamp, *marker),
        Heard::Rtcp(_) => panic!("media"),
    };
    assert_eq!(clock(&again[0]), clock(&first[2]), "of the same moment");
    assert!(media(&mut rig, c).is_empty() && compounds(&mut rig, a).is_empty());
    assert_eq!(rig.shard.counters().retransmitted, 2);
}

#[test]
fn who_listed_none_gets_the_packet_again_as_it_was() {
    let plain = |codecs| Profile { layers: 1, codecs, ..Profile::default() };
    let no_rtx = json!([opus(), codec("H264", 1000, 99, None)]);
    let profiles = [Profile::video(103, 104), plain(Some(no_rtx)), plain(None)];
    let (mut rig, a, b, c, video) = watched_as(profiles);
    film(&mut rig, a, 9);
    for (who, payload_type) in [(b, 99), (c, 103)] {
        let first = parts(&media(&mut rig, who));
        nack(&mut rig, who, video, &[4]);
        let again = parts(&media(&mut rig, who));
        assert_eq!(again, [first[3].clone()]);
        assert_eq!(again[0].1, payload_type);
    }
}

#[test]
fn nothing_is_sealed_twice_where_the_header_is_the_nonce() {
    let mode = Mode::XSalsa20Poly1305;
    let no_rtx = json!([opus(), codec("H264", 1000, 99, None)]);
    let plain = Profile { layers: 1, codecs: Some(no_rtx), mode, ..Profile::default() };
    let rtx = Profile { mode, ..Profile::video(103, 104) };
    let (mut rig, a, b, c, video) = watched_as([Profile::video(103, 104), plain, rtx]);
    film(&mut rig, a, 3);
    for (who, answers) in [(b, 0), (c, 1)] {
        rig.clients[who].mail.clear();
        nack(&mut rig, who, video, &[2]);
        assert_eq!(media(&mut rig, who).len(), answers);
    }
}

#[test]
fn a_packet_asked_for_twice_within_a_round_trip_is_sent_once() {
    let (mut rig, a, b, c, video) = watched();
    film(&mut rig, a, 5);
    rig.forget();
    nack(&mut rig, b, video, &[2]);
    nack(&mut rig, b, video, &[2, 3]);
    assert_eq!(media(&mut rig, b).len(), 2);
    nack(&mut rig, c, video, &[2]);
    assert_eq!(media(&mut rig, c).len(), 1, "somebody else's request is another");
    rig.advance(TRIP);
    nack(&mut rig, b, video, &[2]);
    assert_eq!(media(&mut rig, b).len(), 1);
}

#[test]
fn a_storm_of_requests_stays_bounded() {
    let (mut rig, a, b, _, video) = watched();
    film(&mut rig, a, 900);
    rig.forget();
    let all: Vec<u16> = (1..900).collect();
    let mut sent = 0;
    for _ in 0..100 {
        for part in all.chunks(128) {
            let ssrc = rig.clients[b].ssrc();
            let nack = crate::rtcp::written(|out| {
                stentor::rtp::feedback::write_nack(out, ssrc, video, part.iter().copied())
            });
            let plain = crate::rtcp::feedback(ssrc, nack);
            rig.send(b, |client| client.seal(&plain));
        }
        sent += media(&mut rig, b).len();
        rig.advance(Duration::from_millis(10));
    }
    assert!((256..=256 + 600).contains(&sent), "{sent} packets in a second");
    assert!(asked(&mut rig, a).is_empty(), "none of which the sender hears of");
}

#[test]
fn one_nack_names_at_most_128_packets() {
    let (mut rig, a, b, _, video) = watched();
    film(&mut rig, a, 200);
    rig.forget();
    let lost: Vec<u16> = (1..=200).collect();
    nack(&mut rig, b, video, &lost);
    assert_eq!(media(&mut rig, b).len(), 128);
}

#[test]
fn nothing_is_sent_again_to_the_deaf_or_of_what_they_did_not_hear() {
    let (mut rig, a, b, _, video) = watched();
    film(&mut rig, a, 3);
    rig.update(b, |policy| policy.state.deaf = true);
    film(&mut rig, a, 10);
    rig.forget();
    nack(&mut rig, b, video, &[2]);
    assert!(media(&mut rig, b).is_empty(), "deaf");
    rig.update(b, |policy| policy.state.deaf = false);
    rig.send(a, |client| client.next_packet(1, 103, KEYFRAME));
    film(&mut rig, a, 2);
    let heard = parts(&media(&mut rig, b));
    let seqs: Vec<_> = heard.iter().map(|(_, _, seq, _)| *seq).collect();
    assert_eq!(seqs, [4, 5, 6], "without a hole");
    // 4 and before were other packets' numbers when they were given.
    nack(&mut rig, b, video, &[1, 2, 3, 5, 7, 40_000]);
    let again: Vec<_> = parts(&media(&mut rig, b)).into_iter().map(|it| it.3).collect();
    let payload = [&5_u16.to_be_bytes()[..], &heard[1].3].concat();
    assert_eq!(again, [payload]);
}

#[test]
fn what_is_too_old_is_not_there_any_more() {
    let (mut rig, a, b, _, video) = watched();
    film(&mut rig, a, 1_100);
    rig.forget();
    nack(&mut rig, b, video, &[70, 1_000]);
    assert_eq!(media(&mut rig, b).len(), 1);
    assert!(asked(&mut rig, a).is_empty(), "and its sender's copy would be taken for a replay");
}

#[test]
fn nothing_is_kept_once_the_camera_is_off() {
    let (mut rig, a, b, _, video) = watched();
    film(&mut rig, a, 5);
    rig.say(a, |client| client.camera(false));
    rig.forget();
    nack(&mut rig, b, video, &[2]);
    assert!(media(&mut rig, b).is_empty());
}

#[test]
fn a_hole_is_asked_for_once_for_everyone_and_a_few_times() {
    let (mut rig, a, b, c, video) = watched();
    film(&mut rig, a, 2);
    let lost = lose(&mut rig, a);
    film(&mut rig, a, 1);
    rig.forget();
    assert!(asked(&mut rig, a).is_empty(), "it may have been overtaken");
    rig.advance(Duration::from_millis(10));
    assert_eq!(asked(&mut rig, a), [lost]);
    nack(&mut rig, b, video, &[lost]);
    nack(&mut rig, c, video, &[lost]);
    assert!(asked(&mut rig, a).is_empty(), "that was asked already");
    rig.advance(TRIP * 10);
    assert_eq!(asked(&mut rig, a), [lost; 3]);
    nack(&mut rig, c, video, &[lost]);
    rig.advance(Duration::ZERO);
    assert_eq!(asked(&mut rig, a), [lost], "it was given up, but not by everyone");
}

#[test]
fn a_retransmission_mends_the_stream_for_everyone() {
    for as_retransmission in [true, false] {
        let (mut rig, a, b, c, video) = watched();
        film(&mut rig, a, 2);
        let lost = lose(&mut rig, a);
        let (outgoing, payload) =
            (rig.clients[a].streams[1], [OTHER, &lost.to_be_bytes()].concat());
        film(&mut rig, a, 2);
        rig.advance(Duration::from_millis(10));
        rig.forget();
        rig.send(a, |client| match as_retransmission {
            true => repeat(client, lost),
            false => {
                let (seq, timestamp) = (lost, outgoing.timestamp.wrapping_sub(960));
                let packet = crate::client::rtp(video);
                let packet = crate::client::Rtp {
                    payload_type: 103,
                    seq,
                    timestamp,
                    payload: &payload,
                    ..packet
                };
                client.seal(&packet.plain())
            }
        });
        for who in [b, c] {
            assert_eq!(parts(&media(&mut rig, who)), [(video, 103, lost, payload.clone())]);
        }
        assert_eq!(rig.shard.counters().mended, 1);
        rig.advance(TRIP * 10);
        assert!(asked(&mut rig, a).is_empty(), "nothing is missing any more");
        // And is there for who loses it on the way out.
        nack(&mut rig, b, video, &[lost]);
        assert_eq!(media(&mut rig, b).len(), 1);
    }
}

#[test]
fn a_retransmission_of_what_has_come_goes_nowhere() {
    let (mut rig, a, b, _, _) = watched();
    film(&mut rig, a, 4);
    rig.forget();
    let from = rig.clients[a].address;
    for useless in [2, 60_000] {
        let packet = repeat(&mut rig.clients[a], useless);
        assert_eq!(rig.dropped(from, &packet), DropReason::UselessRetransmission);
    }
    let probe = rig.clients[a].next_packet(2, 104, &[0, 9]);
    assert_eq!(rig.dropped(from, &probe), DropReason::EmptyPayload);
    let foreign = rig.clients[a].next_packet(2, 103, &[0, 9, 9]);
    assert_eq!(rig.dropped(from, &foreign), DropReason::UnknownPayloadType);
    assert!(media(&mut rig, b).is_empty());
}

#[test]
fn a_retransmission_may_be_of_the_newest_packet() {
    let (mut rig, a, b, _, video) = watched();
    let lost = lose(&mut rig, a);
    rig.send(a, |client| repeat(client, lost));
    let payload = [OTHER, &lost.to_be_bytes()].concat();
    assert_eq!(parts(&media(&mut rig, b)), [(video, 103, lost, payload)]);
    film(&mut rig, a, 1);
    assert_eq!(parts(&media(&mut rig, b))[0].2, lost + 1);
}

#[test]
fn reordering_and_duplicates_ask_for_nothing() {
    let (mut rig, a, b, _, _) = watched();
    let mut packets: Vec<_> = (0..8).map(|_| rig.clients[a].next_packet(1, 103, OTHER)).collect();
    packets.swap(2, 5);
    packets.push(packets[3].clone());
    let from = rig.clients[a].address;
    for packet in &packets {
        rig.datagram(from, packet);
        rig.advance(Duration::from_millis(2));
    }
    rig.advance(TRIP);
    assert!(asked(&mut rig, a).is_empty());
    let seqs: Vec<_> = media(&mut rig, b).iter().filter_map(Heard::seq).collect();
    assert_eq!(seqs.iter().collect::<BTreeSet<_>>().len(), 8);
    assert_eq!(seqs.len(), 8);
}

#[test]
fn an_interruption_is_no_loss_but_wants_a_keyframe() {
    let (mut rig, a, _, _, _) = watched();
    (0..200).for_each(|_| {
        lose(&mut rig, a);
    });
    film(&mut rig, a, 1);
    rig.advance(Duration::from_millis(20));
    let compounds = compounds(&mut rig, a);
    let all: Vec<_> = compounds.iter().flat_map(|it| stentor::rtp::rtcp::reports(it)).collect();
    use stentor::rtp::rtcp::Report;
    assert!(matches!(&all[..], [Report::ReceiverReport(_), Report::Pli(_)]), "{all:?}");
}

#[test]
fn voice_is_never_asked_for_again() {
    let mut rig = Rig::new();
    let (a, b) = (rig.joined(1, 10, Profile::video(103, 104)), rig.speaker(1, 11));
    rig.speak(a, b"1");
    rig.clients[a].streams[0].seq += 1;
    rig.speak(a, b"3");
    rig.advance(TRIP * 10);
    assert!(asked(&mut rig, a).is_empty());
    let voice = rig.clients[a].ssrc();
    rig.forget();
    nack(&mut rig, b, voice, &[0]);
    assert!(media(&mut rig, b).is_empty());
}

#[test]
fn lost_packets_are_asked_for_by_the_senders_own_numbers() {
    let (mut rig, a, b, _, _) = watched();
    film(&mut rig, a, 3);
    // The sender starts again with a new key, and loses a packet there.
    rig.say(a, Client::select_protocol);
    rig.clients[a].streams[1].seq = 5_000;
    film(&mut rig, a, 2);
    let lost = lose(&mut rig, a);
    film(&mut rig, a, 1);
    rig.forget();
    rig.advance(Duration::from_millis(10));
    assert_eq!(asked(&mut rig, a), [lost]);
    rig.send(a, |client| repeat(client, lost));
    let heard = parts(&media(&mut rig, b));
    assert_eq!((heard.len(), heard[0].2), (1, 6), "where the channel's numbers have their hole");
}

#[test]
fn so_many_streams_are_kept_and_no_more() {
    let mut rig = Rig::new();
    let layers = || Profile { layers: 2, ..Profile::video(103, 104) };
    let mut answered = 0;
    for channel in 0..=RETRANSMISSION_STREAMS_MAX as u64 / 2 {
        let a = rig.joined(channel, 2 * channel + 1_000, layers());
        let b = rig.joined(channel, 2 * channel + 1_001, Profile::video(103, 104));
        rig.say(a, |client| client.camera(true));
        for layer in [1, 3] {
            rig.send(a, |client| client.next_packet(layer, 103, KEYFRAME));
            let video = rig.clients[a].streams[layer].ssrc;
            rig.clients[b].mail.clear();
            nack(&mut rig, b, video, &[0]);
            answered += media(&mut rig, b).len();
        }
    }
    assert_eq!(answered, RETRANSMISSION_STREAMS_MAX);
    // One camera goes off, and there is room for another.
    let camera = 0;
    rig.say(camera, |client| client.camera(false));
    let a = rig.joined(9_999, 9_998, layers());
    let b = rig.joined(9_999, 9_999, Profile::video(103, 104));
    rig.say(a, |client| client.camera(true));
    rig.send(a, |client| client.next_packet(1, 103, KEYFRAME));
    let video = rig.clients[a].streams[1].ssrc;
    rig.clients[b].mail.clear();
    nack(&mut rig, b, video, &[0]);
    assert_eq!(media(&mut rig, b).len(), 1);
}

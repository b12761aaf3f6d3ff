//! RTCP: consumed, answered and mapped (protocol.md §2.5, §4.4).

use std::time::Duration;

use stentor::{
    crypto::Mode,
    id::Ssrc,
    metrics::DropReason,
    rtp::{
        feedback::{write_nack, write_pli},
        rtcp::{
            BLOCK_BYTES, Blocks, CNAME, ReceiverReport, Report, ReportBlock, SenderReport, reports,
        },
    },
};

use crate::{
    client::{Client, Heard, Profile},
    rig::{Rig, STRANGER},
};

fn written(write: impl FnOnce(&mut [u8]) -> Option<usize>) -> Vec<u8> {
    let mut bytes = vec![0; 1_200];
    let len = write(&mut bytes).expect("room enough");
    bytes.truncate(len);
    bytes
}

fn sender_report(ssrc: Ssrc, rtp_timestamp: u32) -> Vec<u8> {
    let blocks = Blocks::default();
    let ntp = 0x1122_3344_5566_7788;
    let report = SenderReport { ssrc, ntp, rtp_timestamp, packets: 7, octets: 70, blocks };
    written(|out| report.write(out))
}

fn receiver_report(ssrc: Ssrc, blocks: &[[u8; BLOCK_BYTES]]) -> Vec<u8> {
    written(|out| ReceiverReport { ssrc, blocks: Blocks(blocks) }.write(out))
}

/// Feedback behind an empty receiver report, as every compound begins with a report.
fn feedback(ssrc: Ssrc, feedback: Vec<u8>) -> Vec<u8> {
    [receiver_report(ssrc, &[]), feedback].concat()
}

/// The compounds that have come for a client.
fn compounds(rig: &mut Rig, who: usize) -> Vec<Vec<u8>> {
    let heard = rig.clients[who].take_heard();
    let compounds = heard.into_iter().filter_map(|heard| match heard {
        Heard::Rtcp(compound) => Some(compound),
        Heard::Rtp { .. } => None,
    });
    compounds.collect()
}

fn report(rig: &mut Rig, who: usize, plain: &[u8]) {
    let from = rig.clients[who].address;
    let sealed = rig.clients[who].seal(plain);
    assert_eq!(rig.dropped(from, &sealed), DropReason::RtcpConsumed);
}

/// A camera that is on, and two who see it.
fn watched() -> (Rig, usize, usize, usize, Ssrc) {
    let mut rig = Rig::new();
    let a = rig.joined(1, 10, Profile::video(103, 104));
    let b = rig.joined(1, 11, Profile::video(103, 104));
    let c = rig.joined(1, 12, Profile::video(103, 104));
    rig.say(a, |client| client.camera(true));
    rig.send(a, |client| client.next_packet(1, 103, b"picture"));
    rig.forget();
    let ssrc = rig.clients[a].streams[1].ssrc;
    (rig, a, b, c, ssrc)
}

#[test]
fn a_sender_report_is_answered_and_given_on_to_whom_it_is_of_use() {
    let mut rig = Rig::new();
    let a = rig.joined(1, 10, Profile::video(103, 104));
    let viewer = rig.joined(1, 11, Profile::video(103, 104));
    let bot = rig.speaker(1, 12);
    let reporting_bot = rig.speaker(1, 13);
    let elsewhere = rig.joined(2, 14, Profile::video(103, 104));
    let ssrc = rig.clients[reporting_bot].ssrc();
    report(&mut rig, reporting_bot, &receiver_report(ssrc, &[]));
    for _ in 0..3 {
        rig.speak(a, b"x");
    }
    rig.forget();
    let ssrc = rig.clients[a].ssrc();
    rig.advance(Duration::from_millis(1_500));
    report(&mut rig, a, &sender_report(ssrc, 5_000));

    let answers = compounds(&mut rig, a);
    assert_eq!(answers.len(), 1);
    let all: Vec<_> = reports(&answers[0]).collect();
    let [Report::ReceiverReport(answer)] = &all[..] else { panic!("{all:?}") };
    let blocks: Vec<_> = answer.blocks.iter().collect();
    assert_eq!(blocks.len(), 1, "only what it has sent");
    assert_eq!((blocks[0].ssrc, blocks[0].highest_seq, blocks[0].lost), (ssrc, 2, 0));
    assert_eq!(blocks[0].last_sr, 0x3344_5566);

    for who in [viewer, reporting_bot] {
        let given = compounds(&mut rig, who);
        assert_eq!(given.len(), 1);
        let all: Vec<_> = reports(&given[0]).collect();
        let [Report::SenderReport(mapped), Report::Sdes(named)] = &all[..] else {
            panic!("{all:?}")
        };
        assert_eq!((mapped.ssrc, mapped.rtp_timestamp, mapped.packets), (ssrc, 5_000, 7));
        assert_eq!(mapped.ntp, (2 << 32) | (1 << 31), "our clock, not the sender's");
        assert_eq!(named.items().collect::<Vec<_>>(), [(ssrc, CNAME, &b"10"[..])]);
    }
    for who in [bot, elsewhere] {
        assert!(compounds(&mut rig, who).is_empty());
    }
}

#[test]
fn a_mapped_report_follows_the_hearers_clock() {
    let (mut rig, a, b, _, video) = watched();
    rig.say(a, Client::select_protocol);
    rig.advance(Duration::from_secs(1));
    rig.clients[a].streams[1].timestamp = 70_000;
    rig.send(a, |client| client.next_packet(1, 103, b"new clock"));
    let heard = rig.clients[b].take_heard();
    let [Heard::Rtp { timestamp, .. }] = heard[..] else { panic!("one packet") };
    assert_eq!(timestamp, 90_000, "a second after the first, which was at 0");
    report(&mut rig, a, &sender_report(video, 70_500));
    let given = compounds(&mut rig, b);
    let Some(Report::SenderReport(mapped)) = reports(&given[0]).next() else { panic!("SR") };
    assert_eq!(mapped.rtp_timestamp, 90_500);
}

#[test]
fn nobody_reports_for_others_or_to_the_deaf() {
    let (mut rig, a, b, c, video) = watched();
    report(&mut rig, b, &sender_report(video, 1));
    for who in [a, c] {
        assert!(compounds(&mut rig, who).is_empty(), "a report on somebody else's stream");
    }
    rig.update(b, |policy| policy.state.deaf = true);
    report(&mut rig, a, &sender_report(video, 1));
    assert!(compounds(&mut rig, b).is_empty());
    assert_eq!(compounds(&mut rig, c).len(), 1);
}

#[test]
fn keyframes_are_asked_for_once_in_half_a_second() {
    let (mut rig, a, b, c, video) = watched();
    let pli = |ssrc| feedback(ssrc, written(|out| write_pli(out, ssrc, video)));
    let fir = |ssrc: Ssrc| {
        let body = [&ssrc.0.to_be_bytes()[..], &[0; 4], &video.0.to_be_bytes(), &[1, 0, 0, 0]];
        feedback(ssrc, [&[0x84, 206, 0, 4][..], &body.concat()].concat())
    };
    let (b_ssrc, c_ssrc) = (rig.clients[b].ssrc(), rig.clients[c].ssrc());
    for (wait, who, asked, passed) in [
        (0, b, pli(b_ssrc), 1),
        (0, b, pli(b_ssrc), 0),
        (499, c, pli(c_ssrc), 0),
        (1, c, fir(c_ssrc), 1),
        (500, b, pli(b_ssrc), 1),
    ] {
        rig.advance(Duration::from_millis(wait));
        report(&mut rig, who, &asked);
        let requests = compounds(&mut rig, a);
        assert_eq!(requests.len(), passed);
        for request in requests {
            let all: Vec<_> = reports(&request).collect();
            let [Report::ReceiverReport(empty), Report::Pli(pli)] = &all[..] else {
                panic!("{all:?}")
            };
            assert_eq!((pli.media, pli.sender), (video, empty.ssrc));
            assert!(![b_ssrc, c_ssrc].contains(&pli.sender), "the hearer is not shown");
        }
    }
}

#[test]
fn feedback_on_what_one_cannot_see_is_passed_over() {
    let (mut rig, a, b, _, video) = watched();
    let elsewhere = rig.joined(2, 20, Profile::video(103, 104));
    let (a_voice, b_video) = (rig.clients[a].ssrc(), rig.clients[b].streams[1].ssrc);
    let other = rig.clients[elsewhere].ssrc();
    let own = rig.clients[b].ssrc();
    for (who, ssrc, media) in
        [(b, own, a_voice), (b, own, b_video), (b, own, Ssrc(5)), (elsewhere, other, video)]
    {
        report(&mut rig, who, &feedback(ssrc, written(|out| write_pli(out, ssrc, media))));
        report(&mut rig, who, &feedback(ssrc, written(|out| write_nack(out, ssrc, media, [0, 1]))));
    }
    for who in [a, b, elsewhere] {
        assert!(compounds(&mut rig, who).is_empty());
    }
}

#[test]
fn lost_packets_are_asked_for_by_the_senders_own_numbers() {
    let (mut rig, a, b, _, video) = watched();
    let nacked = |rig: &mut Rig, lost: &[u16]| -> Vec<u16> {
        let ssrc = rig.clients[b].ssrc();
        let nack = written(|out| write_nack(out, ssrc, video, lost.iter().copied()));
        report(rig, b, &feedback(ssrc, nack));
        let requests = compounds(rig, a);
        assert_eq!(requests.len(), 1);
        let all: Vec<_> = reports(&requests[0]).collect();
        let [Report::ReceiverReport(_), Report::Nack(nack)] = &all[..] else { panic!("{all:?}") };
        assert_eq!(nack.media, video);
        nack.lost().collect()
    };
    for _ in 0..9 {
        rig.send(a, |client| client.next_packet(1, 103, b"picture"));
    }
    assert_eq!(nacked(&mut rig, &[3, 4, 9]), [3, 4, 9]);
    // Ten packets that b does not hear: it sees none of them missing.
    rig.update(b, |policy| policy.state.deaf = true);
    for _ in 0..10 {
        rig.send(a, |client| client.next_packet(1, 103, b"picture"));
    }
    rig.update(b, |policy| policy.state.deaf = false);
    rig.send(a, |client| client.next_packet(1, 103, b"picture"));
    assert_eq!(nacked(&mut rig, &[10]), [20]);
    // The sender starts again with a new key.
    rig.say(a, Client::select_protocol);
    rig.clients[a].streams[1].seq = 5_000;
    for _ in 0..3 {
        rig.send(a, |client| client.next_packet(1, 103, b"picture"));
    }
    rig.clients[b].take_heard();
    assert_eq!(nacked(&mut rig, &[11, 13]), [5_000, 5_002]);
}

#[test]
fn one_intra_request_is_read_up_to_its_31st_source() {
    let (mut rig, a, b, _, video) = watched();
    let ssrc = rig.clients[b].ssrc();
    for (before, passed) in [(31, 0), (30, 1)] {
        let nobody = [Ssrc(5).0.to_be_bytes(), [1, 0, 0, 0]].concat().repeat(before);
        let sources = [nobody, video.0.to_be_bytes().to_vec(), vec![1, 0, 0, 0]].concat();
        let words = u8::try_from(2 + sources.len() / 4).unwrap();
        let head = [&[0x84, 206, 0, words][..], &ssrc.0.to_be_bytes(), &[0; 4]].concat();
        report(&mut rig, b, &feedback(ssrc, [head, sources].concat()));
        assert_eq!(compounds(&mut rig, a).len(), passed, "{before} sources before it");
    }
}

#[test]
fn sender_reports_of_one_stream_are_given_on_once_in_400_ms() {
    let (mut rig, a, b, _, video) = watched();
    let voice = rig.clients[a].ssrc();
    for (wait, ssrc, given) in [(0, video, 1), (0, video, 0), (0, voice, 1), (399, video, 0)] {
        rig.advance(Duration::from_millis(wait));
        report(&mut rig, a, &sender_report(ssrc, 1));
        assert_eq!(compounds(&mut rig, b).len(), given, "{ssrc:?} after {wait} ms");
    }
    rig.advance(Duration::from_millis(1));
    report(&mut rig, a, &sender_report(video, 1));
    assert_eq!(compounds(&mut rig, b).len(), 1);
}

#[test]
fn a_compound_is_read_up_to_its_32nd_report() {
    let (mut rig, a, b, _, video) = watched();
    let ssrc = rig.clients[b].ssrc();
    let pli = written(|out| write_pli(out, ssrc, video));
    for (before, passed) in [(32, 0), (31, 1)] {
        report(&mut rig, b, &[receiver_report(ssrc, &[]).repeat(before), pli.clone()].concat());
        assert_eq!(compounds(&mut rig, a).len(), passed, "{before} reports before it");
    }
}

#[test]
fn one_nack_has_at_most_128_packets_sent_again() {
    let (mut rig, a, b, _, video) = watched();
    let ssrc = rig.clients[b].ssrc();
    // In one piece, and so scattered that each takes an entry of its own.
    for step in [1, 17] {
        let lost = (0..200).map(|n| n * step);
        let nack = written(|out| write_nack(out, ssrc, video, lost.clone()));
        report(&mut rig, b, &feedback(ssrc, nack));
        let requests = compounds(&mut rig, a);
        let all: Vec<_> = requests.iter().flat_map(|request| reports(request)).collect();
        let [Report::ReceiverReport(_), Report::Nack(nack)] = &all[..] else { panic!("{all:?}") };
        assert!(nack.lost().eq(lost.take(128)), "{step} apart");
    }
}

#[test]
fn rtcp_proves_no_address() {
    let mut rig = Rig::new();
    let (a, b) = (rig.speaker(1, 10), rig.speaker(1, 11));
    rig.speak(b, b"here");
    let ssrc = rig.clients[b].ssrc();
    let sealed = rig.clients[b].seal(&receiver_report(ssrc, &[]));
    assert_eq!(rig.dropped(STRANGER, &sealed), DropReason::RtcpConsumed);
    rig.speak(a, b"x");
    assert!(rig.strays.is_empty());
    assert_eq!(rig.clients[b].take_payloads(), [b"x"]);
}

#[test]
fn forged_and_broken_reports_have_no_effect() {
    let (mut rig, a, b, c, video) = watched();
    let from = rig.clients[b].address;
    let ssrc = rig.clients[b].ssrc();
    let pli = feedback(ssrc, written(|out| write_pli(out, ssrc, video)));
    let mut forged = rig.clients[b].seal(&pli);
    forged[9] ^= 1;
    assert_eq!(rig.dropped(from, &forged), DropReason::BadTag);
    assert_eq!(rig.dropped(STRANGER, &forged), DropReason::BadTag);
    assert_eq!(rig.dropped(STRANGER, &receiver_report(Ssrc(5), &[])), DropReason::UnknownSource);
    assert_eq!(rig.dropped(from, &receiver_report(ssrc, &[])), DropReason::Malformed);
    for broken in [
        &[0x80, 201, 0xFF, 0xFF, 0, 0, 0, 1][..],
        &[0x9F, 200, 0, 1, 0, 0, 0, 1],
        &[0xA0, 201, 0, 1, 0, 0, 0, 0],
        &[0x81, 205, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0],
    ] {
        report(&mut rig, b, broken);
    }
    for who in [a, b, c] {
        assert!(compounds(&mut rig, who).is_empty());
    }
}

#[test]
fn where_the_header_is_the_nonce_no_reports_are_sent() {
    let mut rig = Rig::new();
    let a = rig.joined(1, 10, Profile::video(103, 104));
    let mode = Mode::XSalsa20Poly1305;
    let b = rig.joined(1, 11, Profile { mode, ..Profile::video(103, 104) });
    rig.speak(a, b"x");
    rig.forget();
    let (a_ssrc, b_ssrc) = (rig.clients[a].ssrc(), rig.clients[b].ssrc());
    report(&mut rig, b, &sender_report(b_ssrc, 0));
    report(&mut rig, a, &sender_report(a_ssrc, 0));
    assert!(compounds(&mut rig, b).is_empty());
    assert_eq!(compounds(&mut rig, a).len(), 2, "b's report, and the answer to its own");
}

#[test]
fn the_round_trip_is_told_from_the_echo_of_our_report() {
    let (mut rig, a, b, _, video) = watched();
    rig.advance(Duration::from_secs(3));
    report(&mut rig, a, &sender_report(video, 1));
    let given = compounds(&mut rig, b);
    let Some(Report::SenderReport(ours)) = reports(&given[0]).next() else { panic!("SR") };
    rig.advance(Duration::from_millis(150));
    let block = ReportBlock {
        ssrc: video,
        fraction_lost: 0,
        lost: 0,
        highest_seq: 0,
        jitter: 0,
        last_sr: (ours.ntp >> 16) as u32,
        delay_since_sr: 65_536 / 10,
    };
    let ssrc = rig.clients[b].ssrc();
    report(&mut rig, b, &receiver_report(ssrc, &[block.to_bytes()]));
    let rtt = |rig: &Rig| rig.shard.rooms()[0].sessions[b].rtt_ms;
    assert!(matches!(rtt(&rig), Some(49..=51)), "{:?}", rtt(&rig));
    let nonsense = ReportBlock { last_sr: 0x7777_7777, ..block };
    report(&mut rig, b, &receiver_report(ssrc, &[nonsense.to_bytes()]));
    assert!(matches!(rtt(&rig), Some(49..=51)), "a foreign clock is not believed");
}

#[test]
fn reports_that_cannot_be_delivered_are_no_drops() {
    let mut rig = Rig::new();
    let a = rig.joined(1, 10, Profile::video(103, 104));
    // Agreed upon a key, but nobody knows where it is.
    let b = rig.client(crate::client::Grant::new(1, 11), Profile::video(103, 104));
    rig.identify(b);
    rig.say(b, Client::select_protocol);
    let ssrc = rig.clients[a].ssrc();
    report(&mut rig, a, &sender_report(ssrc, 0));
}

//! RTCP: consumed, answered and mapped (protocol.md §2.5, §4.4).

use std::time::Duration;

use stentor::{
    crypto::Mode,
    id::Ssrc,
    metrics::DropReason,
    rtp::{
        feedback::{write_nack, write_pli},
        rtcp::{CNAME, Report, ReportBlock, reports},
    },
};

use crate::{
    client::{Client, Heard, Profile},
    rig::{Rig, STRANGER},
    rtcp::{compounds, feedback, media, receiver_report, report, sender_report, watched, written},
};

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
    let ssrc = rig.clients[a].ssrc();
    rig.advance(Duration::from_millis(1_500));
    rig.forget();
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
    let heard = media(&mut rig, b);
    let [Heard::Rtp { timestamp, .. }] = heard[..] else { panic!("one packet") };
    assert_eq!(timestamp, 90_000, "a second after the first, which was at 0");
    report(&mut rig, a, &sender_report(video, 70_500));
    let given = compounds(&mut rig, b);
    let Some(Report::SenderReport(mapped)) = reports(&given[0]).next() else { panic!("SR") };
    assert_eq!(mapped.rtp_timestamp, 90_500);
}

#[test]
fn what_cannot_be_mapped_or_may_not_be_heard_is_not_given_on() {
    let (mut rig, a, b, _, video) = watched();
    let voice = rig.clients[a].ssrc();
    rig.speak(a, b"x");
    rig.say(a, Client::select_protocol);
    rig.clients[b].take_heard();
    report(&mut rig, a, &sender_report(video, 70_500));
    assert!(compounds(&mut rig, b).is_empty(), "a clock of which nothing is known yet");
    rig.send(a, |client| client.next_packet(1, 103, b"new clock"));
    rig.speak(a, b"x");
    rig.update(a, |policy| {
        policy.state.mute = true;
        policy.permissions.video = false;
    });
    rig.advance(Duration::from_secs(1));
    rig.forget();
    for ssrc in [voice, video] {
        report(&mut rig, a, &sender_report(ssrc, 71_000));
    }
    assert!(compounds(&mut rig, b).is_empty(), "muted, and hidden");
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
    rig.forget();
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

/// The sender reports that have come for a client: whose, the moment and the stream's clock then.
fn given(rig: &mut Rig, who: usize) -> Vec<(Ssrc, u64, u32)> {
    let compounds = compounds(rig, who);
    let all = compounds.iter().flat_map(|compound| reports(compound));
    let reports = all.filter_map(|report| match report {
        Report::SenderReport(report) => Some((report.ssrc, report.ntp, report.rtp_timestamp)),
        _ => None,
    });
    reports.collect()
}

/// Twenty milliseconds of speech, so many times.
fn talk(rig: &mut Rig, who: usize, frames: u32) {
    for _ in 0..frames {
        rig.speak(who, b"voice");
        rig.advance(Duration::from_millis(20));
    }
}

#[test]
fn who_reports_nothing_is_reported_on_by_our_clock() {
    let mut rig = Rig::new();
    let bot = rig.speaker(1, 10);
    let viewer = rig.joined(1, 11, Profile::video(103, 104));
    let other_bot = rig.speaker(1, 12);
    let ssrc = rig.clients[bot].ssrc();
    let mut moments = Vec::new();
    let mut last: Option<(u64, u32)> = None;
    for second in 0..20 {
        talk(&mut rig, bot, 50);
        for (of, ntp, timestamp) in given(&mut rig, viewer) {
            assert_eq!(of, ssrc);
            moments.push(second);
            if let Some((ntp_before, timestamp_before)) = last {
                // 48 kHz by the same clock.
                let elapsed = (ntp - ntp_before) >> 16;
                let ticks = u64::from(timestamp - timestamp_before);
                assert!(((elapsed * 48_000) >> 16).abs_diff(ticks) <= 48, "{elapsed} {ticks}");
            }
            last = Some((ntp, timestamp));
        }
        assert!(compounds(&mut rig, other_bot).is_empty());
    }
    assert_eq!(moments, [0, 1, 2, 3, 4, 5, 10, 15], "each second at first, then every five");
    // It falls silent, and is reported on again when it speaks.
    rig.advance(Duration::from_secs(60));
    let silent = given(&mut rig, viewer).len();
    assert!(silent <= 1);
    talk(&mut rig, bot, 50);
    assert_eq!(given(&mut rig, viewer).len(), 1);
}

#[test]
fn sound_and_picture_of_one_sender_are_reported_together() {
    let (mut rig, a, b, _, video) = watched();
    rig.speak(a, b"voice");
    rig.advance(Duration::from_secs(1));
    let voice = rig.clients[a].ssrc();
    let both = given(&mut rig, b);
    let [(first, at, _), (second, at_too, _)] = both[..] else { panic!("{both:?}") };
    assert_eq!((first, second, at), (voice, video, at_too));
}

#[test]
fn who_reports_by_itself_is_not_reported_on() {
    let (mut rig, a, b, _, _) = watched();
    let voice = rig.clients[a].ssrc();
    let mut ours = 0;
    for _ in 0..6 {
        report(&mut rig, a, &sender_report(voice, 1));
        rig.forget();
        talk(&mut rig, a, 250);
        ours += given(&mut rig, b).iter().filter(|(ssrc, ..)| *ssrc == voice).count();
    }
    assert_eq!(ours, 0);
    talk(&mut rig, a, 800);
    assert!(given(&mut rig, b).iter().any(|(ssrc, ..)| *ssrc == voice), "it has stopped");
}

#[test]
fn a_new_hearer_is_told_soon() {
    let mut rig = Rig::new();
    let bot = rig.speaker(1, 10);
    rig.joined(1, 11, Profile::video(103, 104));
    talk(&mut rig, bot, 350);
    let viewer = rig.joined(1, 12, Profile::video(103, 104));
    talk(&mut rig, bot, 50);
    assert_eq!(given(&mut rig, viewer).len(), 1);
    talk(&mut rig, bot, 50);
    assert_eq!(given(&mut rig, viewer).len(), 1, "and once more in the next second");
}

#[test]
fn reports_are_nothing_for_the_deaf() {
    let mut rig = Rig::new();
    let bot = rig.speaker(1, 10);
    let viewer = rig.joined(1, 11, Profile::video(103, 104));
    rig.update(viewer, |policy| policy.state.deaf = true);
    rig.forget();
    talk(&mut rig, bot, 100);
    assert!(compounds(&mut rig, viewer).is_empty());
}

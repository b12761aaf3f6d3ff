//! Transport-wide feedback, both ways (protocol.md §3.4, §4.4).

use std::time::Duration;

use stentor::{
    id::Ssrc,
    rtp::{
        extension::{elements, id},
        rtcp::{Report, reports},
        transport_cc::{FEEDBACK_BYTES_MAX, write_transport_cc},
    },
};

use crate::{
    browser::{Browser, Choices, VP8},
    client::{Client, Heard, Outgoing, Rtp, rtp},
    rig::Rig,
    rtcp::{OTHER, compounds, feedback, media, nack, report, watched},
};

/// The next packet of a camera, with this transport-wide number.
fn numbered(client: &mut Client, number: u16) -> Vec<u8> {
    let outgoing = &mut client.streams[1];
    let Outgoing { ssrc, seq, timestamp } = *outgoing;
    outgoing.seq = seq.wrapping_add(1);
    let [high, low] = number.to_be_bytes();
    let elements = [0x51, high, low, 0];
    let extension = Some((0xBEDE, &elements[..]));
    let packet = Rtp { payload_type: 103, seq, timestamp, extension, payload: OTHER, ..rtp(ssrc) };
    client.seal(&packet.plain())
}

/// The transport-wide numbers of what a client has got.
fn numbers(heard: &[Heard]) -> Vec<u16> {
    let numbers = heard.iter().filter_map(|heard| {
        let Heard::Rtp { extension: Some((profile, block)), .. } = heard else { return None };
        let (_, number) = elements(*profile, block).find(|(it, _)| *it == id::TRANSPORT_CC)?;
        Some(u16::from_be_bytes(number.try_into().unwrap()))
    });
    numbers.collect()
}

/// What a sender is told of its packets: the number, and when it arrived, in counts of 250 µs.
fn told(rig: &mut Rig, who: usize) -> Vec<(u16, Option<i64>)> {
    let compounds = compounds(rig, who);
    let mut all = Vec::new();
    for compound in &compounds {
        let reports: Vec<_> = reports(compound).collect();
        let [Report::ReceiverReport(_), Report::TransportCc(feedback)] = &reports[..] else {
            panic!("{reports:?}")
        };
        all.extend(feedback.statuses());
    }
    all
}

#[test]
fn arrivals_are_reported_a_tenth_of_a_second_after_the_first() {
    let (mut rig, a, _, _, _) = watched();
    let start = 65_534_u16;
    for step in [0, 1, 3, 2, 5] {
        rig.send(a, |client| numbered(client, start.wrapping_add(step)));
        rig.advance(Duration::from_millis(10));
    }
    assert!(told(&mut rig, a).is_empty());
    rig.advance(Duration::from_millis(50));
    let statuses = told(&mut rig, a);
    let first = statuses[0].1.expect("it has arrived");
    let since: Vec<_> = statuses.iter().map(|(seq, at)| (*seq, at.map(|at| at - first))).collect();
    assert_eq!(
        since,
        [
            (65_534, Some(0)),
            (65_535, Some(40)),
            (0, Some(120)),
            (1, Some(80)),
            (2, None),
            (3, Some(160))
        ]
    );
    rig.advance(Duration::from_secs(10));
    assert!(told(&mut rig, a).is_empty(), "and nothing more");
    rig.send(a, |client| numbered(client, 4));
    rig.advance(Duration::from_millis(100));
    assert_eq!(told(&mut rig, a).len(), 1);
}

#[test]
fn probes_and_retransmissions_arrive_as_well() {
    let (mut rig, a, _, _, _) = watched();
    rig.send(a, |client| {
        let elements = [0x51, 0, 9, 0];
        let extension = Some((0xBEDE, &elements[..]));
        let ssrc = client.streams[2].ssrc;
        client.seal(&Rtp { payload_type: 104, extension, padding: 200, ..rtp(ssrc) }.plain())
    });
    rig.advance(Duration::from_millis(100));
    let seqs: Vec<_> = told(&mut rig, a).iter().map(|(seq, _)| *seq).collect();
    assert_eq!(seqs, [9]);
}

/// Chromium probes with padding before its camera is on, and takes what is not reported for lost.
#[test]
fn a_browsers_probes_arrive_before_it_has_announced_anything_under_their_ssrc() {
    let mut rig = Rig::new();
    let mut browser = rig.browser(1, 10, Choices::default());
    let ssrc = Ssrc(browser.choices.ssrcs[1]);
    for number in 0..3 {
        let elements = [0x31, 0, number, 0];
        let extension = Some((0xBEDE, &elements[..]));
        let seq = number.into();
        let probe = Rtp { payload_type: VP8, seq, extension, padding: 200, ..rtp(ssrc) };
        let sealed = browser.seal(&probe.plain());
        rig.datagram(browser.address, &sealed);
        rig.advance(Duration::from_millis(10));
    }
    rig.advance(Duration::from_millis(100));
    let heard = browser.hear(&mut rig);
    let compounds = heard.iter().filter_map(|heard| match heard {
        Heard::Rtcp(compound) => Some(compound),
        Heard::Rtp { .. } => None,
    });
    let statuses: Vec<(u16, Option<i64>)> = compounds
        .flat_map(|compound| reports(compound))
        .filter_map(|report| match report {
            Report::TransportCc(feedback) => Some(feedback.statuses().collect::<Vec<_>>()),
            _ => None,
        })
        .flatten()
        .collect();
    let first = statuses[0].1.expect("it has arrived");
    let since: Vec<_> = statuses.iter().map(|(seq, at)| (*seq, at.map(|at| at - first))).collect();
    assert_eq!(since, [(0, Some(0)), (1, Some(40)), (2, Some(80))], "each when it came");
}

/// A browser whose connection starts again counts from the beginning. What the old one counted must
/// not make its numbers duplicates, for an estimate without reports falls to the floor.
#[test]
fn a_transport_that_starts_again_is_reported_on_from_its_first_number() {
    let mut rig = Rig::new();
    let mut browser = rig.browser(1, 10, Choices::default());
    let ssrc = Ssrc(browser.choices.ssrcs[0]);
    for round in 0..2 {
        for number in 0..50 {
            let elements = [0x31, 0, number, 0];
            let extension = Some((0xBEDE, &elements[..]));
            let seq = number.into();
            let packet = Rtp { payload_type: 111, seq, extension, payload: b"voice", ..rtp(ssrc) };
            let sealed = browser.seal(&packet.plain());
            rig.datagram(browser.address, &sealed);
        }
        rig.advance(Duration::from_millis(100));
        let heard = browser.hear(&mut rig);
        let told = heard.iter().filter_map(|heard| match heard {
            Heard::Rtcp(compound) => Some(compound),
            Heard::Rtp { .. } => None,
        });
        let told = told.flat_map(|compound| reports(compound)).filter_map(|report| match report {
            Report::TransportCc(feedback) => Some(feedback.statuses().count()),
            _ => None,
        });
        assert_eq!(told.sum::<usize>(), 50, "round {round}");
        browser = Browser::select(&mut rig, browser.who, Choices::default());
        browser.connect(&mut rig);
        browser.say_hello(&mut rig);
    }
}

#[test]
fn who_numbers_nothing_is_told_nothing() {
    let (mut rig, a, _, _, _) = watched();
    rig.send(a, |client| client.next_packet(1, 103, OTHER));
    rig.advance(Duration::from_secs(1));
    assert!(compounds(&mut rig, a).is_empty());
}

#[test]
fn every_packet_of_video_to_a_hearer_has_the_next_number() {
    let (mut rig, a, b, c, video) = watched();
    rig.say(c, |client| client.camera(true));
    for _ in 0..3 {
        rig.send(a, |client| client.next_packet(1, 103, OTHER));
        rig.send(c, |client| client.next_packet(1, 103, OTHER));
        rig.speak(a, b"voice has none");
    }
    nack(&mut rig, b, video, &[1]);
    let heard = media(&mut rig, b);
    assert_eq!(numbers(&heard), (1..8).collect::<Vec<_>>(), "the keyframe before had 0");
    let heard = media(&mut rig, c);
    assert_eq!(numbers(&heard), [1, 2, 3]);
}

#[test]
fn what_was_not_sent_has_no_number() {
    let (mut rig, a, b, _, _) = watched();
    let egress = std::mem::replace(&mut rig.egress, stentor::egress::Egress::new(1, 1_472));
    // One of the two copies fits; which is for the order of the channel.
    rig.send(a, |client| client.next_packet(1, 103, OTHER));
    rig.egress = egress;
    let got = media(&mut rig, b).len() as u16;
    rig.send(a, |client| client.next_packet(1, 103, OTHER));
    assert_eq!(numbers(&media(&mut rig, b)), [1 + got]);
}

#[test]
fn what_hearers_report_is_counted() {
    let (mut rig, _, b, _, video) = watched();
    let ssrc = rig.clients[b].ssrc();
    let mut out = [0; FEEDBACK_BYTES_MAX];
    let arrivals = [Some(4), None, None, Some(9)];
    let written = write_transport_cc(&mut out, ssrc, video, 0, 0, arrivals).unwrap();
    report(&mut rig, b, &feedback(ssrc, out[..written.len].to_vec()));
    let counters = rig.shard.counters();
    assert_eq!((counters.path_reported, counters.path_lost), (4, 2));
    // 65,535 packets in one run of losses each: read, but not to the end.
    let claim = [0x8F, 205, 0, 8, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0];
    let claim = [&claim[..], &[0x1F, 0xFF].repeat(8)].concat();
    report(&mut rig, b, &feedback(ssrc, claim));
    assert_eq!(rig.shard.counters().path_reported, 4 + 1_024);
}

#[test]
fn a_flood_of_leaps_costs_a_bounded_number_of_reports() {
    let (mut rig, a, _, _, _) = watched();
    for step in 0..500_u16 {
        rig.send(a, |client| numbered(client, step.wrapping_mul(997)));
    }
    rig.advance(Duration::from_millis(100));
    let compounds = compounds(&mut rig, a);
    assert!((1..=5).contains(&compounds.len()), "{}", compounds.len());
}

//! Tests of transport-wide feedback, read through the compound it comes in.

use proptest::prelude::*;

use super::*;
use crate::rtp::{
    rtcp::{Report, reports},
    vectors::unhex,
};

fn read(compound: &[u8]) -> (TransportCc<'_>, Vec<(u16, Option<i64>)>) {
    let Some(Report::TransportCc(report)) = reports(compound).next() else {
        panic!("{compound:02x?}")
    };
    (report, report.statuses().collect())
}

fn write(base_seq: u16, arrivals: &[Option<i64>]) -> Option<(Vec<u8>, Written)> {
    let mut out = [0xEE; FEEDBACK_BYTES_MAX];
    let given = arrivals.iter().copied();
    let written = write_transport_cc(&mut out, Ssrc(1), Ssrc(2), 7, base_seq, given)?;
    Some((out[..written.len].to_vec(), written))
}

/// What Chrome sent for the first nine packets of a call (a public capture of Meet): one run, with
/// padding that counts itself.
const CAPTURED: &str = "afcd000700000001dd586eb6000100095e91100020091c0c2c38000400081801";

#[test]
fn a_captured_report_is_read_packet_by_packet() {
    let bytes = unhex(CAPTURED);
    let (report, statuses) = read(&bytes);
    assert_eq!((report.base_seq, report.status_count), (1, 9));
    assert_eq!(report.reference_time, 6_197_520);
    let start = 6_197_520 * REFERENCE_TICKS;
    let deltas = [28, 12, 44, 56, 0, 4, 0, 8, 24];
    let expected = deltas.iter().scan(start, |clock, delta| {
        *clock += delta;
        Some(Some(*clock))
    });
    assert_eq!(statuses, (1..).zip(expected).collect::<Vec<_>>());
}

#[test]
fn what_was_captured_is_written_alike_but_for_its_padding() {
    let bytes = unhex(CAPTURED);
    let (report, statuses) = read(&bytes);
    let arrivals = statuses.iter().map(|(_, arrival)| *arrival);
    let mut out = [0xEE; FEEDBACK_BYTES_MAX];
    let (sender, media) = (report.sender, report.media);
    let written = write_transport_cc(&mut out, sender, media, 0, 1, arrivals).unwrap();
    assert_eq!(written, Written { len: 32, statuses: 9 });
    assert_eq!(out[1..31], bytes[1..31]);
    assert_eq!((out[0], out[31]), (0x8F, 0));
}

#[test]
fn every_kind_of_chunk_is_written_and_read() {
    let run = |status, times| std::iter::repeat_n(status, times);
    let mut clock = 1_000;
    let mut arrival = |delta: i64| {
        clock += delta;
        Some(clock)
    };
    let mut arrivals: Vec<Option<i64>> = (0..20).map(|_| arrival(4)).collect();
    arrivals.extend(run(None, 40));
    for _ in 0..20 {
        arrivals.extend([arrival(255), None]);
    }
    for _ in 0..9 {
        arrivals.extend([arrival(256), arrival(-1), None, arrival(0)]);
    }
    arrivals.extend((0..10).map(|_| arrival(-300)));
    let (bytes, written) = write(65_500, &arrivals).unwrap();
    assert_eq!(usize::from(written.statuses), arrivals.len());
    let (report, statuses) = read(&bytes);
    assert_eq!((report.sender, report.media, report.feedback_count), (Ssrc(1), Ssrc(2), 7));
    let numbers = (0..).map(|step: u16| 65_500_u16.wrapping_add(step));
    assert_eq!(statuses, numbers.zip(arrivals).collect::<Vec<_>>());
}

#[test]
fn a_pause_too_long_for_a_delta_ends_the_report() {
    let pause = i64::from(i16::MAX) + 1;
    let (_, written) = write(0, &[Some(0), None, Some(pause), Some(pause)]).unwrap();
    assert_eq!(written.statuses, 2);
    let (bytes, _) = write(2, &[Some(pause), Some(pause)]).unwrap();
    assert_eq!(read(&bytes).1, [(2, Some(pause)), (3, Some(pause))]);
}

#[test]
fn the_reference_time_wraps_at_24_bits() {
    let late = (1 << 24) * REFERENCE_TICKS + 5;
    let (bytes, _) = write(0, &[Some(late)]).unwrap();
    assert_eq!(read(&bytes).1, [(0, Some(5))]);
    let (bytes, _) = write(0, &[Some(((1 << 24) - 1) * REFERENCE_TICKS)]).unwrap();
    assert_eq!(read(&bytes).0.reference_time, -1);
}

#[test]
fn nothing_is_written_of_what_never_came_or_where_there_is_no_room() {
    assert_eq!(write(0, &[]), None);
    assert_eq!(write(0, &[None; 9]), None);
    for len in 0..24 {
        let mut out = vec![0; len];
        assert_eq!(write_transport_cc(&mut out, Ssrc(1), Ssrc(2), 0, 0, [Some(1)]), None, "{len}");
    }
}

#[test]
fn a_report_that_contradicts_itself_ends_where_it_does() {
    let feedback = |count: u16, chunks: &[u8]| {
        let body = [&[0, 0, 0, 1, 0, 0, 0, 2, 0, 9][..], &count.to_be_bytes(), &[0; 4], chunks];
        let body = body.concat();
        [&[0x8F, 205, 0, (body.len() / 4) as u8][..], &body].concat()
    };
    // Five small deltas announced, two given; an unknown status; no chunks at all; empty runs.
    for (count, chunks, expected) in [
        (5, &[0x20, 5, 1, 1][..], 2),
        (2, &[0x60, 2, 1, 1], 0),
        (9, &[][..], 0),
        (9, &[0, 0, 0, 0, 0, 0, 0, 0], 0),
        (0, &[0x20, 5, 1, 1], 0),
    ] {
        let bytes = feedback(count, chunks);
        assert_eq!(read(&bytes).1.len(), expected, "{chunks:02x?}");
    }
    // The most that the least can claim.
    let bytes = feedback(u16::MAX, &[0x1F; 16]);
    assert_eq!(read(&bytes).1.len(), 8 * 0x1F1F);
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        base_seq: u16,
        start in 0i64..1 << 30,
        steps in proptest::collection::vec(
            prop_oneof![
                3 => Just(None),
                5 => (0i64..256).prop_map(Some),
                2 => (-40_000i64..40_000).prop_map(Some),
            ],
            1..600,
        ),
    ) {
        let mut clock = start;
        let arrivals: Vec<Option<i64>> = steps.iter().map(|step| step.map(|delta| {
            clock = (clock + delta).max(0);
            clock
        })).collect();
        let (mut rest, mut seq) = (&arrivals[..], base_seq);
        while let Some((bytes, written)) = write(seq, rest) {
            let (_, statuses) = read(&bytes);
            let taken = usize::from(written.statuses);
            prop_assert!(taken > 0 && bytes.len().is_multiple_of(4));
            let numbers = (0..).map(|step: u16| seq.wrapping_add(step));
            let expected: Vec<_> = numbers.zip(rest[..taken].iter().copied()).collect();
            prop_assert_eq!(statuses, expected);
            rest = &rest[taken..];
            seq = seq.wrapping_add(written.statuses);
        }
        // Only losses are left, or so many that the next arrival is in no reach.
        prop_assert!(rest.iter().take(STATUSES_MAX).all(Option::is_none));
    }

    #[test]
    fn any_bytes_end(count: u16, chunks in proptest::collection::vec(any::<u8>(), 0..300)) {
        let report = TransportCc {
            sender: Ssrc(1),
            media: Ssrc(2),
            base_seq: 0,
            status_count: count,
            reference_time: 0,
            feedback_count: 0,
            chunks: &chunks,
        };
        prop_assert!(report.statuses().count() <= usize::from(count));
    }
}

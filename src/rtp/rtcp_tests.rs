//! Tests of RTCP reports: the fixtures read field by field, everything we write read back, and
//! hostile compounds.

use proptest::prelude::*;

use super::*;
use crate::rtp::{
    feedback::{write_nack, write_pli},
    vectors::{hex, load, unhex},
};

fn vector(name: &str) -> Vec<u8> {
    let vectors = load("rtcp_transport.json");
    let vectors = vectors["vectors"].as_array().unwrap();
    hex(&vectors.iter().find(|vector| vector["name"] == name).unwrap()["plain_packet"])
}

fn only(compound: &[u8]) -> Report<'_> {
    let mut all = reports(compound);
    let report = all.next().unwrap();
    assert_eq!(all.next(), None);
    report
}

const BLOCK: ReportBlock = ReportBlock {
    ssrc: Ssrc(0x0001_E240),
    fraction_lost: 0x80,
    lost: -2,
    highest_seq: 0x0001_FFFF,
    jitter: 7,
    last_sr: 0x1234_5678,
    delay_since_sr: 0x0001_0000,
};

#[test]
fn every_plain_vector_is_reports_we_know() {
    for vector in load("rtcp_transport.json")["vectors"].as_array().unwrap() {
        let plain = hex(&vector["plain_packet"]);
        let count = reports(&plain).count();
        assert_eq!(
            count,
            if vector["name"].as_str().unwrap().starts_with("rr_plus") { 2 } else { 1 }
        );
        assert!(!reports(&plain).any(|report| matches!(report, Report::Other { .. })));
    }
}

#[test]
fn a_sender_report_is_read_field_by_field_and_written_alike() {
    let bytes = vector("sender_report");
    let Report::SenderReport(report) = only(&bytes) else { panic!("{bytes:02x?}") };
    assert_eq!(
        report,
        SenderReport {
            ssrc: Ssrc(0x00AB_CDEF),
            ntp: 0xE1B2_C3D4_E5F6_0718,
            rtp_timestamp: 0x0001_0000,
            packets: 42,
            octets: 0x1092,
            blocks: Blocks::default(),
        }
    );
    let mut out = [0xEE; 64];
    let len = report.write(&mut out).unwrap();
    assert_eq!(out[..len], bytes);
}

#[test]
fn an_empty_receiver_report_is_read_and_written_alike() {
    let bytes = vector("receiver_report_only_header");
    let Report::ReceiverReport(report) = only(&bytes) else { panic!("{bytes:02x?}") };
    assert_eq!(report, ReceiverReport { ssrc: Ssrc(123_456), blocks: Blocks::default() });
    let mut out = [0xEE; 8];
    assert_eq!(report.write(&mut out), Some(8));
    assert_eq!(out, bytes[..]);
}

#[test]
fn a_block_has_its_fields_where_the_rfc_puts_them() {
    let bytes = unhex("0001e24080fffffe0001ffff000000071234567800010000");
    assert_eq!(BLOCK.to_bytes(), bytes[..]);
    assert_eq!(ReportBlock::from_bytes(&BLOCK.to_bytes()), BLOCK);
}

#[test]
fn losses_beyond_24_bits_are_written_as_the_nearest_that_fits() {
    for (lost, written) in [(i32::MAX, 0x7F_FFFF), (i32::MIN, -0x80_0000), (5, 5), (-5, -5)] {
        let block = ReportBlock { lost, ..BLOCK };
        assert_eq!(ReportBlock::from_bytes(&block.to_bytes()).lost, written);
    }
}

#[test]
fn reports_with_more_blocks_than_their_count_can_say_are_not_written() {
    let blocks = [BLOCK.to_bytes(); BLOCKS_MAX + 1];
    let mut out = [0; 1_024];
    let report = |count| ReceiverReport { ssrc: Ssrc(1), blocks: Blocks(&blocks[..count]) };
    assert_eq!(report(BLOCKS_MAX).write(&mut out), Some(8 + BLOCKS_MAX * BLOCK_BYTES));
    assert_eq!(report(BLOCKS_MAX + 1).write(&mut out), None);
}

#[test]
fn a_name_of_any_length_is_read_back_and_ends_at_a_word() {
    let mut out = [0xEE; 300];
    for len in 0..=255 {
        let cname = "n".repeat(len);
        let written = write_cname(&mut out, Ssrc(9), &cname).unwrap();
        assert_eq!(written % 4, 0);
        assert_eq!(out[written - 1], 0);
        let Report::Sdes(sdes) = only(&out[..written]) else { panic!("{len}") };
        assert_eq!(sdes.items().collect::<Vec<_>>(), [(Ssrc(9), CNAME, cname.as_bytes())], "{len}");
    }
    assert_eq!(write_cname(&mut out, Ssrc(9), &"n".repeat(256)), None);
}

#[test]
fn descriptions_of_several_sources_are_told_apart() {
    let first = "00000001 0101 61 0602 6262 00";
    let second = "00000002 0103 636363 000000";
    let bytes = unhex(&format!("82ca0006{first}{second}").replace(' ', ""));
    let Report::Sdes(sdes) = only(&bytes) else { panic!() };
    let expected = [(Ssrc(1), CNAME, &b"a"[..]), (Ssrc(1), 6, b"bb"), (Ssrc(2), CNAME, b"ccc")];
    assert_eq!(sdes.items().collect::<Vec<_>>(), expected);
}

#[test]
fn descriptions_that_overrun_their_packet_end_it() {
    for (body, items) in [("0000000101ff616161", 0), ("00000001010161", 1), ("0000000101", 0)] {
        let mut body = unhex(body);
        body.resize(body.len().next_multiple_of(4), 0xFF);
        let bytes = [&[0x9F, 0xCA, 0, (body.len() / 4) as u8][..], &body].concat();
        let Report::Sdes(sdes) = only(&bytes) else { panic!() };
        assert_eq!(sdes.items().count(), items);
    }
}

#[test]
fn who_leaves_is_listed_without_the_reason() {
    let bytes = unhex("82cb0004000000010000000203627965");
    assert_eq!(reports(&bytes).next(), None, "longer than the datagram");
    let bytes = unhex("82cb0003000000010000000203627965");
    let Report::Bye(bye) = only(&bytes) else { panic!() };
    assert_eq!(bye.ssrcs().collect::<Vec<_>>(), [Ssrc(1), Ssrc(2)]);
}

#[test]
fn padding_of_the_last_report_is_cut_off() {
    let bytes = unhex("a0c90003000000010000000000000008");
    assert!(matches!(only(&bytes), Report::ReceiverReport(report) if report.ssrc == Ssrc(1)));
    // Not whole words, as Chrome has it.
    let bytes = unhex("a0c90003000000010000000000000003");
    assert!(matches!(only(&bytes), Report::ReceiverReport(report) if report.ssrc == Ssrc(1)));
    for wrong in ["00000000", "00000014"] {
        let bytes = unhex(&format!("a0c9000300000001{wrong}{wrong}"));
        assert_eq!(reports(&bytes).next(), None, "{wrong}");
    }
}

#[test]
fn a_report_too_short_for_its_type_is_other_and_does_not_end_the_compound() {
    let bytes = unhex("81c90001000000018fce0002000000010000000280c9000100000007");
    let all: Vec<_> = reports(&bytes).collect();
    assert_eq!(all.len(), 3);
    assert_eq!(all[0], Report::Other { packet_type: 201, count: 1 });
    assert_eq!(all[1], Report::Other { packet_type: 206, count: 15 });
    assert!(matches!(all[2], Report::ReceiverReport(_)));
}

#[test]
fn a_wrong_version_or_length_ends_the_compound_for_good() {
    let good = unhex("80c9000100000001");
    for bad in ["40c9000100000001", "c0c9000100000001", "80c9ffff00000001"] {
        let bytes = [&good[..], &unhex(bad), &good].concat();
        let mut all = reports(&bytes);
        assert!(all.next().is_some());
        assert_eq!((all.next(), all.next()), (None, None), "{bad}");
    }
    let cut = [&good[..], &good[..7]].concat();
    assert_eq!(reports(&cut).count(), 1);
}

#[test]
fn a_short_buffer_is_refused_at_every_length() {
    let blocks = [BLOCK.to_bytes(); 2];
    let sender = SenderReport {
        ssrc: Ssrc(1),
        ntp: 2,
        rtp_timestamp: 3,
        packets: 4,
        octets: 5,
        blocks: Blocks(&blocks),
    };
    let receiver = ReceiverReport { ssrc: Ssrc(1), blocks: Blocks(&blocks) };
    type Write<'a> = &'a dyn Fn(&mut [u8]) -> Option<usize>;
    let writers: [(usize, Write<'_>); 5] = [
        (76, &|out| sender.write(out)),
        (56, &|out| receiver.write(out)),
        (20, &|out| write_cname(out, Ssrc(1), "stentor")),
        (12, &|out| write_pli(out, Ssrc(1), Ssrc(2))),
        (20, &|out| write_nack(out, Ssrc(1), Ssrc(2), [1, 100])),
    ];
    for (needed, write) in writers {
        for len in 0..needed {
            assert_eq!(write(&mut vec![0; len]), None, "{len} of {needed}");
        }
        assert_eq!(write(&mut vec![0; needed]), Some(needed));
    }
}

/// Walks everything a compound can be asked for, and counts it.
fn walk(compound: &[u8]) -> usize {
    reports(compound)
        .map(|report| match report {
            Report::SenderReport(report) => report.blocks.iter().count(),
            Report::ReceiverReport(report) => report.blocks.iter().count(),
            Report::Sdes(sdes) => sdes.items().count(),
            Report::Bye(bye) => bye.ssrcs().count(),
            Report::Nack(nack) => nack.lost().count(),
            Report::Fir(fir) => fir.requests().count(),
            Report::Remb(remb) => remb.ssrcs().count(),
            Report::Pli(_) | Report::TransportCc(_) | Report::Other { .. } => 1,
        })
        .sum()
}

#[test]
fn datagrams_of_every_length_are_walked_in_bounded_steps() {
    let mut seed = 1u32;
    for len in 0..=1_500 {
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        })
        .take(len)
        .collect();
        for bytes in [vec![0; len], vec![0xFF; len], noise] {
            assert!(walk(&bytes) <= 17 * len);
        }
    }
}

fn report_block() -> impl Strategy<Value = ReportBlock> {
    (any::<[u32; 5]>(), any::<u8>(), -0x80_0000..0x80_0000i32).prop_map(
        |([ssrc, highest_seq, jitter, last_sr, delay_since_sr], fraction_lost, lost)| ReportBlock {
            ssrc: Ssrc(ssrc),
            fraction_lost,
            lost,
            highest_seq,
            jitter,
            last_sr,
            delay_since_sr,
        },
    )
}

proptest! {
    #[test]
    fn written_reports_are_read_back(
        ssrc: u32, ntp: u64, [rtp_timestamp, packets, octets]: [u32; 3],
        blocks in proptest::collection::vec(report_block(), 0..=BLOCKS_MAX),
    ) {
        let bytes: Vec<_> = blocks.iter().map(ReportBlock::to_bytes).collect();
        let sender = SenderReport {
            ssrc: Ssrc(ssrc), ntp, rtp_timestamp, packets, octets, blocks: Blocks(&bytes),
        };
        let receiver = ReceiverReport { ssrc: Ssrc(ssrc), blocks: Blocks(&bytes) };
        let mut out = [0; 2_048];
        let first = sender.write(&mut out).unwrap();
        let second = receiver.write(&mut out[first..]).unwrap();
        let all: Vec<_> = reports(&out[..first + second]).collect();
        let expected = [Report::SenderReport(sender), Report::ReceiverReport(receiver)];
        prop_assert_eq!(&all[..], &expected);
        prop_assert!(receiver.blocks.iter().eq(blocks));
    }

    #[test]
    fn hostile_compounds_are_walked_in_bounded_steps(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        types in proptest::collection::vec((0u8..64, 198u8..208, 0u8..12), 1..8),
    ) {
        prop_assert!(walk(&bytes) <= 17 * bytes.len());
        // Plausible headers over hostile bodies.
        let mut compound = Vec::new();
        for (first, packet_type, words) in types {
            compound.extend([0x80 | first, packet_type, 0, words]);
            let padded = bytes.iter().copied().chain(std::iter::repeat(0));
            compound.extend(padded.take(4 * usize::from(words)));
        }
        prop_assert!(walk(&compound) <= 17 * compound.len());
    }
}

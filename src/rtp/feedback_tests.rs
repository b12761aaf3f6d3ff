//! Tests of feedback reports, read through the compound they come in.

use proptest::prelude::*;

use super::*;
use crate::rtp::{
    rtcp::{Report, reports},
    vectors::{hex, load, unhex},
};

fn last(compound: &[u8]) -> Report<'_> {
    reports(compound).last().unwrap()
}

fn vector(name: &str) -> Vec<u8> {
    let vectors = load("rtcp_transport.json");
    let vectors = vectors["vectors"].as_array().unwrap();
    hex(&vectors.iter().find(|vector| vector["name"] == name).unwrap()["plain_packet"])
}

#[test]
fn the_pli_vector_is_read_and_written_alike() {
    let bytes = vector("rr_plus_pli");
    let pli = Pli { sender: Ssrc(123_456), media: Ssrc(654_321) };
    assert_eq!(last(&bytes), Report::Pli(pli));
    let mut out = [0xEE; 12];
    assert_eq!(write_pli(&mut out, pli.sender, pli.media), Some(12));
    assert_eq!(out, bytes[8..]);
}

#[test]
fn the_nack_vector_is_read_and_written_alike() {
    let bytes = vector("rr_plus_nack");
    let Report::Nack(nack) = last(&bytes) else { panic!("{bytes:02x?}") };
    assert_eq!((nack.sender, nack.media), (Ssrc(123_456), Ssrc(654_321)));
    assert_eq!(nack.lost().collect::<Vec<_>>(), [1_000, 1_001, 1_003]);
    let mut out = [0xEE; 16];
    assert_eq!(write_nack(&mut out, nack.sender, nack.media, nack.lost()), Some(16));
    assert_eq!(out, bytes[8..]);
}

#[test]
fn a_nack_of_nothing_is_not_written() {
    assert_eq!(write_nack(&mut [0; 64], Ssrc(1), Ssrc(2), []), None);
}

#[test]
fn one_entry_holds_seventeen_losses_and_wraps() {
    let mut out = [0; 64];
    let lost: Vec<u16> = (0..17).map(|step| 65_530u16.wrapping_add(step)).collect();
    let len = write_nack(&mut out, Ssrc(1), Ssrc(2), lost.iter().copied()).unwrap();
    assert_eq!(len, 16);
    let Report::Nack(nack) = last(&out[..len]) else { panic!() };
    assert_eq!(nack.lost().collect::<Vec<_>>(), lost);
}

#[test]
fn an_intra_request_lists_its_sources() {
    let bytes = unhex("84ce000600000001000000000000000a05000000ffffffffff000000");
    let Report::Fir(fir) = last(&bytes) else { panic!() };
    assert_eq!(fir.sender, Ssrc(1));
    assert_eq!(fir.requests().collect::<Vec<_>>(), [(Ssrc(10), 5), (Ssrc(u32::MAX), 255)]);
}

#[test]
fn transport_feedback_is_read_up_to_its_chunks() {
    let bytes = unhex("8fcd00050000000100000002fffe0004fffffe2a2001040404000000");
    let report = last(&bytes);
    assert_eq!(
        report,
        Report::TransportCc(TransportCc {
            sender: Ssrc(1),
            media: Ssrc(2),
            base_seq: 0xFFFE,
            status_count: 4,
            reference_time: -2,
            feedback_count: 42,
            chunks: &unhex("2001040404000000")[..4],
        })
    );
}

#[test]
fn a_bit_rate_estimate_is_read_and_saturates() {
    let bytes = unhex("8fce0005000000010000000052454d420107a1200000000a");
    let Report::Remb(remb) = last(&bytes) else { panic!() };
    assert_eq!((remb.sender, remb.bit_rate), (Ssrc(1), 2 * 0x3A120));
    assert_eq!(remb.ssrcs().collect::<Vec<_>>(), [Ssrc(10)]);
    let bytes = unhex("8fce0004000000010000000052454d4200ffffff");
    assert!(matches!(last(&bytes), Report::Remb(remb) if remb.bit_rate == u64::MAX));
    let more_sources_than_bytes = unhex("8fce0004000000010000000052454d420100ffff");
    assert_eq!(last(&more_sources_than_bytes), Report::Other { packet_type: 206, count: 15 });
}

proptest! {
    #[test]
    fn written_losses_are_read_back(
        start: u16, gaps in proptest::collection::vec(1u16..60, 1..100),
    ) {
        let lost: Vec<u16> = gaps
            .iter()
            .scan(start, |seq, gap| { *seq = seq.wrapping_add(*gap); Some(*seq) })
            .collect();
        let mut out = [0; 512];
        let len = write_nack(&mut out, Ssrc(1), Ssrc(2), lost.iter().copied()).unwrap();
        let Report::Nack(nack) = last(&out[..len]) else { panic!() };
        prop_assert_eq!(nack.lost().collect::<Vec<_>>(), lost);
    }
}

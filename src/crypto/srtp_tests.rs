//! Tests of SRTP and SRTCP against libsrtp's packets, bit flips, replays and hostile datagrams.
//! Another implementation as the oracle is in `srtp_oracle_tests.rs`.

use proptest::prelude::*;

use super::*;
use crate::{
    limits::DATAGRAM_BYTES_MAX,
    rtp::vectors::{hex, load},
};

/// Material whose every byte differs, so that no half can be taken for another.
fn material(profile: Profile) -> Vec<u8> {
    (0..profile.material_len()).map(|at| at as u8 ^ 0x5A).collect()
}

/// Both ends of one handshake.
fn pair(profile: Profile) -> (Srtp, Srtp) {
    let end = |role| Srtp::new(profile, &material(profile), role).unwrap();
    (end(Role::Server), end(Role::Client))
}

/// RTP with two CSRCs and an extension of two words before its payload.
fn rtp(seq: u16) -> Vec<u8> {
    let mut packet = vec![0x92, 111, 0, 0, 0, 0, 0, 9, 0xCA, 0xFE, 0xBA, 0xBE];
    packet[2..4].copy_from_slice(&seq.to_be_bytes());
    packet.extend([1; 8]);
    packet.extend([0xBE, 0xDE, 0, 2, 0x10, 0x7F, 0x22, 1, 2, 3, 0, 0]);
    packet.extend(b"payload");
    packet
}

/// Length of `rtp`'s clear header.
const RTP_CLEAR: usize = 32;

/// A receiver report without blocks, and a PLI.
const RTCP: [u8; 20] =
    [0x80, 201, 0, 1, 0, 0, 0, 7, 0x81, 206, 0, 2, 0, 0, 0, 7, 0xCA, 0xFE, 0xBA, 0xBE];

fn sealed(srtp: &Srtp, plain: &[u8], roc: u32) -> Vec<u8> {
    let mut buffer = plain.to_vec();
    buffer.resize(plain.len() + srtp.profile().overhead(), 0xEE);
    assert_eq!(srtp.seal(&mut buffer, plain.len(), roc), Some(buffer.len()));
    buffer
}

fn sealed_rtcp(srtp: &mut Srtp, plain: &[u8]) -> Vec<u8> {
    let mut buffer = plain.to_vec();
    buffer.resize(plain.len() + srtp.profile().rtcp_overhead(), 0xEE);
    assert_eq!(srtp.seal_rtcp(&mut buffer, plain.len()), Some(buffer.len()));
    buffer
}

fn open(srtp: &Srtp, packet: &[u8], roc: u32) -> Result<Vec<u8>, DropReason> {
    let mut datagram = packet.to_vec();
    srtp.open(&mut datagram, roc).map(|range| datagram[range].to_vec())
}

fn open_rtcp(srtp: &mut Srtp, packet: &[u8]) -> Result<Vec<u8>, DropReason> {
    let mut datagram = packet.to_vec();
    srtp.open_rtcp(&mut datagram).map(|range| datagram[range].to_vec())
}

#[test]
fn packets_of_libsrtp_are_reproduced_and_opened() {
    let file = load("srtp.json");
    let vectors = file["packets"].as_array().unwrap();
    assert_eq!(vectors.len(), 2);
    for vector in vectors {
        let profile = Profile::from_id(vector["profile"].as_u64().unwrap() as u16).unwrap();
        let (key, salt) = (hex(&vector["master_key"]), hex(&vector["master_salt"]));
        // Both directions alike, so that one value seals and opens.
        let material = [&key[..], &key, &salt, &salt].concat();
        let mut srtp = Srtp::new(profile, &material, Role::Server).unwrap();
        let (plain, packet) = (hex(&vector["rtp_plain"]), hex(&vector["rtp_sealed"]));
        assert_eq!(sealed(&srtp, &plain, 0), packet, "{profile:?}");
        assert_eq!(open(&srtp, &packet, 0), Ok(plain), "{profile:?}");
        let (plain, packet) = (hex(&vector["rtcp_plain"]), hex(&vector["rtcp_sealed"]));
        srtp.rest.next_index = 1;
        assert_eq!(sealed_rtcp(&mut srtp, &plain), packet, "{profile:?}");
        assert_eq!(open_rtcp(&mut srtp, &packet), Ok(plain), "{profile:?}");
    }
}

#[test]
fn each_end_opens_what_the_other_seals_and_not_its_own() {
    for profile in Profile::PREFERRED {
        let (mut server, mut client) = pair(profile);
        for roc in [0, 1, u32::MAX] {
            let packet = sealed(&server, &rtp(7), roc);
            assert_eq!(open(&client, &packet, roc), Ok(rtp(7)));
            assert_eq!(open(&server, &packet, roc), Err(DropReason::BadTag));
            let packet = sealed(&client, &rtp(7), roc);
            assert_eq!(open(&server, &packet, roc), Ok(rtp(7)));
        }
        let packet = sealed_rtcp(&mut server, &RTCP);
        assert_eq!(open_rtcp(&mut client, &packet), Ok(RTCP.to_vec()));
        assert_eq!(open_rtcp(&mut server, &packet), Err(DropReason::BadTag));
        let packet = sealed_rtcp(&mut client, &RTCP);
        assert_eq!(open_rtcp(&mut server, &packet), Ok(RTCP.to_vec()));
    }
}

#[test]
fn material_of_another_length_is_refused() {
    for profile in Profile::PREFERRED {
        let material = material(profile);
        for length in 0..material.len() {
            assert!(Srtp::new(profile, &material[..length], Role::Server).is_none());
        }
        let longer = [&material[..], &[0]].concat();
        assert!(Srtp::new(profile, &longer, Role::Server).is_none());
    }
}

#[test]
fn header_csrcs_and_extension_stay_clear_and_nothing_else_does() {
    for profile in Profile::PREFERRED {
        let (server, _) = pair(profile);
        let (plain, packet) = (rtp(1), sealed(&server, &rtp(1), 0));
        assert_eq!(packet[..RTP_CLEAR], plain[..RTP_CLEAR]);
        assert_ne!(packet[RTP_CLEAR..plain.len()], plain[RTP_CLEAR..]);
        assert_eq!(packet.len(), plain.len() + profile.overhead());
    }
}

#[test]
fn another_rollover_count_does_not_open() {
    for profile in Profile::PREFERRED {
        let (server, client) = pair(profile);
        let packet = sealed(&server, &rtp(0xFFFF), 1);
        for roc in [0, 2, 1 << 16, 1 << 24, u32::MAX] {
            assert_eq!(open(&client, &packet, roc), Err(DropReason::BadTag));
        }
        assert_eq!(open(&client, &packet, 1), Ok(rtp(0xFFFF)));
    }
}

#[test]
fn a_flipped_bit_never_opens() {
    for profile in Profile::PREFERRED {
        let (mut server, mut client) = pair(profile);
        let (packet, report) = (sealed(&server, &rtp(3), 0), sealed_rtcp(&mut server, &RTCP));
        for bit in 0..packet.len() * 8 {
            let mut flipped = packet.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&client, &flipped, 0).is_err(), "{profile:?} RTP {bit}");
        }
        for bit in 0..report.len() * 8 {
            let mut flipped = report.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open_rtcp(&mut client, &flipped).is_err(), "{profile:?} RTCP {bit}");
        }
        assert!(open(&client, &packet, 0).is_ok());
        assert!(open_rtcp(&mut client, &report).is_ok(), "forgeries moved the window");
    }
}

#[test]
fn a_shortened_packet_never_opens() {
    for profile in Profile::PREFERRED {
        let (mut server, mut client) = pair(profile);
        let (packet, report) = (sealed(&server, &rtp(3), 0), sealed_rtcp(&mut server, &RTCP));
        for length in 0..packet.len() {
            assert!(open(&client, &packet[..length], 0).is_err());
        }
        for length in 0..report.len() {
            assert!(open_rtcp(&mut client, &report[..length]).is_err());
        }
    }
}

#[test]
fn an_extension_longer_than_the_packet_is_malformed() {
    for profile in Profile::PREFERRED {
        let (server, client) = pair(profile);
        let (words_at, words) = (RTP_CLEAR - 9, (rtp(3).len() - RTP_CLEAR) / 4 + 2);
        let mut plain = rtp(3);
        let mut packet = sealed(&server, &plain, 0);
        // One word longer than it is reaches into the payload, and is authenticated.
        packet[words_at] = 3;
        assert_eq!(open(&client, &packet, 0), Err(DropReason::BadTag));
        // Beyond the plain packet, if not beyond the sealed one.
        packet[words_at] = words as u8 + 1;
        assert_eq!(open(&client, &packet, 0), Err(DropReason::Malformed));
        packet[words_at - 1..=words_at].fill(0xFF);
        assert_eq!(open(&client, &packet, 0), Err(DropReason::Malformed));
        plain[words_at] = words as u8 + 1;
        plain.resize(DATAGRAM_BYTES_MAX, 0);
        assert_eq!(server.seal(&mut plain, rtp(3).len(), 0), None);
    }
}

#[test]
fn a_packet_of_nothing_but_header_is_sealed_and_opened() {
    for profile in Profile::PREFERRED {
        let (mut server, mut client) = pair(profile);
        let packet = sealed(&server, &rtp(3)[..RTP_CLEAR], 0);
        assert_eq!(open(&client, &packet, 0), Ok(rtp(3)[..RTP_CLEAR].to_vec()));
        let report = sealed_rtcp(&mut server, &RTCP[..8]);
        assert_eq!(open_rtcp(&mut client, &report), Ok(RTCP[..8].to_vec()));
    }
}

#[test]
fn what_is_not_version_2_is_malformed() {
    for profile in Profile::PREFERRED {
        let (mut server, mut client) = pair(profile);
        for first in [0x00, 0x40, 0xC0] {
            let mut buffer = [first; 100];
            assert_eq!(server.seal(&mut buffer, 50, 0), None);
            assert_eq!(server.seal_rtcp(&mut buffer, 50), None);
            assert_eq!(client.open(&mut buffer, 0), Err(DropReason::Malformed));
            assert_eq!(client.open_rtcp(&mut buffer), Err(DropReason::Malformed));
        }
    }
}

#[test]
fn a_buffer_without_room_is_refused_and_costs_no_index() {
    for profile in Profile::PREFERRED {
        let (mut server, mut client) = pair(profile);
        let mut buffer = rtp(1);
        let plain_len = buffer.len();
        buffer.resize(plain_len + profile.overhead() - 1, 0);
        assert_eq!(server.seal(&mut buffer, plain_len, 0), None);
        assert_eq!(server.seal(&mut buffer, usize::MAX, 0), None);
        let mut report = RTCP.to_vec();
        report.resize(RTCP.len() + profile.rtcp_overhead() - 1, 0);
        assert_eq!(server.seal_rtcp(&mut report, RTCP.len()), None);
        assert_eq!(server.seal_rtcp(&mut report, usize::MAX), None);
        assert_eq!(server.seal_rtcp(&mut report, 7), None);
        assert_eq!(server.rest.next_index, 0);
        assert!(open_rtcp(&mut client, &sealed_rtcp(&mut server, &RTCP)).is_ok());
    }
}

#[test]
fn rtcp_is_opened_once_in_any_order() {
    for profile in Profile::PREFERRED {
        let (mut server, mut client) = pair(profile);
        let reports: Vec<_> = (0..70).map(|_| sealed_rtcp(&mut server, &RTCP)).collect();
        let expected = [
            (1, Ok(())),
            (0, Ok(())),
            (69, Ok(())),
            (69, Err(DropReason::Replayed)),
            (5, Err(DropReason::TooOld)),
            (6, Ok(())),
            (6, Err(DropReason::Replayed)),
            (68, Ok(())),
        ];
        for (at, expected) in expected {
            assert_eq!(open_rtcp(&mut client, &reports[at]).map(drop), expected, "{at}");
        }
    }
}

#[test]
fn a_forgery_does_not_move_the_window() {
    for profile in Profile::PREFERRED {
        let (mut server, mut client) = pair(profile);
        let report = sealed_rtcp(&mut server, &RTCP);
        let mut forged = report.clone();
        let word = profile.rtcp_word(RTCP.len());
        forged[word].copy_from_slice(&[0xFF; 4]);
        assert_eq!(open_rtcp(&mut client, &forged), Err(DropReason::BadTag));
        assert_eq!(open_rtcp(&mut client, &report), Ok(RTCP.to_vec()));
    }
}

/// RFC 7714 §17.3's packet is well authenticated; it is not taken all the same.
#[test]
fn rtcp_in_the_clear_is_refused() {
    for profile in Profile::PREFERRED {
        let (mut server, mut client) = pair(profile);
        let mut report = sealed_rtcp(&mut server, &RTCP);
        let word = profile.rtcp_word(RTCP.len());
        report[word.start] &= 0x7F;
        assert_eq!(open_rtcp(&mut client, &report), Err(DropReason::Malformed));
    }
}

#[test]
fn an_exhausted_key_seals_no_more_rtcp() {
    for profile in Profile::PREFERRED {
        let (mut server, mut client) = pair(profile);
        server.rest.next_index = INDEX_MAX;
        let last = sealed_rtcp(&mut server, &RTCP);
        assert_eq!(open_rtcp(&mut client, &last), Ok(RTCP.to_vec()));
        for _ in 0..2 {
            assert_eq!(server.seal_rtcp(&mut [0x80; 100], 50), None);
        }
    }
}

#[test]
fn keys_are_not_printed() {
    let (server, _) = pair(Profile::AeadAes128Gcm);
    assert_eq!(format!("{server:?}"), "Srtp { profile: AeadAes128Gcm, .. }");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_datagram_is_answered(
        mut datagram in proptest::collection::vec(any::<u8>(), 0..200),
        roc: u32,
        version_2: bool,
    ) {
        if let Some(first) = datagram.first_mut().filter(|_| version_2) {
            *first = 0x80 | *first & 0x3F;
        }
        for profile in Profile::PREFERRED {
            let (mut server, _) = pair(profile);
            prop_assert!(server.open(&mut datagram.clone(), roc).is_err());
            prop_assert!(server.open_rtcp(&mut datagram.clone()).is_err());
            let _ = server.seal(&mut datagram.clone(), datagram.len() / 2, roc);
            let _ = server.seal_rtcp(&mut datagram.clone(), datagram.len() / 2);
        }
    }
}

//! What is decided before the library sees a datagram, and what is written without it. Handshakes
//! are in `tests/dtls`, where others' clients are.

use proptest::{collection::vec, prelude::*};

use super::*;

fn record(kind: u8, epoch: u8, sequence: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    let header = [kind, 254, 253, 0, epoch, 0, 0, 0, 0, 0, sequence, length[0], length[1]];
    [&header[..], body].concat()
}

#[test]
fn whole_records_of_known_kinds_pass() {
    for kind in 20..=23 {
        assert_eq!(check_records(&record(kind, 0, 0, &[1])), Ok(()));
    }
    let first = [&[22, 254, 255][..], &record(22, 0, 0, &[1; 40])[3..]].concat();
    assert_eq!(check_records(&first), Ok(()), "a first hello may say version 1.0");
    let most = record(22, 0, 0, &[1; 20]).repeat(DTLS_RECORDS_MAX);
    assert_eq!(check_records(&most), Ok(()));
}

#[test]
fn what_is_no_record_is_malformed() {
    let whole = record(22, 0, 0, &[1; 20]);
    let most = whole.repeat(DTLS_RECORDS_MAX);
    let cases: &[(&str, Vec<u8>)] = &[
        ("nothing", Vec::new()),
        ("no content", record(22, 0, 0, &[])),
        ("an unknown type", record(24, 0, 0, &[1])),
        ("a DTLS 1.3 record", [&[0x2C][..], &whole[1..]].concat()),
        ("TLS", [&[22, 3, 3][..], &whole[3..]].concat()),
        ("something after it", [&whole[..], &[0]].concat()),
        ("one record too many", [&most[..], &whole].concat()),
    ];
    for (what, datagram) in cases {
        assert_eq!(check_records(datagram), Err(DropReason::Malformed), "{what}");
    }
    for len in 0..whole.len() {
        assert_eq!(check_records(&whole[..len]), Err(DropReason::Malformed), "{len} bytes");
        let second = [&whole[..], &whole[..len]].concat();
        assert_eq!(check_records(&second).is_ok(), len == 0, "{len} bytes of a second");
    }
}

#[test]
fn a_datagram_longer_than_ours_may_be_is_oversize() {
    let longest = record(22, 0, 0, &[0; DATAGRAM_BYTES_MAX - HEADER_BYTES]);
    assert_eq!(check_records(&longest), Ok(()));
    let longer = record(22, 0, 0, &[0; DATAGRAM_BYTES_MAX - HEADER_BYTES + 1]);
    assert_eq!(check_records(&longer), Err(DropReason::Oversize));
}

#[test]
fn an_alert_continues_the_unprotected_records_before_it() {
    let sent = [record(22, 0, 6, &[2; 30]), record(20, 0, 7, &[1]), record(22, 1, 200, &[9; 40])];
    let sequence = next_sequence(&sent.concat());
    assert_eq!(sequence, 8, "records of the next epoch count on their own");
    assert_eq!(fatal_alert(sequence, 42).as_slice(), record(21, 0, 8, &[2, 42]));
    assert_eq!(next_sequence(&record(22, 1, 200, &[9; 40])), 0);
}

#[test]
fn events_do_not_print_keys() {
    let material = Zeroizing::new(vec![0x5A; 56]);
    let event = DtlsEvent::Connected { profile: ProfileId::AEAD_AES_128_GCM, material };
    assert_eq!(format!("{event:?}"), "Connected { profile: ProfileId(7), .. }");
}

proptest! {
    #[test]
    fn no_bytes_make_a_waiting_server_panic(
        datagrams in vec(vec(any::<u8>(), 0..200), 0..8),
    ) {
        let now = Instant::now();
        let mut dtls = Dtls::new(&Identity::generate().unwrap(), Vec::new(), now);
        for datagram in datagrams {
            let _ = dtls.handle(now, &datagram);
        }
        prop_assert!(!dtls.connected);
    }

    #[test]
    fn records_are_the_datagram_cut_up(
        bodies in vec(vec(any::<u8>(), 0..50), 1..6),
        cut in 1_usize..13,
    ) {
        let made: Vec<_> = bodies.iter().map(|body| record(22, 0, 0, body)).collect();
        let datagram = made.concat();
        let found: Vec<_> = records(&datagram).map(|it| it.unwrap().to_vec()).collect();
        prop_assert_eq!(&found, &made);
        let found: Vec<_> = records(&datagram[..datagram.len() - cut]).collect();
        prop_assert!(found.last().unwrap().is_none());
    }
}

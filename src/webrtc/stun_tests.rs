//! Tests of STUN messages, by RFC 5769 and against themselves.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::rtp::vectors::{hex, load, unhex};

const TRANSACTION: Transaction = Transaction(*b"twelve bytes");

fn vectors() -> (Value, Key) {
    let vectors = load("stun.json");
    let key = Key::new(vectors["password"].as_str().unwrap());
    (vectors, key)
}

/// A check as a browser sends it.
fn check(key: &Key) -> Vec<u8> {
    let mut out = [0; 256];
    let len = Writer::new(&mut out, Class::Request, BINDING, TRANSACTION)
        .username("their", "mine")
        .push(0xC057, &[0, 1, 0, 10])
        .role(Role::Controlling(0x0102_0304_0506_0708))
        .use_candidate()
        .priority(1_853_824_767)
        .finish(key)
        .unwrap();
    out[..len].to_vec()
}

/// `message` with an attribute more, before its integrity or behind it, and nothing else mended.
fn with_attribute(message: &[u8], at: usize, kind: u16, value: &[u8]) -> Vec<u8> {
    let head = [kind.to_be_bytes(), (value.len() as u16).to_be_bytes()].concat();
    let mut longer = [&message[..at], &head, value, &message[at..]].concat();
    let len = (longer.len() - HEADER_BYTES) as u16;
    longer[2..4].copy_from_slice(&len.to_be_bytes());
    longer
}

#[test]
fn rfc_5769_sample_request_is_read_and_verified() {
    let (vectors, key) = vectors();
    let bytes = hex(&vectors["request"]);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.class(), message.method()), (Class::Request, BINDING));
    assert_eq!(message.transaction().0[..], hex(&vectors["transaction"])[..]);
    assert_eq!(message.username(), Some((&b"evtj"[..], &b"h6vY"[..])));
    assert_eq!(message.priority(), Some(0x6E00_01FF));
    assert_eq!(message.role(), Some(Role::Controlled(0x932F_F9B1_5126_3B36)));
    assert!(!message.use_candidate());
    assert!(message.unknown_attributes().is_empty());
    assert!(message.has_fingerprint());
    assert!(message.is_authentic(&key));
    assert!(!message.is_authentic(&Key::new("VOkJxbRl1RmTxUk/WvJxBT")));
}

#[test]
fn rfc_5769_sample_responses_are_read_and_verified() {
    let (vectors, key) = vectors();
    for family in ["ipv4", "ipv6"] {
        let bytes = hex(&vectors[format!("{family}_response")]);
        let message = Message::parse(&bytes).unwrap();
        let address = vectors[format!("{family}_address")].as_str().unwrap();
        assert_eq!((message.class(), message.method()), (Class::Success, BINDING));
        assert_eq!(message.mapped_address(), Some(address.parse().unwrap()));
        assert!(message.has_fingerprint() && message.is_authentic(&key));
    }
}

#[test]
fn rfc_5769_long_term_request_has_attributes_that_ice_does_not_know() {
    let (vectors, key) = vectors();
    let bytes = hex(&vectors["long_term_request"]);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.unknown_attributes(), [0x0015, 0x0014]);
    assert_eq!(message.username(), None, "no colon");
    assert!(!message.has_fingerprint() && !message.is_authentic(&key));
}

#[test]
fn what_was_written_is_read_back() {
    let (_, key) = vectors();
    let bytes = check(&key);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.class(), message.method()), (Class::Request, BINDING));
    assert_eq!(message.transaction(), TRANSACTION);
    assert_eq!(message.username(), Some((&b"their"[..], &b"mine"[..])));
    assert_eq!(message.role(), Some(Role::Controlling(0x0102_0304_0506_0708)));
    assert_eq!(message.priority(), Some(1_853_824_767));
    assert!(message.use_candidate() && message.has_fingerprint() && message.is_authentic(&key));
    assert!(message.unknown_attributes().is_empty(), "0xC057 is optional");
}

#[test]
fn errors_are_written_with_what_was_not_understood() {
    let (_, key) = vectors();
    let mut out = [0; 128];
    let len = Writer::new(&mut out, Class::Error, BINDING, TRANSACTION)
        .error_code(420)
        .unknown_attributes(&[0x0002, 0x7FFF, 0x0014])
        .finish(&key)
        .unwrap();
    let message = Message::parse(&out[..len]).unwrap();
    assert_eq!((message.class(), message.error_code()), (Class::Error, Some(420)));
    assert_eq!(out[20..28], [0, 9, 0, 4, 0, 0, 4, 20]);
    assert_eq!(out[28..40], [0, 10, 0, 6, 0, 2, 0x7F, 0xFF, 0, 0x14, 0, 0]);
    assert!(message.has_fingerprint() && message.is_authentic(&key));
}

#[test]
fn every_class_and_method_comes_back() {
    let (_, key) = vectors();
    for class in [Class::Request, Class::Indication, Class::Success, Class::Error] {
        for method in 0..0x100 {
            let mut out = [0; 64];
            let len = Writer::new(&mut out, class, method, TRANSACTION).finish(&key).unwrap();
            let message = Message::parse(&out[..len]).unwrap();
            assert_eq!((message.class(), message.method()), (class, method));
        }
    }
}

#[test]
fn any_flipped_bit_is_refused() {
    let (_, key) = vectors();
    let bytes = check(&key);
    let integrity = bytes.len() - 8 - 24;
    for bit in 0..8 * bytes.len() {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let Some(message) = Message::parse(&flipped) else { continue };
        assert!(!message.has_fingerprint(), "bit {bit}");
        if bit / 8 < integrity + 24 {
            // Were the checksum mended, the signature would not be.
            assert!(!message.is_authentic(&key), "bit {bit}");
        }
    }
}

#[test]
fn what_is_not_signed_is_not_read() {
    let (_, key) = vectors();
    let mut out = [0; 128];
    let len = Writer::new(&mut out, Class::Request, BINDING, TRANSACTION)
        .username("their", "mine")
        .finish(&key)
        .unwrap();
    let signed = len - 8;
    for (kind, value) in [
        (attribute::USE_CANDIDATE, &[][..]),
        (attribute::PRIORITY, &[1, 2, 3, 4]),
        (attribute::ICE_CONTROLLED, &[0; 8]),
        (attribute::USERNAME, b"mine:more"),
        (0x0002, b"unknown"),
    ] {
        let padded = [value, &[0; 3][..value.len().next_multiple_of(4) - value.len()]].concat();
        let behind = with_attribute(&out[..len], signed, kind, &padded);
        let message = Message::parse(&behind).unwrap();
        assert!(message.is_authentic(&key), "{kind:04x} is not covered");
        assert!(!message.use_candidate());
        assert_eq!((message.priority(), message.role()), (None, None));
        assert_eq!(message.username(), Some((&b"their"[..], &b"mine"[..])));
        assert!(message.unknown_attributes().is_empty());

        let before = with_attribute(&out[..len], HEADER_BYTES, kind, &padded);
        assert!(!Message::parse(&before).unwrap().is_authentic(&key), "{kind:04x} is covered");
    }
}

#[test]
fn of_several_attributes_of_one_type_the_first_counts() {
    let (_, key) = vectors();
    let mut out = [0; 128];
    let len = Writer::new(&mut out, Class::Request, BINDING, TRANSACTION)
        .username("a", "b")
        .username("c", "d")
        .priority(1)
        .priority(2)
        .role(Role::Controlling(1))
        .role(Role::Controlled(2))
        .finish(&key)
        .unwrap();
    let message = Message::parse(&out[..len]).unwrap();
    assert_eq!(message.username(), Some((&b"a"[..], &b"b"[..])));
    assert_eq!((message.priority(), message.role()), (Some(1), Some(Role::Controlling(1))));
}

#[test]
fn a_shape_that_is_no_message_is_none() {
    let (_, key) = vectors();
    let bytes = check(&key);
    for len in 0..bytes.len() {
        assert!(Message::parse(&bytes[..len]).is_none(), "cut to {len}");
    }
    for first in 4..=255 {
        let mut other = bytes.clone();
        other[0] = first;
        assert!(Message::parse(&other).is_none(), "{first} begins DTLS, RTP or nothing");
    }
    let longer = [&bytes[..], &[0; 4]].concat();
    assert!(Message::parse(&longer).is_none(), "more than its header says");
    let end = bytes.len();
    assert!(Message::parse(&with_attribute(&bytes, end, 0x8022, b"soft")).is_none(), "not last");
    for (kind, value) in [
        (attribute::PRIORITY, &[0; 8][..]),
        (attribute::ICE_CONTROLLING, &[0; 4]),
        (attribute::ICE_CONTROLLED, &[0; 12]),
        (attribute::MESSAGE_INTEGRITY, &[0; 24]),
        (attribute::FINGERPRINT, &[0; 8]),
        (attribute::ERROR_CODE, &[]),
        (attribute::XOR_MAPPED_ADDRESS, &[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (attribute::XOR_MAPPED_ADDRESS, &[0, 2, 0, 0, 0, 0, 0, 0]),
        (attribute::XOR_MAPPED_ADDRESS, &[0, 3, 0, 0, 0, 0, 0, 0]),
    ] {
        let wrong = with_attribute(&bytes, HEADER_BYTES, kind, value);
        assert!(Message::parse(&wrong).is_none(), "{kind:04x} of {} bytes", value.len());
    }
    let mut overrun = unhex("000100082112a442000000000000000000000000");
    overrun.extend([0x80, 0x22, 0, 5, 1, 2, 3, 4]);
    assert!(Message::parse(&overrun).is_none(), "an attribute longer than the message");
}

#[test]
fn so_many_unknown_attributes_are_listed_and_no_more() {
    let (_, key) = vectors();
    let mut out = [0; 256];
    let mut writer = Writer::new(&mut out, Class::Request, BINDING, TRANSACTION);
    for kind in 0x4000..0x4000 + 20 {
        writer.push(kind, &[]);
    }
    let len = writer.finish(&key).unwrap();
    let expected: Vec<u16> = (0x4000..0x4000 + UNKNOWN_MAX as u16).collect();
    assert_eq!(Message::parse(&out[..len]).unwrap().unknown_attributes(), expected);
}

#[test]
fn a_buffer_too_short_is_said_to_be() {
    let (_, key) = vectors();
    let whole = check(&key).len();
    for room in 0..whole {
        let mut out = vec![0; room];
        let len = Writer::new(&mut out, Class::Request, BINDING, TRANSACTION)
            .username("their", "mine")
            .push(0xC057, &[0, 1, 0, 10])
            .role(Role::Controlling(1))
            .use_candidate()
            .priority(1)
            .finish(&key);
        assert_eq!(len, None, "{room}");
    }
    let mut out = vec![0; 100_000];
    let mut writer = Writer::new(&mut out, Class::Request, BINDING, TRANSACTION);
    assert_eq!(writer.push(0x8022, &vec![0; 65_536]).finish(&key), None, "no such length");
    let mut writer = Writer::new(&mut out, Class::Request, BINDING, TRANSACTION);
    writer.push(0x8022, &vec![0; 40_000]).push(0x8022, &vec![0; 40_000]);
    assert_eq!(writer.finish(&key), None, "no such length in all");
}

#[test]
fn a_key_is_not_printed() {
    assert_eq!(format!("{:?}", Key::new("0123456789012345678901")), "Key(…)");
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = bytes;
        if bytes.len() >= HEADER_BYTES {
            // Else hardly any would get past the header.
            bytes[0] &= 3;
            bytes[4..8].copy_from_slice(&COOKIE);
            let len = (bytes.len() - HEADER_BYTES) as u16;
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
        }
        if let Some(message) = Message::parse(&bytes) {
            let _ = (message.class(), message.method(), message.username());
            prop_assert!(!message.is_authentic(&Key::new("0123456789012345678901")));
        }
    }

    #[test]
    fn any_address_comes_back(ip in any::<[u8; 16]>(), port in any::<u16>(), v6 in any::<bool>(),
                              transaction in any::<[u8; 12]>()) {
        let ip = match v6 {
            true => IpAddr::V6(ip.into()),
            false => IpAddr::V4([ip[0], ip[1], ip[2], ip[3]].into()),
        };
        let key = Key::new("0123456789012345678901");
        let mut out = [0; 96];
        let len = Writer::new(&mut out, Class::Success, BINDING, Transaction(transaction))
            .mapped_address(SocketAddr::new(ip, port))
            .finish(&key)
            .unwrap();
        let message = Message::parse(&out[..len]).unwrap();
        prop_assert_eq!(message.mapped_address(), Some(SocketAddr::new(ip, port)));
        prop_assert!(message.has_fingerprint() && message.is_authentic(&key));
    }

    #[test]
    fn any_attribute_is_padded(kind in 0x8000u16..0x8022, value in "[a-z]{0,40}") {
        let key = Key::new("0123456789012345678901");
        let mut out = [0; 192];
        let len = Writer::new(&mut out, Class::Request, BINDING, TRANSACTION)
            .push(kind, value.as_bytes())
            .username(&value, "x")
            .finish(&key)
            .unwrap();
        let message = Message::parse(&out[..len]).unwrap();
        prop_assert_eq!(message.username(), Some((value.as_bytes(), &b"x"[..])));
        prop_assert!(message.has_fingerprint() && message.is_authentic(&key));
    }
}

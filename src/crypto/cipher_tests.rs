//! Tests of every mode against the fixtures, bit flips and hostile datagrams.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{
    limits::DATAGRAM_BYTES_MAX,
    rtp::{
        Packet,
        vectors::{hex, load, unhex},
    },
};

/// A fixture of rtp_transport.json or rtcp_transport.json, and a cipher with its key and nonce.
struct Vector {
    name: String,
    cipher: Cipher,
    suffix: [u8; 4],
    clear: usize,
    plain: Vec<u8>,
    packet: Vec<u8>,
}

fn vectors() -> Vec<Vector> {
    ["rtp_transport.json", "rtcp_transport.json"]
        .into_iter()
        .flat_map(|file| load(file)["vectors"].as_array().unwrap().clone())
        .map(|vector| {
            let mode = Mode::from_name(vector["mode"].as_str().unwrap()).unwrap();
            let sent = hex(&vector["wire_nonce_suffix"]);
            let (suffix, random) = match sent.len() {
                24 => (sent[..4].try_into().unwrap(), sent[4..].try_into().unwrap()),
                4 => (sent[..].try_into().unwrap(), [0xEE; 20]),
                _ => ([0xEE; 4], [0xEE; 20]),
            };
            Vector {
                name: format!("{} {}", mode.name(), vector["name"]),
                cipher: Cipher::new(mode, &key(&vector["key"]), random),
                suffix,
                clear: hex(&vector["clear_header"]).len(),
                plain: hex(&vector["plain_packet"]),
                packet: hex(&vector["packet"]),
            }
        })
        .collect()
}

fn key(text: &Value) -> SecretKey {
    SecretKey::new(hex(text).try_into().unwrap())
}

fn ciphers() -> impl Iterator<Item = Cipher> {
    Mode::ALL.into_iter().map(|mode| Cipher::new(mode, &SecretKey::new([7; 32]), [9; 20]))
}

#[test]
fn seal_reproduces_every_vector_byte_for_byte() {
    assert_eq!(vectors().len(), 63);
    for Vector { name, cipher, suffix, plain, packet, .. } in vectors() {
        let mut buffer = [0xEE; DATAGRAM_BYTES_MAX];
        buffer[..plain.len()].copy_from_slice(&plain);
        assert_eq!(cipher.seal(&mut buffer, plain.len(), suffix), Some(packet.len()), "{name}");
        assert_eq!(buffer[..packet.len()], packet, "{name}");
        assert!(buffer[packet.len()..].iter().all(|&byte| byte == 0xEE), "{name}");
    }
}

#[test]
fn open_returns_every_vector() {
    for Vector { name, cipher, suffix, plain, mut packet, .. } in vectors() {
        let opened = cipher.open(&mut packet).unwrap();
        assert_eq!(packet[opened.range], plain, "{name}");
        let sent = match cipher.mode() {
            Mode::XSalsa20Poly1305 | Mode::XSalsa20Poly1305Suffix => None,
            _ => Some(suffix),
        };
        assert_eq!(opened.suffix, sent, "{name}");
    }
}

#[test]
fn captured_packets_are_opened() {
    for vector in load("captures.json")["vectors"].as_array().unwrap() {
        let mode = Mode::from_name(vector["mode"].as_str().unwrap()).unwrap();
        let mut packet = hex(&vector["packet"]);
        let sent = packet[packet.len() - 4..].to_vec();
        let opened = Cipher::new(mode, &key(&vector["key"]), [0; 20]).open(&mut packet).unwrap();
        assert_eq!(opened.suffix.unwrap(), sent[..]);
        let plain = &packet[opened.range];
        assert_eq!(plain[mode.clear_len(plain).unwrap()..], hex(&vector["plaintext"]));
        assert!(Packet::new(plain).unwrap().payload().is_some());
    }
}

#[test]
fn every_flipped_bit_is_refused_where_the_mode_authenticates_it() {
    for Vector { name, cipher, clear, plain, packet, .. } in vectors() {
        let header_authenticated = !matches!(
            cipher.mode(),
            Mode::XSalsa20Poly1305LiteRtpsize
                | Mode::XSalsa20Poly1305Lite
                | Mode::XSalsa20Poly1305Suffix
        );
        for bit in 0..packet.len() * 8 {
            let mut flipped = packet.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match cipher.open(&mut flipped) {
                Err(reason) => {
                    assert!(matches!(reason, DropReason::BadTag | DropReason::Malformed));
                    let text = &plain[clear..];
                    assert!(
                        text.len() < 8 || !flipped.windows(text.len()).any(|part| part == text),
                        "{name}: plaintext after a refusal, bit {bit}"
                    );
                }
                Ok(opened) => {
                    assert!(bit / 8 < clear && !header_authenticated, "{name}: bit {bit}");
                    assert_eq!(flipped[opened.range][clear..], plain[clear..], "{name}: bit {bit}");
                }
            }
        }
    }
}

#[test]
fn another_key_opens_nothing() {
    for Vector { name, cipher, packet, .. } in vectors() {
        let other = Cipher::new(cipher.mode(), &SecretKey::new([0xEE; 32]), [0; 20]);
        assert_eq!(other.open(&mut packet.clone()), Err(DropReason::BadTag), "{name}");
    }
}

#[test]
fn a_packet_without_room_for_tag_and_nonce_is_malformed() {
    for cipher in ciphers() {
        for (start, clear) in [([0x80, 0x78], 12), ([0x80, 0xC9], 8)] {
            let mut packet = start.to_vec();
            packet.resize(clear + cipher.mode().overhead(), 0);
            assert_eq!(cipher.open(&mut packet.clone()), Err(DropReason::BadTag));
            packet.pop();
            assert_eq!(cipher.open(&mut packet), Err(DropReason::Malformed));
        }
        assert_eq!(cipher.open(&mut [0x40; 100]), Err(DropReason::Malformed), "version 1");
    }
}

#[test]
fn seal_refuses_a_short_buffer_and_a_malformed_header() {
    for cipher in ciphers() {
        let mut buffer = unhex("80780001000003c00001e240f8fffe");
        let plain_len = buffer.len();
        let sealed_len = plain_len + cipher.mode().overhead();
        for len in plain_len..sealed_len {
            buffer.resize(len, 0);
            assert_eq!(cipher.seal(&mut buffer, plain_len, [0; 4]), None);
        }
        assert_eq!(cipher.seal(&mut buffer, usize::MAX, [0; 4]), None);
        buffer.resize(100, 0);
        assert_eq!(cipher.seal(&mut buffer, 11, [0; 4]), None, "shorter than a header");
        let mut version_1 = [0x40; 100];
        assert_eq!(cipher.seal(&mut version_1, 20, [0; 4]), None);
        buffer.resize(sealed_len, 0);
        assert_eq!(cipher.seal(&mut buffer, plain_len, [0; 4]), Some(sealed_len));
    }
}

#[test]
fn what_is_printed_of_a_cipher_is_its_mode() {
    let cipher = Cipher::new(Mode::Aes256Gcm, &SecretKey::new([7; 32]), [9; 20]);
    assert_eq!(format!("{cipher:?}"), "Cipher { mode: Aes256Gcm, .. }");
}

#[test]
fn datagrams_of_every_length_are_refused() {
    let ciphers: Vec<_> = ciphers().collect();
    let mut seed = 1u32;
    for len in 0..=1_500 {
        let noise = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        });
        let noise: Vec<u8> = noise.take(len).collect();
        let mut media = noise.clone();
        for (byte, start) in media.iter_mut().zip([0x9F, 0x78]) {
            *byte = start;
        }
        for datagram in [vec![0; len], vec![0xFF; len], noise, media] {
            for cipher in &ciphers {
                assert!(cipher.open(&mut datagram.clone()).is_err());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_sealed_is_opened(
        rtcp: bool, extended: bool, csrcs in 0u8..16, suffix: [u8; 4],
        body in proptest::collection::vec(any::<u8>(), 76..1_300),
    ) {
        let mut plain = body;
        plain[0] = 0x80 | u8::from(extended) << 4 | csrcs;
        plain[1] = if rtcp { 200 } else { 120 };
        for cipher in ciphers() {
            let mut buffer = [0; DATAGRAM_BYTES_MAX];
            buffer[..plain.len()].copy_from_slice(&plain);
            let len = cipher.seal(&mut buffer, plain.len(), suffix).unwrap();
            prop_assert_eq!(len, plain.len() + cipher.mode().overhead());
            let opened = cipher.open(&mut buffer[..len]).unwrap();
            prop_assert_eq!(&buffer[opened.range], &plain);
        }
    }

    #[test]
    fn hostile_datagrams_are_refused(
        mut datagram in proptest::collection::vec(any::<u8>(), 0..200), media: bool,
    ) {
        if let (true, Some(first)) = (media, datagram.first_mut()) {
            *first = *first & 0x3F | 0x80;
        }
        for cipher in ciphers() {
            prop_assert!(cipher.open(&mut datagram.clone()).is_err());
        }
    }
}

//! What a datagram is, told from its first bytes and its length (protocol.md §2, RFC 7983). Looks
//! at clear bytes only, so it works on sealed datagrams. Called once per datagram by the shard.

/// Shortest DTLS record: its header (RFC 6347 §4.1). Keepalives that count upwards in their first
/// byte are shorter and are none (protocol.md §2.2).
const DTLS_BYTES_MIN: usize = 13;

/// What sort of datagram it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// RTP, encrypted by a native mode or SRTP.
    Rtp,
    /// RTCP, encrypted by a native mode or SRTCP.
    Rtcp,
    /// A STUN message with its magic cookie.
    Stun,
    /// A DTLS record.
    Dtls,
    /// An IP discovery request.
    Discovery,
    /// The official client's keepalive, the only one that is answered.
    Ping,
    /// Anything else: other clients' keepalives, and noise.
    Noise,
}

/// Tells what a datagram is.
///
/// The kinds exclude each other, so the order of the tests is that of frequency. A length that no
/// datagram of its kind can have makes it noise.
#[inline]
pub fn classify(datagram: &[u8]) -> Kind {
    let &[first, second, ..] = datagram else { return Kind::Noise };
    if (128..=191).contains(&first) {
        let rtcp = is_rtcp_type(second);
        return match datagram.len() {
            8.. if rtcp => Kind::Rtcp,
            12.. if !rtcp => Kind::Rtp,
            _ => Kind::Noise,
        };
    }
    classify_control(datagram)
}

/// Whether the second byte of a version 2 packet says RTCP (RFC 5761 §4).
#[inline]
pub fn is_rtcp_type(second: u8) -> bool {
    (192..=223).contains(&second)
}

/// Everything that is no media, kept out of line so that the test for media stays small.
fn classify_control(datagram: &[u8]) -> Kind {
    match (datagram.len(), datagram) {
        (74, [0x00, 0x01, 0x00, 0x46, ..]) => Kind::Discovery,
        (8, [0x13, 0x37, 0xCA, 0xFE, ..]) => Kind::Ping,
        (20.., [0..=3, _, _, _, 0x21, 0x12, 0xA4, 0x42, ..]) => Kind::Stun,
        (DTLS_BYTES_MIN.., [20..=63, ..]) => Kind::Dtls,
        _ => Kind::Noise,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rtp::vectors::{hex, load};

    fn padded(start: &[u8], len: usize) -> Vec<u8> {
        let mut bytes = start.to_vec();
        bytes.resize(len, 0);
        bytes
    }

    /// The table of protocol.md §2, row by row, as an oracle.
    fn by_the_table(datagram: &[u8]) -> Kind {
        let byte = |index: usize| datagram.get(index).copied().unwrap_or(0);
        let len = datagram.len();
        if len == 74 && datagram[..4] == [0, 1, 0, 0x46] {
            Kind::Discovery
        } else if len == 8 && datagram[..4] == [0x13, 0x37, 0xCA, 0xFE] {
            Kind::Ping
        } else if len >= 20 && byte(0) <= 3 && datagram[4..8] == [0x21, 0x12, 0xA4, 0x42] {
            Kind::Stun
        } else if len >= 13 && (20..=63).contains(&byte(0)) {
            Kind::Dtls
        } else if len >= 8 && (128..=191).contains(&byte(0)) && (192..=223).contains(&byte(1)) {
            Kind::Rtcp
        } else if len >= 12 && (128..=191).contains(&byte(0)) && !(192..=223).contains(&byte(1)) {
            Kind::Rtp
        } else {
            Kind::Noise
        }
    }

    #[test]
    fn every_pair_of_first_bytes_at_every_short_length_follows_the_table() {
        for first in 0..=255 {
            for second in 0..=255 {
                for len in [2, 7, 8, 9, 11, 12, 13, 19, 20, 74] {
                    let datagram = padded(&[first, second], len);
                    assert_eq!(classify(&datagram), by_the_table(&datagram), "{datagram:02x?}");
                }
            }
        }
    }

    #[test]
    fn lengths_are_exact() {
        let discovery = [0x00, 0x01, 0x00, 0x46];
        assert_eq!(classify(&padded(&discovery, 74)), Kind::Discovery);
        assert_eq!(classify(&padded(&discovery, 73)), Kind::Noise);
        assert_eq!(classify(&padded(&discovery, 75)), Kind::Noise);
        let ping = [0x13, 0x37, 0xCA, 0xFE];
        assert_eq!(classify(&padded(&ping, 8)), Kind::Ping);
        assert_eq!(classify(&padded(&ping, 7)), Kind::Noise);
        assert_eq!(classify(&padded(&ping, 9)), Kind::Noise);
        let stun = [0x00, 0x01, 0x00, 0x00, 0x21, 0x12, 0xA4, 0x42];
        assert_eq!(classify(&padded(&stun, 20)), Kind::Stun);
        assert_eq!(classify(&padded(&stun, 19)), Kind::Noise);
        assert_eq!(classify(&padded(&[0x80, 0x78], 12)), Kind::Rtp);
        assert_eq!(classify(&padded(&[0x80, 0x78], 11)), Kind::Noise);
        assert_eq!(classify(&padded(&[0x80, 0xC9], 8)), Kind::Rtcp);
        assert_eq!(classify(&padded(&[0x80, 0xC9], 7)), Kind::Noise);
        assert_eq!(classify(&padded(&[0x16, 0xFE], 13)), Kind::Dtls);
        assert_eq!(classify(&padded(&[0x16, 0xFE], 12)), Kind::Noise);
    }

    #[test]
    fn of_all_keepalives_only_the_official_one_is_a_ping() {
        for vector in load("keepalive.json")["vectors"].as_array().unwrap() {
            let bytes = hex(&vector["in"]);
            let expected =
                if vector["client"] == "official_native" { Kind::Ping } else { Kind::Noise };
            assert_eq!(classify(&bytes), expected, "{vector}");
        }
    }

    #[test]
    fn a_counting_keepalive_is_noise_at_every_count_but_those_that_look_like_rtcp() {
        for count in (0..0x2_0000u64).chain([1 << 31, u64::MAX]) {
            let bytes = count.to_le_bytes();
            let looks_like_rtcp =
                (128..=191).contains(&bytes[0]) && (192..=223).contains(&bytes[1]);
            let expected = if looks_like_rtcp { Kind::Rtcp } else { Kind::Noise };
            assert_eq!(classify(&bytes), expected, "{count:x}");
        }
    }

    #[test]
    fn every_media_vector_is_media() {
        for (file, kind) in [
            ("rtp_transport.json", Kind::Rtp),
            ("rtcp_transport.json", Kind::Rtcp),
            ("captures.json", Kind::Rtp),
        ] {
            for vector in load(file)["vectors"].as_array().unwrap() {
                assert_eq!(classify(&hex(&vector["packet"])), kind, "{vector}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_follow_the_table(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(classify(&bytes), by_the_table(&bytes));
        }
    }
}

//! What UDP clients ask before they have a key: IP discovery (protocol.md §2.1) and the official
//! client's keepalive (§2.2). Whether to answer is the shard's decision.

use std::{io::Write, net::SocketAddr};

use crate::id::Ssrc;

/// Length of a discovery request and of its response.
pub const DISCOVERY_BYTES: usize = 74;

/// Type and length of a request, and of a response.
const REQUEST: [u8; 4] = [0x00, 0x01, 0x00, 0x46];
const RESPONSE: [u8; 4] = [0x00, 0x02, 0x00, 0x46];

/// The SSRC of a discovery request, `None` if it is none.
pub fn parse_request(datagram: &[u8]) -> Option<Ssrc> {
    let request: &[u8; DISCOVERY_BYTES] = datagram.try_into().ok()?;
    let (kind, rest) = request.split_first_chunk()?;
    let ssrc = u32::from_be_bytes(*rest.first_chunk()?);
    (*kind == REQUEST).then_some(Ssrc(ssrc))
}

/// Writes the response to a discovery request from `source`. IPv4-mapped IPv6 addresses are printed
/// as plain IPv4.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | type 2, length 70 |
/// | 4 | 4 | SSRC |
/// | 8 | 64 | address as text, padded with NUL |
/// | 72 | 2 | port |
pub fn write_response(ssrc: Ssrc, source: SocketAddr, out: &mut [u8; DISCOVERY_BYTES]) {
    out.fill(0);
    out[..4].copy_from_slice(&RESPONSE);
    out[4..8].copy_from_slice(&ssrc.0.to_be_bytes());
    write!(&mut out[8..72], "{}", source.ip().to_canonical())
        .expect("an address is at most 39 characters");
    out[72..].copy_from_slice(&source.port().to_be_bytes());
}

/// The answer to a keepalive: `13 37 F0 0D` and the keepalive's own last four bytes, for the
/// official client's `13 37 CA FE` alone. Others are confused by an echo (protocol.md §2.2).
pub fn ping_reply(datagram: &[u8]) -> Option<[u8; 8]> {
    match *datagram {
        [0x13, 0x37, 0xCA, 0xFE, a, b, c, d] => Some([0x13, 0x37, 0xF0, 0x0D, a, b, c, d]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtp::vectors::{hex, load};

    #[test]
    fn every_discovery_vector_is_answered_byte_for_byte() {
        for vector in load("ip_discovery.json")["vectors"].as_array().unwrap() {
            let ip = vector["seen_from_ip"].as_str().unwrap().parse().unwrap();
            let port = vector["seen_from_port"].as_u64().unwrap() as u16;
            let ssrc = parse_request(&hex(&vector["request"])).unwrap();
            assert_eq!(u64::from(ssrc.0), vector["ssrc"].as_u64().unwrap());
            let mut response = [0xEE; DISCOVERY_BYTES];
            write_response(ssrc, SocketAddr::new(ip, port), &mut response);
            assert_eq!(response, hex(&vector["response"])[..]);
        }
    }

    #[test]
    fn the_obsolete_short_form_a_response_and_a_cut_request_are_no_requests() {
        let vectors = load("ip_discovery.json");
        assert_eq!(parse_request(&hex(&vectors["obsolete_70_byte"]["request"])), None);
        assert_eq!(parse_request(&hex(&vectors["vectors"][0]["response"])), None);
        let request = hex(&vectors["vectors"][0]["request"]);
        assert!(parse_request(&request).is_some());
        assert_eq!(parse_request(&request[..73]), None);
        assert_eq!(parse_request(&[&request[..], &[0]].concat()), None);
        assert_eq!(parse_request(&[]), None);
    }

    #[test]
    fn a_mapped_address_is_printed_as_ipv4() {
        let mut response = [0; DISCOVERY_BYTES];
        write_response(Ssrc(1), "[::ffff:192.0.2.7]:9".parse().unwrap(), &mut response);
        assert_eq!(&response[8..18], b"192.0.2.7\0");
    }

    #[test]
    fn the_longest_address_fits() {
        let mut response = [0; DISCOVERY_BYTES];
        let longest = "[1111:2222:3333:4444:5555:6666:7777:8888]:65535".parse().unwrap();
        write_response(Ssrc(1), longest, &mut response);
        assert_eq!(&response[8..48], b"1111:2222:3333:4444:5555:6666:7777:8888\0");
    }

    #[test]
    fn of_all_keepalives_only_the_official_one_is_answered() {
        let mut answered = 0;
        for vector in load("keepalive.json")["vectors"].as_array().unwrap() {
            let reply = ping_reply(&hex(&vector["in"]));
            if vector["client"] == "official_native" {
                assert_eq!(reply.unwrap(), hex(&vector["reply"])[..]);
                answered += 1;
            } else {
                assert_eq!(reply, None, "{vector}");
            }
        }
        assert_eq!(answered, 1);
        assert_eq!(ping_reply(&[0x13, 0x37, 0xCA, 0xFE, 0, 0, 0]), None);
        assert_eq!(ping_reply(&[0x13, 0x37, 0xCA, 0xFE, 0, 0, 0, 0, 0]), None);
    }
}

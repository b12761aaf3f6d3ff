//! Any datagram as a discovery request or a keepalive: an answer is never longer than the question,
//! and says what the question said.
#![no_main]

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use stentor::rtp::{
    Kind, classify,
    discovery::{DISCOVERY_BYTES, parse_request, ping_reply, write_response},
};

fuzz_target!(|input: (&[u8], [u8; 16], u16)| {
    let (datagram, address, port) = input;
    let kind = classify(datagram);
    if let Some(ssrc) = parse_request(datagram) {
        assert_eq!((kind, datagram.len()), (Kind::Discovery, DISCOVERY_BYTES));
        let source = SocketAddr::new(IpAddr::V6(Ipv6Addr::from(address)), port);
        let mut response = [0xEE; DISCOVERY_BYTES];
        write_response(ssrc, source, &mut response);
        assert_eq!(response[4..8], datagram[4..8]);
        let text = response[8..72].split(|&byte| byte == 0).next().expect("there is a first piece");
        let text = std::str::from_utf8(text).expect("an address is ASCII");
        assert_eq!(text.parse(), Ok(source.ip().to_canonical()));
        assert_eq!(response[72..], port.to_be_bytes());
    }
    if let Some(reply) = ping_reply(datagram) {
        assert_eq!(kind, Kind::Ping);
        assert_eq!(reply[4..], datagram[4..]);
    }
});

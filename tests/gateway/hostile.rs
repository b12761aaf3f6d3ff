//! Input nobody well-meaning sends. The claim is each time the same twice: the sender gets the
//! answer its limit names, and everyone else notices nothing.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
};

use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::{
    CHANNEL, heard_before,
    support::{
        WAIT,
        client::Client,
        gateway::{Door, End, Gateway, Stream},
        media::Media,
        server::Server,
        wait_until,
    },
};

/// Two members who must not notice.
struct Bystanders {
    pair: [Client; 2],
    flags: u8,
}

impl Bystanders {
    fn join(server: &Server) -> Self {
        let mut clients = [90, 91].map(|user| Client::join(server, CHANNEL, user));
        clients.iter_mut().for_each(Client::start_speaking);
        clients.iter_mut().for_each(|client| drop(client.gateway.drain()));
        Self { pair: clients, flags: 1 }
    }

    fn notice_nothing(&mut self) {
        let [a, b] = &mut self.pair;
        a.media.speak(b"still talking");
        assert_eq!(b.media.hear().payload, b"still talking");
        self.flags ^= 3;
        b.speaking(self.flags);
        let speaking = a.gateway.expect(5);
        assert_eq!(
            (&speaking.d["user_id"], &speaking.d["speaking"]),
            (&json!("91"), &json!(self.flags))
        );
        let _ = (a.gateway.drain(), b.gateway.drain());
    }
}

#[test]
fn a_huge_message_ends_its_connection_only() {
    let server = Server::start();
    let mut bystanders = Bystanders::join(&server);
    for identified in [false, true] {
        for bytes in [256 * 1_024 + 1, 4 * 1_024 * 1_024] {
            let mut gateway = if identified {
                Client::join(&server, CHANNEL + 1, 10).gateway
            } else {
                Gateway::open(&server, Door::plain(8))
            };
            gateway.send_text(&format!(r#"{{"op":3,"d":"{}"}}"#, "x".repeat(bytes)));
            // The close frame can be lost behind the reset that unread bytes cause.
            let end = gateway.ended();
            assert!(matches!(end, End::Closed(1009 | 4002, _) | End::Broken), "{end:?}");
        }
    }
    bystanders.notice_nothing();
}

#[test]
fn deep_json_is_4002() {
    let server = Server::start();
    let mut bystanders = Bystanders::join(&server);
    for depth in [17, 200, 100_000] {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let depth = depth.min(200_000 / open.len());
            let deep = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            let mut gateway = Client::join(&server, CHANNEL + 1, 10).gateway;
            gateway.send_text(&format!(r#"{{"op":3,"d":{{"t":1,"x":{deep}}}}}"#));
            assert_eq!(gateway.closed(), 4002, "depth {depth}");
        }
    }
    bystanders.notice_nothing();
}

#[test]
fn a_vast_sdp_ends_its_connection_only() {
    let server = Server::start();
    let mut bystanders = Bystanders::join(&server);
    let line = "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\n";
    let vast = line.repeat(200 * 1_024 / line.len());
    let mut gateway = Gateway::open(&server, Door::plain(8));
    gateway.identify_with(&server.grant(CHANNEL + 1, 10), json!({}));
    let _ = gateway.expect(2);
    gateway.send(1, json!({ "protocol": "webrtc", "data": vast }));
    assert_eq!(gateway.closed(), 4020);
    wait_until("the close is counted", || {
        server.metrics().sum(&["stentor_closes_total", "code=\"4020\""]) == 1.0
    });
    // Said twice, as web clients do, it is longer than any message may be.
    let mut gateway = Gateway::open(&server, Door::plain(8));
    gateway.identify_with(&server.grant(CHANNEL + 1, 11), json!({}));
    let _ = gateway.expect(2);
    gateway.send(1, json!({ "protocol": "webrtc", "data": vast, "sdp": vast }));
    let end = gateway.ended();
    assert!(matches!(end, End::Closed(1009 | 4002, _) | End::Broken), "{end:?}");
    bystanders.notice_nothing();
}

#[test]
fn what_is_half_sent_is_let_go_in_time() {
    let server = Server::start();
    let mut bystanders = Bystanders::join(&server);
    let halves: [&[u8]; 5] = [
        b"",
        b"GET /?v=8 HTT",
        b"GET /?v=8 HTTP/1.1\r\nHost: voice.test\r\nX-Slow: ",
        &[0x16, 0x03],
        // A ClientHello that promises 512 bytes and never brings them.
        &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03],
    ];
    let mut slow: Vec<TcpStream> = halves
        .iter()
        .map(|half| {
            let mut tcp = TcpStream::connect(server.gateway()).unwrap();
            tcp.set_read_timeout(Some(WAIT)).unwrap();
            tcp.write_all(half).unwrap();
            tcp
        })
        .collect();
    // A frame whose second half never comes, after a good upgrade.
    let mut gateway = Gateway::open(&server, Door::plain(8));
    gateway.stream().write_all(&[0x81, 0xfe, 0x01, 0x00, 1, 2, 3, 4, 5]).unwrap();
    bystanders.notice_nothing();
    for tcp in &mut slow {
        let mut rest = Vec::new();
        let ended = tcp.read_to_end(&mut rest);
        assert!(
            ended
                .as_ref()
                .map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |_| true),
            "{ended:?} {rest:?}"
        );
    }
    assert_eq!(gateway.closed(), 4003);
    assert_eq!(limited(&server, "handshake_timeout"), halves.len() as f64);
    bystanders.notice_nothing();
}

#[test]
fn what_is_not_http_is_let_go() {
    let server = Server::start();
    let mut bystanders = Bystanders::join(&server);
    let long_line = [b"GET /".as_slice(), &[b'a'; 100_000], b" HTTP/1.1\r\n\r\n"].concat();
    let many_headers =
        [b"GET / HTTP/1.1\r\n".to_vec(), b"X: y\r\n".repeat(10_000), b"\r\n".to_vec()].concat();
    let talks: [&[u8]; 6] = [
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        b"GET /favicon.ico HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /?v=8 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        &long_line,
        &many_headers,
    ];
    for talk in talks {
        let mut tcp = TcpStream::connect(server.gateway()).unwrap();
        tcp.set_read_timeout(Some(WAIT)).unwrap();
        let _ = tcp.write_all(talk);
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(!answer.contains("101"), "{answer}");
    }
    assert_eq!(limited(&server, "handshake_failed"), talks.len() as f64);
    bystanders.notice_nothing();
}

#[test]
fn datagrams_of_every_length_are_survived_and_counted() {
    let server = Server::start();
    let mut bystanders = Bystanders::join(&server);
    let bound = Client::join(&server, CHANNEL, 10);
    let stranger = Media::new(([127, 0, 0, 1], server.media_port()).into(), bound.media.ssrc);
    let heads: [&[u8]; 9] = [
        &[],
        &[0x80, 0x78],
        &[0x90, 0x78],
        &[0xbf, 0xff],
        &[0x80, 200],
        &[0x00, 0x01, 0x00, 0x46],
        &[0x13, 0x37, 0xca, 0xfe],
        &[0x16, 0xfe, 0xfd],
        &[0x00, 0x01, 0x00, 0x00, 0x21, 0x12, 0xa4, 0x42],
    ];
    let before = server.metrics();
    let mut sent = 0.0;
    for media in [&bound.media, &stranger] {
        for head in heads {
            for length in 0..=1_600 {
                let mut datagram = head.to_vec();
                // The sender's own SSRC where RTP has it, so that nothing is turned away early.
                datagram.resize(8, 0x5a);
                datagram.extend(media.ssrc.to_be_bytes());
                datagram.resize(datagram.len().max(length), 0xa5);
                datagram.truncate(length);
                media.send_raw(&datagram);
                sent += 1.0;
                // In step with the server, so that its socket buffer is not what is tested.
                if length % 64 == 0 {
                    media.send_raw(&[0x13, 0x37, 0xca, 0xfe, 1, 2, 3, 4]);
                    while media.receive(WAIT).expect("a ping is answered")[..]
                        != [0x13, 0x37, 0xf0, 0x0d, 1, 2, 3, 4]
                    {}
                    sent += 1.0;
                }
            }
        }
    }
    let [a, b] = &mut bystanders.pair;
    assert!(heard_before(a, b).is_empty(), "not one of them was forwarded");
    let after = server.metrics();
    assert!(after.sum(&["packets_received"]) - before.sum(&["packets_received"]) >= sent);
    for reason in ["noise", "malformed", "oversize", "bad_tag"] {
        assert!(after.drops(reason) > before.drops(reason), "{reason}");
    }
}

#[test]
fn a_slow_reader_holds_up_nobody_and_gets_it_all_in_the_end() {
    let server = Server::start();
    let mut bystanders = Bystanders::join(&server);
    let mut slow = Client::join(&server, CHANNEL, 10);
    for n in 0..100_u64 {
        let [a, b] = &mut bystanders.pair;
        let d = json!({ "speaking": 1 + n % 2, "delay": 0, "ssrc": a.media.ssrc });
        a.gateway.send(5, d);
        assert_eq!(b.gateway.expect(5).d["speaking"], 1 + n % 2);
    }
    let numbers: Vec<u64> =
        (0..100).map(|_| slow.gateway.expect(5).seq.expect("a number")).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] > pair[0]), "{numbers:?}");
}

#[test]
fn a_client_that_never_reads_and_asks_for_ever_is_cut_off() {
    let server = Server::start();
    let mut bystanders = Bystanders::join(&server);
    // The smallest receive buffer the kernel allows, so that the server's own bound is what counts.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    socket.connect(&server.gateway().into()).unwrap();
    let tcp: TcpStream = socket.into();
    tcp.set_write_timeout(Some(WAIT)).unwrap();
    let mut tcp = tcp;
    tcp.write_all(
        b"GET /?v=8 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    )
    .unwrap();
    // WebSocket pings, 125 bytes each, are answered in kind and count as messages.
    let mut ping = vec![0x89, 0xfd, 0, 0, 0, 0];
    ping.resize(6 + 125, b'p');
    let burst = ping.repeat(100);
    let end = (0..4_000).find_map(|_| tcp.write_all(&burst).err());
    let end = end.expect("52 MB of pings without reading one answer").kind();
    assert!(matches!(end, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{end:?}");
    bystanders.notice_nothing();
}

/// Frames that are never final: none of them makes a message, and each brings another read.
#[test]
fn fragments_without_end_are_cut_off_and_disturb_nobody() {
    let server = Server::start();
    let mut bystanders = Bystanders::join(&server);
    for _ in 0..3 {
        let mut gateway = Gateway::open(&server, Door::plain(8));
        assert_eq!(gateway.next().op, 8);
        let tcp = match gateway.stream() {
            Stream::Plain(tcp) => tcp.try_clone().unwrap(),
            Stream::Tls(_) => unreachable!("a plain door"),
        };
        let flood = std::thread::spawn(move || {
            let mut tcp = tcp;
            tcp.set_write_timeout(Some(WAIT)).unwrap();
            tcp.write_all(&[0x01, 0x80, 0, 0, 0, 0]).unwrap();
            let fragments = [0x00, 0x80, 0, 0, 0, 0].repeat(1_000);
            (0..10_000).any(|_| tcp.write_all(&fragments).is_err())
        });
        bystanders.notice_nothing();
        assert!(flood.join().unwrap(), "60 MB of fragments");
    }
    bystanders.notice_nothing();
}

#[test]
fn connections_beyond_the_limit_of_an_address_are_refused_and_free_places_are_given_again() {
    let server = Server::with(&[("GATEWAY_CONNECTIONS_PER_ADDRESS", "8")]);
    let mut bystanders = Bystanders::join(&server);
    let mut fill: Vec<Gateway> = (0..6)
        .map(|n| {
            let mut gateway =
                Gateway::open(&server, if n % 2 == 0 { Door::plain(8) } else { Door::tls(8) });
            assert_eq!(gateway.next().op, 8);
            gateway
        })
        .collect();
    for _ in 0..50 {
        assert!(!is_served(server.gateway()), "the ninth connection");
    }
    assert_eq!(limited(&server, "connections_per_address"), 50.0);
    bystanders.notice_nothing();
    fill.pop().expect("one of six").leave(1000);
    wait_until("the free place is given again", || is_served(server.gateway()));
    bystanders.notice_nothing();
}

#[test]
fn without_a_free_descriptor_members_notice_nothing_and_others_are_served_later() {
    const FILES: usize = 128;
    let server = Server::with_files(FILES);
    let mut bystanders = Bystanders::join(&server);
    let connect = |_| TcpStream::connect(server.gateway()).unwrap();
    let silent: Vec<TcpStream> = (0..FILES).map(connect).collect();
    wait_until("every descriptor is taken", || server.files() >= FILES);
    bystanders.notice_nothing();
    drop(silent);
    wait_until("a place is free again", || is_served(server.gateway()));
    assert!(limited(&server, "accept") >= 1.0);
    bystanders.notice_nothing();
}

/// Connections that this limit refused or cut.
fn limited(server: &Server, limit: &str) -> f64 {
    server.metrics().sum(&["stentor_limited_total", &format!("limit=\"{limit}\"")])
}

/// Whether a WebSocket can be opened there.
fn is_served(address: SocketAddr) -> bool {
    let mut tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(WAIT)).unwrap();
    let request = b"GET /?v=8 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let mut status = [0; 12];
    tcp.write_all(request).is_ok()
        && tcp.read_exact(&mut status).is_ok()
        && status == *b"HTTP/1.1 101"
}

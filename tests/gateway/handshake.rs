//! From the first byte to the Session Description, for every version and through both doors
//! (protocol.md §1.1–1.6).

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use serde_json::{Value, json};

use crate::{
    CHANNEL,
    support::{
        WAIT,
        cipher::{Cipher, Mode, unhex},
        client::{Client, select, shard},
        gateway::{Door, Gateway},
        media::Media,
        server::Server,
    },
};

/// Every version that changes bytes, and none at all.
const VERSIONS: [Option<u8>; 8] =
    [None, Some(1), Some(3), Some(4), Some(5), Some(7), Some(8), Some(9)];

const DEFAULT_MODES: [&str; 2] = ["aead_aes256_gcm_rtpsize", "aead_xchacha20_poly1305_rtpsize"];

#[test]
fn the_tests_own_cipher_agrees_with_the_vectors() {
    for text in [
        include_str!("../vectors/rtp_transport.json"),
        include_str!("../vectors/rtcp_transport.json"),
    ] {
        let file: Value = serde_json::from_str(text).unwrap();
        for vector in file["vectors"].as_array().unwrap() {
            let mode = Mode::ALL.into_iter().find(|mode| mode.name() == vector["mode"]);
            let bytes = |field: &str| unhex(vector[field].as_str().unwrap());
            let cipher = Cipher::new(mode.unwrap(), bytes("key").try_into().unwrap());
            let sealed = cipher.seal_with(&bytes("plain_packet"), &bytes("wire_nonce_suffix"));
            assert_eq!(sealed, bytes("packet"), "{vector}");
            assert_eq!(cipher.open(&sealed), Some(bytes("plain_packet")), "{vector}");
        }
    }
}

#[test]
fn every_version_gets_its_own_hello_ready_and_session_description() {
    let server = Server::start();
    for (user, version) in (10..).zip(VERSIONS) {
        for tls in [false, true] {
            joins_as(&server, user, Door { tls, version });
        }
    }
}

fn joins_as(server: &Server, user: u64, door: Door) {
    let mut gateway = Gateway::open(server, door);
    let hello = gateway.next();
    assert_eq!(hello.op, 8, "Hello comes unasked: {hello:?}");
    assert_eq!(hello.d["v"], door.version.unwrap_or(8), "{door:?}");
    assert_eq!(hello.d["heartbeat_interval"].as_f64(), Some(41_250.0));
    assert_eq!(hello.seq, None, "Hello is not numbered");

    let answer = gateway.heartbeat(1);
    assert_eq!(gateway.next().d, answer, "a heartbeat before Identify is answered");

    let grant = server.grant(CHANNEL, user);
    gateway.identify(&grant);
    let ready = gateway.next();
    assert_eq!(ready.op, 2, "Ready comes first after Identify: {ready:?}");
    assert_eq!(shard(&ready), ([127, 0, 0, 1], server.media_port()).into());
    assert_ne!(ready.d["ssrc"].as_u64(), Some(0));
    assert_eq!(ready.d["modes"], json!(DEFAULT_MODES));
    assert_eq!((&ready.d["experiments"], &ready.d["streams"]), (&json!([]), &json!([])));
    let legacy = door.version.is_none_or(|version| version <= 3);
    assert_eq!(ready.d["heartbeat_interval"].is_number(), legacy, "{door:?}: {ready:?}");
    assert_eq!(ready.seq, door.numbered().then_some(1), "{door:?}: {ready:?}");

    let client = Client::negotiate_after(ready, gateway, &grant, Mode::AesRtpsize);
    let description = &client.description;
    assert_eq!(description.d["audio_codec"], "opus");
    assert!(description.d["video_codec"].is_string(), "{description:?}");
    assert_eq!(description.d["dave_protocol_version"], 0);
    let id = description.d["media_session_id"].as_str().expect("text");
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    assert_eq!(description.seq.is_some(), door.numbered(), "{description:?}");
    client.gateway.leave(1000);
}

#[test]
fn heartbeats_of_either_form_are_echoed_on_every_version() {
    let server = Server::start();
    for (user, version) in (10..).zip(VERSIONS) {
        let mut client = Client::join_by(&server, CHANNEL, user, Door { tls: false, version });
        let _ = client.gateway.drain();
        for (sent, answer) in [
            (json!(1_501_184_119_561_u64), json!(1_501_184_119_561_u64)),
            (json!(9_007_199_254_740_991_u64), json!(9_007_199_254_740_991_u64)),
            (json!(10), json!(10)),
            (
                json!({ "t": 1_754_000_000_000_u64, "seq_ack": -1 }),
                json!({ "t": 1_754_000_000_000_u64 }),
            ),
            (json!({ "t": 5, "seq_ack": 1 }), json!({ "t": 5 })),
            (json!({ "t": 6 }), json!({ "t": 6 })),
        ] {
            client.gateway.send(3, sent.clone());
            let ack = client.gateway.expect(6);
            assert_eq!((ack.d, ack.seq), (answer, None), "sent {sent} with version {version:?}");
        }
    }
}

#[test]
fn the_backend_version_is_told_to_who_asks() {
    let server = Server::start();
    let mut client = Client::join_by(&server, CHANNEL, 10, Door::plain(9));
    client.gateway.send(16, json!({}));
    let version = client.gateway.expect(16);
    for part in ["voice", "rtc_worker"] {
        let numbers = version.d[part].as_str().expect("text").split('.');
        let numbers: Vec<u32> = numbers.map(|number| number.parse().expect("a number")).collect();
        assert_eq!(numbers.len(), 3, "{version:?}");
    }
}

#[test]
fn key_order_unknown_fields_and_number_snowflakes_are_accepted() {
    let server = Server::start();
    let grant = server.grant(CHANNEL, 10);
    let mut gateway = Gateway::open(&server, Door::plain(8));
    gateway.send_text(&format!(
        r#"{{"d":{{"future":[{{}}],"token":"{}","session_id":"{}","user_id":{},"server_id":{},
            "max_secure_frames_version":0}},"trace":null,"op":0}}"#,
        grant.token, grant.session, grant.user, grant.server
    ));
    assert_eq!(gateway.expect(2).op, 2);
}

#[test]
fn identify_may_come_before_hello_was_read_and_heartbeats_in_between() {
    let server = Server::start();
    let grant = server.grant(CHANNEL, 10);
    let mut gateway = Gateway::open(&server, Door::tls(8));
    gateway.heartbeat(1);
    gateway.identify(&grant);
    gateway.heartbeat(2);
    let ops: Vec<u64> = gateway.drain().iter().map(|message| message.op).collect();
    assert_eq!(ops.iter().filter(|op| **op == 6).count(), 2, "{ops:?}");
    let place = |op| ops.iter().position(|seen| *seen == op).expect("it came");
    assert!(place(8) < place(2), "{ops:?}");
}

#[test]
fn a_second_select_protocol_replaces_the_key_and_keeps_the_ssrc() {
    let server = Server::start();
    let mut client = Client::join(&server, CHANNEL, 10);
    let mut hearer = Client::join(&server, CHANNEL, 11);
    client.start_speaking();
    let first = client.media.speak(b"first key");
    assert_eq!(hearer.media.hear().payload, first.payload);

    let old_key = client.description.d["secret_key"].clone();
    let again =
        select(&mut client.gateway, &mut client.media, Mode::XChaChaRtpsize, "127.0.0.1", 1);
    assert_ne!(again.d["secret_key"], old_key);
    client.media.speak(b"second key");
    let heard = hearer.media.hear();
    assert_eq!((heard.ssrc, &heard.payload[..]), (client.media.ssrc, &b"second key"[..]));
}

#[test]
fn who_has_selected_no_protocol_may_stay() {
    let server = Server::start();
    let grant = server.grant(CHANNEL, 10);
    let mut gateway = Gateway::open(&server, Door::plain(8));
    gateway.identify(&grant);
    gateway.expect(2);
    gateway.send(32, json!({}));
    let _ = gateway.drain();
    let mut other = Client::join(&server, CHANNEL, 11);
    other.start_speaking();
    assert_eq!(gateway.expect(5).d["user_id"], "11");
}

#[test]
fn grants_of_the_command_line_open_the_door() {
    let server = Server::start();
    let grants = server.grant_by_command(CHANNEL, &[10, 11]);
    assert_eq!(grants.iter().map(|grant| grant.user).collect::<Vec<_>>(), [10, 11]);
    let mut clients = grants.iter().map(|grant| {
        let endpoint = format!("localhost:{}", server.gateway().port());
        assert_eq!(grant.endpoint, endpoint, "host:port, and no scheme");
        let mode = Mode::AesRtpsize;
        Client::enter(&server, grant, Door::tls(8), mode, json!({}))
    });
    let (mut a, mut b) = (clients.next().unwrap(), clients.next().unwrap());
    a.start_speaking();
    a.media.speak(b"granted");
    assert_eq!(b.media.hear().payload, b"granted");
}

#[test]
fn plaintext_is_refused_when_the_operator_says_never() {
    let server = Server::with(&[("GATEWAY_PLAINTEXT", "never")]);
    assert!(Gateway::try_open(&server, server.gateway(), Door::plain(8)).is_err());
    let mut tcp = TcpStream::connect(server.gateway()).unwrap();
    tcp.set_read_timeout(Some(WAIT)).unwrap();
    tcp.write_all(b"GET /?v=8 HTTP/1.1\r\n").unwrap();
    assert!(!matches!(tcp.read(&mut [0; 64]), Ok(1..)), "not a byte is answered");
    Client::join_by(&server, CHANNEL, 10, Door::tls(8));
}

#[test]
fn a_deflate_offer_is_not_taken_up() {
    let server = Server::start();
    let mut tcp = TcpStream::connect(server.gateway()).unwrap();
    tcp.set_read_timeout(Some(WAIT)).unwrap();
    let request = "GET /?v=8 HTTP/1.1\r\nHost: voice.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
        Origin: https://elsewhere.test\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    tcp.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut buffer = [0; 512];
        let read = tcp.read(&mut buffer).expect("an answer");
        assert_ne!(read, 0, "closed after {:?}", String::from_utf8_lossy(&answer));
        answer.extend(&buffer[..read]);
    }
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    assert!(!answer.contains("sec-websocket-extensions"), "{answer}");
}

#[test]
fn a_stop_closes_every_client_so_that_it_resumes_and_exits_0() {
    let mut server = Server::start();
    let mut clients = [Door::plain(8), Door::tls(4), Door::unversioned(false)].map(|door| {
        let user = 10 + u64::from(door.version.unwrap_or(0));
        Client::join_by(&server, CHANNEL, user, door)
    });
    let status = server.terminate();
    assert!(status.success(), "{status}");
    for client in &mut clients {
        assert_eq!(client.gateway.closed(), 4015);
    }
}

#[test]
fn channels_spread_over_the_ports_of_two_shards() {
    let server = Server::with(&[("SHARDS", "2")]);
    let clients: Vec<Client> =
        (0..32).map(|n| Client::join_by(&server, CHANNEL + n, 100 + n, Door::tls(8))).collect();
    let mut ports: Vec<u16> = clients.iter().map(|client| shard(&client.ready).port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports, [server.media_port(), server.media_port() + 1]);

    // Whoever enters the same channel later, through whichever shard's listener, is on its shard.
    for (n, first) in (0..).zip(&clients) {
        let mut later = Client::join_by(&server, CHANNEL + n, 200 + n, Door::tls(8));
        assert_eq!(shard(&later.ready), shard(&first.ready));
        later.start_speaking();
    }
    let media = Media::new(shard(&clients[0].ready), clients[0].media.ssrc);
    assert_eq!(media.discover().port, media.address().port());
}

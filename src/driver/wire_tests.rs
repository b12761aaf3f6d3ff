//! Bytes of clients, good and bad, through a wire.

use super::*;

const REQUEST: &[u8] = b"GET /?v=8 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn plain() -> Wire {
    Wire::new(Terms { tls: None, plaintext: true, page: None })
}

fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode, 0x80 | payload.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

fn opened() -> Wire {
    let mut wire = plain();
    wire.feed(REQUEST).unwrap();
    assert!(matches!(wire.receive(), Ok(Some(Received::Opened(_)))));
    wire.drain(&mut Vec::new());
    wire
}

#[test]
fn an_upgrade_in_single_bytes_opens() {
    let mut wire = plain();
    for byte in &REQUEST[..REQUEST.len() - 1] {
        wire.feed(&[*byte]).unwrap();
        assert!(wire.receive().unwrap().is_none());
    }
    wire.feed(b"\n").unwrap();
    let Some(Received::Opened(query)) = wire.receive().unwrap() else { panic!("not open") };
    assert_eq!(query.as_deref(), Some("v=8"));
    let mut out = Vec::new();
    wire.drain(&mut out);
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("HTTP/1.1 101"), "{text}");
    assert!(text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{text}");
    assert!(!text.to_ascii_lowercase().contains("sec-websocket-extensions"), "{text}");
}

#[test]
fn frames_pass_both_ways() {
    let mut wire = opened();
    wire.feed(&masked(1, b"{}")).unwrap();
    wire.feed(&masked(2, &[26, 1])).unwrap();
    let text = wire.receive().unwrap();
    assert!(matches!(text, Some(Received::Frame(Frame::Text(text))) if text == "{}"));
    let binary = wire.receive().unwrap();
    assert!(matches!(binary, Some(Received::Frame(Frame::Binary(bytes))) if bytes == [26, 1]));
    assert!(wire.receive().unwrap().is_none());
    wire.send(Frame::Text("hi".into()));
    let mut out = Vec::new();
    wire.drain(&mut out);
    assert_eq!(out, b"\x81\x02hi");
}

#[test]
fn the_peers_close_code_is_told() {
    let mut wire = opened();
    wire.feed(&masked(8, &4014_u16.to_be_bytes())).unwrap();
    assert!(matches!(wire.receive(), Ok(Some(Received::Closed(4014)))));
    let mut wire = opened();
    wire.feed(&masked(8, &[])).unwrap();
    assert!(matches!(wire.receive(), Ok(Some(Received::Closed(1005)))));
}

#[test]
fn our_close_frame_has_code_and_reason() {
    let mut wire = opened();
    wire.close(4006, "gone");
    let mut out = Vec::new();
    wire.drain(&mut out);
    assert_eq!(out, b"\x88\x06\x0f\xa6gone");
}

#[test]
fn what_is_no_upgrade_gets_an_answer() {
    for (request, status) in [
        (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], "HTTP/1.1 426"),
        (b"\x00\x01\x02 rubbish\r\n\r\n", "HTTP/1.1 400"),
        (&[b'A'; REQUEST_BYTES_MAX + 1], "HTTP/1.1 400"),
    ] {
        let mut wire = plain();
        wire.feed(request).unwrap();
        assert_eq!(wire.receive().err(), Some(Fault::Request));
        let mut out = Vec::new();
        wire.drain(&mut out);
        assert!(out.starts_with(status.as_bytes()), "{status}");
    }
}

#[test]
fn whoever_asks_for_the_page_gets_it_and_may_ask_on_but_not_for_ever() {
    let page = Some(Arc::new(LinkPage::new("localhost:8443")));
    let mut wire = Wire::new(Terms { tls: None, plaintext: true, page });
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes();
    // Two at once, of which the second comes in pieces.
    let second = get("/page/main.js");
    wire.feed(&[&get("/"), &second[..9]].concat()).unwrap();
    assert!(matches!(wire.receive(), Ok(Some(Received::Visited))));
    assert!(wire.receive().unwrap().is_none());
    wire.feed(&second[9..]).unwrap();
    assert!(matches!(wire.receive(), Ok(Some(Received::Visited))));
    let mut out = Vec::new();
    wire.drain(&mut out);
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\ncontent-type: text/html"), "{text}");
    assert_eq!(text.matches("HTTP/1.1 200").count(), 2);
    for _ in 2..FILES_MAX - 1 {
        wire.feed(&get("/page/icon.svg")).unwrap();
        assert!(matches!(wire.receive(), Ok(Some(Received::Visited))));
    }
    wire.feed(&get("/")).unwrap();
    assert_eq!(wire.receive().err(), Some(Fault::Finished));
    let mut out = Vec::new();
    wire.drain(&mut out);
    assert!(String::from_utf8_lossy(&out).contains("connection: close"));
}

#[test]
fn what_follows_a_request_with_a_body_or_a_farewell_is_not_taken_for_a_request() {
    for header in ["Content-Length: 9", "Transfer-Encoding: chunked", "Connection: x, Close"] {
        let page = Some(Arc::new(LinkPage::new("localhost:8443")));
        let mut wire = Wire::new(Terms { tls: None, plaintext: true, page });
        let get = format!("GET / HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n");
        wire.feed(&[get.as_bytes(), REQUEST].concat()).unwrap();
        assert_eq!(wire.receive().err(), Some(Fault::Finished), "{header}");
        let mut out = Vec::new();
        wire.drain(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("connection: close") && !text.contains("101"), "{text}");
    }
}

#[test]
fn an_upgrade_right_behind_a_visit_leaves_the_visit_its_answer() {
    let page = Some(Arc::new(LinkPage::new("localhost:8443")));
    let mut wire = Wire::new(Terms { tls: None, plaintext: true, page });
    wire.feed(&[b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", REQUEST].concat()).unwrap();
    assert!(matches!(wire.receive(), Ok(Some(Received::Visited))));
    assert!(matches!(wire.receive(), Ok(Some(Received::Opened(_)))));
    let mut out = Vec::new();
    wire.drain(&mut out);
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
    assert!(text.contains("HTTP/1.1 101"), "{text}");
}

#[test]
fn a_websocket_that_cannot_be_opened_is_no_visit() {
    let page = Some(Arc::new(LinkPage::new("localhost:8443")));
    let mut wire = Wire::new(Terms { tls: None, plaintext: true, page });
    let request = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    wire.feed(request.as_bytes()).unwrap();
    assert_eq!(wire.receive().err(), Some(Fault::Request));
    let mut out = Vec::new();
    wire.drain(&mut out);
    assert!(out.starts_with(b"HTTP/1.1 426"));
}

#[test]
fn too_long_and_ill_formed_messages_have_close_codes() {
    let mut wire = opened();
    let mut huge = vec![0x81, 0xFF];
    huge.extend_from_slice(&(MESSAGE_BYTES_MAX as u64 + 1).to_be_bytes());
    huge.extend_from_slice(&[0; 4]);
    wire.feed(&huge).unwrap();
    assert!(matches!(wire.receive(), Err(Fault::WebSocket(4002, _))));
    let mut wire = opened();
    wire.feed(&masked(1, &[0xFF, 0xFE])).unwrap();
    assert!(matches!(wire.receive(), Err(Fault::WebSocket(4002, _))));
    let mut wire = opened();
    wire.feed(b"\x81\x02hi").unwrap();
    assert!(matches!(wire.receive(), Err(Fault::WebSocket(1002, _))), "not masked");
}

/// Both ends of TLS in memory, the handshake done.
fn over_tls() -> (Wire, rustls::ClientConnection) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let certificate = certified.cert.der().clone();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
    let tls = Some(Arc::new(server));
    let mut wire = Wire::new(Terms { tls, plaintext: false, page: None });
    for _ in 0..10 {
        wire.feed(&said(&mut client)).unwrap();
        let mut out = Vec::new();
        wire.drain(&mut out);
        let mut out = &out[..];
        while !out.is_empty() {
            client.read_tls(&mut out).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    assert!(!client.is_handshaking());
    (wire, client)
}

fn said(client: &mut rustls::ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

#[test]
fn bytes_after_close_notify_end_the_connection() {
    let (mut wire, mut client) = over_tls();
    client.send_close_notify();
    wire.feed(&said(&mut client)).unwrap();
    wire.feed(b"x").unwrap();
    assert_eq!(wire.receive().err(), Some(Fault::Ended));
}

#[test]
fn what_was_said_before_close_notify_is_heard() {
    let (mut wire, mut client) = over_tls();
    client.writer().write_all(REQUEST).unwrap();
    wire.feed(&said(&mut client)).unwrap();
    assert!(matches!(wire.receive(), Ok(Some(Received::Opened(_)))));
    client.writer().write_all(&masked(8, &1000_u16.to_be_bytes())).unwrap();
    client.send_close_notify();
    wire.feed(&said(&mut client)).unwrap();
    assert!(matches!(wire.receive(), Ok(Some(Received::Closed(1000)))));
    assert_eq!(wire.receive().err(), Some(Fault::Ended));
}

#[test]
fn plaintext_where_it_is_not_allowed_is_refused() {
    let mut wire = Wire::new(Terms { tls: None, plaintext: false, page: None });
    assert_eq!(wire.feed(b"GET").err(), Some(Fault::Plaintext));
    let mut wire = plain();
    assert_eq!(wire.feed(&[TLS_HANDSHAKE]).err(), Some(Fault::Plaintext), "no certificate");
}

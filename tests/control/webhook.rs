//! What happens, posted to a webhook; and that stopping delivers the last of it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use stentor::{
    config::{Secret, Webhook},
    sfu::{Command, DisconnectReason, Event},
};

use crate::{
    PATIENCE, eventually,
    http::Answer,
    node::{Node, grant_body},
};

/// A webhook receiver that answers with the given statuses, then always 204.
fn receiver(statuses: &'static [u16]) -> (String, mpsc::Receiver<Answer>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook?x=1", listener.local_addr().unwrap());
    let (sender, requests) = mpsc::channel();
    thread::spawn(move || {
        let mut statuses = statuses.iter().copied();
        for socket in listener.incoming() {
            let mut lines = BufReader::new(socket.unwrap());
            loop {
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    if lines.read_line(&mut head).unwrap_or(0) == 0 {
                        break;
                    }
                }
                let Some(length) = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))
                    .map(|length| length.parse().unwrap())
                else {
                    break;
                };
                let mut body = vec![0; length];
                lines.read_exact(&mut body).unwrap();
                let status = statuses.next().unwrap_or(204);
                let body = String::from_utf8(body).unwrap();
                if sender.send(Answer { status, head, body }).is_err() {
                    return;
                }
                let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
                lines.get_mut().write_all(answer.as_bytes()).unwrap();
            }
        }
    });
    (url, requests)
}

fn node_with_webhook(url: &str) -> Node {
    let url = url.parse().unwrap();
    Node::start_with(1_024, |config| {
        config.control.webhook = Some(Webhook { url, secret: Secret::new("hook secret") });
    })
}

fn signature_of(body: &str) -> String {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"hook secret");
    stentor::config::hex(aws_lc_rs::hmac::sign(&key, body.as_bytes()).as_ref())
}

#[test]
fn a_webhook_gets_signed_batches_until_it_accepts_them() {
    let (url, requests) = receiver(&[500, 429]);
    let node = node_with_webhook(&url);
    let (_, serial) = node.join(7, 50);
    node.leave(serial);

    let mut accepted: Vec<Value> = Vec::new();
    let mut refused = 0;
    while accepted.len() < 4 {
        let request = requests.recv_timeout(PATIENCE).expect("a request is due");
        assert!(request.head.starts_with("POST /hook?x=1 HTTP/1.1\r\n"));
        let signed = format!("x-voice-signature: {}\r\n", signature_of(&request.body));
        assert!(request.head.contains(&signed), "{}", request.head);
        let body = request.json();
        assert_eq!(body["node"], "voice1.example.org");
        let batch = body["batch"].as_array().unwrap();
        match request.status {
            204 => accepted.extend(batch.iter().cloned()),
            _ => refused += 1,
        }
    }
    assert_eq!(refused, 2);
    let types: Vec<_> = accepted.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["room.opened", "session.identified", "session.disconnected", "room.empty"]);
    let seqs: Vec<_> = accepted.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(seqs.windows(2).all(|pair| pair[1] == pair[0] + 1), "{seqs:?}");
    eventually("the deliveries are counted", || {
        let page = node.call_with("GET", "/metrics", "", None).body;
        page.contains("stentor_webhook_delivered_total 4\n")
            && page.contains("stentor_webhook_failures_total 2\n")
    });
}

#[test]
fn stopping_tells_everyone_and_delivers_the_last_events() {
    let (url, requests) = receiver(&[]);
    let mut node = node_with_webhook(&url);
    let (_, serial) = node.join(7, 50);
    let mut stream = node.follow("");
    let control = node.control.take().unwrap();
    control.request_stop();
    for _ in 0..2 {
        let (_, command) = node.command();
        assert!(matches!(command, Command::Drain { code } if code.code() == 4015), "{command:?}");
    }
    assert_eq!(node.call_with("GET", "/healthz", "", None).status, 503);
    let late = node.call("PUT", "/v1/grants/1/8", Some(grant_body(8, 50)));
    assert_eq!(late.error(), (503, "draining".to_owned()));
    let reason = DisconnectReason::Shutdown;
    node.tell(0, Event::Disconnected { serial, reason, close_code: 4015 });
    control.stop().unwrap();

    let all = ["node.draining", "session.disconnected", "room.empty"];
    assert_eq!(stream.types(3), all);
    assert!(stream.next().is_none(), "the stream has ended");
    let posted: Vec<String> = requests
        .try_iter()
        .flat_map(|request| request.json()["batch"].as_array().unwrap().clone())
        .map(|event| event["type"].as_str().unwrap().to_owned())
        .collect();
    assert!(posted.ends_with(&all.map(str::to_owned)), "{posted:?}");
    assert!(TcpStream::connect(node.address).is_err());
}

#[test]
fn stopping_is_bounded_when_nobody_cooperates() {
    // A webhook that accepts no connection, and a session that never reports its end.
    let mut node = node_with_webhook("http://127.0.0.1:1/");
    node.join(7, 50);
    let _stream = node.follow("");
    let started = Instant::now();
    node.control.take().unwrap().stop().unwrap();
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
}

#[test]
fn control_ends_when_its_shards_have() {
    let node = Node::start();
    let Node { control, events, .. } = node;
    drop(events);
    let control = control.unwrap();
    eventually("the thread ends", || control.is_finished());
    control.stop().unwrap();
}

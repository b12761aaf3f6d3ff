//! Each endpoint, each error, and what is no request.

use std::{net::TcpStream, sync::atomic::Ordering, thread, time::Duration};

use serde_json::json;
use stentor::{
    id::ChannelId,
    sfu::{Command, DisconnectReason, Verdict},
};

use crate::{
    SECRET, eventually,
    node::{Node, admission, grant_body, room_report},
};

#[test]
fn a_grant_is_given_changed_and_taken_away() {
    let node = Node::start();
    let path = "/v1/grants/1/7";
    let put = node.call("PUT", path, Some(grant_body(7, 50)));
    assert_eq!(put.status, 201);
    assert_eq!(
        put.json(),
        json!({"endpoint": "voice1.example.org:443", "region": "default", "replaced": false})
    );
    let again = node.call("PUT", path, Some(grant_body(7, 50)));
    assert_eq!((again.status, &again.json()["replaced"]), (200, &json!(true)));

    let (shard, serial) = node.join(7, 50);
    let muted = json!({"state": {"mute": true}});
    assert_eq!(node.call("PATCH", path, Some(muted)).status, 204);
    match node.command() {
        (at, Command::Update { serial: which, policy }) => {
            assert_eq!((at, which), (shard, serial));
            assert!(policy.state.mute && policy.permissions.speak);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(node.call("DELETE", &format!("{path}?close=4022"), None).status, 204);
    match node.command() {
        (_, Command::Close { serial: which, code, reason }) => {
            assert_eq!((which, code.code()), (serial, 4022));
            assert_eq!(reason, DisconnectReason::Kicked);
        }
        other => panic!("{other:?}"),
    }
    node.leave(serial);
    eventually("the grant is gone", || node.call("DELETE", path, None).status == 404);
    assert_eq!(node.call("PATCH", path, Some(json!({}))).status, 404);
}

#[test]
fn rooms_are_listed_shown_closed_and_migrated() {
    let node = Node::start();
    assert_eq!(node.call("GET", "/v1/rooms", None).json(), json!({"rooms": []}));
    assert_eq!(node.call("GET", "/v1/rooms/50", None).error().0, 404);

    node.join(7, 50);
    node.rooms.lock().unwrap().push(room_report(50, 7));
    let show = || node.call("GET", "/v1/rooms/50", None).json();
    eventually("the session has arrived", || show()["sessions"][0]["connected_at"] != "");
    let room = show();
    assert_eq!((&room["room_id"], &room["kind"]), (&json!("50"), &json!("voice")));
    let session = &room["sessions"][0];
    assert_eq!(session["user_id"], "7");
    assert!(session["connected_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(node.call("GET", "/v1/rooms", None).json(), json!({"rooms": [room]}));

    let closed = |node: &Node| match node.command() {
        (_, Command::CloseChannel { channel, code, reason }) => (channel.0, code.code(), reason),
        other => panic!("{other:?}"),
    };
    let migrate = |body| node.call("POST", "/v1/rooms/50/migrate", body).status;
    assert_eq!(migrate(None), 204);
    assert!(matches!(node.command(), (_, Command::Reconnect { channel: ChannelId(50) })));
    assert_eq!(migrate(Some(json!({"close": 4014}))), 204);
    assert_eq!(closed(&node), (50, 4014, DisconnectReason::Shutdown));
    for wrong in [json!({"close": 1}), json!({"close": "x"}), json!([4015])] {
        assert_eq!(migrate(Some(wrong)), 400);
    }
    assert_eq!(node.call("POST", "/v1/rooms/51/migrate", None).status, 404);

    assert_eq!(node.call("DELETE", "/v1/rooms/50", None).status, 204);
    assert_eq!(closed(&node), (50, 4022, DisconnectReason::RoomClosed));
    assert_eq!(node.call("DELETE", "/v1/rooms/51", None).error().0, 404);
    assert_eq!(node.call("PATCH", "/v1/grants/1/7", Some(json!({}))).status, 204, "still leaving");
}

#[test]
fn a_shard_that_does_not_answer_is_an_error_and_not_a_wait() {
    let node = Node::start();
    node.join(7, 50);
    node.stuck.store(true, Ordering::Relaxed);
    thread::sleep(Duration::from_millis(20));
    // Each fake shard takes one more message before it sees that it is stuck.
    node.call("GET", "/v1/rooms", None);
    for path in ["/v1/rooms", "/v1/rooms/50"] {
        let answer = node.call("GET", path, None);
        assert_eq!(answer.error(), (503, "shard_unresponsive".to_owned()));
    }
    let page = node.call_with("GET", "/metrics", "", None);
    assert!(page.body.contains("stentor_shard_up{shard=\"0\"} 0"), "{}", page.body);
    node.stuck.store(false, Ordering::Relaxed);
}

#[test]
fn the_secret_is_needed_everywhere_but_for_health() {
    let node = Node::start();
    let wrong = [
        "",
        "Authorization: Bearer\r\n",
        "Authorization: Bearer \r\n",
        "Authorization: Bearer 0123456789abcdeX\r\n",
        "Authorization: Bearer 0123456789abcdef0\r\n",
        "Authorization: Basic 0123456789abcdef\r\n",
        "Authorization: \u{e9}\r\n",
        "X-Authorization: Bearer 0123456789abcdef\r\n",
    ];
    for headers in wrong {
        for (method, path) in [
            ("PUT", "/v1/grants/1/7"),
            ("DELETE", "/v1/rooms/50"),
            ("GET", "/v1/events"),
            ("GET", "/v1/healthz"),
            ("GET", "/v1/nothing"),
        ] {
            let answer = node.call_with(method, path, headers, None);
            assert_eq!(answer.error(), (401, "unauthorized".to_owned()), "{headers:?} {path}");
            assert!(answer.head.contains("www-authenticate: bearer"));
        }
    }
    let lower = format!("authorization: bearer {SECRET}\r\n");
    assert_eq!(node.call_with("GET", "/v1/healthz", &lower, None).status, 200);
    assert_eq!(node.call_with("GET", "/healthz", "", None).json(), json!({"status": "ok"}));
    assert_eq!(node.call_with("GET", "/metrics", "", None).status, 200);

    let public = Node::start_with(1_024, |config| {
        config.control.listen = "0.0.0.0:8080".parse().unwrap();
    });
    assert_eq!(public.call_with("GET", "/metrics", "", None).error().0, 401);
    assert_eq!(public.call("GET", "/metrics", None).status, 200);
    assert_eq!(public.call_with("GET", "/healthz", "", None).status, 200);
}

#[test]
fn every_mistake_has_its_status_and_code() {
    let node = Node::start();
    let check = |method, path: &str, body, status: u16, code: &str| {
        let answer = node.call(method, path, body);
        assert_eq!(answer.error(), (status, code.to_owned()), "{method} {path}");
    };
    let body = || Some(grant_body(7, 50));
    for path in [
        "/v1/grants/x/7",
        "/v1/grants/1/-7",
        "/v1/grants/1/99999999999999999999",
        "/v1/grants/%ff/7",
    ] {
        check("PUT", path, body(), 400, "invalid");
    }
    check("PUT", "/v1/grants/1/7", Some(json!({"channel_id": "50"})), 400, "invalid");
    check("PUT", "/v1/grants/1/7", Some(json!([1])), 400, "invalid");
    check("PATCH", "/v1/grants/1/7", Some(json!({"mute": true})), 400, "invalid");
    for close in ["x", "1", "70000", "-4014"] {
        check("DELETE", &format!("/v1/grants/1/7?close={close}"), None, 400, "invalid");
    }
    check("GET", "/v1/rooms/x", None, 400, "invalid");
    check("GET", "/v1/rooms/50", None, 404, "not_found");
    check("GET", "/v1/grants", None, 404, "not_found");
    check("GET", "/nothing", None, 404, "not_found");
    check("GET", "/v1/grants/1/7", None, 405, "method_not_allowed");
    check("POST", "/v1/rooms", None, 405, "method_not_allowed");
    check("POST", "/healthz", None, 405, "method_not_allowed");
    check("POST", "/metrics", None, 405, "method_not_allowed");

    node.join(7, 1);
    let mut stream = grant_body(8, 50);
    stream["kind"] = json!("stream");
    stream["stream"] = json!({"stream_key": "guild:1:2:3", "owner_id": "3"});
    check("PUT", "/v1/grants/1/8", Some(stream), 409, "kind_conflict");

    let authorization = format!("Authorization: Bearer {SECRET}\r\n");
    let typed = |kind: &str, body: &str| {
        let headers = format!("{authorization}{kind}");
        node.call_with("PUT", "/v1/grants/1/7", &headers, Some(body.to_owned()))
    };
    let text = grant_body(7, 1).to_string();
    let answer = typed("Content-Type: text/plain\r\n", &text);
    assert_eq!(answer.error(), (415, "unsupported_media_type".to_owned()));
    assert_eq!(typed("Content-Type: Application/JSON; charset=utf-8\r\n", &text).status, 200);
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(64 * 1_024));
    assert_eq!(typed("", &large).error(), (413, "too_large".to_owned()));
}

#[test]
fn hostile_bodies_and_broken_requests_leave_the_api_standing() {
    let node = Node::start();
    let head =
        format!("PUT /v1/grants/1/7 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n");
    let with_body = |body: &[u8]| {
        let head = format!("{head}Connection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        node.send(&[head.as_bytes(), body].concat())
    };
    let deep = "{\"a\":".repeat(12_000);
    let bodies: [&[u8]; 8] = [
        b"",
        b"{",
        b"nul",
        b"\xff\xfe\x00",
        deep.as_bytes(),
        b"{\"channel_id\": 1e400}",
        b"{} {}",
        b"{\"a\":\"\\ud800\"}",
    ];
    for body in bodies {
        let (status, code) = with_body(body).error();
        assert_eq!((status, code.as_str()), (400, "malformed_json"), "{:?}", body.get(..20));
    }

    let chunked = format!("{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let endless = format!("{chunked}{}", chunk.repeat(4));
    assert_eq!(node.send(endless.as_bytes()).status, 413);
    let announced = format!("{head}Content-Length: 99999999999\r\nConnection: close\r\n\r\n");
    assert_eq!(node.send(announced.as_bytes()).status, 413);

    let noise: Vec<u8> = (0..4_096_u32).map(|index| (index * 7 + index / 13) as u8).collect();
    assert!(matches!(node.send(&noise).status, 0 | 400));
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(1_000_000));
    assert!(matches!(node.send(long.as_bytes()).status, 0 | 404 | 414 | 431));
    let silent: Vec<TcpStream> = (0..50).map(|_| node.connect()).collect();
    assert_eq!(node.call("GET", "/v1/healthz", None).status, 200);
    drop(silent);
}

#[test]
fn commands_wait_for_a_full_shard_and_none_is_lost() {
    let node = Node::start_with(1, |_| {});
    node.stuck.store(true, Ordering::Relaxed);
    for user in 1..=100 {
        let path = format!("/v1/grants/1/{user}");
        assert_eq!(node.call("PUT", &path, Some(grant_body(user, 50))).status, 201);
        node.tell(0, admission(user));
    }
    eventually("commands wait", || {
        let page = node.call_with("GET", "/metrics", "", None).body;
        page.lines().any(|line| {
            line.strip_prefix("stentor_control_backlog ")
                .is_some_and(|count| count.parse::<u32>().unwrap() > 90)
        })
    });
    node.stuck.store(false, Ordering::Relaxed);
    let decided = (1..=100).map(|_| match node.command() {
        (0, Command::Decide { connection, verdict: Verdict::Join { .. } }) => connection.0,
        other => panic!("{other:?}"),
    });
    assert!(decided.eq(1..=100));
}

//! What happens, told to those who follow it: the event stream.

use serde_json::json;
use stentor::sfu::Event;

use crate::{SECRET, eventually, http::EventStream, node::Node};

#[test]
fn the_event_stream_tells_what_happens_and_resumes_where_it_was_left() {
    let node = Node::start();
    let mut stream = node.follow("");
    assert_eq!(stream.status, 200);
    let (_, serial) = node.join(7, 50);
    let opened = stream.next().unwrap();
    assert_eq!(opened.data["type"], "room.opened");
    assert_eq!(opened.id, opened.data["seq"].as_u64());
    let identified = stream.next().unwrap();
    assert_eq!(identified.id, opened.id.map(|id| id + 1));
    assert_eq!(
        (&identified.data["user_id"], &identified.data["kind"]),
        (&json!("7"), &json!("voice"))
    );
    assert_eq!(identified.data["session_id"], "session7");
    drop(stream);

    node.tell(0, Event::Connected { serial, transport: "webrtc" });
    node.tell(0, Event::Video { serial, active: true });
    node.leave(serial);
    let seen = identified.id.unwrap();
    let mut stream = node.follow(&format!("Last-Event-ID: {seen}\r\n"));
    let connected = stream.next().unwrap();
    assert_eq!((connected.id, &connected.data["transport"]), (Some(seen + 1), &json!("webrtc")));
    assert_eq!(stream.types(3), ["video", "session.disconnected", "room.empty"]);

    for (id, note) in [("3", "long gone"), ("99999999999999999", "of another time")] {
        let mut stream = node.follow(&format!("Last-Event-ID: {id}\r\n"));
        let lagged = stream.next().unwrap();
        assert_eq!((lagged.id, lagged.name.as_deref()), (None, Some("lagged")), "{note}");
        assert_eq!(lagged.data["resume_at"], json!(opened.id));
        assert_eq!(stream.next().unwrap().id, opened.id, "{note}");
    }
    let answer = node.call_with(
        "GET",
        "/v1/events",
        &format!("Authorization: Bearer {SECRET}\r\nLast-Event-ID: x\r\n"),
        None,
    );
    assert_eq!(answer.error(), (400, "invalid".to_owned()));
}

#[test]
fn followers_are_counted_and_limited() {
    let node = Node::start();
    let mut streams: Vec<EventStream> = (0..64).map(|_| node.follow("")).collect();
    assert!(streams.iter().all(|stream| stream.status == 200));
    let answer = node.call("GET", "/v1/events", None);
    assert_eq!(answer.error(), (429, "too_many_followers".to_owned()));
    drop(streams.pop());
    // The place is free when the server has noticed.
    node.join(7, 50);
    eventually("a follower's place is free", || node.follow("").status == 200);
}

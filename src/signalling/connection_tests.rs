//! The order, the deadlines and the pace of a connection, and the close codes it decides.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    id::{Ssrc, UserId},
    signalling::{Dave, Speaking},
};

const IDENTIFY: &str =
    r#"{"op":0,"d":{"server_id":"1","user_id":"2","session_id":"s","token":"t"}}"#;
const RESUME: &str = r#"{"op":7,"d":{"server_id":"1","session_id":"s","token":"t","seq_ack":3}}"#;
const SPEAKING: &str = r#"{"op":5,"d":{"speaking":1,"ssrc":7}}"#;

fn open(query: &str, now: Instant) -> Connection {
    let version = Version::from_query(Some(query));
    Connection::open(ConnectionId(5), version, "192.0.2.1".parse().unwrap(), now)
}

fn text(text: &str) -> Frame {
    Frame::Text(text.to_owned())
}

fn say(
    connection: &mut Connection,
    now: Instant,
    message: &str,
) -> Result<Option<Request>, Refusal> {
    connection.handle_frame(now, text(message))
}

fn asked(now: Instant) -> Connection {
    let mut connection = open("v=8", now);
    assert!(matches!(say(&mut connection, now, IDENTIFY), Ok(Some(Request::Identify(_)))));
    connection
}

fn joined(now: Instant) -> Connection {
    let mut connection = asked(now);
    assert_eq!(connection.joined(now), []);
    connection
}

fn outputs(connection: &mut Connection) -> Vec<String> {
    std::iter::from_fn(|| connection.poll_output())
        .map(|frame| match frame {
            Frame::Text(text) => text,
            Frame::Binary(_) => panic!("a connection writes no binary frames of its own"),
        })
        .collect()
}

#[test]
fn connections_can_move_to_another_thread() {
    fn is_send<T: Send + 'static>() {}
    is_send::<Connection>();
    is_send::<Request>();
}

#[test]
fn hello_is_the_first_output() {
    let mut connection = open("v=9", Instant::now());
    assert!(connection.queued_bytes() > 0);
    let hello = r#"{"op":8,"d":{"v":9,"heartbeat_interval":41250}}"#;
    assert_eq!(outputs(&mut connection), [hello]);
    assert_eq!(connection.queued_bytes(), 0);
    assert_eq!(connection.id(), ConnectionId(5));
    assert_eq!(connection.address().to_string(), "192.0.2.1");
    assert_eq!(connection.version().number(), 9);
}

#[test]
fn heartbeats_are_answered_in_every_state() {
    let now = Instant::now();
    for mut connection in [open("v=8", now), asked(now), joined(now)] {
        outputs(&mut connection);
        assert_eq!(say(&mut connection, now, r#"{"op":3,"d":{"t":5}}"#), Ok(None));
        assert_eq!(say(&mut connection, now, r#"{"op":3,"d":9007199254740991}"#), Ok(None));
        let acks = [r#"{"op":6,"d":{"t":5}}"#, r#"{"op":6,"d":9007199254740991}"#];
        assert_eq!(outputs(&mut connection), acks);
    }
}

#[test]
fn only_who_is_in_acknowledges_and_only_possible_numbers() {
    let now = Instant::now();
    for (seq_ack, expected) in [
        ("1", Some(1)),
        ("65535", Some(65_535)),
        ("3.0", Some(3)),
        ("-1", None),
        ("0", None),
        ("null", None),
        ("65536", None),
        ("-65535", None),
        ("1e300", None),
    ] {
        let heartbeat = format!(r#"{{"op":3,"d":{{"t":5,"seq_ack":{seq_ack}}}}}"#);
        let request = say(&mut joined(now), now, &heartbeat);
        assert_eq!(request, Ok(expected.map(Request::Acknowledge)), "{seq_ack}");
        for mut connection in [open("v=8", now), asked(now)] {
            assert_eq!(say(&mut connection, now, &heartbeat), Ok(None), "{seq_ack}");
        }
    }
}

#[test]
fn identify_or_resume_opens_the_conversation() {
    let now = Instant::now();
    let mut connection = open("v=8", now);
    let request = say(&mut connection, now, IDENTIFY).unwrap();
    assert!(matches!(request, Some(Request::Identify(Identify { user: UserId(2), .. }))));
    let mut connection = open("v=8", now);
    let request = say(&mut connection, now, RESUME).unwrap();
    assert!(matches!(request, Some(Request::Resume(Resume { seq_ack: Some(3), .. }))));
    assert!(!connection.is_joined());
    connection.joined(now);
    assert!(connection.is_joined());
}

#[test]
fn what_comes_between_identify_and_the_answer_is_delivered_after_it() {
    let now = Instant::now();
    let mut connection = asked(now);
    outputs(&mut connection);
    assert_eq!(say(&mut connection, now, SPEAKING), Ok(None));
    assert_eq!(say(&mut connection, now, r#"{"op":16,"d":{}}"#), Ok(None));
    assert_eq!(connection.handle_frame(now, Frame::Binary(vec![26, 1])), Ok(None));
    assert_eq!(say(&mut connection, now, r#"{"op":40,"d":{}}"#), Ok(None));
    assert_eq!(outputs(&mut connection).len(), 1, "the backend version");

    let speaking = ClientMessage::Speaking(Speaking { flags: 1, ssrc: Some(Ssrc(7)) });
    let key_package = ClientMessage::Dave(Dave::KeyPackage(vec![1]));
    let expected = [speaking.clone(), key_package].map(Request::Message);
    assert_eq!(connection.joined(now), expected);
    assert_eq!(say(&mut connection, now, SPEAKING), Ok(Some(Request::Message(speaking))));
}

#[test]
fn what_waits_for_the_answer_is_bounded_by_number_and_by_bytes() {
    let now = Instant::now();
    let mut connection = asked(now);
    for _ in 0..HELD_MESSAGES_MAX {
        assert_eq!(say(&mut connection, now, SPEAKING), Ok(None));
    }
    let refusal = say(&mut connection, now, SPEAKING).unwrap_err();
    assert_eq!(refusal.code, CloseCode::RateLimited);

    let mut connection = asked(now);
    let mut package = vec![0; HELD_BYTES_MAX];
    package[0] = 26;
    assert_eq!(connection.handle_frame(now, Frame::Binary(package)), Ok(None));
    let refusal = connection.handle_frame(now, Frame::Binary(vec![26, 1])).unwrap_err();
    assert_eq!(refusal.code, CloseCode::RateLimited);
}

/// The rows of protocol.md §1.8 that a connection decides, in each state: fresh, asked, joined.
#[test]
fn close_codes_follow_the_table() {
    use CloseCode::*;
    let binary = |bytes: &[u8]| Frame::Binary(bytes.to_vec());
    let codecs = json!({"op": 14, "d": {"codecs": [{"name": "VP8", "payload_type": 200}]}});
    let table: &[(&str, Frame, [Option<CloseCode>; 3])] = &[
        ("an opcode above 64", text(r#"{"op":65}"#), [Some(UnknownOpcode); 3]),
        ("a binary one", binary(&[65]), [Some(UnknownOpcode); 3]),
        ("no JSON", text("hello"), [Some(DecodeFailed); 3]),
        (
            "a wrong type",
            text(r#"{"op":5,"d":7}"#),
            [Some(NotAuthenticated), Some(DecodeFailed), Some(DecodeFailed)],
        ),
        ("an empty binary frame", binary(&[]), [Some(DecodeFailed); 3]),
        ("a short binary frame", binary(&[26]), [Some(DecodeFailed); 3]),
        (
            "beyond a limit",
            text(&codecs.to_string()),
            [Some(NotAuthenticated), Some(BadRequest), Some(BadRequest)],
        ),
        (
            "Identify",
            text(IDENTIFY),
            [None, Some(AlreadyAuthenticated), Some(AlreadyAuthenticated)],
        ),
        ("Resume", text(RESUME), [None, Some(AlreadyAuthenticated), Some(AlreadyAuthenticated)]),
        ("Heartbeat", text(r#"{"op":3,"d":1}"#), [None; 3]),
        ("Speaking", text(SPEAKING), [Some(NotAuthenticated), None, None]),
        ("Backend Version", text(r#"{"op":16}"#), [Some(NotAuthenticated), None, None]),
        ("No Route", text(r#"{"op":32}"#), [Some(NotAuthenticated), None, None]),
        ("a dead opcode", text(r#"{"op":10}"#), [Some(NotAuthenticated), None, None]),
        ("a future opcode", text(r#"{"op":64}"#), [Some(NotAuthenticated), None, None]),
        ("a server's opcode", text(r#"{"op":8}"#), [Some(NotAuthenticated), None, None]),
        ("a key package", binary(&[26, 1]), [Some(NotAuthenticated), None, None]),
    ];
    let now = Instant::now();
    for (what, frame, codes) in table {
        let states = [open("v=8", now), asked(now), joined(now)];
        for (mut connection, code) in states.into_iter().zip(codes) {
            let state = format!("{:?}", connection.state);
            let refusal = connection.handle_frame(now, frame.clone()).err();
            assert_eq!(refusal.map(|refusal| refusal.code), *code, "{what} while {state}");
        }
    }
}

#[test]
fn server_only_opcodes_are_forgiven_a_few_times() {
    let now = Instant::now();
    let mut connection = joined(now);
    for op in [8, 2, 30].into_iter().take(SERVER_ONLY_OPCODES_MAX as usize) {
        assert_eq!(say(&mut connection, now, &format!(r#"{{"op":{op}}}"#)), Ok(None));
    }
    let refusal = say(&mut connection, now, r#"{"op":8}"#).unwrap_err();
    assert_eq!(refusal.code, CloseCode::UnknownOpcode);
}

#[test]
fn oversized_messages_fail_to_decode() {
    let now = Instant::now();
    let mut connection = joined(now);
    let text = format!(r#"{{"op":16,"d":"{}"}}"#, "x".repeat(MESSAGE_BYTES_MAX));
    let refusal = say(&mut connection, now, &text).unwrap_err();
    assert_eq!(refusal.code, CloseCode::DecodeFailed);

    let mut stranger = open("v=8", now);
    let padded = |bytes| format!(r#"{{"op":3,"d":1{}}}"#, " ".repeat(bytes));
    assert!(say(&mut stranger, now, &padded(STRANGER_MESSAGE_BYTES_MAX - 20)).is_ok());
    let refusal = say(&mut stranger, now, &padded(STRANGER_MESSAGE_BYTES_MAX)).unwrap_err();
    assert_eq!(refusal.code, CloseCode::DecodeFailed, "a stranger's may be shorter only");
}

#[test]
fn a_flood_is_rate_limited_and_the_steady_rate_is_not() {
    let start = Instant::now();
    let mut connection = joined(start);
    // Identify was the first of the burst.
    for sent in 1..MESSAGE_BURST_MAX {
        assert!(say(&mut connection, start, SPEAKING).is_ok(), "message {sent}");
    }
    let refusal = say(&mut connection, start, SPEAKING).unwrap_err();
    assert_eq!(refusal.code, CloseCode::RateLimited);

    let mut connection = joined(start);
    for message in 0..1_000 {
        let now = start + MESSAGE_INTERVAL * message;
        assert!(say(&mut connection, now, SPEAKING).is_ok(), "message {message}");
    }
    // Heartbeats count as well: the answer costs as much.
    let mut connection = open("v=8", start);
    let answers = (0..200).map(|_| say(&mut connection, start, r#"{"op":3,"d":1}"#));
    assert_eq!(answers.filter(Result::is_ok).count(), MESSAGE_BURST_MAX as usize);
}

#[test]
fn who_does_not_identify_in_time_is_not_authenticated() {
    let start = Instant::now();
    let mut connection = open("v=8", start);
    let due = start + IDENTIFY_TIMEOUT;
    assert_eq!(connection.deadline(), due);
    // Heartbeats do not help.
    say(&mut connection, due - Duration::from_millis(1), r#"{"op":3,"d":1}"#).unwrap();
    assert_eq!(connection.deadline(), due);
    assert_eq!(connection.handle_timeout(due - Duration::from_nanos(1)), None);
    assert_eq!(connection.handle_timeout(due).unwrap().code, CloseCode::NotAuthenticated);
}

#[test]
fn a_slow_answer_is_not_the_clients_fault() {
    let start = Instant::now();
    let mut connection = asked(start);
    assert_eq!(connection.handle_timeout(start + IDENTIFY_TIMEOUT), None);
    let answered = start + IDENTIFY_TIMEOUT * 2;
    connection.joined(answered);
    assert_eq!(connection.deadline(), answered + HEARTBEAT_TIMEOUT);
}

#[test]
fn silence_times_out_and_anything_heard_does_not() {
    let start = Instant::now();
    let mut connection = joined(start);
    assert_eq!(connection.deadline(), start + HEARTBEAT_TIMEOUT);
    let mut heard = start;
    for message in [SPEAKING, r#"{"op":3,"d":1}"#, r#"{"op":17}"#] {
        heard += HEARTBEAT_TIMEOUT - Duration::from_millis(1);
        assert_eq!(connection.handle_timeout(heard), None);
        say(&mut connection, heard, message).unwrap();
        assert_eq!(connection.deadline(), heard + HEARTBEAT_TIMEOUT);
    }
    heard += Duration::from_secs(1);
    connection.handle_sign_of_life(heard).unwrap();
    assert_eq!(
        connection.handle_timeout(heard + HEARTBEAT_TIMEOUT - Duration::from_nanos(1)),
        None
    );
    let refusal = connection.handle_timeout(heard + HEARTBEAT_TIMEOUT).unwrap();
    assert_eq!(refusal.code, CloseCode::SessionTimeout);
}

#[test]
fn output_keeps_its_order_and_its_size_is_known() {
    let mut connection = open("v=8", Instant::now());
    outputs(&mut connection);
    connection.send(&ServerMessage::Resumed);
    connection.queue(text("replayed"));
    connection.queue(Frame::Binary(vec![0, 1, 25]));
    assert_eq!(connection.queued_bytes(), r#"{"op":9,"d":null}"#.len() + 8 + 3);
    assert!(connection.poll_output() == Some(text(r#"{"op":9,"d":null}"#)));
    assert!(connection.poll_output() == Some(text("replayed")));
    assert!(connection.poll_output() == Some(Frame::Binary(vec![0, 1, 25])));
    assert_eq!(connection.poll_output(), None);
    assert_eq!(connection.queued_bytes(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_sequence_of_frames_breaks_the_order(
        frames in proptest::collection::vec(
            prop_oneof![
                Just(text(IDENTIFY)),
                Just(text(RESUME)),
                Just(text(SPEAKING)),
                Just(text(r#"{"op":3,"d":{"t":1,"seq_ack":9}}"#)),
                (0_u8..70).prop_map(|op| text(&format!(r#"{{"op":{op},"d":{{}}}}"#))),
                any::<String>().prop_map(Frame::Text),
                proptest::collection::vec(any::<u8>(), 0..40).prop_map(Frame::Binary),
            ],
            0..40,
        ),
        answer_after in 0_usize..40,
    ) {
        let now = Instant::now();
        let mut connection = open("v=8", now);
        let mut doors = 0;
        for (turn, frame) in frames.into_iter().enumerate() {
            let was_joined = connection.is_joined();
            match connection.handle_frame(now, frame) {
                Ok(Some(Request::Identify(_) | Request::Resume(_))) => doors += 1,
                Ok(Some(_)) => prop_assert!(was_joined, "only who is in asks for anything else"),
                Ok(None) | Err(_) => {}
            }
            prop_assert!(doors <= 1);
            if doors == 1 && turn >= answer_after && !connection.is_joined() {
                connection.joined(now);
            }
        }
        let queued: usize = connection.outbox.iter().map(Frame::len).sum();
        prop_assert_eq!(connection.queued_bytes(), queued);
    }
}

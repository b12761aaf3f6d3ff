//! Exact bytes of what the server says, in every dialect.

use serde::Deserialize;

use super::*;
use crate::signalling::{ClientMessage, Resolution};

fn version(number: u8) -> Version {
    Version::from_query(Some(&format!("v={number}")))
}

const LEGACY: Option<&str> = None;

#[track_caller]
fn assert_text(message: &ServerMessage<'_>, version: Version, seq: Option<u16>, expected: &str) {
    match message.encode(version, seq) {
        Frame::Text(text) => assert_eq!(text, expected),
        Frame::Binary(_) => panic!("binary instead of {expected}"),
    }
}

fn layer(rid: &str, ssrc: u32) -> Layer {
    Layer {
        rid: rid.to_owned(),
        quality: rid.parse().unwrap(),
        active: false,
        ssrc: Some(Ssrc(ssrc)),
        rtx_ssrc: Some(Ssrc(ssrc + 1)),
        max_framerate: None,
        max_resolution: None,
    }
}

#[test]
fn hello_echoes_the_version_and_has_no_number() {
    for (query, v) in [(LEGACY, 8), (Some("v=3"), 3), (Some("v=4"), 4), (Some("v=9"), 9)] {
        assert_text(
            &ServerMessage::Hello,
            Version::from_query(query),
            None,
            &format!(r#"{{"op":8,"d":{{"v":{v},"heartbeat_interval":41250}}}}"#),
        );
    }
}

#[test]
fn ready_has_every_list_and_in_the_legacy_profile_the_interval() {
    let ready = ServerMessage::Ready {
        ssrc: Ssrc(1),
        ip: "203.0.113.7".parse().unwrap(),
        port: 50_001,
        modes: &["aead_aes256_gcm_rtpsize", "aead_xchacha20_poly1305_rtpsize"],
        streams: &[],
    };
    let d = r#""ssrc":1,"ip":"203.0.113.7","port":50001,"modes":["aead_aes256_gcm_rtpsize","aead_xchacha20_poly1305_rtpsize"],"experiments":[],"streams":[]"#;
    assert_text(&ready, version(8), Some(1), &format!(r#"{{"op":2,"d":{{{d}}},"seq":1}}"#));
    assert_text(&ready, version(4), None, &format!(r#"{{"op":2,"d":{{{d}}}}}"#));
    let legacy = format!(r#"{{"op":2,"d":{{{d},"heartbeat_interval":41250}}}}"#);
    assert_text(&ready, Version::from_query(LEGACY), None, &legacy);

    let with_video = ServerMessage::Ready {
        ssrc: Ssrc(1),
        ip: "2001:db8::1".parse().unwrap(),
        port: 50_001,
        modes: &[],
        streams: &[layer("100", 2), layer("50", 4)],
    };
    assert_text(
        &with_video,
        version(9),
        Some(2),
        concat!(
            r#"{"op":2,"d":{"ssrc":1,"ip":"2001:db8::1","port":50001,"modes":[],"experiments":[],"streams":["#,
            r#"{"type":"video","rid":"100","quality":100,"active":false,"ssrc":2,"rtx_ssrc":3},"#,
            r#"{"type":"video","rid":"50","quality":50,"active":false,"ssrc":4,"rtx_ssrc":5}]},"seq":2}"#,
        ),
    );
}

#[test]
fn session_description_for_a_browser_has_an_sdp_and_neither_mode_nor_key() {
    let message = ServerMessage::SessionDescription {
        media: Described::WebRtc { sdp: "m=audio 50000 ICE/SDP\na=rtcp:50000\n" },
        audio_codec: CodecName::Opus,
        video_codec: CodecName::Vp8,
        media_session_id: "00112233445566778899aabbccddeeff",
        dave_protocol_version: 0,
    };
    let d = concat!(
        r#"{"audio_codec":"opus","video_codec":"VP8","#,
        r#""media_session_id":"00112233445566778899aabbccddeeff","#,
        r#""sdp":"m=audio 50000 ICE/SDP\na=rtcp:50000\n","dave_protocol_version":0}"#,
    );
    assert_text(&message, version(8), Some(2), &format!(r#"{{"op":4,"d":{d},"seq":2}}"#));
}

#[test]
fn session_description_writes_the_key_as_numbers_and_always_the_dave_version() {
    let mut secret_key = [0; 32];
    secret_key[0] = 255;
    secret_key[31] = 7;
    let message = ServerMessage::SessionDescription {
        media: Described::Udp { mode: "aead_aes256_gcm_rtpsize", secret_key: &secret_key },
        audio_codec: CodecName::Opus,
        video_codec: CodecName::H264,
        media_session_id: "00112233445566778899aabbccddeeff",
        dave_protocol_version: 0,
    };
    let d = concat!(
        r#"{"audio_codec":"opus","video_codec":"H264","#,
        r#""media_session_id":"00112233445566778899aabbccddeeff","#,
        r#""mode":"aead_aes256_gcm_rtpsize","secret_key":[255,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,"#,
        r#"0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,7],"dave_protocol_version":0}"#,
    );
    assert_text(&message, version(8), Some(2), &format!(r#"{{"op":4,"d":{d},"seq":2}}"#));
    assert_text(&message, Version::from_query(LEGACY), None, &format!(r#"{{"op":4,"d":{d}}}"#));
    assert_eq!(format!("{message:?}"), "ServerMessage(op 4)");
    assert!(!format!("{:?}", message.encode(version(8), None)).contains("255,0"));
}

#[test]
fn the_other_messages_have_these_bytes() {
    let sent = Layer {
        active: true,
        max_framerate: Some(30),
        max_resolution: Some(Resolution { source: false, width: 1280, height: 720 }),
        ..layer("100", 2)
    };
    let screen = Layer {
        max_resolution: Some(Resolution { source: true, width: 0, height: 0 }),
        ..layer("100", 2)
    };
    let user = UserId(104_694_319_306_248_192);
    let table: &[(ServerMessage<'_>, &str)] = &[
        (ServerMessage::Heartbeat, r#"{"op":3,"d":null}"#),
        (ServerMessage::Resumed, r#"{"op":9,"d":null}"#),
        (
            ServerMessage::ClientsConnect { users: &[UserId(1), UserId(u64::MAX)] },
            r#"{"op":11,"d":{"user_ids":["1","18446744073709551615"]}}"#,
        ),
        (ServerMessage::ClientsConnect { users: &[] }, r#"{"op":11,"d":{"user_ids":[]}}"#),
        (
            ServerMessage::ClientDisconnect { user },
            r#"{"op":13,"d":{"user_id":"104694319306248192"}}"#,
        ),
        (
            ServerMessage::Speaking { user, ssrc: Ssrc(7), flags: 5 },
            r#"{"op":5,"d":{"speaking":5,"ssrc":7,"user_id":"104694319306248192"}}"#,
        ),
        (
            ServerMessage::Video {
                user,
                audio_ssrc: Ssrc(1),
                video_ssrc: Some(Ssrc(2)),
                streams: &[sent],
            },
            concat!(
                r#"{"op":12,"d":{"user_id":"104694319306248192","audio_ssrc":1,"video_ssrc":2,"#,
                r#""streams":[{"type":"video","rid":"100","quality":100,"active":true,"ssrc":2,"#,
                r#""rtx_ssrc":3,"max_framerate":30,"#,
                r#""max_resolution":{"type":"fixed","width":1280,"height":720}}]}}"#,
            ),
        ),
        (
            ServerMessage::Video {
                user,
                audio_ssrc: Ssrc(1),
                video_ssrc: None,
                streams: &[screen],
            },
            concat!(
                r#"{"op":12,"d":{"user_id":"104694319306248192","audio_ssrc":1,"video_ssrc":0,"#,
                r#""streams":[{"type":"video","rid":"100","quality":100,"active":false,"ssrc":2,"#,
                r#""rtx_ssrc":3,"max_resolution":{"type":"source","width":0,"height":0}}]}}"#,
            ),
        ),
        (
            ServerMessage::SessionUpdate {
                audio_codec: None,
                video_codec: Some(CodecName::Av1),
                media_session_id: None,
            },
            r#"{"op":14,"d":{"video_codec":"AV1"}}"#,
        ),
        (
            ServerMessage::SessionUpdate {
                audio_codec: Some(CodecName::Opus),
                video_codec: Some(CodecName::H265),
                media_session_id: Some("ab"),
            },
            r#"{"op":14,"d":{"audio_codec":"opus","video_codec":"H265","media_session_id":"ab"}}"#,
        ),
        (
            ServerMessage::SinkWants { any: None, by_ssrc: &[(Ssrc(13960), 100), (Ssrc(2), 0)] },
            r#"{"op":15,"d":{"13960":100,"2":0}}"#,
        ),
        (ServerMessage::SinkWants { any: Some(100), by_ssrc: &[] }, r#"{"op":15,"d":{"any":100}}"#),
        (
            ServerMessage::BackendVersion,
            concat!(
                r#"{"op":16,"d":{"voice":""#,
                env!("CARGO_PKG_VERSION"),
                r#"","rtc_worker":""#,
                env!("CARGO_PKG_VERSION"),
                r#""}}"#
            ),
        ),
        (
            ServerMessage::ClientFlags { user: UserId(1), flags: Some(2) },
            r#"{"op":18,"d":{"user_id":"1","flags":2}}"#,
        ),
        (
            ServerMessage::ClientPlatform { user: UserId(1), platform: None },
            r#"{"op":20,"d":{"user_id":"1","platform":null}}"#,
        ),
    ];
    for (message, expected) in table {
        assert_text(message, version(4), None, expected);
        let numbered = format!("{},\"seq\":65535}}", &expected[..expected.len() - 1]);
        assert_text(message, version(8), Some(65_535), &numbered);
        assert_text(message, version(7), Some(65_535), expected);
    }
}

#[test]
fn speaking_is_a_boolean_below_version_4() {
    for (flags, boolean) in [(0, false), (1, true), (2, true), (5, true)] {
        let message = ServerMessage::Speaking { user: UserId(1), ssrc: Ssrc(7), flags };
        for legacy in [Version::from_query(LEGACY), version(1), version(3)] {
            let expected =
                format!(r#"{{"op":5,"d":{{"speaking":{boolean},"ssrc":7,"user_id":"1"}}}}"#);
            assert_text(&message, legacy, None, &expected);
        }
    }
}

#[test]
fn heartbeats_are_echoed_in_the_shape_they_came_in() {
    for (d, echo) in [
        ("10", "10"),
        ("0", "0"),
        ("-1", "-1"),
        ("9007199254740991", "9007199254740991"),
        ("18446744073709551616", "18446744073709551616"),
        ("1754000000000.25", "1754000000000.25"),
        ("1.0", "1.0"),
        ("1E3", "1E3"),
        (" 10 ", "10"),
        (r#"{"t":1754000000000,"seq_ack":-1}"#, r#"{"t":1754000000000}"#),
        (r#"{"seq_ack":3,"t":1.50}"#, r#"{"t":1.50}"#),
        (r#" { "t" : 5 } "#, r#"{"t":5}"#),
    ] {
        let text = format!(r#"{{"op":3,"d":{d}}}"#);
        let Ok(ClientMessage::Heartbeat(heartbeat)) = ClientMessage::parse(&text) else {
            panic!("{text}");
        };
        for version in [Version::from_query(LEGACY), version(4), version(8)] {
            let expected = format!(r#"{{"op":6,"d":{echo}}}"#);
            assert_text(&ServerMessage::HeartbeatAck(&heartbeat), version, None, &expected);
        }
    }
}

/// protocol.md §1.7.
#[test]
fn messages_that_carry_state_are_numbered() {
    let unnumbered = [3, 6, 8, 9, 16];
    let numbered = [2, 4, 5, 11, 12, 13, 14, 15, 18, 20, 21, 22, 24, 25, 27, 29, 30];
    assert!(unnumbered.iter().all(|op| !opcode::is_numbered(*op)));
    assert!(numbered.iter().all(|op| opcode::is_numbered(*op)));
    assert!(!ServerMessage::Hello.numbered());
    assert!(ServerMessage::Binary { op: 25, payload: &[] }.numbered());
    assert!(ServerMessage::ClientDisconnect { user: UserId(1) }.numbered());
}

#[test]
fn binary_frames_match_the_vectors() {
    #[derive(Deserialize)]
    struct File {
        vectors: Vec<Vector>,
    }
    #[derive(Deserialize)]
    struct Vector {
        dir: String,
        gateway_v: u8,
        op: u8,
        seq: Option<u16>,
        payload: String,
        frame: String,
    }
    fn hex(text: &str) -> Vec<u8> {
        let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(digit).collect()
    }

    let file: File =
        serde_json::from_str(include_str!("../../tests/vectors/ws_binary_frames.json")).unwrap();
    let mut sent = 0;
    let mut received = 0;
    for vector in &file.vectors {
        let payload = hex(&vector.payload);
        if vector.dir == "S->C" {
            let message = ServerMessage::Binary { op: vector.op, payload: &payload };
            let frame = message.encode(version(vector.gateway_v), vector.seq);
            assert!(frame == Frame::Binary(hex(&vector.frame)), "op {}", vector.op);
            sent += 1;
        } else {
            let message = ClientMessage::parse_binary(&hex(&vector.frame)).unwrap();
            use crate::signalling::Dave;
            let expected = match vector.op {
                26 => Dave::KeyPackage(payload),
                28 => Dave::CommitWelcome(payload),
                op => panic!("op {op} is not the client's"),
            };
            assert_eq!(message, ClientMessage::Dave(expected));
            received += 1;
        }
    }
    assert_eq!((sent, received), (3, 2));
}

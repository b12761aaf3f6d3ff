//! What real clients send, and what hostile ones do.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::*;
use crate::{
    id::{ChannelId, ServerId, SessionId, Token, UserId},
    limits::{
        CODECS_MAX, CREDENTIAL_BYTES_MAX, JSON_DEPTH_MAX, LAYERS_MAX, RID_BYTES_MAX, SINK_WANTS_MAX,
    },
    signalling::{CodecName, Layer, Protocol, Resolution, StreamRequest, Version},
};

#[derive(Deserialize)]
struct Captured {
    path: String,
    msgs: Vec<Box<RawValue>>,
}

fn captured() -> BTreeMap<String, Captured> {
    serde_json::from_str(include_str!("../../tests/vectors/client_payloads.json")).unwrap()
}

fn code(text: &str) -> Option<CloseCode> {
    ClientMessage::parse(text).err().map(|refusal| refusal.code)
}

fn parse(message: Value) -> ClientMessage {
    ClientMessage::parse(&message.to_string()).unwrap_or_else(|error| panic!("{message}: {error}"))
}

const SESSION: &str = "30f32c5d54ae86130fc4a215c7474263";
const TOKEN: &str = "66d29164ee8cd919";

fn identify() -> Identify {
    Identify {
        server: ServerId(41_771_983_423_143_937),
        channel: None,
        user: UserId(104_694_319_306_248_192),
        session: SessionId(SESSION.into()),
        token: Token::new(TOKEN),
        video: false,
        streams: vec![],
        dave_max: 0,
    }
}

fn resume(seq_ack: Option<i64>) -> ClientMessage {
    ClientMessage::Resume(Resume {
        server: ServerId(41_771_983_423_143_937),
        channel: None,
        session: SessionId(SESSION.into()),
        token: Token::new(TOKEN),
        seq_ack,
    })
}

fn udp(mode: &str) -> ClientMessage {
    ClientMessage::SelectProtocol(SelectProtocol {
        protocol: Protocol::Udp { mode: mode.to_owned() },
        codecs: None,
        rtc_connection_id: None,
    })
}

fn heartbeat(nonce: &str, seq_ack: Option<i64>, object: bool) -> ClientMessage {
    let nonce = RawValue::from_string(nonce.to_owned()).unwrap();
    ClientMessage::Heartbeat(Heartbeat { nonce, seq_ack, object })
}

fn speaking(flags: u32, ssrc: Option<u32>) -> ClientMessage {
    ClientMessage::Speaking(Speaking { flags, ssrc: ssrc.map(Ssrc) })
}

fn no_video(audio: u32, streams: Vec<Layer>) -> ClientMessage {
    let audio_ssrc = Some(Ssrc(audio));
    ClientMessage::Video(Video { audio_ssrc, video_ssrc: None, rtx_ssrc: None, streams })
}

fn stream(rid: &str, quality: u8) -> StreamRequest {
    StreamRequest { rid: rid.to_owned(), quality }
}

fn codec(name: CodecName, payload_type: u8, rtx_payload_type: Option<u8>) -> Codec {
    Codec { name, priority: 1000, payload_type, rtx_payload_type, encode: true, decode: true }
}

fn transition_ready() -> ClientMessage {
    ClientMessage::Dave(Dave::TransitionReady { transition: 1 })
}

fn invalid_commit() -> ClientMessage {
    ClientMessage::Dave(Dave::InvalidCommitWelcome { transition: 1 })
}

/// The version each client connects with, and each of its messages as we must understand it.
fn expected(client: &str) -> (u8, Vec<ClientMessage>) {
    const AES: &str = "aead_aes256_gcm_rtpsize";
    const XCHACHA: &str = "aead_xchacha20_poly1305_rtpsize";
    let sdp = concat!(
        "a=extmap-allow-mixed\na=ice-ufrag:9WZo\na=ice-pwd:vcfFowC3gQI1KHu0Fm5ZTXum\n",
        "a=ice-options:trickle\na=fingerprint:sha-256 71:20:4C:BE:C2:D0:B7:9B:73:5B:4B:29:7C:32:",
        "41:25:D8:D2:BC:66:74:D3:93:98:B3:0D:01:F7:67:19:01:13\n",
        "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\n",
        "a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\n",
        "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\na=rtpmap:111 opus/48000/2\n",
        "a=rtpmap:96 VP8/90000\na=rtpmap:97 rtx/90000",
    );
    let web = |rtc_connection_id: Option<&str>| {
        ClientMessage::SelectProtocol(SelectProtocol {
            protocol: Protocol::WebRtc { sdp: sdp.to_owned() },
            codecs: Some(vec![
                codec(CodecName::Opus, 111, None),
                codec(CodecName::H264, 103, Some(104)),
            ]),
            rtc_connection_id: rtc_connection_id.map(str::to_owned),
        })
    };
    let dave = ClientMessage::Identify(Identify { dave_max: 1, ..identify() });
    let no_dave = ClientMessage::Identify(identify());
    let streams = vec![stream("100", 100)];
    let camera = Identify { video: true, streams, dave_max: 1, ..identify() };
    let channel = Some(ChannelId(127_121_515_262_115_840));
    match client {
        "discord.py 2.7.1" => (
            8,
            vec![
                dave,
                udp(XCHACHA),
                heartbeat("1754000000000", Some(-1), true),
                speaking(0, Some(1)),
                no_video(1, vec![]),
                resume(Some(10)),
                transition_ready(),
                invalid_commit(),
            ],
        ),
        "songbird 0.6.1" => (
            4,
            vec![
                dave,
                udp(AES),
                heartbeat("9007199254740991", None, false),
                speaking(1, Some(1)),
                resume(None),
                transition_ready(),
                invalid_commit(),
            ],
        ),
        "@discordjs/voice 0.19.2" => (
            8,
            vec![
                dave,
                udp(AES),
                heartbeat("1754000000000", Some(-1), true),
                speaking(1, Some(1)),
                resume(Some(10)),
            ],
        ),
        "JDA 6.4.2" => (
            8,
            vec![
                no_dave,
                udp(AES),
                heartbeat("1754000000000", Some(3), true),
                heartbeat("1754000000000", None, false),
                speaking(0, Some(1)),
                resume(Some(0)),
            ],
        ),
        "discordgo 0.29" => {
            (0, vec![no_dave, udp(AES), heartbeat("1754000000", None, false), speaking(1, None)])
        }
        "discord.py-self 2.2.0a" => (
            9,
            vec![
                ClientMessage::Identify(Identify { channel, ..camera }),
                no_video(1, vec![]),
                ClientMessage::SessionUpdate {
                    codecs: Some(vec![codec(CodecName::Opus, 120, None)]),
                },
                ClientMessage::SinkWants(SinkWants {
                    any: Some(100),
                    by_ssrc: vec![(Ssrc(2), 100)],
                    pixel_counts: vec![(Ssrc(2), 921_600)],
                }),
                ClientMessage::BackendVersion,
                match resume(Some(10)) {
                    ClientMessage::Resume(resume) => {
                        ClientMessage::Resume(Resume { channel, ..resume })
                    }
                    other => other,
                },
            ],
        ),
        "Fermi e49cd26a (web)" => (
            0,
            vec![
                ClientMessage::Identify(Identify {
                    streams: vec![stream("100", 100)],
                    ..identify()
                }),
                web(None),
                heartbeat("10", None, false),
                speaking(1, Some(0xdead_beef)),
                no_video(
                    0xdead_beef,
                    vec![Layer {
                        rid: "100".to_owned(),
                        quality: 100,
                        active: false,
                        ssrc: None,
                        rtx_ssrc: None,
                        max_framerate: Some(30),
                        max_resolution: Some(Resolution {
                            source: false,
                            width: 1280,
                            height: 720,
                        }),
                    }],
                ),
            ],
        ),
        "official web" => (
            9,
            vec![
                ClientMessage::Identify(Identify {
                    channel,
                    video: true,
                    streams: vec![stream("100", 100), stream("50", 50)],
                    dave_max: 1,
                    ..identify()
                }),
                web(Some("d6b92f64-40df-48eb-8bce-7facb043149a")),
                heartbeat("1754000000000", Some(10), true),
                ClientMessage::SinkWants(SinkWants { any: Some(100), ..SinkWants::default() }),
            ],
        ),
        "concord be7d750 (stream viewer)" => (
            9,
            vec![
                ClientMessage::Identify(Identify {
                    server: ServerId(1_278_201_813_102_755_892),
                    channel: Some(ChannelId(1_278_201_813_102_755_893)),
                    // It lists no stream.
                    ..camera
                }),
                no_video(1, vec![]),
                ClientMessage::SinkWants(SinkWants {
                    any: Some(0),
                    by_ssrc: vec![(Ssrc(1), 100), (Ssrc(2), 100)],
                    pixel_counts: vec![(Ssrc(2), 2_073_600)],
                }),
            ],
        ),
        unknown => panic!("no expectation for {unknown}"),
    }
}

#[test]
fn every_captured_message_is_understood() {
    let captured = captured();
    assert_eq!(captured.len(), 9);
    for (client, Captured { path, msgs }) in captured {
        let (version, expected) = expected(&client);
        let query = path.split_once('?').and_then(|(_, query)| query.split(' ').next());
        assert_eq!(Version::from_query(query).number(), version, "{client}");
        assert_eq!(msgs.len(), expected.len(), "{client}");
        for (text, expected) in msgs.iter().zip(expected) {
            let message = ClientMessage::parse(text.get());
            assert_eq!(message.as_ref(), Ok(&expected), "{client}: {text}");
        }
    }
}

#[test]
fn clients_may_be_careless() {
    let lenient = json!({"zzz": [{}], "op": 0, "d": {
        "server_id": 1, "channel_id": null, "user_id": 18_446_744_073_709_551_615_u64,
        "session_id": "", "token": "", "video": null, "streams": null, "extra": {"op": 99},
        "max_dave_protocol_version": 1.0,
    }});
    assert_eq!(
        parse(lenient),
        ClientMessage::Identify(Identify {
            server: ServerId(1),
            channel: None,
            user: UserId(u64::MAX),
            session: SessionId("".into()),
            token: Token::new(""),
            video: false,
            streams: vec![],
            dave_max: 1,
        })
    );
    let bare = json!({"op": 12, "d": {"audio_ssrc": 1.0, "streams": [
        {"rid": "50", "max_bitrate": "much", "max_framerate": -3, "quality": 5000, "ssrc": null},
        {"quality": 50, "active": true, "ssrc": 9, "max_resolution": {"type": "source"}},
        {},
    ]}});
    let layer = |rid: &str, quality| Layer {
        rid: rid.to_owned(),
        quality,
        active: false,
        ssrc: None,
        rtx_ssrc: None,
        max_framerate: None,
        max_resolution: None,
    };
    let layers = vec![
        Layer { max_framerate: Some(0), ..layer("50", 100) },
        Layer {
            active: true,
            ssrc: Some(Ssrc(9)),
            max_resolution: Some(Resolution { source: true, width: 0, height: 0 }),
            ..layer("50", 50)
        },
        layer("100", 100),
    ];
    assert_eq!(parse(bare), no_video(1, layers));

    assert_eq!(parse(json!({"op": 5, "d": {"speaking": 4.0, "ssrc": 0}})), speaking(4, None));
    assert_eq!(parse(json!({"op": 5, "d": {"speaking": false}})), speaking(0, None));
    assert_eq!(
        parse(json!({"op": 3, "d": {"t": 1.5, "seq_ack": 2.0}})),
        heartbeat("1.5", Some(2), true)
    );
    for d in [json!({}), json!(null), json!([1]), json!("x")] {
        assert_eq!(parse(json!({"op": 16, "d": d})), ClientMessage::BackendVersion);
        assert_eq!(parse(json!({"d": d, "op": 32})), ClientMessage::NoRoute);
    }
    assert_eq!(parse(json!({"op": 16})), ClientMessage::BackendVersion);
    assert_eq!(
        parse(json!({"op": 15, "d": {
            "any": null, "7": 33.9, "8": -5, "9": 900, "+1": 5, "x": {}, "4294967296": [],
            "pixelCounts": {"7": 1.5, "8": 1e30, "x": 2},
        }})),
        ClientMessage::SinkWants(SinkWants {
            any: None,
            by_ssrc: vec![(Ssrc(7), 33), (Ssrc(8), 0), (Ssrc(9), 100)],
            pixel_counts: vec![(Ssrc(7), 1), (Ssrc(8), u32::MAX)],
        })
    );
}

#[test]
fn codecs_without_a_name_of_ours_are_left_out() {
    let message = json!({"op": 14, "d": {"codecs": [
        {"name": "OPUS", "payload_type": 120},
        {"name": "rtx", "type": "video", "priority": 1, "payload_type": 1},
        {"name": "vp9", "priority": -1, "payload_type": 96, "rtx_payload_type": 97, "encode": false},
    ]}});
    let opus = Codec { priority: u32::MAX, ..codec(CodecName::Opus, 120, None) };
    let vp9 = Codec { priority: 0, encode: false, ..codec(CodecName::Vp9, 96, Some(97)) };
    assert_eq!(parse(message), ClientMessage::SessionUpdate { codecs: Some(vec![opus, vp9]) });
    assert_eq!(parse(json!({"op": 14, "d": {}})), ClientMessage::SessionUpdate { codecs: None });
}

#[test]
fn the_sdp_is_in_data_or_beside_it() {
    for (d, sdp) in [
        (json!({"protocol": "webrtc", "data": "a"}), "a"),
        (json!({"protocol": "webrtc", "sdp": "b"}), "b"),
        (json!({"protocol": "webrtc", "data": null, "sdp": "b"}), "b"),
        (json!({"protocol": "webrtc", "data": "a", "sdp": "b"}), "a"),
    ] {
        let message = parse(json!({"op": 1, "d": d}));
        let ClientMessage::SelectProtocol(select) = &message else { panic!("{message:?}") };
        assert_eq!(select.protocol, Protocol::WebRtc { sdp: sdp.to_owned() }, "{d}");
    }
    for neither in ["webrtc-p2p", "UDP", ""] {
        let message = parse(json!({"op": 1, "d": {"protocol": neither, "data": 5}}));
        let ClientMessage::SelectProtocol(select) = &message else { panic!("{message:?}") };
        assert_eq!(select.protocol, Protocol::Unknown, "{neither}");
    }
}

#[test]
fn video_is_active_with_a_camera_and_an_active_layer() {
    for (video_ssrc, active, expected) in
        [(2, true, true), (2, false, false), (0, true, false), (0, false, false)]
    {
        let message = parse(json!({"op": 12, "d": {
            "audio_ssrc": 1, "video_ssrc": video_ssrc,
            "streams": [{"rid": "100", "active": active}],
        }}));
        let ClientMessage::Video(video) = message else { panic!("{message:?}") };
        assert_eq!(video.is_active(), expected, "{video:?}");
    }
}

#[test]
fn every_opcode_has_its_place() {
    let server_only = [2, 4, 6, 8, 9, 11, 13, 18, 20, 21, 22, 24, 25, 27, 29, 30];
    let ignored = [10, 17, 19].into_iter().chain(33..=64);
    for op in server_only {
        assert_eq!(parse(json!({"op": op})), ClientMessage::ServerOnly(op));
        assert_eq!(ClientMessage::parse_binary(&[op]), Ok(ClientMessage::ServerOnly(op)));
    }
    for op in ignored {
        assert_eq!(parse(json!({"op": op, "d": [{}]})), ClientMessage::Ignored(op));
        assert_eq!(ClientMessage::parse_binary(&[op, 1]), Ok(ClientMessage::Ignored(op)));
    }
    for op in [0, 1, 3, 5, 7, 12, 14, 15, 16, 23, 31, 32] {
        let refusal = ClientMessage::parse_binary(&[op, 1]).unwrap_err();
        assert_eq!(refusal.code, CloseCode::DecodeFailed, "op {op}");
    }
    for op in 65..=255_u8 {
        let refusal = ClientMessage::parse_binary(&[op]).unwrap_err();
        assert_eq!(refusal.code, CloseCode::UnknownOpcode, "op {op}");
    }
    for op in [65, 255, 256, u64::MAX] {
        assert_eq!(code(&json!({"op": op}).to_string()), Some(CloseCode::UnknownOpcode), "{op}");
    }
}

#[test]
fn short_binary_frames_fail_to_decode() {
    for bytes in [&[][..], &[26], &[28]] {
        let refusal = ClientMessage::parse_binary(bytes).unwrap_err();
        assert_eq!(refusal.code, CloseCode::DecodeFailed, "{bytes:?}");
    }
}

#[test]
fn what_is_no_message_fails_to_decode() {
    for text in [
        "",
        " ",
        "null",
        "5",
        "\"op\"",
        "[]",
        "[16,{}]",
        "{}",
        r#"{"d":{}}"#,
        r#"{"op":16}{"op":16}"#,
        r#"{"op":16}x"#,
        r#"{"op":16,}"#,
        r#"{"op":16,"op":16}"#,
        r#"{"op":16,"d":{},"d":{}}"#,
        r#"{'op':16}"#,
        r#"{"op":"16"}"#,
        r#"{"op":null}"#,
        r#"{"op":true}"#,
        r#"{"op":[16]}"#,
        r#"{"op":{}}"#,
        r#"{"op":-1}"#,
        r#"{"op":16.5}"#,
        r#"{"op":NaN}"#,
        r#"{"op":26,"d":{}}"#,
        r#"{"op":28,"d":{}}"#,
        "\u{feff}{\"op\":16}",
        "{\"op\":16}\0",
    ] {
        assert_eq!(code(text), Some(CloseCode::DecodeFailed), "{text}");
    }
}

#[test]
fn a_known_key_twice_fails_to_decode() {
    for text in [
        r#"{"op":5,"d":{"speaking":1,"speaking":1}}"#,
        r#"{"op":23,"d":{"transition_id":1,"transition_id":2}}"#,
        r#"{"op":3,"d":{"t":1,"t":2}}"#,
        r#"{"op":12,"d":{"streams":[{"rid":"1","rid":"2"}]}}"#,
        r#"{"op":1,"d":{"protocol":"udp","data":{"mode":"a","mode":"b"}}}"#,
    ] {
        assert_eq!(code(text), Some(CloseCode::DecodeFailed), "{text}");
    }
    let text = r#"{"op":5,"x":1,"x":2,"d":{"speaking":1,"y":1,"y":2}}"#;
    assert_eq!(ClientMessage::parse(text), Ok(speaking(1, None)));
}

#[test]
fn lone_surrogates_fail_to_decode_where_they_are_read() {
    for text in [
        r#"{"op":7,"d":{"server_id":"1","session_id":"\ud800","token":""}}"#,
        r#"{"op":7,"d":{"server_id":"1","session_id":"","token":"\udc00x"}}"#,
        r#"{"op":7,"d":{"server_id":"\ud800","session_id":"","token":""}}"#,
        r#"{"op":1,"d":{"protocol":"\udbff\u0041"}}"#,
        r#"{"op":15,"d":{"\ud800":1}}"#,
    ] {
        assert_eq!(code(text), Some(CloseCode::DecodeFailed), "{text}");
    }
    let paired = r#"{"op":1,"d":{"protocol":"webrtc","data":"\ud83d\ude00"}}"#;
    assert!(ClientMessage::parse(paired).is_ok());
}

#[test]
fn nesting_is_bounded_before_anything_is_parsed() {
    let nested = |brackets: usize| {
        format!(r#"{{"op":16,"d":{}{}}}"#, "[".repeat(brackets), "]".repeat(brackets))
    };
    assert_eq!(code(&nested(JSON_DEPTH_MAX - 1)), None);
    assert_eq!(code(&nested(JSON_DEPTH_MAX)), Some(CloseCode::DecodeFailed));
    for unit in ["[", "{\"a\":", "{\"d\":[", "[[{}],"] {
        let text = format!(r#"{{"op":16,"d":{}"#, unit.repeat(60_000));
        assert_eq!(code(&text), Some(CloseCode::DecodeFailed), "{unit}");
    }
    // Brackets in strings, and after escaped quotes in strings, are text.
    let text = format!(r#"{{"op":16,"d":"{}\"{}"}}"#, "[".repeat(100), "{".repeat(100));
    assert_eq!(code(&text), None);
}

#[test]
fn huge_numbers_and_strings_are_only_numbers_and_strings() {
    let digits = "9".repeat(200_000);
    for text in [
        format!(r#"{{"op":{digits}}}"#),
        format!(r#"{{"op":3,"d":{digits}}}"#),
        format!(r#"{{"op":3,"d":{{"t":0.{digits}}}}}"#),
        format!(r#"{{"op":5,"d":{{"speaking":{digits}}}}}"#),
        format!(r#"{{"op":5,"d":{{"speaking":1,"ssrc":"{digits}"}}}}"#),
        format!(r#"{{"op":7,"d":{{"server_id":"{digits}","session_id":"","token":""}}}}"#),
    ] {
        assert_eq!(code(&text), Some(CloseCode::DecodeFailed), "{}", &text[..40]);
    }
    let long = "1".repeat(33);
    assert_eq!(code(&format!(r#"{{"op":3,"d":{long}}}"#)), Some(CloseCode::DecodeFailed));
    assert_eq!(code(&format!(r#"{{"op":3,"d":{}}}"#, &long[1..])), None);
    assert_eq!(code(&format!(r#"{{"op":16,"d":"{digits}"}}"#)), None);
}

#[test]
fn what_is_beyond_a_limit_is_a_bad_request() {
    let credentials = |session: usize, token: usize| {
        json!({"server_id": "1", "user_id": "1",
               "session_id": "s".repeat(session), "token": "t".repeat(token)})
    };
    let streams = |count: usize, rid: usize| {
        let mut d = credentials(1, 1);
        d["streams"] = json!(vec![json!({"rid": "r".repeat(rid)}); count]);
        d
    };
    let codecs = |count: usize, payload_type: Value, rtx: Value| {
        json!({"codecs": vec![json!({
            "name": "VP8", "payload_type": payload_type, "rtx_payload_type": rtx,
        }); count]})
    };
    let wants = |count: usize| {
        let wants: serde_json::Map<_, _> =
            (1..=count).map(|ssrc| (ssrc.to_string(), json!(1))).collect();
        Value::Object(wants)
    };
    let long = CREDENTIAL_BYTES_MAX;
    let rtc = |len: usize| json!({"protocol": "x", "rtc_connection_id": "c".repeat(len)});
    let fine = [
        (0, credentials(long, long)),
        (7, credentials(long, long)),
        (0, streams(LAYERS_MAX, RID_BYTES_MAX)),
        (12, streams(LAYERS_MAX, RID_BYTES_MAX)),
        (14, codecs(CODECS_MAX, json!(127), json!(0))),
        (15, wants(SINK_WANTS_MAX)),
        (15, json!({"pixelCounts": wants(SINK_WANTS_MAX)})),
        (1, rtc(long)),
        (23, json!({"transition_id": 65_535})),
    ];
    for (op, d) in fine {
        assert_eq!(code(&json!({"op": op, "d": d}).to_string()), None, "op {op}");
    }
    let beyond = [
        (0, credentials(long + 1, 1)),
        (0, credentials(1, long + 1)),
        (7, credentials(long + 1, 1)),
        (7, credentials(1, long + 1)),
        (0, streams(LAYERS_MAX + 1, 1)),
        (0, streams(1, RID_BYTES_MAX + 1)),
        (12, streams(LAYERS_MAX + 1, 1)),
        (12, streams(1, RID_BYTES_MAX + 1)),
        (14, codecs(CODECS_MAX + 1, json!(1), json!(null))),
        (14, codecs(1, json!(128), json!(null))),
        (14, codecs(1, json!(-1), json!(null))),
        (14, codecs(1, json!(1), json!(128))),
        (15, wants(SINK_WANTS_MAX + 1)),
        (15, json!({"pixelCounts": wants(SINK_WANTS_MAX + 1)})),
        (1, rtc(long + 1)),
        (23, json!({"transition_id": 65_536})),
        (31, json!({"transition_id": -1})),
    ];
    for (op, d) in beyond {
        let text = json!({"op": op, "d": d}).to_string();
        assert_eq!(code(&text), Some(CloseCode::BadRequest), "op {op}");
    }
}

/// Every field we read, and the JSON types it may have: n(ull or absent), b(oolean), f(loat or
/// integer), s(tring), a(rray), o(bject).
#[test]
fn a_field_of_a_wrong_type_fails_to_decode() {
    let stream = json!({"rid": "100", "quality": 100, "active": true, "ssrc": 2, "rtx_ssrc": 3,
        "max_bitrate": 1, "max_framerate": 30,
        "max_resolution": {"type": "fixed", "width": 1, "height": 1}});
    let codec = json!({"name": "H264", "type": "video", "priority": 1000, "payload_type": 1,
        "rtx_payload_type": 2, "encode": true, "decode": true});
    let credentials = json!({"server_id": "1", "channel_id": "1", "user_id": "1",
        "session_id": "s", "token": "t", "video": true, "streams": [stream],
        "max_dave_protocol_version": 1, "seq_ack": 1});
    let udp = json!({"protocol": "udp", "data": {"address": "", "port": 1, "mode": "m"},
        "sdp": "s", "rtc_connection_id": "r", "codecs": [codec], "experiments": []});
    let webrtc = json!({"protocol": "webrtc", "data": "d", "sdp": "s"});
    let anything = "nbfsao";
    type Fields<'a> = &'a [(&'a str, &'a str)];
    let table: &[(u8, &Value, Fields<'_>)] = &[
        (
            0,
            &credentials,
            &[
                ("", "o"),
                ("/server_id", "fs"),
                ("/channel_id", "nfs"),
                ("/user_id", "fs"),
                ("/session_id", "s"),
                ("/token", "s"),
                ("/video", "nb"),
                ("/streams", "na"),
                ("/streams/0", "o"),
                ("/streams/0/rid", "ns"),
                ("/streams/0/quality", "nf"),
                ("/streams/0/active", anything),
                ("/max_dave_protocol_version", "nf"),
            ],
        ),
        (
            1,
            &udp,
            &[
                ("", "o"),
                ("/protocol", "s"),
                ("/data", "o"),
                ("/data/address", anything),
                ("/data/port", anything),
                ("/data/mode", "s"),
                ("/sdp", "ns"),
                ("/rtc_connection_id", "ns"),
                ("/experiments", anything),
                ("/codecs", "na"),
                ("/codecs/0", "o"),
                ("/codecs/0/name", "s"),
                ("/codecs/0/type", anything),
                ("/codecs/0/priority", "nf"),
                ("/codecs/0/payload_type", "f"),
                ("/codecs/0/rtx_payload_type", "nf"),
                ("/codecs/0/encode", "nb"),
                ("/codecs/0/decode", "nb"),
            ],
        ),
        (1, &webrtc, &[("/data", "ns"), ("/sdp", "ns")]),
        (3, &json!({"t": 1, "seq_ack": 1}), &[("", "of"), ("/t", "f"), ("/seq_ack", "nf")]),
        (
            5,
            &json!({"speaking": 1, "ssrc": 1, "delay": 5, "user_id": null}),
            &[
                ("", "o"),
                ("/speaking", "bf"),
                ("/ssrc", "nf"),
                ("/delay", anything),
                ("/user_id", anything),
            ],
        ),
        (
            7,
            &credentials,
            &[
                ("", "o"),
                ("/server_id", "fs"),
                ("/channel_id", "nfs"),
                ("/user_id", anything),
                ("/session_id", "s"),
                ("/token", "s"),
                ("/seq_ack", "nf"),
            ],
        ),
        (
            12,
            &json!({"audio_ssrc": 1, "video_ssrc": 2, "rtx_ssrc": 3, "streams": [stream]}),
            &[
                ("", "o"),
                ("/audio_ssrc", "nf"),
                ("/video_ssrc", "nf"),
                ("/rtx_ssrc", "nf"),
                ("/streams", "na"),
                ("/streams/0", "o"),
                ("/streams/0/rid", "ns"),
                ("/streams/0/quality", "nf"),
                ("/streams/0/active", "nb"),
                ("/streams/0/ssrc", "nf"),
                ("/streams/0/rtx_ssrc", "nf"),
                ("/streams/0/max_bitrate", anything),
                ("/streams/0/max_framerate", "nf"),
                ("/streams/0/max_resolution", "no"),
                ("/streams/0/max_resolution/type", "ns"),
                ("/streams/0/max_resolution/width", "nf"),
                ("/streams/0/max_resolution/height", "nf"),
            ],
        ),
        (14, &json!({"codecs": []}), &[("", "o"), ("/codecs", "na")]),
        (
            15,
            &json!({"any": 1, "5": 1, "pixelCounts": {"5": 1}}),
            &[
                ("", "o"),
                ("/any", "nf"),
                ("/5", "f"),
                ("/pixelCounts", "no"),
                ("/pixelCounts/5", "f"),
            ],
        ),
        (16, &json!({}), &[("", anything)]),
        (23, &json!({"transition_id": 1}), &[("", "o"), ("/transition_id", "f")]),
        (31, &json!({"transition_id": 1}), &[("", "o"), ("/transition_id", "f")]),
        (32, &json!({}), &[("", anything)]),
    ];
    let values = [
        ('n', json!(null)),
        ('b', json!(true)),
        ('f', json!(7)),
        ('s', json!("7")),
        ('a', json!([])),
        ('a', json!([[7, 7, 7, 7, 7, 7, 7]])),
        ('o', json!({"zzz": 7})),
    ];
    for (op, good, fields) in table {
        assert_eq!(code(&json!({"op": op, "d": good}).to_string()), None, "op {op}");
        for (pointer, accepted) in *fields {
            for (kind, value) in &values {
                let mut d = (*good).clone();
                let field = d.pointer_mut(pointer).unwrap_or_else(|| panic!("op {op} {pointer}"));
                // An object or array of the right kind need not have the right content; what is
                // good already stands for it.
                if accepted.contains(*kind) && *accepted != anything && "ao".contains(*kind) {
                    continue;
                }
                *field = value.clone();
                let text = json!({"op": op, "d": d}).to_string();
                let expected = (!accepted.contains(*kind)).then_some(CloseCode::DecodeFailed);
                assert_eq!(code(&text), expected, "op {op}, field {pointer:?} = {value}");
            }
        }
    }
}

#[test]
fn required_fields_are_required() {
    let credentials = json!({"server_id": "1", "user_id": "1", "session_id": "", "token": ""});
    let codec = json!({"name": "VP8", "payload_type": 1});
    for (op, good, required) in [
        (0, &credentials, &["/server_id", "/user_id", "/session_id", "/token"][..]),
        (7, &credentials, &["/server_id", "/session_id", "/token"]),
        (
            1,
            &json!({"protocol": "udp", "data": {"mode": ""}}),
            &["/protocol", "/data", "/data/mode"],
        ),
        (1, &json!({"protocol": "webrtc", "data": ""}), &["/data"]),
        (3, &json!({"t": 1}), &["/t"]),
        (5, &json!({"speaking": 1}), &["/speaking"]),
        (14, &json!({"codecs": [codec]}), &["/codecs/0/name", "/codecs/0/payload_type"]),
        (23, &json!({"transition_id": 1}), &["/transition_id"]),
        (31, &json!({"transition_id": 1}), &["/transition_id"]),
    ] {
        assert_eq!(code(&json!({"op": op, "d": good}).to_string()), None, "op {op}");
        for pointer in required {
            let mut d = good.clone();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            d.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key).unwrap();
            let text = json!({"op": op, "d": d}).to_string();
            assert_eq!(code(&text), Some(CloseCode::DecodeFailed), "op {op} without {pointer}");
        }
    }
}

#[test]
fn every_truncation_of_every_captured_message_fails_to_decode() {
    for Captured { msgs, .. } in captured().into_values() {
        for text in &msgs {
            let text = text.get();
            for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
                assert_eq!(code(&text[..end]), Some(CloseCode::DecodeFailed), "{}", &text[..end]);
            }
        }
    }
}

#[test]
fn credentials_and_descriptions_are_never_printed() {
    let message = parse(json!({"op": 7, "d": {
        "server_id": "1", "session_id": "s", "token": "hunter2",
    }}));
    assert!(!format!("{message:?}").contains("hunter2"));
    let message = parse(json!({"op": 1, "d": {"protocol": "webrtc", "data": "ice-pwd"}}));
    assert!(!format!("{message:?}").contains("ice-pwd"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_bytes_are_a_message_or_a_refusal(bytes in any::<Vec<u8>>()) {
        let _ = ClientMessage::parse_binary(&bytes);
        let _ = ClientMessage::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn random_payloads_are_a_message_or_a_refusal(op in 0_u8..70, d in value()) {
        let text = json!({"op": op, "d": d}).to_string();
        if let Err(refusal) = ClientMessage::parse(&text) {
            let expected: &[CloseCode] = match op {
                0..=64 => &[CloseCode::DecodeFailed, CloseCode::BadRequest],
                _ => &[CloseCode::UnknownOpcode],
            };
            prop_assert!(expected.contains(&refusal.code), "{}: {}", text, refusal);
        }
    }

    #[test]
    fn damaged_messages_are_a_message_or_a_refusal(
        client in 0_usize..9,
        message in any::<proptest::sample::Index>(),
        at in any::<proptest::sample::Index>(),
        with in any::<u8>(),
    ) {
        let captured = captured().into_values().nth(client).unwrap();
        let mut bytes = captured.msgs[message.index(captured.msgs.len())].get().as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = with;
        let _ = ClientMessage::parse(&String::from_utf8_lossy(&bytes));
    }
}

/// JSON with the keys our payloads have, and values that they may or may not.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof![Just("udp"), Just("webrtc"), Just("1"), Just("VP8"), Just("")]
            .prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    let key = prop_oneof![
        proptest::sample::select(
            &[
                "server_id",
                "user_id",
                "session_id",
                "token",
                "streams",
                "rid",
                "quality",
                "protocol",
                "data",
                "mode",
                "codecs",
                "name",
                "payload_type",
                "t",
                "speaking",
                "ssrc",
                "any",
                "5",
                "pixelCounts",
                "transition_id",
                "max_resolution",
            ][..]
        )
        .prop_map(str::to_owned),
        any::<String>(),
    ];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

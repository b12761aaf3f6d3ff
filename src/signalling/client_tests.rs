//! What real clients send, and how it is understood.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::*;
use crate::{
    id::{ChannelId, ServerId, SessionId, Token, UserId},
    signalling::{CodecName, Layer, Protocol, Resolution, StreamRequest, Version},
};

#[derive(Deserialize)]
pub(super) struct Captured {
    path: String,
    pub(super) msgs: Vec<Box<RawValue>>,
}

pub(super) fn captured() -> BTreeMap<String, Captured> {
    serde_json::from_str(include_str!("../../tests/vectors/client_payloads.json")).unwrap()
}

pub(super) fn code(text: &str) -> Option<CloseCode> {
    ClientMessage::parse(text).err().map(|refusal| refusal.code)
}

pub(super) fn parse(message: Value) -> ClientMessage {
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

pub(super) fn speaking(flags: u32, ssrc: Option<u32>) -> ClientMessage {
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

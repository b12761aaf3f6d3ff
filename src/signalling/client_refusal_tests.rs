//! What is refused: what is no message, what lacks or mistakes a field, what is beyond a limit; and
//! that no bytes do worse.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    tests::{Captured, captured, code, parse, speaking},
    *,
};
use crate::limits::{
    CODECS_MAX, CREDENTIAL_BYTES_MAX, JSON_DEPTH_MAX, LAYERS_MAX, RID_BYTES_MAX, SINK_WANTS_MAX,
};

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

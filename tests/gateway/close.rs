//! Every close code of protocol.md §1.8 by its exact trigger. Kicks and moves are in `policy.rs`,
//! lost resumes in `resume.rs`.

use serde_json::{Value, json};

use crate::{
    CHANNEL,
    support::{
        cipher::Mode,
        client::Client,
        gateway::{Door, End, Gateway},
        server::{GUILD, Server},
    },
};

/// A fresh connection that has sent this.
fn after(server: &Server, text: &str) -> Gateway {
    let mut gateway = Gateway::open(server, Door::plain(8));
    gateway.send_text(text);
    gateway
}

/// The code after an identified client has sent `op` with `d`.
fn code_after(server: &Server, op: u64, d: Value) -> u16 {
    let mut client = Client::join(server, CHANNEL, 10);
    client.gateway.send(op, d);
    client.gateway.closed()
}

#[test]
fn unknown_opcodes_above_64_are_4001_and_those_below_are_ignored() {
    let server = Server::start();
    for op in [65, 100, 255] {
        assert_eq!(code_after(&server, op, json!({})), 4001, "op {op}");
    }
    let mut client = Client::join(&server, CHANNEL, 10);
    for op in [10, 17, 19, 33, 40, 64] {
        client.gateway.send(op, json!({}));
    }
    let _ = client.gateway.drain();
}

#[test]
fn a_server_only_opcode_again_and_again_is_4001() {
    let server = Server::start();
    let mut client = Client::join(&server, CHANNEL, 10);
    for _ in 0..100 {
        client.gateway.send(2, json!({}));
    }
    assert_eq!(client.gateway.closed(), 4001);
}

#[test]
fn what_cannot_be_decoded_is_4002() {
    let server = Server::start();
    for text in
        ["", "{", "null", "[]", "7", "\"op\"", "{}", r#"{"op":"0","d":{}}"#, r#"{"op":-1,"d":{}}"#]
    {
        assert_eq!(after(&server, text).closed(), 4002, "{text:?}");
    }
    for text in [
        r#"{"op":0,"d":5}"#,
        r#"{"op":0,"d":null}"#,
        r#"{"op":0,"d":{}}"#,
        r#"{"op":0,"d":{"server_id":"x","user_id":"1","session_id":"s","token":"t"}}"#,
        r#"{"op":0,"d":{"server_id":"1","user_id":-1,"session_id":"s","token":"t"}}"#,
        r#"{"op":0,"d":{"server_id":"1","user_id":"1","session_id":7,"token":"t"}}"#,
        r#"{"op":7,"d":[]}"#,
        r#"{"op":3,"d":"soon"}"#,
    ] {
        assert_eq!(after(&server, text).closed(), 4002, "{text}");
    }
    for (op, d) in [
        (1, json!("udp")),
        (1, json!({ "protocol": 1 })),
        (1, json!({ "protocol": "udp", "data": 5 })),
        (5, json!({ "speaking": "loudly" })),
        (5, json!([])),
        (12, json!(null)),
        (12, json!({ "audio_ssrc": "1" })),
        (15, json!([1])),
    ] {
        assert_eq!(code_after(&server, op, d.clone()), 4002, "op {op} {d}");
    }
}

#[test]
fn a_binary_frame_without_an_opcode_is_4002() {
    let server = Server::start();
    let mut client = Client::join(&server, CHANNEL, 10);
    client.gateway.send_binary(&[]);
    assert_eq!(client.gateway.closed(), 4002);
}

#[test]
fn anything_but_identify_heartbeat_and_resume_before_identify_is_4003() {
    let server = Server::start();
    for op in [1, 5, 12, 14, 15, 16] {
        let mut gateway = Gateway::open(&server, Door::tls(8));
        let d = json!({ "speaking": 0, "protocol": "udp", "audio_ssrc": 1, "ssrc": 1, "delay": 0, "any": 1 });
        gateway.send(op, d);
        assert_eq!(gateway.closed(), 4003, "op {op}");
    }
}

#[test]
fn who_never_identifies_is_closed_4003() {
    let server = Server::start();
    let mut silent = Gateway::open(&server, Door::plain(8));
    let mut beating = Gateway::open(&server, Door::tls(4));
    beating.heartbeat(1);
    assert_eq!(silent.closed(), 4003);
    assert_eq!(beating.closed(), 4003);
}

#[test]
fn a_grant_that_does_not_match_is_4004() {
    let server = Server::start();
    let grant = server.grant(CHANNEL, 10);
    let _other = server.grant(CHANNEL, 11);
    for wrong in [
        json!({ "token": "guessed" }),
        json!({ "token": format!("{}x", grant.token) }),
        json!({ "token": "" }),
        json!({ "session_id": "another" }),
        json!({ "user_id": "11" }),
        json!({ "user_id": "99" }),
    ] {
        let mut gateway = Gateway::open(&server, Door::plain(8));
        gateway.identify_with(&grant, wrong.clone());
        assert_eq!(gateway.closed(), 4004, "{wrong}");
    }
}

#[test]
fn a_server_without_grants_is_4004_or_4011() {
    let server = Server::start();
    let grant = server.grant(CHANNEL, 10);
    let mut gateway = Gateway::open(&server, Door::plain(8));
    gateway.identify_with(&grant, json!({ "server_id": (GUILD + 1).to_string() }));
    assert!(matches!(gateway.closed(), 4004 | 4011));
}

#[test]
fn an_expired_grant_is_4004() {
    let server = Server::start();
    let grant = server.grant_with(CHANNEL, 10, json!({ "expires_at": "2020-01-01T00:00:00Z" }));
    let mut gateway = Gateway::open(&server, Door::plain(8));
    gateway.identify(&grant);
    assert_eq!(gateway.closed(), 4004);
}

#[test]
fn a_grant_for_a_single_use_is_used_once() {
    let server = Server::start();
    let grant = server.grant_with(CHANNEL, 10, json!({ "single_use": true }));
    let client = Client::enter(&server, &grant, Door::plain(8), Mode::AesRtpsize, json!({}));
    client.gateway.leave(1000);
    let mut again = Gateway::open(&server, Door::plain(8));
    again.identify(&grant);
    assert_eq!(again.closed(), 4004);
}

#[test]
fn identifying_or_resuming_twice_on_one_socket_is_4005() {
    let server = Server::start();
    let mut client = Client::join(&server, CHANNEL, 10);
    client.gateway.identify(&client.grant.clone());
    assert_eq!(client.gateway.closed(), 4005);

    let mut client = Client::join(&server, CHANNEL, 10);
    client.gateway.resume(&client.grant.clone(), Some(0));
    assert_eq!(client.gateway.closed(), 4005);
}

#[test]
fn a_resume_of_nothing_is_4006() {
    let server = Server::start();
    let mut never = server.grant(CHANNEL, 10);
    let mut gateway = Gateway::open(&server, Door::plain(8));
    gateway.resume(&never, Some(0));
    assert_eq!(gateway.closed(), 4006, "granted, but never identified");

    never.session = "unknown".to_owned();
    let mut gateway = Gateway::open(&server, Door::plain(4));
    gateway.resume(&never, None);
    assert_eq!(gateway.closed(), 4006, "unknown session");
}

#[test]
#[ignore = "93 seconds of silence; run by the long form of the tests"]
fn a_client_that_falls_silent_is_4009() {
    let server = Server::start();
    let mut silent = Client::join(&server, CHANNEL, 10);
    let mut beating = Client::join(&server, CHANNEL, 11);
    let end = loop {
        if let Some(end) = silent.gateway.poll_end() {
            break end;
        }
        let _ = beating.gateway.drain();
    };
    assert!(matches!(end, End::Closed(4009, _)), "{end:?}");
    let _ = beating.gateway.drain();
}

#[test]
fn a_protocol_nobody_speaks_is_4012() {
    let server = Server::start();
    for protocol in ["pigeon", "webrtc-p2p", "", "UDP"] {
        let d = json!({ "protocol": protocol, "data": { "address": "1.2.3.4", "port": 5, "mode": "" } });
        assert_eq!(code_after(&server, 1, d), 4012, "{protocol:?}");
    }
}

#[test]
fn a_newer_identify_of_the_same_user_closes_the_older_4014() {
    let server = Server::start();
    let mut other = Client::join(&server, CHANNEL, 11);
    let mut first = Client::join(&server, CHANNEL, 10);
    first.start_speaking();
    let _ = other.gateway.expect(11);
    let _ = other.gateway.drain();

    let mut second =
        Client::enter(&server, &first.grant, Door::tls(8), Mode::AesRtpsize, json!({}));
    assert_eq!(first.gateway.closed(), 4014);
    second.start_speaking();
    second.media.speak(b"the second device");
    assert_eq!(other.media.hear().payload, b"the second device");
    let news = other.gateway.drain();
    assert!(news.iter().all(|message| message.op != 13), "the user is still there: {news:?}");
}

#[test]
fn a_migration_is_4015() {
    let server = Server::start();
    let mut client = Client::join(&server, CHANNEL, 10);
    let path = format!("/v1/rooms/{CHANNEL}/migrate");
    let (status, answer) = server.api("POST", &path, Some(&json!({ "close": 4015 })));
    assert!((200..300).contains(&status), "{status} {answer}");
    assert_eq!(client.gateway.closed(), 4015);
    let mut back = Gateway::open(&server, Door::plain(8));
    back.resume(&client.grant, None);
    let news = back.drain();
    let at = |op| news.iter().rposition(|message| message.op == op).expect("among the news");
    assert!(at(9) < at(4), "discord.py waits for its key after it has resumed");
}

#[test]
fn a_mode_that_was_not_offered_is_4016() {
    let server = Server::start();
    for mode in ["xsalsa20_poly1305", "plain", ""] {
        let data = json!({ "address": "127.0.0.1", "port": 5, "mode": mode });
        assert_eq!(
            code_after(&server, 1, json!({ "protocol": "udp", "data": data })),
            4016,
            "{mode:?}"
        );
    }
}

#[test]
fn a_channel_that_requires_encryption_is_4017_to_who_has_none() {
    let server = Server::start();
    let room = json!({ "room": { "type": "guild_voice", "user_limit": 0, "video_limit": 25,
                                 "max_bitrate": 64_000, "e2ee": "required" } });
    let grant = server.grant_with(CHANNEL, 10, room);
    let mut gateway = Gateway::open(&server, Door::plain(8));
    gateway.identify_with(&grant, json!({ "max_dave_protocol_version": 0 }));
    assert_eq!(gateway.closed(), 4017);
}

#[test]
fn video_on_a_foreign_ssrc_is_4020() {
    let server = Server::start();
    let other = Client::join(&server, CHANNEL, 11);
    let stolen = other.media.ssrc;
    let d = json!({ "audio_ssrc": stolen, "video_ssrc": stolen, "rtx_ssrc": 0, "streams": [] });
    assert_eq!(code_after(&server, 12, d), 4020);
}

#[test]
fn a_flood_of_messages_is_4021() {
    let server = Server::start();
    let mut client = Client::join(&server, CHANNEL, 10);
    for nonce in 0..400 {
        client.gateway.heartbeat(nonce);
    }
    assert_eq!(client.gateway.closed(), 4021);
}

#[test]
fn a_closed_room_is_4022_for_everyone() {
    let server = Server::start();
    let mut inside = [10, 11].map(|user| Client::join(&server, CHANNEL, user));
    let mut outside = Client::join(&server, CHANNEL + 1, 12);
    let (status, answer) = server.api("DELETE", &format!("/v1/rooms/{CHANNEL}"), None);
    assert_eq!(status, 204, "{answer}");
    for client in &mut inside {
        assert_eq!(client.gateway.closed(), 4022);
    }
    let _ = outside.gateway.drain();
}

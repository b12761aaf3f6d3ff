//! Events as Spacebar writes them, read; and ours, as it reads them.

use serde_json::json;

use super::*;

fn read_json(value: &Value) -> Option<Happening> {
    read(value.to_string().as_bytes())
}

fn envelope(name: &str, address: Value, data: Value) -> Value {
    let mut event = json!({"event": name, "data": data});
    event.as_object_mut().unwrap().extend(address.as_object().unwrap().clone());
    json!({"id": "1", "event": event})
}

fn state(channel: Value) -> Value {
    json!({"user_id": "10", "suppress": false, "session_id": "ABC", "self_video": false,
        "self_mute": true, "self_deaf": false, "self_stream": null,
        "request_to_speak_timestamp": null, "mute": true, "deaf": false,
        "channel_id": channel, "guild_id": "1", "member": {"id": "10", "roles": ["1"]}})
}

fn row() -> VoiceRow {
    voice_state(&state(json!("5")).to_string()).unwrap()
}

#[test]
fn a_voice_state_is_read_with_its_mutes() {
    let event = envelope("VOICE_STATE_UPDATE", json!({"guild_id": "1"}), state(json!("5")));
    let Some(Happening::Moved(row)) = read_json(&event) else { panic!("it is one") };
    assert_eq!(
        (row.user, row.channel, row.guild),
        (UserId(10), Some(ChannelId(5)), Some(ServerId(1)))
    );
    assert_eq!(&*row.session.0, "ABC");
    assert!(row.state.mute && row.state.self_mute && !row.state.deaf && !row.self_stream);
    assert_eq!(row.token, None, "events carry none");
}

#[test]
fn who_left_has_no_channel() {
    let event = envelope("VOICE_STATE_UPDATE", json!({"guild_id": "1"}), state(Value::Null));
    let Some(Happening::Moved(row)) = read_json(&event) else { panic!("it is one") };
    assert_eq!(row.channel, None);
}

#[test]
fn an_event_for_one_user_is_not_for_all() {
    for (address, only) in [
        (json!({"guild_id": "1"}), None),
        (json!({"guild_id": "1", "channel_id": "5", "user_id": "10"}), None),
        (json!({"channel_id": "5"}), None),
        (json!({"user_id": "10"}), Some(UserId(10))),
    ] {
        let read = |name, data| read_json(&envelope(name, address.clone(), data));
        let (channel, server) = (ChannelId(5), ServerId(1));
        assert_eq!(
            read("CHANNEL_DELETE", json!({"id": "5", "guild_id": "1"})),
            Some(Happening::ChannelDeleted { channel, only })
        );
        assert_eq!(
            read("GUILD_DELETE", json!({"id": "1"})),
            Some(Happening::ServerDeleted { server, only })
        );
        let key = "guild:1:5:10".to_owned();
        assert_eq!(
            read("STREAM_DELETE", json!({"stream_key": key})),
            Some(Happening::StreamDeleted { key: key.clone(), only })
        );
    }
    let removed = json!({"guild_id": "1", "user": {"id": "7", "username": "x"}});
    assert_eq!(
        read_json(&envelope("GUILD_MEMBER_REMOVE", json!({"guild_id": "1"}), removed)),
        Some(Happening::ServerDeleted { server: ServerId(1), only: Some(UserId(7)) })
    );
}

#[test]
fn an_event_without_an_envelope_is_told_by_its_exchange() {
    let bare = |name, exchange, data: Value| read_bare(name, exchange, data.to_string().as_bytes());
    let (channel, server) = (ChannelId(5), ServerId(1));
    let deleted = json!({"id": "5", "guild_id": "1"});
    for (exchange, only) in [("1", None), ("5", None), ("10", Some(UserId(10)))] {
        assert_eq!(
            bare("CHANNEL_DELETE", exchange, deleted.clone()),
            Some(Happening::ChannelDeleted { channel, only })
        );
    }
    assert_eq!(
        bare("GUILD_DELETE", "10", json!({"id": "1"})),
        Some(Happening::ServerDeleted { server, only: Some(UserId(10)) })
    );
    let key = "guild:1:5:10".to_owned();
    for (exchange, only) in [("1", None), ("5", None), ("11", Some(UserId(11)))] {
        assert_eq!(
            bare("STREAM_DELETE", exchange, json!({"stream_key": key})),
            Some(Happening::StreamDeleted { key: key.clone(), only })
        );
    }
    assert!(matches!(
        bare("VOICE_STATE_UPDATE", "1", state(json!("5"))),
        Some(Happening::Moved(_))
    ));
}

#[test]
fn an_event_that_is_not_text_throughout_is_passed_over() {
    let event = envelope("VOICE_STATE_UPDATE", json!({"guild_id": "1"}), state(json!("5")));
    let mut bytes = event.to_string().into_bytes();
    assert!(read(&bytes).is_some());
    let id = bytes.windows(6).position(|at| at == br#""id":""#).unwrap() + 6;
    bytes[id] = 0xBA;
    assert_eq!(read(&bytes), None, "not even where nobody looks");
}

#[test]
fn what_is_no_event_of_interest_is_passed_over() {
    for text in [
        "",
        "null",
        "{}",
        "[]",
        "{\"event\":{}}",
        "{\"event\":{\"event\":\"X\",\"data\":{}}}",
        "{\"event\":{\"event\":\"CHANNEL_DELETE\",\"data\":{}}}",
        "{\"event\":{\"event\":\"CHANNEL_DELETE\",\"data\":{\"id\":\"x\"}}}",
        "{\"event\":{\"event\":\"VOICE_STATE_UPDATE\",\"data\":{\"user_id\":\"1\"}}}",
        "{\"event\":{\"event\":\"VOICE_SERVER_UPDATE\",\"data\":{}}}",
        "{\"event\":{\"event\":\"GUILD_DELETE\"}}",
        "\u{0}",
        "{\"event\":{\"event\":",
    ] {
        assert_eq!(read(text.as_bytes()), None, "{text}");
        assert_eq!(read_bare("CHANNEL_DELETE", "1", text.as_bytes()), None, "{text}");
    }
    assert_eq!(read(&[0xff, 0xfe]), None);
}

#[test]
fn what_we_say_of_a_departure_is_read_as_one() {
    let left = Notice::left(&row(), Some(ServerId(1)), ChannelId(5));
    let Some(Happening::Moved(read)) = read(&left.to_json()) else { panic!("it is one") };
    assert_eq!((read.user, read.channel, read.guild), (UserId(10), None, Some(ServerId(1))));
    let json: Value = serde_json::from_slice(&left.to_json()).unwrap();
    assert_eq!((&json["id"], &json["event"]["guild_id"]), (&json!("1"), &json!("1")));
    let call = Notice::left(&row(), None, ChannelId(5));
    let json: Value = serde_json::from_slice(&call.to_json()).unwrap();
    assert_eq!((&json["id"], &json["event"]["channel_id"]), (&json!("5"), &json!("5")));
    assert!(json["event"].get("guild_id").is_none());
}

#[test]
fn whom_we_tell_where_to_connect_is_told_as_spacebar_does() {
    let [told, state] = Notice::call(&row(), &Token::new("t"), "h:443");
    let json: Value = serde_json::from_slice(&state.to_json()).unwrap();
    assert_eq!((&json["id"], &json["event"]["user_id"]), (&json!("10"), &json!("10")));
    assert_eq!(json["event"]["data"]["channel_id"], "5");
    let expected = json!({"token": "t", "guild_id": "1", "endpoint": "h:443"});
    assert_eq!((told.id, &told.data), (10, &expected), "no channel in a guild");
    let call = VoiceRow { guild: None, ..row() };
    let [told, _] = Notice::call(&call, &Token::new("t"), "h:443");
    assert_eq!((&told.data["channel_id"], &told.data["guild_id"]), (&json!("5"), &Value::Null));
}

#[test]
fn a_notice_claims_what_its_rows_must_still_say() {
    let here = row();
    let nowhere = VoiceRow { channel: None, ..row() };
    let other = VoiceRow { user: UserId(11), ..row() };
    let left = Notice::left(&nowhere, Some(ServerId(1)), ChannelId(5)).claim.unwrap();
    assert!(left.agrees_with(&[]) && left.agrees_with(&[nowhere.clone(), other.clone()]));
    assert!(!left.agrees_with(std::slice::from_ref(&here)));
    let elsewhere = VoiceRow { guild: Some(ServerId(2)), channel: Some(ChannelId(6)), ..row() };
    assert!(left.agrees_with(std::slice::from_ref(&elsewhere)), "of one guild, not of another");
    for notice in Notice::call(&here, &Token::new("t"), "h:443") {
        let claim = notice.claim.unwrap();
        assert!(claim.agrees_with(&[other.clone(), here.clone()]));
        assert!(!claim.agrees_with(std::slice::from_ref(&nowhere)));
    }
}

#[test]
fn a_notice_does_not_show_its_token() {
    let notices = Notice::call(&row(), &Token::new("hunter2"), "h:443");
    assert!(!format!("{notices:?}").contains("hunter2"));
}

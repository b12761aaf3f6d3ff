//! `/v1/grants/{server_id}/{user_id}`: the backend lets somebody in, changes what they may do, or
//! throws them out (protocol.md §6.3).

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::{
    api::{ApiError, Body, CloseQuery, HolderPath},
    authority::GrantRefusal,
    ledger::Grant,
    node::Node,
};
use crate::{
    id::{ChannelId, ServerId, SessionId, Token},
    limits::CREDENTIAL_BYTES_MAX,
    sfu::{E2ee, Kind, Policy, RoomPolicy},
    signalling::CloseCode,
};

/// The parts of a grant that make up its policy, and that PATCH may change.
const POLICY_KEYS: [&str; 5] = ["permissions", "state", "room", "stream", "flags"];

/// `stream_key` has three snowflakes and a word; more is no stream key.
const STREAM_KEY_BYTES_MAX: usize = 128;

/// The rest of a grant.
#[derive(Debug, Deserialize)]
struct PutFields {
    #[serde(default)]
    kind: Kind,
    channel_id: ChannelId,
    #[serde(rename = "guild_id", default)]
    _guild_id: Option<ServerId>,
    session_id: SessionId,
    token: Token,
    #[serde(default, with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    #[serde(default)]
    single_use: bool,
    #[serde(rename = "bot", default)]
    _bot: bool,
}

/// What the backend puts into VOICE_SERVER_UPDATE, and whether there was a grant before.
#[derive(Debug, Serialize)]
pub(super) struct Granted {
    endpoint: String,
    region: &'static str,
    replaced: bool,
}

pub(super) async fn put(
    State(node): State<Arc<Node>>,
    HolderPath(holder): HolderPath,
    Body(body): Body<Map<String, Value>>,
) -> Result<(StatusCode, Json<Granted>), ApiError> {
    let grant = parse_grant(body, node.config.e2ee)?;
    let replaced = node.act(|authority, now, wall| authority.grant(now, wall, holder, grant))?;
    let status = if replaced { StatusCode::OK } else { StatusCode::CREATED };
    let endpoint = node.config.gateway.public_endpoint.to_string();
    Ok((status, Json(Granted { endpoint, region: "default", replaced })))
}

pub(super) async fn patch(
    State(node): State<Arc<Node>>,
    HolderPath(holder): HolderPath,
    Body(body): Body<Map<String, Value>>,
) -> Result<StatusCode, ApiError> {
    if let Some(key) = body.keys().find(|key| !POLICY_KEYS.contains(&key.as_str())) {
        let known = POLICY_KEYS.join(", ");
        return Err(ApiError::invalid(format!("`{key}` cannot be changed; choose from {known}")));
    }
    node.act(|authority, _, _| {
        let policy = authority
            .policy(holder)
            .ok_or_else(|| ApiError::not_found("no grant and no session for this user"))?;
        let patched = merged(policy, body)?;
        if policy.stream.is_some() != patched.stream.is_some() {
            return Err(ApiError::invalid("what is a stream stays one, and nothing becomes one"));
        }
        authority.set_policy(holder, &patched);
        Ok(StatusCode::NO_CONTENT)
    })
}

pub(super) async fn delete(
    State(node): State<Arc<Node>>,
    HolderPath(holder): HolderPath,
    CloseQuery(code): CloseQuery,
) -> Result<StatusCode, ApiError> {
    let code = code.unwrap_or(CloseCode::Disconnected);
    if node.act(|authority, _, _| authority.revoke(holder, code)) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::not_found("no grant and no session for this user"))
    }
}

impl From<GrantRefusal> for ApiError {
    fn from(refusal: GrantRefusal) -> Self {
        let (status, code) = match refusal {
            GrantRefusal::Full => (StatusCode::TOO_MANY_REQUESTS, "grants_full"),
            GrantRefusal::OtherKind => (StatusCode::CONFLICT, "kind_conflict"),
            GrantRefusal::OtherServer => (StatusCode::CONFLICT, "server_conflict"),
            GrantRefusal::Disabled => (StatusCode::CONFLICT, "backend_disabled"),
            GrantRefusal::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        };
        ApiError::new(status, code, refusal)
    }
}

fn parse_grant(mut body: Map<String, Value>, e2ee: E2ee) -> Result<Grant, ApiError> {
    let policy: Map<String, Value> =
        POLICY_KEYS.iter().filter_map(|key| body.remove_entry(*key)).collect();
    let default =
        Policy { room: RoomPolicy { e2ee, ..RoomPolicy::default() }, ..Policy::default() };
    let policy = merged(&default, policy)?;
    let fields: PutFields =
        serde_json::from_value(Value::Object(body)).map_err(ApiError::invalid)?;
    check_credential("session_id", &fields.session_id.0)?;
    check_credential("token", fields.token.reveal())?;
    match (fields.kind, &policy.stream) {
        (Kind::Stream, None) => Err(ApiError::invalid("kind `stream` needs `stream`")),
        (Kind::Voice, Some(_)) => Err(ApiError::invalid("`stream` goes with kind `stream`")),
        _ => Ok(Grant {
            kind: fields.kind,
            channel: fields.channel_id,
            session: fields.session_id,
            token: fields.token,
            expires_at: fields.expires_at,
            single_use: fields.single_use,
            policy,
        }),
    }
}

fn check_credential(name: &str, text: &str) -> Result<(), ApiError> {
    if text.is_empty() || text.len() > CREDENTIAL_BYTES_MAX {
        let message = format!("{name} must have 1 to {CREDENTIAL_BYTES_MAX} bytes");
        return Err(ApiError::invalid(message));
    }
    Ok(())
}

/// The policy after a JSON merge patch (RFC 7396): what the patch does not name stays.
fn merged(policy: &Policy, patch: Map<String, Value>) -> Result<Policy, ApiError> {
    // Serde would read a list as the fields in order.
    let is_shaped = |(key, value): (&String, &Value)| match value {
        Value::Null | Value::Object(_) => key != "flags" || value.is_null(),
        _ => key == "flags",
    };
    if let Some(key) = patch.iter().find(|entry| !is_shaped(*entry)).map(|(key, _)| key) {
        let shape = if key == "flags" { "a number" } else { "an object" };
        return Err(ApiError::invalid(format!("`{key}` must be {shape} or null")));
    }
    let mut target = serde_json::to_value(policy).expect("policies are plain values");
    merge(&mut target, Value::Object(patch));
    let policy: Policy = serde_json::from_value(target).map_err(ApiError::invalid)?;
    if policy.stream.as_ref().is_some_and(|stream| stream.stream_key.len() > STREAM_KEY_BYTES_MAX) {
        return Err(ApiError::invalid(format!("stream_key is over {STREAM_KEY_BYTES_MAX} bytes")));
    }
    Ok(policy)
}

fn merge(target: &mut Value, patch: Value) {
    match patch {
        Value::Object(patch) => {
            if !target.is_object() {
                *target = Value::Object(Map::new());
            }
            let target = target.as_object_mut().expect("it was just made one");
            for (key, value) in patch {
                if value.is_null() {
                    target.remove(&key);
                } else {
                    merge(target.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        value => *target = value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn parse(value: Value) -> Result<Grant, ApiError> {
        parse_grant(object(value), E2ee::Off)
    }

    /// The example of protocol.md §6.3.
    fn example() -> Value {
        json!({"kind":"voice","channel_id":"127121515262115840","guild_id":"41771983423143937",
         "session_id":"30f32c5d54ae86130fc4a215c7474263","token":"66d29164ee8cd919",
         "expires_at":"2026-09-01T12:05:00Z","single_use":false,"bot":false,"flags":0,
         "permissions":{"connect":true,"speak":true,"video":true,"stream":true,"priority_speaker":false},
         "state":{"mute":false,"deaf":false,"suppress":false,"self_mute":false,"self_deaf":false,"self_video":false},
         "room":{"type":"guild_voice","user_limit":0,"video_limit":25,"max_bitrate":64000,"e2ee":"optional"},
         "stream":null})
    }

    #[test]
    fn the_published_example_is_understood() {
        let grant = parse(example()).unwrap();
        assert_eq!(grant.channel, ChannelId(127121515262115840));
        assert_eq!(grant.expires_at.unwrap().unix_timestamp(), 1_788_264_300);
        assert_eq!(grant.policy.room.video_limit, 25);
        assert_eq!(grant.policy.room.e2ee, E2ee::Optional, "it says so itself");
    }

    #[test]
    fn only_channel_session_and_token_are_needed() {
        let grant = parse(json!({"channel_id": 5, "session_id": "s", "token": "t"})).unwrap();
        assert_eq!((grant.kind, grant.single_use), (Kind::Voice, false));
        assert!(grant.policy.permissions.connect);
        assert_eq!(grant.policy.room.e2ee, E2ee::Off, "the operator's default");
        for missing in ["channel_id", "session_id", "token"] {
            let mut body = example();
            body.as_object_mut().unwrap().remove(missing);
            let error = format!("{:?}", parse(body).unwrap_err());
            assert!(error.contains(missing), "{error}");
        }
    }

    #[test]
    fn a_field_of_the_wrong_kind_or_size_is_refused() {
        let long = "x".repeat(CREDENTIAL_BYTES_MAX + 1);
        for (key, value) in [
            ("channel_id", json!("x")),
            ("channel_id", json!(-1)),
            ("guild_id", json!("x")),
            ("session_id", json!("")),
            ("session_id", json!(long)),
            ("token", json!("")),
            ("token", json!(long)),
            ("token", json!(7)),
            ("kind", json!("other")),
            ("expires_at", json!("tomorrow")),
            ("flags", json!(-1)),
            ("room", json!({"e2ee": "maybe"})),
            ("room", json!({"user_limit": 1.5})),
            ("room", json!([])),
            ("permissions", json!({"speak": "yes"})),
            ("stream", json!({"stream_key": "k", "owner_id": "3"})),
        ] {
            let mut body = example();
            body[key] = value.clone();
            assert!(parse(body).is_err(), "{key} = {value}");
        }
    }

    #[test]
    fn a_stream_needs_its_rules() {
        let mut body = example();
        body["kind"] = json!("stream");
        assert!(parse(body.clone()).is_err());
        body["stream"] = json!({"stream_key": "guild:1:2:3", "owner_id": "3", "viewer_limit": 50});
        let stream = parse(body.clone()).unwrap().policy.stream.unwrap();
        assert_eq!((stream.viewer_limit, stream.paused), (50, false));
        body["stream"]["stream_key"] = json!("k".repeat(STREAM_KEY_BYTES_MAX + 1));
        assert!(parse(body).is_err());
    }

    #[test]
    fn a_full_ledger_is_too_many_requests() {
        let error = format!("{:?}", ApiError::from(GrantRefusal::Full));
        assert!(error.contains("429") && error.contains("grants_full"), "{error}");
    }

    #[test]
    fn a_patch_leaves_what_it_does_not_name() {
        let grant = parse(example()).unwrap();
        let patch = json!({"state": {"mute": true}, "room": {"user_limit": 9}, "flags": 2});
        let patched = merged(&grant.policy, object(patch)).unwrap();
        assert!(patched.state.mute && !patched.state.deaf);
        assert_eq!((patched.room.user_limit, patched.room.video_limit), (9, 25));
        assert_eq!(patched.flags, 2);
        let cleared = merged(&patched, object(json!({"flags": null}))).unwrap();
        assert_eq!(cleared.flags, 0);
        assert!(merged(&patched, object(json!({"state": {"mute": "yes"}}))).is_err());
        assert!(merged(&patched, object(json!({"state": 7}))).is_err());
    }
}

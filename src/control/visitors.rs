//! `/dev/grants` and `/dev/names`: the page's visitors get grants without a backend, and learn each
//! other's names, which the voice protocol does not carry. Only on a development server, and behind
//! `local_origin`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};

use super::{
    api::{ApiError, Body},
    ledger::{Grant, Holder},
    node::Node,
};
use crate::{
    config::{Config, Plaintext, hex},
    id::{ChannelId, ServerId, SessionId, Token, UserId},
    sfu::{Kind, Policy, RoomPolicy},
};

/// Visitors remembered: some for each tab a person can keep an eye on. The oldest are forgotten.
const VISITORS_MAX: usize = 1_024;

/// Longest name, characters: what fits on a tile.
const NAME_CHARACTERS_MAX: usize = 32;

/// Time in which a visitor must identify: the page does so at once.
const GRANT_LIFETIME: Duration = Duration::from_secs(60);

/// The guild of those who do not name one; `serve` prints the same in its example of a grant.
const SERVER: ServerId = ServerId(1);

/// The version of the gateway's protocol that the page speaks.
const GATEWAY_VERSION: u8 = 9;

/// The routes, and the visitors they remember.
pub(super) fn router(node: Arc<Node>) -> Router {
    let lobby = Arc::new(Lobby { node, visitors: Mutex::default() });
    Router::new()
        .route("/dev/grants", post(grant))
        .route("/dev/names", get(names))
        .with_state(lobby)
}

/// Where the page connects to, as far as a Content-Security-Policy names it.
pub(super) fn gateway_origin(config: &Config) -> String {
    let scheme = match config.gateway.plaintext {
        // The browser that asks is on this machine, and trusts no development certificate.
        Plaintext::Loopback | Plaintext::Always => "ws",
        Plaintext::Never => "wss",
    };
    format!("{scheme}://{}", config.gateway.public_endpoint)
}

struct Lobby {
    node: Arc<Node>,
    visitors: Mutex<Visitors>,
}

/// What a visitor asks for.
#[derive(Debug, Deserialize)]
struct Visit {
    name: String,
    server_id: Option<ServerId>,
    channel_id: ChannelId,
    /// Who the visitor was before the connection was lost.
    previous: Option<Previous>,
}

#[derive(Debug, Deserialize)]
struct Previous {
    user_id: UserId,
    token: Token,
}

/// All that the page needs to join.
#[derive(Debug, Serialize)]
struct Invitation {
    url: String,
    server_id: ServerId,
    channel_id: ChannelId,
    user_id: UserId,
    session_id: String,
    token: String,
}

async fn grant(
    State(lobby): State<Arc<Lobby>>,
    Body(visit): Body<Visit>,
) -> Result<(StatusCode, Json<Invitation>), ApiError> {
    let node = &lobby.node;
    let name = checked_name(&visit.name)?;
    let server = visit.server_id.unwrap_or(SERVER);
    let (session_id, token) = (credential(), credential());
    let user = lobby.visitors().known(visit.previous.as_ref()).unwrap_or_else(fresh_user);
    let room = RoomPolicy { e2ee: node.config.e2ee, ..RoomPolicy::default() };
    node.act(|authority, now, wall| {
        let grant = Grant {
            kind: Kind::Voice,
            channel: visit.channel_id,
            session: SessionId(session_id.as_str().into()),
            token: Token::new(token.as_str()),
            expires_at: Some(wall + GRANT_LIFETIME),
            single_use: true,
            policy: Policy { room, ..Policy::default() },
        };
        authority.grant(now, wall, Holder { server, user }, grant)
    })?;
    let visitor = Visitor { name, channel: visit.channel_id, token: Token::new(token.as_str()) };
    lobby.visitors().put(user, visitor);
    let invitation = Invitation {
        url: format!("{}/?v={GATEWAY_VERSION}", gateway_origin(&node.config)),
        server_id: server,
        channel_id: visit.channel_id,
        user_id: user,
        session_id,
        token,
    };
    Ok((StatusCode::CREATED, Json(invitation)))
}

#[derive(Debug, Deserialize)]
struct Channel {
    channel_id: ChannelId,
}

#[derive(Debug, Serialize)]
struct Names {
    names: BTreeMap<UserId, String>,
}

async fn names(
    State(lobby): State<Arc<Lobby>>,
    channel: Result<Query<Channel>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Names>, ApiError> {
    let Query(channel) = channel.map_err(ApiError::invalid)?;
    Ok(Json(Names { names: lobby.visitors().names(channel.channel_id) }))
}

impl Lobby {
    fn visitors(&self) -> std::sync::MutexGuard<'_, Visitors> {
        self.visitors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Visitor {
    name: String,
    channel: ChannelId,
    /// Of the last grant: who shows it is the same visitor.
    token: Token,
}

/// The last visitors.
#[derive(Default)]
struct Visitors {
    by_user: BTreeMap<UserId, (u64, Visitor)>,
    by_visit: BTreeMap<u64, UserId>,
    visits: u64,
}

impl Visitors {
    /// The user this visitor was before, if it proves it.
    fn known(&self, previous: Option<&Previous>) -> Option<UserId> {
        let previous = previous?;
        let (_, visitor) = self.by_user.get(&previous.user_id)?;
        (visitor.token == previous.token).then_some(previous.user_id)
    }

    fn put(&mut self, user: UserId, visitor: Visitor) {
        self.visits += 1;
        if let Some((visit, _)) = self.by_user.insert(user, (self.visits, visitor)) {
            self.by_visit.remove(&visit);
        }
        self.by_visit.insert(self.visits, user);
        if self.by_user.len() > VISITORS_MAX
            && let Some((_, oldest)) = self.by_visit.pop_first()
        {
            self.by_user.remove(&oldest);
        }
    }

    fn names(&self, channel: ChannelId) -> BTreeMap<UserId, String> {
        let here = self.by_user.iter().filter(|(_, (_, visitor))| visitor.channel == channel);
        here.map(|(user, (_, visitor))| (*user, visitor.name.clone())).collect()
    }
}

/// The name without surrounding white space, if a person can read it.
fn checked_name(text: &str) -> Result<String, ApiError> {
    let name = text.trim();
    if name.is_empty() || name.chars().count() > NAME_CHARACTERS_MAX {
        let message = format!("a name has 1 to {NAME_CHARACTERS_MAX} characters");
        return Err(ApiError::invalid(message));
    }
    if name.chars().any(is_unreadable) {
        return Err(ApiError::invalid("a name has no control characters"));
    }
    Ok(name.to_owned())
}

/// Characters that show nothing or turn around what stands beside them.
fn is_unreadable(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
}

fn fresh_user() -> UserId {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
    // Snowflakes are signed elsewhere, and never 0.
    UserId(u64::from_be_bytes(bytes) >> 1 | 1)
}

/// 128 random bits as 32 digits.
fn credential() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
    hex(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visitor(name: &str, channel: u64, token: &str) -> Visitor {
        Visitor { name: name.to_owned(), channel: ChannelId(channel), token: Token::new(token) }
    }

    #[test]
    fn names_are_short_and_show_what_they_are() {
        assert_eq!(checked_name("  Ann ").unwrap(), "Ann");
        assert_eq!(checked_name("Zoë 🙂 李").unwrap(), "Zoë 🙂 李");
        assert!(checked_name(&"é".repeat(NAME_CHARACTERS_MAX)).is_ok());
        assert!(checked_name(&"e".repeat(NAME_CHARACTERS_MAX + 1)).is_err());
        for name in ["", " \t", "a\nb", "a\u{0}", "a\u{202e}b", "\u{200b}", "\u{feff}x"] {
            assert!(checked_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_visitor_is_known_by_its_last_token_alone() {
        let mut visitors = Visitors::default();
        visitors.put(UserId(7), visitor("Ann", 2, "first"));
        visitors.put(UserId(7), visitor("Ann", 2, "second"));
        let known = |token: &str, user| {
            visitors.known(Some(&Previous { user_id: UserId(user), token: Token::new(token) }))
        };
        assert_eq!(known("second", 7), Some(UserId(7)));
        assert_eq!(known("first", 7), None);
        assert_eq!(known("second", 8), None);
        assert_eq!(visitors.known(None), None);
    }

    #[test]
    fn names_are_those_of_the_channel() {
        let mut visitors = Visitors::default();
        visitors.put(UserId(7), visitor("Ann", 2, "a"));
        visitors.put(UserId(8), visitor("Bob", 3, "b"));
        assert_eq!(visitors.names(ChannelId(2)), BTreeMap::from([(UserId(7), "Ann".to_owned())]));
        visitors.put(UserId(7), visitor("Ann", 3, "c"));
        assert!(visitors.names(ChannelId(2)).is_empty());
        assert_eq!(visitors.names(ChannelId(3)).len(), 2);
    }

    #[test]
    fn the_visitor_who_came_longest_ago_is_forgotten() {
        let mut visitors = Visitors::default();
        for user in 0..VISITORS_MAX as u64 {
            visitors.put(UserId(user), visitor("x", 1, "t"));
        }
        visitors.put(UserId(0), visitor("x", 1, "t"));
        visitors.put(UserId(9_999), visitor("x", 1, "t"));
        let names = visitors.names(ChannelId(1));
        assert_eq!(names.len(), VISITORS_MAX);
        assert!(names.contains_key(&UserId(0)) && !names.contains_key(&UserId(1)));
        assert_eq!(visitors.by_visit.len(), VISITORS_MAX);
    }
}

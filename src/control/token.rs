//! Signed tokens: a grant that a backend mints by itself, without telling us first (protocol.md
//! §6.4). `v1.<base64url(claims)>.<base64url(HMAC-SHA256(key, "v1." + claims part))>`, no padding.
//! The second of the backends (`backend`), called by `authority`; backends' tests mint with it.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::backend::{Answer, Backend, Change, Entitlement, Question, Report};
use crate::{
    config::{BackendName, Secret},
    id::{ChannelId, ServerId, SessionId, Token, UserId},
    sfu::{E2ee, Kind, Permissions, Policy, RoomPolicy},
};

/// What every signed token begins with.
const PREFIX: &str = "v1.";

/// The only version of the claims.
const VERSION: u8 = 1;

/// What a signed token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Version of the claims: 1.
    #[serde(rename = "v")]
    pub version: u8,
    /// A voice channel or a stream.
    pub kind: Kind,
    /// `server_id` of the Identify.
    #[serde(rename = "srv")]
    pub server: ServerId,
    /// The channel; wins over the client's.
    #[serde(rename = "ch")]
    pub channel: ChannelId,
    /// Whom it lets in.
    #[serde(rename = "uid")]
    pub user: UserId,
    /// The main gateway session.
    #[serde(rename = "sid")]
    pub session: SessionId,
    /// Last second of its validity, Unix time.
    #[serde(rename = "exp")]
    pub expires: i64,
    /// Its serial number, for the backend's own records.
    #[serde(rename = "jti")]
    pub token: String,
    /// What the user may do; everything ordinary when absent.
    #[serde(rename = "perm", default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Permissions>,
}

/// Why a signed token is not accepted. Clients are not told which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three parts, or not of version 1.
    #[error("not a signed token")]
    Malformed,
    /// Signed with another key, or altered.
    #[error("the signature is not ours")]
    BadSignature,
    /// Rightly signed, but not the claims we know.
    #[error("the claims are not understood")]
    BadClaims,
    /// Its time is over.
    #[error("expired")]
    Expired,
}

/// Whether `token` claims to be a signed one at all.
pub fn is_signed(token: &Token) -> bool {
    token.reveal().starts_with(PREFIX)
}

/// Signs `claims`.
pub fn mint(key: &Secret, claims: &Claims) -> Token {
    let claims = serde_json::to_vec(claims).expect("claims are plain values");
    let input = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(claims));
    let tag = hmac::sign(&mac_key(key), input.as_bytes());
    Token::new(format!("{input}.{}", URL_SAFE_NO_PAD.encode(tag)))
}

/// The claims of a token signed with `key` whose time is not over.
pub fn verify(key: &Secret, token: &Token, wall: OffsetDateTime) -> Result<Claims, TokenError> {
    let text = token.reveal();
    let (input, tag) = text.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let claims = input.strip_prefix(PREFIX).ok_or(TokenError::Malformed)?;
    let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| TokenError::Malformed)?;
    // Compares in constant time, and before anything inside is looked at.
    hmac::verify(&mac_key(key), input.as_bytes(), &tag).map_err(|_| TokenError::BadSignature)?;
    let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| TokenError::BadClaims)?;
    let claims: Claims = serde_json::from_slice(&claims).map_err(|_| TokenError::BadClaims)?;
    if claims.version != VERSION {
        return Err(TokenError::BadClaims);
    }
    if claims.expires < wall.unix_timestamp() {
        return Err(TokenError::Expired);
    }
    Ok(claims)
}

/// The backend that mints its grants itself: it is known by its signature, and says nothing after.
#[derive(Debug)]
pub(super) struct SignedTokens {
    key: Secret,
    e2ee: E2ee,
}

impl SignedTokens {
    /// `e2ee` holds where a token lets somebody in: it cannot say.
    pub(super) fn new(key: Secret, e2ee: E2ee) -> Self {
        Self { key, e2ee }
    }
}

impl Backend for SignedTokens {
    fn name(&self) -> BackendName {
        BackendName::Tokens
    }

    fn authenticate(&mut self, wall: OffsetDateTime, question: &Question<'_>) -> Answer {
        if !is_signed(question.token) {
            return Answer::No;
        }
        let Ok(claims) = verify(&self.key, question.token, wall) else { return Answer::No };
        let permissions = claims.permissions.unwrap_or_default();
        let is_theirs = claims.server == question.server
            && question.user.is_none_or(|user| user == claims.user)
            && claims.session == *question.session;
        if !is_theirs || !permissions.connect {
            return Answer::No;
        }
        let room = RoomPolicy { e2ee: self.e2ee, ..RoomPolicy::default() };
        let policy = Policy { permissions, room, ..Policy::default() };
        let Claims { user, kind, channel, .. } = claims;
        Answer::Yes(Entitlement { user, kind, channel, policy })
    }

    fn watch(&mut self) -> Option<Change> {
        None
    }

    fn report(&mut self, _: &Report<'_>) {}
}

fn mac_key(key: &Secret) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key.reveal())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Vector {
        key: Secret,
        claims: Claims,
        token: Token,
    }

    fn vector() -> Vector {
        let text = include_str!("../../tests/vectors/grant_token.json");
        let json: serde_json::Value = serde_json::from_str(text).unwrap();
        Vector {
            key: Secret::from_hex(json["key"].as_str().unwrap()).unwrap(),
            claims: serde_json::from_value(json["claims"].clone()).unwrap(),
            token: Token::new(json["token"].as_str().unwrap()),
        }
    }

    fn at(unix: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(unix).unwrap()
    }

    #[test]
    fn the_published_vector_is_minted_and_verified() {
        let Vector { key, claims, token } = vector();
        assert_eq!(mint(&key, &claims).reveal(), token.reveal());
        assert_eq!(verify(&key, &token, at(claims.expires)).unwrap(), claims);
    }

    #[test]
    fn a_token_is_good_to_the_end_of_its_last_second() {
        let Vector { key, claims, token } = vector();
        assert_eq!(verify(&key, &token, at(claims.expires + 1)), Err(TokenError::Expired));
    }

    #[test]
    fn any_altered_character_is_refused() {
        let Vector { key, claims, token } = vector();
        let text = token.reveal();
        for index in 0..text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            let altered = Token::new(String::from_utf8(bytes).unwrap());
            assert!(verify(&key, &altered, at(claims.expires)).is_err(), "character {index}");
        }
        let other = Secret::new(vec![7; 32]);
        assert_eq!(verify(&other, &token, at(0)), Err(TokenError::BadSignature));
    }

    #[test]
    fn what_is_no_signed_token_is_malformed() {
        let Vector { key, .. } = vector();
        for text in ["", "v1", "v1.", "v1.x", "v2.e30.e30", "..", "v1.e30.=", "é.é.é"] {
            let verdict = verify(&key, &Token::new(text), at(0));
            assert!(
                matches!(verdict, Err(TokenError::Malformed | TokenError::BadSignature)),
                "{text}: {verdict:?}"
            );
        }
    }

    #[test]
    fn signed_claims_of_another_version_or_shape_are_refused() {
        let Vector { key, mut claims, .. } = vector();
        claims.version = 2;
        assert_eq!(verify(&key, &mint(&key, &claims), at(0)), Err(TokenError::BadClaims));
        let input = format!("v1.{}", URL_SAFE_NO_PAD.encode("{}"));
        let tag = URL_SAFE_NO_PAD.encode(hmac::sign(&mac_key(&key), input.as_bytes()));
        let empty = Token::new(format!("{input}.{tag}"));
        assert_eq!(verify(&key, &empty, at(0)), Err(TokenError::BadClaims));
    }

    #[test]
    fn permissions_in_a_token_survive_the_round_trip() {
        let Vector { key, mut claims, .. } = vector();
        claims.permissions = Some(Permissions { speak: false, ..Permissions::default() });
        assert_eq!(verify(&key, &mint(&key, &claims), at(0)).unwrap(), claims);
    }
}

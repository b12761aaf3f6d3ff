//! Names of things: newtypes for every identifier that crosses a boundary, so that two bare
//! integers never sit side by side in a signature. Owns their text and JSON forms, nothing else.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The text was not a decimal snowflake (an unsigned 64-bit number).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a snowflake: expected a decimal number below 2^64")]
pub struct NotASnowflake;

macro_rules! snowflake {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = NotASnowflake;

            fn from_str(text: &str) -> Result<Self, NotASnowflake> {
                if text.starts_with('+') {
                    return Err(NotASnowflake);
                }
                text.parse().map($name).map_err(|_| NotASnowflake)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_any(SnowflakeText).map($name)
            }
        }
    };
}

snowflake!(
    /// `server_id` of the voice gateway: a guild, a private call's channel, a stream or a lobby
    /// (protocol.md §1.4, op 0).
    ServerId
);
snowflake!(
    /// A voice channel: sessions that hear each other. For a stream this is the stream's own id,
    /// so that every channel of a node has one key (protocol.md §6.1).
    ChannelId
);
snowflake!(
    /// A person or bot.
    UserId
);

/// JSON snowflakes are decimal strings; numbers are accepted too (protocol.md, preamble).
struct SnowflakeText;

impl de::Visitor<'_> for SnowflakeText {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a snowflake: a decimal string or an unsigned 64-bit number")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
        Ok(number)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<u64, E> {
        u64::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        ServerId::from_str(text)
            .map(|id| id.0)
            .map_err(|_| E::invalid_value(de::Unexpected::Other("text that is no number"), &self))
    }
}

/// RTP synchronisation source. Never 0 for a live stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ssrc(pub u32);

impl fmt::Display for Ssrc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Ssrc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ssrc({})", self.0)
    }
}

/// One core's index: core, listener share and UDP port offset alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The shard's place in a per-shard table.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One WebSocket, unique for the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// One admitted session, unique for the life of the process: what control and shards call a
/// participant's stay when they speak to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(pub u64);

/// `session_id` of the backend's main gateway: opaque text, the same for a user's voice and
/// stream connections (protocol.md §1.4, op 0).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub Box<str>);

/// A grant's secret. Compared in constant time, never printed, zeroed on drop.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// Wraps the secret text of a grant.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The secret itself, for verifying a signature or handing it to the owner of the grant.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(Token::new)
    }
}

/// Whom an address counts as: itself, or with IPv6 its network of 64 bits, which is one customer.
pub fn guest(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snowflakes_are_written_as_strings_and_read_from_both_forms() {
        assert_eq!(serde_json::to_string(&UserId(7)).unwrap(), "\"7\"");
        assert_eq!(serde_json::from_str::<UserId>("\"7\"").unwrap(), UserId(7));
        assert_eq!(serde_json::from_str::<UserId>("7").unwrap(), UserId(7));
        for wrong in ["-1", "\"-1\"", "\"+1\"", "\"x\"", "1.5", "null", "\"\""] {
            assert!(serde_json::from_str::<UserId>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tokens_never_print_their_secret() {
        assert_eq!(format!("{:?}", Token::new("hunter2")), "Token(…)");
        assert!(Token::new("a") == Token::new("a") && Token::new("a") != Token::new("ab"));
    }
}

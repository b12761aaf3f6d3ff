//! Spacebar's events as its bus carries them (protocol.md §6.1): the few that matter to a voice
//! server are read, everything else is passed over; and what we have to say is put into the same
//! words. Pure: bytes from anybody, never a panic.

use std::fmt;

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::row::{StreamRow, VoiceRow};
use crate::{
    id::{ChannelId, ServerId, SessionId, Token, UserId},
    limits::CREDENTIAL_BYTES_MAX,
    sfu::VoiceState,
};

/// Something Spacebar has told its clients that changes who may be here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Happening {
    /// A voice state as it is now; without a channel its user has left.
    Moved(VoiceRow),
    /// A channel is gone, or one user's part in it.
    ChannelDeleted { channel: ChannelId, only: Option<UserId> },
    /// A guild is gone, or one user's part in it.
    ServerDeleted { server: ServerId, only: Option<UserId> },
    /// A stream has ended, or one user watches it no more.
    StreamDeleted { key: String, only: Option<UserId> },
    /// A user was told where to connect.
    Announced { user: UserId },
}

/// To whom an event is addressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
struct Address {
    guild_id: Option<ServerId>,
    channel_id: Option<ChannelId>,
    user_id: Option<UserId>,
}

/// One event in an envelope, as on the unix-socket bus and on RabbitMQ's single exchange.
pub(super) fn read(bytes: &[u8]) -> Option<Happening> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        event: Event<'a>,
    }
    #[derive(Deserialize)]
    struct Event<'a> {
        event: &'a str,
        #[serde(borrow)]
        data: Option<&'a RawValue>,
        #[serde(flatten)]
        address: Address,
    }
    // Of members it does not know, the reader does not ask whether they are text.
    let text = std::str::from_utf8(bytes).ok()?;
    let Envelope { event } = serde_json::from_str(text).ok()?;
    understand(event.event, event.data?.get(), event.address)
}

/// One event without an envelope, as RabbitMQ carries it where every id has an exchange of its own.
pub(super) fn read_bare(name: &str, exchange: &str, bytes: &[u8]) -> Option<Happening> {
    #[derive(Deserialize)]
    struct Ids {
        id: Option<ChannelId>,
        guild_id: Option<ChannelId>,
        stream_key: Option<String>,
    }
    let id: u64 = exchange.parse().ok()?;
    let text = std::str::from_utf8(bytes).ok()?;
    let ids: Ids = serde_json::from_str(text).ok()?;
    // What is addressed to the place itself is for everyone there; else the id is a user's.
    let in_key = |key: String| key.split(':').take(3).any(|part| part == exchange);
    let is_place = [ids.id, ids.guild_id].iter().flatten().any(|place| place.0 == id)
        || ids.stream_key.is_some_and(in_key);
    let mut address = Address::default();
    match is_place {
        true => address.guild_id = Some(ServerId(id)),
        false => address.user_id = Some(UserId(id)),
    }
    understand(name, text, address)
}

/// Whether these bytes are an event of interest: for those who only test the reading.
pub fn is_understood(bytes: &[u8]) -> bool {
    read(bytes).is_some()
}

fn understand(name: &str, data: &str, address: Address) -> Option<Happening> {
    #[derive(Deserialize)]
    struct Deleted {
        id: ChannelId,
    }
    #[derive(Deserialize)]
    struct MemberRemoved {
        guild_id: ServerId,
        user: User,
    }
    #[derive(Deserialize)]
    struct User {
        id: UserId,
    }
    #[derive(Deserialize)]
    struct StreamDeleted {
        stream_key: String,
    }
    // An address of a user alone means that user alone.
    let is_wide = address.guild_id.is_some() || address.channel_id.is_some();
    let only = address.user_id.filter(|_| !is_wide);
    match name {
        "VOICE_STATE_UPDATE" => voice_state(data).map(Happening::Moved),
        "VOICE_SERVER_UPDATE" => Some(Happening::Announced { user: address.user_id? }),
        "CHANNEL_DELETE" => {
            let channel = serde_json::from_str::<Deleted>(data).ok()?.id;
            Some(Happening::ChannelDeleted { channel, only })
        }
        "GUILD_DELETE" => {
            let server = ServerId(serde_json::from_str::<Deleted>(data).ok()?.id.0);
            Some(Happening::ServerDeleted { server, only })
        }
        "GUILD_MEMBER_REMOVE" => {
            let removed: MemberRemoved = serde_json::from_str(data).ok()?;
            let (server, only) = (removed.guild_id, Some(removed.user.id));
            Some(Happening::ServerDeleted { server, only })
        }
        "STREAM_DELETE" => {
            let key = serde_json::from_str::<StreamDeleted>(data).ok()?.stream_key;
            Some(Happening::StreamDeleted { key, only })
        }
        _ => None,
    }
}

fn voice_state(data: &str) -> Option<VoiceRow> {
    #[derive(Deserialize)]
    struct Wire {
        user_id: UserId,
        session_id: SessionId,
        guild_id: Option<ServerId>,
        channel_id: Option<ChannelId>,
        #[serde(default)]
        mute: Option<bool>,
        #[serde(default)]
        deaf: Option<bool>,
        #[serde(default)]
        suppress: Option<bool>,
        #[serde(default)]
        self_mute: Option<bool>,
        #[serde(default)]
        self_deaf: Option<bool>,
        #[serde(default)]
        self_video: Option<bool>,
        #[serde(default)]
        self_stream: Option<bool>,
    }
    let wire: Wire = serde_json::from_str(data).ok()?;
    if wire.session_id.0.len() > CREDENTIAL_BYTES_MAX {
        return None;
    }
    let is = |flag: Option<bool>| flag.unwrap_or(false);
    Some(VoiceRow {
        user: wire.user_id,
        session: wire.session_id,
        token: None,
        guild: wire.guild_id,
        channel: wire.channel_id,
        state: VoiceState {
            mute: is(wire.mute),
            deaf: is(wire.deaf),
            suppress: is(wire.suppress),
            self_mute: is(wire.self_mute),
            self_deaf: is(wire.self_deaf),
            self_video: is(wire.self_video),
        },
        self_stream: is(wire.self_stream),
        request_to_speak: None,
    })
}

/// An event we say ourselves, and the id that its bus files it under.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) id: u64,
    pub(super) name: &'static str,
    /// May have a token in it.
    pub(super) data: Value,
    /// The field of the envelope that holds `id`.
    addressee: &'static str,
    /// What must still be so when it is said late.
    pub(super) claim: Option<Claim>,
}

/// Where a notice says that somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) user: UserId,
    /// The guild, or the call, that is told.
    pub(super) server: Option<ServerId>,
    pub(super) channel: Option<ChannelId>,
}

impl Claim {
    fn of(row: &VoiceRow) -> Self {
        Self { user: row.user, server: row.server(), channel: row.channel }
    }

    /// Whether his rows agree. Of other guilds nothing is said.
    pub(super) fn agrees_with(&self, rows: &[VoiceRow]) -> bool {
        let is_it = |row: &&VoiceRow| row.user == self.user && row.server() == self.server;
        rows.iter().filter(is_it).find_map(|row| row.channel) == self.channel
    }
}

impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, name, claim, .. } = self;
        f.debug_struct("Notice").field("id", id).field("name", name).field("claim", claim).finish()
    }
}

impl Notice {
    /// Everyone who sees the channel learns that this user has left it. Clients look for the guild
    /// that was left.
    pub(super) fn left(row: &VoiceRow, guild: Option<ServerId>, channel: ChannelId) -> Self {
        let server = Some(guild.unwrap_or(ServerId(channel.0)));
        let claim = Some(Claim { user: row.user, server, channel: None });
        let data = row.public(guild, None);
        Self { claim, ..Self::of_place(guild, channel, "VOICE_STATE_UPDATE", data) }
    }

    /// Everyone who sees the channel learns what this user's state is.
    pub(super) fn is_now(row: &VoiceRow, guild: Option<ServerId>, channel: ChannelId) -> Self {
        let claim = Some(Claim::of(row));
        let data = row.public(row.guild, row.channel);
        Self { claim, ..Self::of_place(guild, channel, "VOICE_STATE_UPDATE", data) }
    }

    /// A stream has ended.
    pub(super) fn stream_ended(stream: &StreamRow) -> Self {
        let data = json!({"stream_key": stream.key(), "reason": "stream_ended"});
        Self::of_place(stream.guild, stream.channel, "STREAM_DELETE", data)
    }

    /// A user is told where to connect, again, and then in which channel he is: discord.py, which
    /// has just lost its connection, takes the two in this order only.
    pub(super) fn call(row: &VoiceRow, token: &Token, endpoint: &str) -> [Self; 2] {
        let state = Self {
            id: row.user.0,
            name: "VOICE_STATE_UPDATE",
            data: row.public(row.guild, row.channel),
            addressee: "user_id",
            claim: Some(Claim::of(row)),
        };
        [Self::server(row, token, endpoint), state]
    }

    fn server(row: &VoiceRow, token: &Token, endpoint: &str) -> Self {
        let mut data = json!({
            "token": token.reveal(),
            "guild_id": row.guild,
            "endpoint": endpoint,
        });
        if row.guild.is_none() {
            data["channel_id"] = json!(row.channel);
        }
        let (id, name, addressee) = (row.user.0, "VOICE_SERVER_UPDATE", "user_id");
        let claim = Some(Claim::of(row));
        Self { id, name, data, addressee, claim }
    }

    fn of_place(
        guild: Option<ServerId>,
        channel: ChannelId,
        name: &'static str,
        data: Value,
    ) -> Self {
        let (id, addressee) = match guild {
            Some(guild) => (guild.0, "guild_id"),
            None => (channel.0, "channel_id"),
        };
        Self { id, name, data, addressee, claim: None }
    }

    /// In its envelope.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let id = self.id.to_string();
        let mut event = json!({"event": self.name, "data": self.data});
        event[self.addressee] = json!(id);
        serde_json::to_vec(&json!({"id": id, "event": event})).expect("it is plain values")
    }
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;

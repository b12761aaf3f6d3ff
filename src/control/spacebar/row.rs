//! One row of `voice_states`, as far as a voice server cares: who is where, and under what mutes
//! (protocol.md §6.1). Plain values; what follows from them is decided by `adapter` and `presence`.

use serde_json::{Value, json};

use crate::{
    id::{ChannelId, ServerId, SessionId, Token, UserId},
    sfu::{E2ee, Policy, RoomPolicy, RoomType, VoiceState},
};

/// Somebody's voice state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VoiceRow {
    pub(super) user: UserId,
    pub(super) session: SessionId,
    /// Its secret; events do not carry it.
    pub(super) token: Option<Token>,
    /// The guild; none in a private call.
    pub(super) guild: Option<ServerId>,
    /// The channel; none for who has left.
    pub(super) channel: Option<ChannelId>,
    pub(super) state: VoiceState,
    pub(super) self_stream: bool,
    /// As the database writes it.
    pub(super) request_to_speak: Option<String>,
}

impl VoiceRow {
    /// What a session in this state may do.
    pub(super) fn policy(&self, e2ee: E2ee) -> Policy {
        let room_type = if self.guild.is_some() { RoomType::GuildVoice } else { RoomType::Dm };
        let room = RoomPolicy { room_type, e2ee, ..RoomPolicy::default() };
        Policy { state: self.state, room, ..Policy::default() }
    }

    /// The server that the voice gateway knows the session's channel under: the guild, or in a
    /// private call the channel itself.
    pub(super) fn server(&self) -> Option<ServerId> {
        self.guild.or(self.channel.map(|channel| ServerId(channel.0)))
    }

    /// As Spacebar's clients are told of it, in this guild and channel.
    pub(super) fn public(&self, guild: Option<ServerId>, channel: Option<ChannelId>) -> Value {
        json!({
            "user_id": self.user,
            "suppress": self.state.suppress,
            "session_id": self.session,
            "self_video": self.state.self_video,
            "self_mute": self.state.self_mute,
            "self_deaf": self.state.self_deaf,
            "self_stream": self.self_stream,
            "request_to_speak_timestamp": self.request_to_speak,
            "mute": self.state.mute,
            "deaf": self.state.deaf,
            "channel_id": channel,
            "guild_id": guild,
        })
    }
}

/// A stream somebody may watch or show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StreamRow {
    pub(super) stream: ChannelId,
    pub(super) owner: UserId,
    /// The voice channel it shows in, and that one's guild.
    pub(super) channel: ChannelId,
    pub(super) guild: Option<ServerId>,
}

impl StreamRow {
    /// What the key says of the stream with this id.
    pub(super) fn of_key(stream: ServerId, key: &str) -> Option<Self> {
        let parts: Vec<&str> = key.split(':').collect();
        let (guild, channel, owner) = match parts[..] {
            ["guild", guild, channel, owner] => (Some(guild.parse().ok()?), channel, owner),
            ["call", channel, owner] => (None, channel, owner),
            _ => return None,
        };
        let (channel, owner) = (channel.parse().ok()?, owner.parse().ok()?);
        Some(Self { stream: ChannelId(stream.0), owner, channel, guild })
    }

    /// `guild:<guild>:<channel>:<owner>` or `call:<channel>:<owner>`.
    pub(super) fn key(&self) -> String {
        let Self { owner, channel, .. } = self;
        match self.guild {
            Some(guild) => format!("guild:{guild}:{channel}:{owner}"),
            None => format!("call:{channel}:{owner}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_what_its_key_says() {
        for guild in [Some(ServerId(3)), None] {
            let row =
                StreamRow { stream: ChannelId(1), owner: UserId(7), channel: ChannelId(5), guild };
            assert_eq!(StreamRow::of_key(ServerId(1), &row.key()), Some(row));
        }
        for key in ["", "guild:1:2", "guild:1:2:x", "call:1", "call:1:2:3", "other:1:2"] {
            assert_eq!(StreamRow::of_key(ServerId(1), key), None, "{key}");
        }
    }
}

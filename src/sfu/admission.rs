//! What a grant lets its holder do: the part of a grant that travels with a connection to its
//! channel's shard. Plain values; control decides them, the shard obeys them (protocol.md §6.3).

use serde::{Deserialize, Serialize};

use crate::id::{ChannelId, Serial, ServerId, SessionId, Token, UserId};

/// One user's accepted Identify.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The name under which control and shard speak of this session.
    pub serial: Serial,
    /// A voice channel's connection or a stream's.
    pub kind: Kind,
    /// `server_id` of Identify.
    pub server: ServerId,
    /// Which channel the session joins: the voice channel, or for a stream the stream's id.
    pub channel: ChannelId,
    /// Whose session it is.
    pub user: UserId,
    /// The backend's main gateway session, compared at Resume.
    pub session: SessionId,
    /// The grant's secret, compared at Resume.
    pub token: Token,
    /// What may change while the session lives.
    pub policy: Policy,
}

/// A voice connection, or the second and independent connection of a Go Live stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A voice channel or call.
    #[default]
    Voice,
    /// A stream: one owner sends, viewers watch.
    Stream,
}

/// The part of a grant that PATCH changes live.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// What the user may do.
    pub permissions: Permissions,
    /// Mutes and deafens, by others and by the user.
    pub state: VoiceState,
    /// Rules of the whole channel.
    pub room: RoomPolicy,
    /// Rules of the stream, when this is one.
    pub stream: Option<StreamPolicy>,
    /// Client flags, passed through to op 18 (protocol.md §1.4).
    pub flags: u32,
}

/// What a user may do in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Permissions {
    /// May join at all.
    pub connect: bool,
    /// May be heard.
    pub speak: bool,
    /// May send camera video.
    pub video: bool,
    /// May start a stream.
    pub stream: bool,
    /// May set the priority speaking bit.
    pub priority_speaker: bool,
}

impl Default for Permissions {
    fn default() -> Self {
        Self { connect: true, speak: true, video: true, stream: true, priority_speaker: false }
    }
}

/// Mutes and deafens. Only `mute`, `suppress` and `deaf` are enforced; the `self_` ones are the
/// user's own doing and only reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VoiceState {
    /// Muted by a moderator.
    pub mute: bool,
    /// Deafened by a moderator.
    pub deaf: bool,
    /// In the audience of a stage.
    pub suppress: bool,
    /// Muted by the user.
    pub self_mute: bool,
    /// Deafened by the user.
    pub self_deaf: bool,
    /// Camera on.
    pub self_video: bool,
}

/// Rules of the whole channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RoomPolicy {
    /// What sort of channel it is.
    #[serde(rename = "type")]
    pub room_type: RoomType,
    /// Most members, 0 for no limit.
    pub user_limit: u32,
    /// Most members with video on, 0 for no limit.
    pub video_limit: u32,
    /// Audio bit rate the backend suggests to clients, bit/s; informative.
    pub max_bitrate: u32,
    /// Whether end-to-end encryption is asked for.
    pub e2ee: E2ee,
}

/// Sorts of channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoomType {
    /// A guild's voice channel.
    #[default]
    GuildVoice,
    /// A stage: speakers and an audience.
    Stage,
    /// A private call.
    Dm,
    /// A Go Live stream.
    Stream,
}

/// Policy for end-to-end encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum E2ee {
    /// Never offered.
    Off,
    /// Offered when every member can.
    #[default]
    Optional,
    /// Who cannot is closed 4017.
    Required,
}

/// Rules of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamPolicy {
    /// `guild:<guild>:<channel>:<owner>` or `call:<channel>:<owner>`.
    pub stream_key: String,
    /// The only member whose media is forwarded.
    pub owner_id: UserId,
    /// Most viewers, 0 for no limit.
    #[serde(default)]
    pub viewer_limit: u32,
    /// Whether the owner has paused it.
    #[serde(default)]
    pub paused: bool,
}

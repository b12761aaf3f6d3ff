//! Typed opcodes and their JSON (protocol.md §1.3–1.4).

use crate::id::{ChannelId, ServerId, SessionId, Token, UserId};

/// op 0.
#[derive(Debug, Clone)]
pub struct Identify {
    /// Guild, call, stream or lobby.
    pub server: ServerId,
    /// The channel the client believes it joins (v9).
    pub channel: Option<ChannelId>,
    /// Who identifies.
    pub user: UserId,
    /// The main gateway session.
    pub session: SessionId,
    /// The grant's secret.
    pub token: Token,
    /// Whether the connection supports video.
    pub video: bool,
    /// Layers the client could send.
    pub streams: Vec<StreamRequest>,
    /// Highest DAVE version, 0 for none.
    pub dave_max: u16,
}

/// A layer a client could send, in op 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRequest {
    /// Conventionally the quality as text.
    pub rid: String,
    /// 0 to 100.
    pub quality: u8,
}

/// op 7.
#[derive(Debug, Clone)]
pub struct Resume {
    /// As in Identify.
    pub server: ServerId,
    /// As in Identify (v9).
    pub channel: Option<ChannelId>,
    /// As in Identify.
    pub session: SessionId,
    /// As in Identify.
    pub token: Token,
    /// Last numbered message received (v8+); −1 for none.
    pub seq_ack: Option<i64>,
}

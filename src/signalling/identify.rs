//! What a client shows at the door: Identify and Resume, op 0 and 7 (protocol.md §1.4). Checked for
//! shape and size only; whether a grant matches is decided elsewhere.

use serde::Deserialize;

use super::{
    Refusal, StreamRequest,
    envelope::{Object, Payload, Whole},
    stream::StreamRequestWire,
};
use crate::{
    id::{ChannelId, ServerId, SessionId, Token, UserId},
    limits::CREDENTIAL_BYTES_MAX,
};

/// op 0.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// op 7.
#[derive(Debug, Clone, PartialEq, Eq)]
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

impl Identify {
    pub(super) fn parse(payload: Payload<'_>) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Wire {
            server_id: ServerId,
            channel_id: Option<ChannelId>,
            user_id: UserId,
            session_id: SessionId,
            token: Token,
            video: Option<bool>,
            streams: Option<Vec<Object<StreamRequestWire>>>,
            max_dave_protocol_version: Option<Whole>,
        }
        let wire: Wire = payload.object("Identify lacks a field or has one of the wrong type")?;
        check_credentials(&wire.session_id, &wire.token)?;
        let video = wire.video.unwrap_or(false);
        let mut streams = StreamRequest::list(wire.streams.unwrap_or_default())?;
        // Who supports video and lists no layer has one, for clients index Ready's streams, and
        // turn a camera on later under the SSRCs given there.
        if video && streams.is_empty() {
            streams.push(StreamRequest::whole());
        }
        Ok(Self {
            server: wire.server_id,
            channel: wire.channel_id,
            user: wire.user_id,
            session: wire.session_id,
            token: wire.token,
            video,
            streams,
            dave_max: wire
                .max_dave_protocol_version
                .map_or(0, |version| version.0.clamp(0, i64::from(u16::MAX)) as u16),
        })
    }
}

impl Identify {
    /// What a client would have shown that meant to resume, as far as is known: nothing of what it
    /// can do beside voice.
    pub fn instead_of(resume: Resume, user: UserId) -> Self {
        let Resume { server, channel, session, token, .. } = resume;
        let (video, streams, dave_max) = (false, Vec::new(), 0);
        Self { server, channel, user, session, token, video, streams, dave_max }
    }
}

impl Resume {
    pub(super) fn parse(payload: Payload<'_>) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Wire {
            server_id: ServerId,
            channel_id: Option<ChannelId>,
            session_id: SessionId,
            token: Token,
            seq_ack: Option<Whole>,
        }
        let wire: Wire = payload.object("Resume lacks a field or has one of the wrong type")?;
        check_credentials(&wire.session_id, &wire.token)?;
        Ok(Self {
            server: wire.server_id,
            channel: wire.channel_id,
            session: wire.session_id,
            token: wire.token,
            seq_ack: wire.seq_ack.map(|seq| seq.0),
        })
    }
}

fn check_credentials(session: &SessionId, token: &Token) -> Result<(), Refusal> {
    if session.0.len() > CREDENTIAL_BYTES_MAX || token.reveal().len() > CREDENTIAL_BYTES_MAX {
        return Err(Refusal::bad_request("session_id or token too long"));
    }
    Ok(())
}

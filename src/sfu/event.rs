//! What a shard tells control. Plain owned values that cross threads in bounded queues.

use std::net::IpAddr;

use serde::Serialize;

use crate::{
    id::{ChannelId, ConnectionId, Serial, ServerId, Ssrc, UserId},
    signalling::{Identify, Resume},
};

/// A question or a report from one shard to control.
#[derive(Debug)]
pub enum Event {
    /// A connection wants in; answered by [`crate::sfu::Command::Decide`].
    Admission {
        /// Who asks.
        connection: ConnectionId,
        /// From where.
        address: IpAddr,
        /// What it showed.
        request: AdmissionRequest,
    },
    /// The session exists: Ready was sent.
    Identified {
        /// Which session.
        serial: Serial,
    },
    /// The media path is up: the first authenticated datagram or, for who only listens, discovery
    /// and Session Description.
    Connected {
        /// Which session.
        serial: Serial,
        /// `udp` or `webrtc`.
        transport: &'static str,
    },
    /// The session is finally gone.
    Disconnected {
        /// Which session.
        serial: Serial,
        /// Why.
        reason: DisconnectReason,
        /// The close code of its last WebSocket, ours or the client's; 1006 if it just broke.
        close_code: u16,
    },
    /// The session's speaking flags changed.
    Speaking {
        /// Which session.
        serial: Serial,
        /// Bits of op 5.
        flags: u32,
    },
    /// The session's video went on or off.
    Video {
        /// Which session.
        serial: Serial,
        /// Whether it sends video.
        active: bool,
    },
}

/// What a connection showed at the door.
#[derive(Debug, Clone)]
pub enum AdmissionRequest {
    /// op 0.
    Identify(Identify),
    /// op 7.
    Resume(Resume),
}

/// Why a session ended (protocol.md §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DisconnectReason {
    /// The client said goodbye.
    ClientLeft,
    /// The WebSocket broke and nobody resumed in time.
    ResumeTimeout,
    /// The client fell silent and nobody resumed in time.
    HeartbeatTimeout,
    /// The same user identified again.
    Replaced,
    /// The backend took the grant away.
    Kicked,
    /// The backend closed the channel.
    RoomClosed,
    /// The client broke the protocol.
    ProtocolError,
    /// The server, or the session's shard, stopped.
    Shutdown,
}

/// A channel as the control API shows it.
#[derive(Debug, Clone, Serialize)]
pub struct RoomReport {
    /// The channel.
    pub room_id: ChannelId,
    /// `voice` or `stream`.
    pub kind: crate::sfu::Kind,
    /// DAVE version in force, 0 without.
    pub dave_version: u16,
    /// MLS epoch, 0 without.
    pub epoch: u64,
    /// Who is in it.
    pub sessions: Vec<SessionReport>,
}

/// A session as the control API shows it.
#[derive(Debug, Clone, Serialize)]
pub struct SessionReport {
    /// Whose it is.
    pub user_id: UserId,
    /// Which server it identified to.
    pub server_id: ServerId,
    /// `identified` (no media path yet), `ready`, or `resuming` (its WebSocket is away).
    pub state: &'static str,
    /// `udp`, `webrtc`, or null before there are keys.
    pub transport: Option<&'static str>,
    /// Encryption mode, or a browser's SRTP profile; null before there are keys.
    pub mode: Option<&'static str>,
    /// Gateway version it connected with, 0 for none.
    pub gateway_version: u8,
    /// Highest DAVE version it speaks.
    pub dave_max: u16,
    /// Its audio SSRC as others see it.
    pub audio_ssrc: Ssrc,
    /// Whether it sends video.
    pub video: bool,
    /// When it was admitted, RFC 3339; filled in by control.
    pub connected_at: String,
    /// Round trip of the last RTCP report that allowed to tell, milliseconds.
    pub rtt_ms: Option<u32>,
}

//! Close codes of the voice gateway and when each is sent (protocol.md §1.8). Owns the numbers and
//! the reason that goes into a close frame; writing that frame is the driver's.

/// The code that stands for a WebSocket which ended without a close frame (RFC 6455 §7.4.1).
pub const BROKEN: u16 = 1006;

/// Why a WebSocket is closed. The discriminant is the code on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    /// An opcode above 64, or a server-only opcode from a client repeatedly.
    UnknownOpcode = 4001,
    /// Not JSON, a field of the wrong type, a binary frame too short.
    DecodeFailed = 4002,
    /// Anything but Identify, Heartbeat or Resume before Identify; no Identify in time.
    NotAuthenticated = 4003,
    /// Token, session, user or server do not match a grant.
    AuthenticationFailed = 4004,
    /// A second Identify or Resume on one socket.
    AlreadyAuthenticated = 4005,
    /// Resume is impossible: unknown, expired, or its buffer overran.
    SessionInvalid = 4006,
    /// No frame in time.
    SessionTimeout = 4009,
    /// No channel or grant for the server id.
    ServerNotFound = 4011,
    /// Select Protocol names neither udp nor webrtc.
    UnknownProtocol = 4012,
    /// The WebRTC transport failed; the client should resume.
    WebRtcCrashed = 4013,
    /// Kicked, moved, or replaced by a newer Identify of the same user.
    Disconnected = 4014,
    /// The server is restarting; the client should resume.
    ServerCrashed = 4015,
    /// The mode was not offered.
    UnknownEncryptionMode = 4016,
    /// The channel requires end-to-end encryption and the client has none.
    E2eeRequired = 4017,
    /// Well-formed but impossible.
    BadRequest = 4020,
    /// Too much too fast.
    RateLimited = 4021,
    /// The channel was closed for everyone.
    RoomClosed = 4022,
}

impl CloseCode {
    /// Every code.
    pub const ALL: &[Self] = &[
        Self::UnknownOpcode,
        Self::DecodeFailed,
        Self::NotAuthenticated,
        Self::AuthenticationFailed,
        Self::AlreadyAuthenticated,
        Self::SessionInvalid,
        Self::SessionTimeout,
        Self::ServerNotFound,
        Self::UnknownProtocol,
        Self::WebRtcCrashed,
        Self::Disconnected,
        Self::ServerCrashed,
        Self::UnknownEncryptionMode,
        Self::E2eeRequired,
        Self::BadRequest,
        Self::RateLimited,
        Self::RoomClosed,
    ];

    /// The number on the wire.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The code with this number, if it is one of ours.
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|known| known.code() == code)
    }
}

/// Why this client must go: the close frame it is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} {why}", .code.code())]
pub struct Refusal {
    /// The frame's code.
    pub code: CloseCode,
    /// The frame's text, at most 123 bytes (RFC 6455 §5.5.1).
    pub why: &'static str,
}

impl Refusal {
    /// Bytes that are not what the opcode asks for (4002).
    pub(super) const fn decode(why: &'static str) -> Self {
        Self { code: CloseCode::DecodeFailed, why }
    }

    /// Well-formed, but more or larger than can be meant (4020).
    pub(super) const fn bad_request(why: &'static str) -> Self {
        Self { code: CloseCode::BadRequest, why }
    }
}

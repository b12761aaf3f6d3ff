//! Everything a client may say, by opcode (protocol.md §1.3, §1.4): dispatch from a frame to a
//! typed message. The larger payloads have files of their own beside this one. Called by
//! `Connection`.

use serde::Deserialize;

use super::{
    CloseCode, Codec, Heartbeat, Identify, Refusal, Resume, SelectProtocol, SinkWants, Video,
    codec::CodecWire,
    envelope::{Envelope, Object, Payload, Whole},
    opcode, stream,
};
use crate::id::Ssrc;

/// One message from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientMessage {
    /// op 0.
    Identify(Identify),
    /// op 1.
    SelectProtocol(SelectProtocol),
    /// op 3.
    Heartbeat(Heartbeat),
    /// op 5.
    Speaking(Speaking),
    /// op 7.
    Resume(Resume),
    /// op 12.
    Video(Video),
    /// op 14.
    SessionUpdate {
        /// `None`: the client did not say.
        codecs: Option<Vec<Codec>>,
    },
    /// op 15.
    SinkWants(SinkWants),
    /// op 16.
    BackendVersion,
    /// ops 23, 26, 28 and 31.
    Dave(Dave),
    /// op 32: the client found no way to the media port. It keeps its WebSocket.
    NoRoute,
    /// A dead or unknown opcode, to be passed over.
    Ignored(u8),
    /// An opcode that only the server may send.
    ServerOnly(u8),
}

/// op 5 from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speaking {
    /// 1 voice, 2 sound share, 4 priority; `true` is 1.
    pub flags: u32,
    /// `None` (absent, null or 0): the one Ready gave.
    pub ssrc: Option<Ssrc>,
}

/// End-to-end encryption messages from a client (protocol.md §5.2). Binary payloads are opaque
/// here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dave {
    /// op 23.
    TransitionReady {
        /// `transition_id`.
        transition: u16,
    },
    /// op 26.
    KeyPackage(Vec<u8>),
    /// op 28.
    CommitWelcome(Vec<u8>),
    /// op 31.
    InvalidCommitWelcome {
        /// `transition_id`.
        transition: u16,
    },
}

impl ClientMessage {
    /// Reads a text frame.
    ///
    /// 4002 if it is no JSON, nested too deeply, has no or two `op`s, or a `d` that does not fit
    /// it; 4001 if the opcode is above 64; 4020 if it is well-formed but beyond a limit.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        Envelope::open(text).and_then(Self::decode)
    }

    pub(super) fn decode(envelope: Envelope<'_>) -> Result<Self, Refusal> {
        let Envelope { op, payload } = envelope;
        Ok(match op {
            opcode::IDENTIFY => Self::Identify(Identify::parse(payload)?),
            opcode::SELECT_PROTOCOL => Self::SelectProtocol(SelectProtocol::parse(payload)?),
            opcode::HEARTBEAT => Self::Heartbeat(Heartbeat::parse(payload)?),
            opcode::SPEAKING => Self::Speaking(Speaking::parse(payload)?),
            opcode::RESUME => Self::Resume(Resume::parse(payload)?),
            opcode::VIDEO => Self::Video(Video::parse(payload)?),
            opcode::SESSION_UPDATE => Self::SessionUpdate { codecs: session_update(payload)? },
            opcode::SINK_WANTS => Self::SinkWants(SinkWants::parse(payload)?),
            opcode::BACKEND_VERSION => Self::BackendVersion,
            opcode::DAVE_TRANSITION_READY => {
                Self::Dave(Dave::TransitionReady { transition: transition(payload)? })
            }
            opcode::MLS_INVALID_COMMIT_WELCOME => {
                Self::Dave(Dave::InvalidCommitWelcome { transition: transition(payload)? })
            }
            opcode::NO_ROUTE => Self::NoRoute,
            opcode::MLS_KEY_PACKAGE | opcode::MLS_COMMIT_WELCOME => {
                return Err(Refusal::decode("this opcode is binary"));
            }
            op if opcode::is_server_only(op) => Self::ServerOnly(op),
            op => Self::Ignored(op),
        })
    }

    /// Reads a binary frame: `[op u8][payload]` on every version (protocol.md §1.2).
    ///
    /// 4002 if it is too short or the opcode is a JSON one; 4001 if the opcode is above 64.
    pub fn parse_binary(bytes: &[u8]) -> Result<Self, Refusal> {
        let Some((&op, payload)) = bytes.split_first() else {
            return Err(Refusal::decode("empty binary message"));
        };
        match op {
            opcode::MLS_KEY_PACKAGE | opcode::MLS_COMMIT_WELCOME if payload.is_empty() => {
                Err(Refusal::decode("binary message without a payload"))
            }
            opcode::MLS_KEY_PACKAGE => Ok(Self::Dave(Dave::KeyPackage(payload.to_vec()))),
            opcode::MLS_COMMIT_WELCOME => Ok(Self::Dave(Dave::CommitWelcome(payload.to_vec()))),
            op if op > opcode::KNOWN_SPACE_MAX => {
                Err(Refusal { code: CloseCode::UnknownOpcode, why: "no such opcode" })
            }
            op if opcode::is_server_only(op) => Ok(Self::ServerOnly(op)),
            op if opcode::is_json_from_client(op) => Err(Refusal::decode("this opcode is JSON")),
            op => Ok(Self::Ignored(op)),
        }
    }
}

impl Speaking {
    fn parse(payload: Payload<'_>) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Flags {
            Boolean(bool),
            Bits(Whole),
        }
        #[derive(Deserialize)]
        struct Wire {
            speaking: Flags,
            ssrc: Option<Whole>,
        }
        let wire: Wire = payload.object("Speaking lacks a field or has one of the wrong type")?;
        let flags = match wire.speaking {
            Flags::Boolean(speaking) => u32::from(speaking),
            Flags::Bits(bits) => {
                u32::try_from(bits.0).map_err(|_| Refusal::decode("speaking is no bit mask"))?
            }
        };
        Ok(Self { flags, ssrc: stream::live(wire.ssrc)? })
    }
}

fn session_update(payload: Payload<'_>) -> Result<Option<Vec<Codec>>, Refusal> {
    #[derive(Deserialize)]
    struct Wire {
        codecs: Option<Vec<Object<CodecWire>>>,
    }
    let wire: Wire = payload.object("Session Update has a field of the wrong type")?;
    wire.codecs.map(Codec::list).transpose()
}

fn transition(payload: Payload<'_>) -> Result<u16, Refusal> {
    #[derive(Deserialize)]
    struct Wire {
        transition_id: Whole,
    }
    let wire: Wire = payload.object("transition_id is missing or no number")?;
    u16::try_from(wire.transition_id.0).map_err(|_| Refusal::bad_request("no such transition"))
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "client_refusal_tests.rs"]
mod refusal_tests;

//! Everything the server says, by opcode (protocol.md §1.3, §1.4), and its bytes in every version's
//! dialect. Numbering and keeping them for a resume is `ReplayBuffer`'s.

use std::{fmt, net::IpAddr};

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{CodecName, Frame, Heartbeat, Layer, Version, opcode};
use crate::{
    id::{Ssrc, UserId},
    limits::HEARTBEAT_INTERVAL_MS,
};

/// One message to a client.
pub enum ServerMessage<'a> {
    /// op 8.
    Hello,
    /// op 2.
    Ready {
        /// The session's audio SSRC.
        ssrc: Ssrc,
        /// Where clients reach the media port.
        ip: IpAddr,
        /// The media port as clients see it.
        port: u16,
        /// Encryption modes, preferred first.
        modes: &'a [&'a str],
        /// The SSRCs of the layers the client asked for.
        streams: &'a [Layer],
    },
    /// op 3: asks for a heartbeat at once.
    Heartbeat,
    /// op 4.
    SessionDescription {
        /// How media is carried.
        media: Described<'a>,
        /// What the session is to send.
        audio_codec: CodecName,
        /// What the session is to send.
        video_codec: CodecName,
        /// 32 hexadecimal digits.
        media_session_id: &'a str,
        /// 0 for none; written even then (protocol.md §8, trap 7).
        dave_protocol_version: u16,
    },
    /// op 6: echoes the heartbeat in the shape it came in.
    HeartbeatAck(&'a Heartbeat),
    /// op 9.
    Resumed,
    /// op 11.
    ClientsConnect {
        /// Who is there, without the receiver.
        users: &'a [UserId],
    },
    /// op 13.
    ClientDisconnect {
        /// Who left.
        user: UserId,
    },
    /// op 5.
    Speaking {
        /// Who speaks.
        user: UserId,
        /// Their audio.
        ssrc: Ssrc,
        /// 1 voice, 2 sound share, 4 priority.
        flags: u32,
    },
    /// op 12.
    Video {
        /// Whose video.
        user: UserId,
        /// Their audio; never 0 (protocol.md §8, trap 17).
        audio_ssrc: Ssrc,
        /// Their camera; `None`, written as 0, when it is off.
        video_ssrc: Option<Ssrc>,
        /// Its layers.
        streams: &'a [Layer],
    },
    /// op 14: what changed; `None` did not.
    SessionUpdate {
        /// What the session is to send.
        audio_codec: Option<CodecName>,
        /// What the session is to send.
        video_codec: Option<CodecName>,
        /// 32 hexadecimal digits.
        media_session_id: Option<&'a str>,
    },
    /// op 15: qualities from 0 to 100 that somebody watches.
    SinkWants {
        /// For streams not named.
        any: Option<u8>,
        /// Per primary SSRC of the receiver.
        by_ssrc: &'a [(Ssrc, u8)],
    },
    /// op 16.
    BackendVersion,
    /// op 18.
    ClientFlags {
        /// Whose.
        user: UserId,
        /// 1 clips, 2 voice recording, 4 clips by any viewer.
        flags: Option<u32>,
    },
    /// op 20.
    ClientPlatform {
        /// Whose.
        user: UserId,
        /// 0 desktop, 1 mobile, 2 Xbox, 3 PlayStation; `None` for bots.
        platform: Option<u8>,
    },
    /// ops 25, 27, 29 and 30: an end-to-end encryption message (protocol.md §5.2).
    Binary {
        /// Which.
        op: u8,
        /// What follows the opcode.
        payload: &'a [u8],
    },
}

/// What op 4 says of the transport.
pub enum Described<'a> {
    /// Plain UDP.
    Udp {
        /// The chosen encryption mode.
        mode: &'a str,
        /// Its key, written as an array of 32 numbers (protocol.md §8, trap 1).
        secret_key: &'a [u8; 32],
    },
    /// A browser's.
    WebRtc {
        /// Our answer to its offer (protocol.md §3.2).
        sdp: &'a str,
    },
}

impl ServerMessage<'_> {
    /// Its number (protocol.md §1.3).
    pub fn op(&self) -> u8 {
        match self {
            Self::Hello => opcode::HELLO,
            Self::Ready { .. } => opcode::READY,
            Self::Heartbeat => opcode::HEARTBEAT,
            Self::SessionDescription { .. } => opcode::SESSION_DESCRIPTION,
            Self::HeartbeatAck(_) => opcode::HEARTBEAT_ACK,
            Self::Resumed => opcode::RESUMED,
            Self::ClientsConnect { .. } => opcode::CLIENTS_CONNECT,
            Self::ClientDisconnect { .. } => opcode::CLIENT_DISCONNECT,
            Self::Speaking { .. } => opcode::SPEAKING,
            Self::Video { .. } => opcode::VIDEO,
            Self::SessionUpdate { .. } => opcode::SESSION_UPDATE,
            Self::SinkWants { .. } => opcode::SINK_WANTS,
            Self::BackendVersion => opcode::BACKEND_VERSION,
            Self::ClientFlags { .. } => opcode::CLIENT_FLAGS,
            Self::ClientPlatform { .. } => opcode::CLIENT_PLATFORM,
            Self::Binary { op, .. } => *op,
        }
    }

    /// Whether it takes a sequence number on versions that have them (protocol.md §1.7).
    pub fn numbered(&self) -> bool {
        opcode::is_numbered(self.op())
    }

    /// Its bytes for a client of `version`: `op` first, then `d` always, then `seq` if there is
    /// one. A sequence number is only ever written for versions that have them.
    pub fn encode(&self, version: Version, seq: Option<u16>) -> Frame {
        let seq = seq.filter(|_| version.numbered());
        if let Self::Binary { op, payload } = self {
            let mut bytes = Vec::with_capacity(3 + payload.len());
            // Version 8 and up always have the two bytes; a message without a number gets 0.
            if version.numbered() {
                bytes.extend_from_slice(&seq.unwrap_or(0).to_be_bytes());
            }
            bytes.push(*op);
            bytes.extend_from_slice(payload);
            return Frame::Binary(bytes);
        }
        let envelope = Envelope { op: self.op(), d: Payload { message: self, version }, seq };
        Frame::Text(serde_json::to_string(&envelope).expect("our own types always make JSON"))
    }
}

/// Prints the opcode alone: op 4 holds a key.
impl fmt::Debug for ServerMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerMessage(op {})", self.op())
    }
}

/// The order of these fields is the order on the wire.
#[derive(Serialize)]
struct Envelope<'a> {
    op: u8,
    d: Payload<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u16>,
}

/// The `d` of a message in one version's dialect.
struct Payload<'a> {
    message: &'a ServerMessage<'a>,
    version: Version,
}

impl Serialize for Payload<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let version = self.version;
        match *self.message {
            ServerMessage::HeartbeatAck(heartbeat) => return heartbeat.serialize(to),
            ServerMessage::Heartbeat | ServerMessage::Resumed | ServerMessage::Binary { .. } => {
                return to.serialize_unit();
            }
            _ => {}
        }
        let mut d = to.serialize_map(None)?;
        match *self.message {
            ServerMessage::Hello => {
                d.serialize_entry("v", &version.hello())?;
                d.serialize_entry("heartbeat_interval", &HEARTBEAT_INTERVAL_MS)?;
            }
            ServerMessage::Ready { ssrc, ip, port, modes, streams } => {
                d.serialize_entry("ssrc", &ssrc)?;
                d.serialize_entry("ip", &ip)?;
                d.serialize_entry("port", &port)?;
                d.serialize_entry("modes", modes)?;
                d.serialize_entry("experiments", &[(); 0])?;
                d.serialize_entry("streams", streams)?;
                if version.heartbeat_in_ready() {
                    d.serialize_entry("heartbeat_interval", &HEARTBEAT_INTERVAL_MS)?;
                }
            }
            ServerMessage::SessionDescription {
                ref media,
                audio_codec,
                video_codec,
                media_session_id,
                dave_protocol_version,
            } => {
                d.serialize_entry("audio_codec", &audio_codec)?;
                d.serialize_entry("video_codec", &video_codec)?;
                d.serialize_entry("media_session_id", media_session_id)?;
                match media {
                    Described::Udp { mode, secret_key } => {
                        d.serialize_entry("mode", mode)?;
                        d.serialize_entry("secret_key", secret_key)?;
                    }
                    Described::WebRtc { sdp } => d.serialize_entry("sdp", sdp)?,
                }
                d.serialize_entry("dave_protocol_version", &dave_protocol_version)?;
            }
            ServerMessage::ClientsConnect { users } => d.serialize_entry("user_ids", users)?,
            ServerMessage::ClientDisconnect { user } => d.serialize_entry("user_id", &user)?,
            ServerMessage::Speaking { user, ssrc, flags } => {
                if version.boolean_speaking() {
                    d.serialize_entry("speaking", &(flags != 0))?;
                } else {
                    d.serialize_entry("speaking", &flags)?;
                }
                d.serialize_entry("ssrc", &ssrc)?;
                d.serialize_entry("user_id", &user)?;
            }
            ServerMessage::Video { user, audio_ssrc, video_ssrc, streams } => {
                d.serialize_entry("user_id", &user)?;
                d.serialize_entry("audio_ssrc", &audio_ssrc)?;
                d.serialize_entry("video_ssrc", &video_ssrc.unwrap_or(Ssrc(0)))?;
                d.serialize_entry("streams", streams)?;
            }
            ServerMessage::SessionUpdate { audio_codec, video_codec, media_session_id } => {
                if let Some(codec) = audio_codec {
                    d.serialize_entry("audio_codec", &codec)?;
                }
                if let Some(codec) = video_codec {
                    d.serialize_entry("video_codec", &codec)?;
                }
                if let Some(id) = media_session_id {
                    d.serialize_entry("media_session_id", id)?;
                }
            }
            ServerMessage::SinkWants { any, by_ssrc } => {
                for (ssrc, quality) in by_ssrc {
                    d.serialize_entry(ssrc, quality)?;
                }
                if let Some(quality) = any {
                    d.serialize_entry("any", &quality)?;
                }
            }
            ServerMessage::BackendVersion => {
                d.serialize_entry("voice", env!("CARGO_PKG_VERSION"))?;
                d.serialize_entry("rtc_worker", env!("CARGO_PKG_VERSION"))?;
            }
            ServerMessage::ClientFlags { user, flags } => {
                d.serialize_entry("user_id", &user)?;
                d.serialize_entry("flags", &flags)?;
            }
            ServerMessage::ClientPlatform { user, platform } => {
                d.serialize_entry("user_id", &user)?;
                d.serialize_entry("platform", &platform)?;
            }
            ServerMessage::HeartbeatAck(_)
            | ServerMessage::Heartbeat
            | ServerMessage::Resumed
            | ServerMessage::Binary { .. } => {}
        }
        d.end()
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;

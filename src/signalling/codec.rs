//! The codec object of op 1 and op 14, and the codec names of op 4 and op 14 (protocol.md §1.4,
//! §1.9). Choosing among codecs is the channel's business.

use serde::{Deserialize, Serialize, Serializer};

use super::{
    Refusal,
    envelope::{Object, Whole},
};
use crate::limits::CODECS_MAX;

/// One codec a client can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codec {
    /// Which.
    pub name: CodecName,
    /// Lower is preferred; by convention a multiple of 1000.
    pub priority: u32,
    /// 0 to 127, this client's own numbering.
    pub payload_type: u8,
    /// Payload type of its retransmissions, 0 to 127.
    pub rtx_payload_type: Option<u8>,
    /// Whether the client can send it.
    pub encode: bool,
    /// Whether the client can receive it.
    pub decode: bool,
}

/// Codecs that have a name on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CodecName {
    /// The only audio codec.
    Opus,
    /// AV1.
    Av1,
    /// HEVC.
    H265,
    /// AVC.
    H264,
    /// VP8.
    Vp8,
    /// VP9.
    Vp9,
}

impl CodecName {
    const ALL: [Self; 6] = [Self::Opus, Self::Av1, Self::H265, Self::H264, Self::Vp8, Self::Vp9];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opus => "opus",
            Self::Av1 => "AV1",
            Self::H265 => "H265",
            Self::H264 => "H264",
            Self::Vp8 => "VP8",
            Self::Vp9 => "VP9",
        }
    }

    /// The codec of this name, in whatever case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.as_str().eq_ignore_ascii_case(name))
    }

    /// Whether it carries pictures.
    pub fn is_video(self) -> bool {
        self != Self::Opus
    }
}

impl Serialize for CodecName {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

/// A codec as the client wrote it. Its `type` follows from the name and is not read.
#[derive(Debug, Deserialize)]
pub(super) struct CodecWire {
    name: String,
    priority: Option<Whole>,
    payload_type: Whole,
    rtx_payload_type: Option<Whole>,
    encode: Option<bool>,
    decode: Option<bool>,
}

impl Codec {
    /// Checks a client's list. Codecs we have no name for are left out; 4020 if there are too many
    /// or a payload type needs more than seven bits.
    pub(super) fn list(wire: Vec<Object<CodecWire>>) -> Result<Vec<Self>, Refusal> {
        if wire.len() > CODECS_MAX {
            return Err(Refusal::bad_request("too many codecs"));
        }
        let mut codecs = Vec::with_capacity(wire.len());
        for Object(wire) in wire {
            let payload_type = payload_type(wire.payload_type)?;
            let rtx_payload_type = wire.rtx_payload_type.map(self::payload_type).transpose()?;
            let Some(name) = CodecName::from_name(&wire.name) else { continue };
            codecs.push(Self {
                name,
                // Who does not say is asked last.
                priority: wire.priority.map_or(u32::MAX, Whole::clamp_u32),
                payload_type,
                rtx_payload_type,
                encode: wire.encode.unwrap_or(true),
                decode: wire.decode.unwrap_or(true),
            });
        }
        Ok(codecs)
    }
}

fn payload_type(number: Whole) -> Result<u8, Refusal> {
    u8::try_from(number.0)
        .ok()
        .filter(|number| *number < 128)
        .ok_or(Refusal::bad_request("payload type above 127"))
}

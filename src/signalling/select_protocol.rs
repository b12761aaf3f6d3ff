//! Select Protocol, op 1 (protocol.md §1.4, §3.1): which transport a client wants. Whether the mode
//! is offered and what the SDP says is decided by the shard.

use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Codec, Refusal,
    codec::CodecWire,
    envelope::{Object, Payload},
};
use crate::limits::CREDENTIAL_BYTES_MAX;

/// op 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectProtocol {
    /// How media is to be carried.
    pub protocol: Protocol,
    /// What the client can send and receive; `None`: it did not say (opus at 120, no video).
    pub codecs: Option<Vec<Codec>>,
    /// The client's own name for the attempt, a UUID; for logs.
    pub rtc_connection_id: Option<String>,
}

/// The transport a client asks for.
#[derive(Clone, PartialEq, Eq)]
pub enum Protocol {
    /// Plain UDP. The address and port beside the mode are what the client believes of itself and
    /// are not read (protocol.md §8, trap 21).
    Udp {
        /// Encryption mode, one of Ready's if the client is honest.
        mode: String,
    },
    /// A browser's transport.
    WebRtc {
        /// Its offer, or fragments of one.
        sdp: String,
    },
    /// Neither: to be closed 4012.
    Unknown,
}

/// Leaves the SDP out: it holds the ICE password.
impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Protocol::Udp { mode } => f.debug_struct("Udp").field("mode", mode).finish(),
            Protocol::WebRtc { sdp } => write!(f, "WebRtc({} bytes)", sdp.len()),
            Protocol::Unknown => f.write_str("Unknown"),
        }
    }
}

const WRONG: &str = "Select Protocol lacks a field or has one of the wrong type";

impl SelectProtocol {
    pub(super) fn parse(payload: Payload<'_>) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Wire<'a> {
            protocol: String,
            #[serde(borrow)]
            data: Option<&'a RawValue>,
            sdp: Option<String>,
            codecs: Option<Vec<Object<CodecWire>>>,
            rtc_connection_id: Option<String>,
        }
        #[derive(Deserialize)]
        struct Udp {
            mode: String,
        }
        let wire: Wire<'_> = payload.object(WRONG)?;
        if wire.rtc_connection_id.as_ref().is_some_and(|id| id.len() > CREDENTIAL_BYTES_MAX) {
            return Err(Refusal::bad_request("rtc_connection_id too long"));
        }
        let data = wire.data.map_or("null", RawValue::get);
        let protocol = match wire.protocol.as_str() {
            "udp" => Protocol::Udp { mode: Payload(data).object::<Udp>(WRONG)?.mode },
            "webrtc" => {
                let data: Option<String> =
                    serde_json::from_str(data).map_err(|_| Refusal::decode(WRONG))?;
                Protocol::WebRtc { sdp: data.or(wire.sdp).ok_or(Refusal::decode(WRONG))? }
            }
            _ => Protocol::Unknown,
        };
        Ok(Self {
            protocol,
            codecs: wire.codecs.map(Codec::list).transpose()?,
            rtc_connection_id: wire.rtc_connection_id,
        })
    }
}

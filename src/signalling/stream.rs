//! The stream object of op 0, 2 and 12 (protocol.md §1.4, §4.1): what a client could send, and what
//! it sends. Which SSRC belongs to whom is checked by the session.

use serde::{Deserialize, Serialize, Serializer, ser::SerializeStruct};

use super::{
    Refusal,
    envelope::{Object, Payload, Whole},
};
use crate::{
    id::Ssrc,
    limits::{LAYERS_MAX, RID_BYTES_MAX},
};

/// A layer a client could send, in op 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRequest {
    /// Conventionally the quality as text.
    pub rid: String,
    /// 0 to 100.
    pub quality: u8,
}

/// A video layer, in op 2 and op 12. Serialised as the server sends it: `type` is always `video`,
/// there is no `max_bitrate`, and what is `None` is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Conventionally the quality as text.
    pub rid: String,
    /// 0 to 100.
    pub quality: u8,
    /// Whether it is being sent.
    pub active: bool,
    /// `None`: absent, null or 0.
    pub ssrc: Option<Ssrc>,
    /// `None`: absent, null or 0.
    pub rtx_ssrc: Option<Ssrc>,
    /// Frames a second, as announced and not enforced.
    pub max_framerate: Option<u32>,
    /// As announced and not enforced.
    pub max_resolution: Option<Resolution>,
}

/// `max_resolution` of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolution {
    /// `source` rather than `fixed`: whatever the captured picture has; width and height are 0.
    pub source: bool,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// op 12 from a client. SSRCs are `None` when absent, null or 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Video {
    /// Its microphone.
    pub audio_ssrc: Option<Ssrc>,
    /// Its camera; `None`: it sends no video.
    pub video_ssrc: Option<Ssrc>,
    /// Retransmissions of its camera.
    pub rtx_ssrc: Option<Ssrc>,
    /// Its layers.
    pub streams: Vec<Layer>,
}

impl Video {
    pub(super) fn parse(payload: Payload<'_>) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Wire {
            audio_ssrc: Option<Whole>,
            video_ssrc: Option<Whole>,
            rtx_ssrc: Option<Whole>,
            streams: Option<Vec<Object<LayerWire>>>,
        }
        let wire: Wire = payload.object("Video has a field of the wrong type")?;
        let streams = wire.streams.unwrap_or_default();
        if streams.len() > LAYERS_MAX {
            return Err(Refusal::bad_request("too many streams"));
        }
        Ok(Self {
            audio_ssrc: live(wire.audio_ssrc)?,
            video_ssrc: live(wire.video_ssrc)?,
            rtx_ssrc: live(wire.rtx_ssrc)?,
            streams: streams
                .into_iter()
                .map(|Object(wire)| Layer::check(wire))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Whether the client says that it sends video: a camera SSRC and an active layer.
    pub fn is_active(&self) -> bool {
        self.video_ssrc.is_some() && self.streams.iter().any(|layer| layer.active)
    }
}

impl StreamRequest {
    /// The full picture, by its conventional name.
    pub(super) fn whole() -> Self {
        Self { rid: QUALITY_DEFAULT.to_string(), quality: QUALITY_DEFAULT }
    }

    /// Checks a client's list; 4020 if it is too long or a `rid` is.
    pub(super) fn list(wire: Vec<Object<StreamRequestWire>>) -> Result<Vec<Self>, Refusal> {
        if wire.len() > LAYERS_MAX {
            return Err(Refusal::bad_request("too many streams"));
        }
        wire.into_iter()
            .map(|Object(wire)| {
                let quality = wire.quality.map_or(QUALITY_DEFAULT, Whole::quality);
                Ok(Self { rid: rid(wire.rid, quality)?, quality })
            })
            .collect()
    }
}

/// A stream that does not say is the full picture.
const QUALITY_DEFAULT: u8 = 100;

/// A stream of op 0 as the client wrote it.
#[derive(Debug, Deserialize)]
pub(super) struct StreamRequestWire {
    rid: Option<String>,
    quality: Option<Whole>,
}

/// A stream of op 12 as the client wrote it.
#[derive(Debug, Deserialize)]
struct LayerWire {
    rid: Option<String>,
    quality: Option<Whole>,
    active: Option<bool>,
    ssrc: Option<Whole>,
    rtx_ssrc: Option<Whole>,
    max_framerate: Option<Whole>,
    max_resolution: Option<Object<ResolutionWire>>,
}

#[derive(Debug, Deserialize)]
struct ResolutionWire {
    #[serde(rename = "type")]
    kind: Option<String>,
    width: Option<Whole>,
    height: Option<Whole>,
}

impl Layer {
    fn check(wire: LayerWire) -> Result<Self, Refusal> {
        let quality = wire.quality.map_or(QUALITY_DEFAULT, Whole::quality);
        Ok(Self {
            rid: rid(wire.rid, quality)?,
            quality,
            active: wire.active.unwrap_or(false),
            ssrc: live(wire.ssrc)?,
            rtx_ssrc: live(wire.rtx_ssrc)?,
            max_framerate: wire.max_framerate.map(Whole::clamp_u32),
            max_resolution: wire.max_resolution.map(|Object(wire)| Resolution {
                source: wire.kind.as_deref() == Some("source"),
                width: wire.width.map_or(0, Whole::clamp_u32),
                height: wire.height.map_or(0, Whole::clamp_u32),
            }),
        })
    }
}

/// The SSRC of a field that may be absent, null or 0.
pub(super) fn live(ssrc: Option<Whole>) -> Result<Option<Ssrc>, Refusal> {
    ssrc.map_or(Ok(None), Whole::ssrc)
}

/// The layer's name: by convention its quality as text, so that is what an absent one is called.
fn rid(rid: Option<String>, quality: u8) -> Result<String, Refusal> {
    let rid = rid.unwrap_or_else(|| quality.to_string());
    if rid.len() > RID_BYTES_MAX {
        return Err(Refusal::bad_request("rid too long"));
    }
    Ok(rid)
}

impl Serialize for Layer {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Wire<'a> {
            #[serde(rename = "type")]
            kind: &'static str,
            rid: &'a str,
            quality: u8,
            active: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            ssrc: Option<Ssrc>,
            #[serde(skip_serializing_if = "Option::is_none")]
            rtx_ssrc: Option<Ssrc>,
            #[serde(skip_serializing_if = "Option::is_none")]
            max_framerate: Option<u32>,
            #[serde(skip_serializing_if = "Option::is_none")]
            max_resolution: Option<Resolution>,
        }
        Wire {
            kind: "video",
            rid: &self.rid,
            quality: self.quality,
            active: self.active,
            ssrc: self.ssrc,
            rtx_ssrc: self.rtx_ssrc,
            max_framerate: self.max_framerate,
            max_resolution: self.max_resolution,
        }
        .serialize(to)
    }
}

impl Serialize for Resolution {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut object = to.serialize_struct("Resolution", 3)?;
        object.serialize_field("type", if self.source { "source" } else { "fixed" })?;
        object.serialize_field("width", &self.width)?;
        object.serialize_field("height", &self.height)?;
        object.end()
    }
}

//! Media Sink Wants, op 15 from the client (protocol.md §1.4, §4.4): an object whose keys are
//! SSRCs. Which layer that selects is the channel's business.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess},
};

use super::{
    Refusal,
    envelope::{Payload, Whole},
};
use crate::{id::Ssrc, limits::SINK_WANTS_MAX};

/// op 15 from a client. Qualities are 0 (send nothing) to 100.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SinkWants {
    /// For streams not named.
    pub any: Option<u8>,
    /// Per primary SSRC, sorted by it, one entry each.
    pub(super) by_ssrc: Vec<(Ssrc, u8)>,
    /// Largest useful picture per primary SSRC, in pixels.
    pub pixel_counts: Vec<(Ssrc, u32)>,
}

impl SinkWants {
    /// What is wanted of the stream `ssrc`, if anything was said that applies to it.
    pub fn of(&self, ssrc: Ssrc) -> Option<u8> {
        let entry = self.by_ssrc.binary_search_by_key(&ssrc, |(wanted, _)| *wanted);
        entry.map_or(self.any, |entry| Some(self.by_ssrc[entry].1))
    }

    pub(super) fn parse(payload: Payload<'_>) -> Result<Self, Refusal> {
        let mut wants: Self = serde_json::from_str(payload.0)
            .map_err(|_| Refusal::decode("Media Sink Wants has a value that is no number"))?;
        if wants.by_ssrc.len() > SINK_WANTS_MAX || wants.pixel_counts.len() > SINK_WANTS_MAX {
            return Err(Refusal::bad_request("too many sink wants"));
        }
        // Of what was said twice the last counts; a stable sort leaves it first of the reversed.
        wants.by_ssrc.reverse();
        wants.by_ssrc.sort_by_key(|(ssrc, _)| *ssrc);
        wants.by_ssrc.dedup_by_key(|(ssrc, _)| *ssrc);
        Ok(wants)
    }
}

impl<'de> Deserialize<'de> for SinkWants {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Wants;

        impl<'de> de::Visitor<'de> for Wants {
            type Value = SinkWants;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of qualities by SSRC")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SinkWants, A::Error> {
                let mut wants = SinkWants::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "any" => wants.any = map.next_value::<Option<Whole>>()?.map(Whole::quality),
                        "pixelCounts" => {
                            let counts = map.next_value::<Option<PixelCounts>>()?;
                            wants.pixel_counts = counts.map_or_else(Vec::new, |counts| counts.0);
                        }
                        key => match ssrc(key) {
                            None => {
                                map.next_value::<IgnoredAny>()?;
                            }
                            Some(ssrc) => {
                                let quality = map.next_value::<Whole>()?.quality();
                                wants.by_ssrc.push((ssrc, quality));
                            }
                        },
                    }
                }
                Ok(wants)
            }
        }

        from.deserialize_any(Wants)
    }
}

/// The value of `pixelCounts`.
struct PixelCounts(Vec<(Ssrc, u32)>);

impl<'de> Deserialize<'de> for PixelCounts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Counts;

        impl<'de> de::Visitor<'de> for Counts {
            type Value = PixelCounts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of pixel counts by SSRC")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PixelCounts, A::Error> {
                let mut counts = Vec::new();
                while let Some((key, count)) = map.next_entry::<String, Whole>()? {
                    counts.extend(ssrc(&key).map(|ssrc| (ssrc, count.clamp_u32())));
                }
                Ok(PixelCounts(counts))
            }
        }

        from.deserialize_any(Counts)
    }
}

fn ssrc(key: &str) -> Option<Ssrc> {
    if key.starts_with('+') {
        return None;
    }
    key.parse().ok().map(Ssrc)
}

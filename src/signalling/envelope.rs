//! From text to an opcode and its undecoded `d` (protocol.md §1.2), and the liberal JSON forms
//! every payload is decoded with. Called by the payload types beside it; nothing here knows an
//! opcode.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;

use super::{CloseCode, Refusal, opcode};
use crate::{id::Ssrc, limits::JSON_DEPTH_MAX};

/// One text message, opened but not read.
#[derive(Debug)]
pub(super) struct Envelope<'a> {
    /// At most [`opcode::KNOWN_SPACE_MAX`].
    pub(super) op: u8,
    /// The JSON of `d`; absent and null are alike.
    pub(super) payload: Payload<'a>,
}

/// The JSON text of a `d`, `null` if there was none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Payload<'a>(pub(super) &'a str);

impl<'a> Envelope<'a> {
    /// Opens a text message. Keys may come in any order, unknown ones are ignored.
    ///
    /// 4002 if it is too deep, no JSON object, or has not exactly one `op`; 4001 if that is above
    /// 64.
    pub(super) fn open(text: &'a str) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Wire<'a> {
            op: u64,
            #[serde(borrow)]
            d: Option<&'a RawValue>,
        }
        if depth_exceeds(text, JSON_DEPTH_MAX) {
            return Err(Refusal::decode("nested too deeply"));
        }
        let Object(wire) = serde_json::from_str::<Object<Wire<'a>>>(text)
            .map_err(|_| Refusal::decode("not a JSON object with one op"))?;
        let op = u8::try_from(wire.op)
            .ok()
            .filter(|op| *op <= opcode::KNOWN_SPACE_MAX)
            .ok_or(Refusal { code: CloseCode::UnknownOpcode, why: "no such opcode" })?;
        Ok(Self { op, payload: Payload(wire.d.map_or("null", RawValue::get)) })
    }
}

impl<'a> Payload<'a> {
    /// Decodes a `d` that must be an object; 4002 with `why` if it is not one of this shape.
    pub(super) fn object<T: Deserialize<'a>>(self, why: &'static str) -> Result<T, Refusal> {
        serde_json::from_str::<Object<T>>(self.0)
            .map(|object| object.0)
            .map_err(|_| Refusal::decode(why))
    }
}

/// Whether brackets nest deeper than `depth_max` anywhere outside strings. Runs before any parser:
/// none of them must recurse at a stranger's command.
fn depth_exceeds(text: &str, depth_max: usize) -> bool {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                if depth > depth_max {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// A `T` that is written as a JSON object. serde alone would take an array of its fields as well.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Braces<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Braces<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        from.deserialize_any(Braces(PhantomData)).map(Object)
    }
}

/// A number, however written: fractions are dropped, what is beyond an `i64` stops at its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Whole(pub(super) i64);

impl Whole {
    /// The number as an SSRC; 4002 if it needs more than 32 bits. 0 is what clients write for
    /// "none": no live stream has it.
    pub(super) fn ssrc(self) -> Result<Option<Ssrc>, Refusal> {
        let ssrc = u32::try_from(self.0).map_err(|_| Refusal::decode("no such SSRC"))?;
        Ok((ssrc != 0).then_some(Ssrc(ssrc)))
    }

    /// The number within the range of a `u32`.
    pub(super) fn clamp_u32(self) -> u32 {
        self.0.clamp(0, i64::from(u32::MAX)) as u32
    }

    /// The number as a quality: 0 to 100.
    pub(super) fn quality(self) -> u8 {
        self.0.clamp(0, 100) as u8
    }
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Number;

        impl de::Visitor<'_> for Number {
            type Value = i64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<i64, E> {
                Ok(number)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<i64, E> {
                Ok(i64::try_from(number).unwrap_or(i64::MAX))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<i64, E> {
                Ok(number as i64)
            }
        }

        from.deserialize_any(Number).map(Whole)
    }
}

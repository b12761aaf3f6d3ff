//! RTP's wire formats: bytes to fields and back, no state, no clock, no keys. What is read here was
//! opened by `crypto` unless a function says that it looks at clear bytes only. Called by `sfu`.

pub mod demux;
pub mod discovery;
pub mod extension;
pub mod feedback;
pub mod keyframe;
pub mod packet;
pub mod rtcp;
pub mod transport_cc;

#[cfg(test)]
pub(crate) mod vectors;

pub use demux::{Kind, classify};
pub use packet::{Header, Packet};

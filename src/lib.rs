//! stentor: a self-hosted voice and video server that speaks Discord's voice protocol.

pub mod config;
pub mod control;
pub mod crypto;
pub mod doctor;
pub mod driver;
pub mod egress;
pub mod grant;
pub mod id;
pub mod limits;
pub mod load;
pub mod metrics;
pub mod plan;
pub mod ring;
pub mod rtp;
pub mod serve;
pub mod sfu;
pub mod signalling;
pub mod webrtc;

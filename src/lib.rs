//! stentor: a self-hosted voice and video server that speaks Discord's voice protocol.

pub mod config;
pub mod control;
pub mod driver;
pub mod egress;
pub mod grant;
pub mod id;
pub mod limits;
pub mod metrics;
pub mod sfu;
pub mod signalling;

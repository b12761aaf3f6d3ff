//! Black-box tests of one `sfu::Shard`: frames, datagrams, commands and time in; frames, datagrams
//! and events out. One claim per test, by subject; the simulation (`tests/sim`) tries what nobody
//! thought of.

#[allow(dead_code, reason = "shared with the simulation, which uses what these tests do not")]
mod browser;
#[allow(dead_code, reason = "shared with the simulation, which uses what these tests do not")]
#[path = "../sim/client.rs"]
mod client;
#[allow(dead_code, reason = "shared with the tests of DTLS, which use what these do not")]
#[path = "../dtls/client.rs"]
mod dtls_client;
mod rig;
mod rtcp;

mod announcing;
mod congestion;
mod drops;
mod endings;
mod gateway;
mod hostile;
mod keyframes;
mod media;
mod pictures;
mod policy;
mod repair;
mod reports;
mod resume;
mod video;
mod web;
